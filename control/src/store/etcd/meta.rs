//! What an etcd says of the store in it: the schema of its records, where its revisions began, and whether it is whole.

use std::path::PathBuf;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::cluster::Cluster;
use super::envelope;
use super::keys::{Keys, end_of};
use super::wire::compare::TargetUnion;
use super::wire::request_op::Request;
use super::wire::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, EQUAL, PutRequest, RangeRequest, RangeResponse,
    RequestOp, TARGET_VERSION, TxnRequest, TxnResponse, path,
};
use crate::store::{Revision, SCHEMA, StoreError};

/// Changes of one transaction when a store is filled.
const FILL_OPS: usize = 100;
/// Bytes of one transaction when a store is filled.
const FILL_BYTES: usize = 1 << 20;

/// Where the store's revisions begin, in etcd's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Meta {
    pub offset: i64,
}

/// The value under `meta`.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    schema: u32,
    /// Revision of the store when this key was made.
    start: Revision,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Ready,
    /// Its values are being written.
    Filling,
}

/// Makes an empty store. One that is there and empty is taken: an `init` before ended early.
pub(super) async fn create(cluster: &Cluster, prefix: &str) -> Result<(), StoreError> {
    if put_if_absent(cluster, prefix, &Stored { schema: SCHEMA, start: 0, state: State::Ready }).await? {
        return Ok(());
    }
    let keys = Keys::new(prefix, 0);
    let from = keys.of("");
    let request =
        RangeRequest { range_end: end_of(&from), key: from, count_only: true, ..RangeRequest::default() };
    let (answer, _) = cluster.call::<_, RangeResponse>(path::RANGE, &request).await;
    if answer.map_err(|failure| cluster.error(failure, false))?.count > 0 {
        return Err(StoreError::InUseAt { store: cluster.name().to_string() });
    }
    Ok(())
}

/// Whether none is there, or one that is half filled.
pub(super) async fn is_free(cluster: &Cluster, prefix: &str) -> Result<bool, StoreError> {
    Ok(stored(cluster, prefix).await?.is_none_or(|(found, _)| found.state == State::Filling))
}

/// Reads it; refuses what this release cannot use.
pub(super) async fn read(cluster: &Cluster, prefix: &str) -> Result<Meta, StoreError> {
    let store = || cluster.name().to_string();
    let Some((found, made)) = stored(cluster, prefix).await? else {
        return Err(StoreError::MissingAt { store: store() });
    };
    if found.schema > SCHEMA {
        return Err(StoreError::TooNew { path: PathBuf::from(store()), found: found.schema, known: SCHEMA });
    }
    if found.state == State::Filling {
        return Err(StoreError::Unfinished { store: store() });
    }
    let start = i64::try_from(found.start).unwrap_or(i64::MAX);
    Ok(Meta { offset: made.saturating_sub(start) })
}

/// Writes all values of a store, between two states of `meta`: half of them are never taken for a store.
pub(super) async fn fill(
    cluster: &Cluster,
    prefix: &str,
    items: impl IntoIterator<Item = (String, Bytes)>,
    start: Revision,
) -> Result<(), StoreError> {
    let filling = Stored { schema: SCHEMA, start, state: State::Filling };
    if !put_if_absent(cluster, prefix, &filling).await? {
        match stored(cluster, prefix).await? {
            Some((found, _)) if found.state == State::Filling => {}
            _ => return Err(StoreError::InUseAt { store: cluster.name().to_string() }),
        }
        clear(cluster, prefix).await?;
        put_if_absent(cluster, prefix, &filling).await?;
    }
    let keys = Keys::new(prefix, 0);
    let (mut ops, mut bytes) = (Vec::new(), 0);
    for (key, value) in items {
        if ops.len() == FILL_OPS || bytes + value.len() > FILL_BYTES {
            put_all(cluster, std::mem::take(&mut ops)).await?;
            bytes = 0;
        }
        bytes += key.len() + value.len();
        ops.push((keys.of(&key), envelope::wrap(&key, &value)));
    }
    put_all(cluster, ops).await?;
    let ready = encode(&Stored { state: State::Ready, ..filling });
    put_all(cluster, vec![(keys.own("meta"), ready)]).await
}

/// Removes everything below the prefix. `meta` goes with it, in one step.
async fn clear(cluster: &Cluster, prefix: &str) -> Result<(), StoreError> {
    let key = Keys::new(prefix, 0).own("");
    let request = DeleteRangeRequest { range_end: end_of(&key), key };
    let (answer, _) = cluster.call::<_, DeleteRangeResponse>(path::DELETE_RANGE, &request).await;
    answer.map(drop).map_err(|failure| cluster.error(failure, true))
}

/// The value and the revision that made the key.
async fn stored(cluster: &Cluster, prefix: &str) -> Result<Option<(Stored, i64)>, StoreError> {
    let request = RangeRequest { key: Keys::new(prefix, 0).own("meta"), ..RangeRequest::default() };
    let (answer, _) = cluster.call::<_, RangeResponse>(path::RANGE, &request).await;
    let answer = answer.map_err(|failure| cluster.error(failure, false))?;
    let Some(kv) = answer.kvs.first() else { return Ok(None) };
    let value = envelope::unwrap("meta", &kv.value).and_then(|value| serde_json::from_slice(&value).ok());
    let damaged = || StoreError::Damaged {
        path: PathBuf::from(cluster.name().to_string()),
        detail: "its key `meta` is not what was written".into(),
    };
    Ok(Some((value.ok_or_else(damaged)?, kv.create_revision)))
}

fn encode(stored: &Stored) -> Bytes {
    envelope::wrap("meta", &serde_json::to_vec(stored).expect("it has string keys only"))
}

/// Gives whether it is there as given now; false: something else was there before.
async fn put_if_absent(cluster: &Cluster, prefix: &str, new: &Stored) -> Result<bool, StoreError> {
    let (key, value) = (Keys::new(prefix, 0).own("meta"), encode(new));
    let absent = Compare {
        result: EQUAL,
        target: TARGET_VERSION,
        key: key.clone(),
        target_union: Some(TargetUnion::Version(0)),
        range_end: Bytes::new(),
    };
    let request = TxnRequest { compare: vec![absent], success: vec![put(key, value)], failure: Vec::new() };
    let (answer, tried) = cluster.call::<_, TxnResponse>(path::TXN, &request).await;
    let answer = answer.map_err(|failure| cluster.error(failure, true))?;
    if answer.succeeded || !tried {
        return Ok(answer.succeeded);
    }
    // The try without an answer may have put it, or somebody else.
    Err(StoreError::Unknown {
        store: cluster.name().to_string(),
        reason: "making the store had no answer".into(),
    })
}

/// Puts the same values as often as it takes.
async fn put_all(cluster: &Cluster, values: Vec<(Bytes, Bytes)>) -> Result<(), StoreError> {
    let success = values.into_iter().map(|(key, value)| put(key, value)).collect();
    let request = TxnRequest { compare: Vec::new(), success, failure: Vec::new() };
    let (answer, _) = cluster.call::<_, TxnResponse>(path::TXN, &request).await;
    answer.map(drop).map_err(|failure| cluster.error(failure, true))
}

fn put(key: Bytes, value: Bytes) -> RequestOp {
    RequestOp { request: Some(Request::Put(PutRequest { key, value, lease: 0 })) }
}

#[cfg(test)]
pub(super) mod testing {
    //! Bytes under a key of etcd, whatever they are.

    use super::*;

    pub(in super::super) async fn put(cluster: &Cluster, key: &str, value: Bytes) {
        put_all(cluster, vec![(key.to_owned().into(), value)]).await.unwrap();
    }
}
