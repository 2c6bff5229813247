//! The store's transactions in etcd's words, and what etcd's answers say of their compares.

use bytes::Bytes;

use super::envelope;
use super::keys::{Keys, end_of};
use super::session::Slot;
use super::wire::compare::TargetUnion;
use super::wire::request_op::Request;
use super::wire::{
    self, DeleteRangeRequest, EQUAL, GREATER, KeyValue, LESS, PutRequest, RangeRequest, RequestOp,
    ResponseOp, TARGET_MOD, TARGET_VERSION, TxnRequest, response_op,
};
use crate::store::{Compare, Op, StoreError, Txn};

/// Bytes of keys and values in one transaction: etcd takes requests of 1.5 MiB, all told.
const TXN_BYTES_MAX: usize = (3 << 19) - (64 << 10);
/// Bytes of a request that each of its parts takes besides keys and values.
const PART_BYTES: usize = 64;

/// Refuses what etcd would refuse.
pub(super) fn check_size(txn: &Txn) -> Result<(), StoreError> {
    let ops = txn.ops.iter().map(|op| match op {
        Op::Put { key, value, .. } => key.len() + value.len() + envelope::HEAD_BYTES,
        Op::Delete(key) => key.len(),
    });
    // A compare stands there twice: to be made, and to be asked for when it does not hold.
    let compares = txn.compares.iter().map(|compare| 4 * name(compare).len() + PART_BYTES);
    if ops.chain(compares).map(|bytes| bytes + PART_BYTES).sum::<usize>() > TXN_BYTES_MAX {
        return Err(StoreError::TooLarge(
            "on etcd, keys and values of a transaction have at most 1.4 MiB together",
        ));
    }
    Ok(())
}

/// The key or prefix of a compare.
fn name(compare: &Compare) -> &String {
    match compare {
        Compare::Absent(key) | Compare::Unchanged(key, _) | Compare::NoneNewer(key, _) => key,
    }
}

fn mod_is(result: i32, key: Bytes, range_end: Bytes, revision: i64) -> wire::Compare {
    let target_union = Some(TargetUnion::ModRevision(revision));
    wire::Compare { result, target: TARGET_MOD, key, range_end, target_union }
}

fn version_is(result: i32, key: Bytes, version: i64) -> wire::Compare {
    let target_union = Some(TargetUnion::Version(version));
    wire::Compare { result, target: TARGET_VERSION, key, range_end: Bytes::new(), target_union }
}

fn compare(keys: &Keys, compare: &Compare) -> wire::Compare {
    match compare {
        Compare::Absent(key) => version_is(EQUAL, keys.of(key), 0),
        Compare::Unchanged(key, revision) => mod_is(EQUAL, keys.of(key), Bytes::new(), keys.etcd(*revision)),
        Compare::NoneNewer(prefix, revision) => {
            let key = keys.of(prefix);
            mod_is(LESS, key.clone(), end_of(&key), keys.etcd(*revision).saturating_add(1))
        }
    }
}

/// Asks for what a compare looks at.
fn look(keys: &Keys, compare: &Compare) -> RequestOp {
    let key = keys.of(name(compare));
    let asked = match compare {
        Compare::Absent(_) | Compare::Unchanged(..) => {
            RangeRequest { key, keys_only: true, ..RangeRequest::default() }
        }
        Compare::NoneNewer(_, revision) => RangeRequest {
            range_end: end_of(&key),
            key,
            limit: 1,
            keys_only: true,
            min_mod_revision: keys.etcd(*revision).saturating_add(1),
            ..RangeRequest::default()
        },
    };
    range(asked)
}

fn range(request: RangeRequest) -> RequestOp {
    RequestOp { request: Some(Request::Range(request)) }
}

fn put(key: Bytes, value: Bytes, lease: i64) -> RequestOp {
    RequestOp { request: Some(Request::Put(PutRequest { key, value, lease })) }
}

fn remove(key: Bytes) -> RequestOp {
    RequestOp { request: Some(Request::Delete(DeleteRangeRequest { key, range_end: Bytes::new() })) }
}

/// A write, with its number in a slot. `exists`: one key more that must be there.
pub(super) fn write(keys: &Keys, txn: &Txn, slot: &Slot, number: &str, exists: Option<&str>) -> TxnRequest {
    let place = keys.own(&slot.key());
    let mut compares = vec![mod_is(EQUAL, place.clone(), Bytes::new(), slot.known)];
    compares.extend(txn.compares.iter().map(|c| compare(keys, c)));
    compares.extend(exists.map(|key| version_is(GREATER, keys.of(key), 0)));
    let mut success: Vec<_> = txn
        .ops
        .iter()
        .map(|op| match op {
            Op::Put { key, value, lease } => {
                let lease = lease.map_or(0, |lease| i64::try_from(lease.0).unwrap_or(i64::MAX));
                put(keys.of(key), envelope::wrap(key, value), lease)
            }
            Op::Delete(key) => remove(keys.of(key)),
        })
        .collect();
    success.push(put(place.clone(), number.to_owned().into(), slot.held.lease));
    let mut failure = vec![range(RangeRequest { key: place, ..RangeRequest::default() })];
    failure.extend(txn.compares.iter().map(|c| look(keys, c)));
    TxnRequest { compare: compares, success, failure }
}

/// Compares alone; asks for some keys when they hold. One question more comes last: without any, a member would answer for
/// itself, whatever the others say.
pub(super) fn read(keys: &Keys, compares: &[Compare], wanted: &[&str]) -> TxnRequest {
    let ask = |key: Bytes| range(RangeRequest { key, keys_only: true, ..RangeRequest::default() });
    let wanted = wanted.iter().map(|key| keys.of(key));
    TxnRequest {
        compare: compares.iter().map(|c| compare(keys, c)).collect(),
        success: wanted.chain([keys.own("meta")]).map(ask).collect(),
        failure: compares.iter().map(|c| look(keys, c)).collect(),
    }
}

/// What each question of an answer found.
pub(super) fn found(responses: &[ResponseOp]) -> impl Iterator<Item = Option<&KeyValue>> {
    responses.iter().map(|response| match &response.response {
        Some(response_op::Response::Range(range)) => range.kvs.first(),
        None => None,
    })
}

/// The key or prefix of the first compare that does not hold, by what [`look`] found for each.
pub(super) fn conflict<'a>(
    keys: &Keys,
    compares: &[Compare],
    found: impl Iterator<Item = Option<&'a KeyValue>>,
) -> Option<String> {
    let holds = |compare: &Compare, found: Option<&KeyValue>| match compare {
        Compare::Absent(_) | Compare::NoneNewer(..) => found.is_none(),
        Compare::Unchanged(_, revision) => found.is_some_and(|kv| kv.mod_revision == keys.etcd(*revision)),
    };
    let mut all = compares.iter().zip(found);
    all.find(|(compare, found)| !holds(compare, *found)).map(|(compare, _)| name(compare).clone())
}
