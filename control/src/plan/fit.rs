//! Chooses what to leave out where all objects together are more than edges take: those of the largest accounts first.
//! Pure, like `plan`.
//!
//! Writes that would make a Program too large are refused (`room`), so this is for what was stored before, and for what
//! grows by itself. An account gets what it needs or the same as others, whichever is less; within it the newest go.

use std::collections::BTreeMap;

use ebbgate_model::{AccountId, CertificateId, DomainId, Ksuid, Object, ObjectKey, PolicyHash};

use super::live::Live;
use crate::record::{CertificateAuthority, Endpoint, IpPolicy, ReservedDomain, key};

/// Something of an account that may be left out.
struct Part {
    account: AccountId,
    /// Orders by age.
    age: Ksuid,
    /// Bytes that leaving it out frees.
    bytes: usize,
    /// Objects that are closed by that, with the keys of their records.
    closes: Vec<(ObjectKey, String)>,
}

/// The objects to close so that the rest takes at most `bytes_max`, with the keys of their records; as many as can be, if
/// that is not enough. `live` has all objects, none closed.
pub(super) fn surplus(live: &Live, bytes_max: usize) -> BTreeMap<ObjectKey, String> {
    let parts = parts(live);
    let movable: usize = parts.iter().map(|part| part.bytes).sum();
    let room = bytes_max.saturating_sub(live.bytes().saturating_sub(movable));
    chosen(parts, room).into_iter().flat_map(|part| part.closes).collect()
}

/// How a closed object is sent: an endpoint without a policy, a name without a certificate, others not at all.
pub(super) fn closed(object: Object) -> Option<Object> {
    match object {
        Object::Endpoint(mut endpoint) => {
            std::sync::Arc::make_mut(&mut endpoint).policy = None;
            Some(Object::Endpoint(endpoint))
        }
        Object::Domain(mut domain) => {
            std::sync::Arc::make_mut(&mut domain).certificate = None;
            Some(Object::Domain(domain))
        }
        _ => None,
    }
}

fn parts(live: &Live) -> Vec<Part> {
    let mut parts = Vec::new();
    // A policy goes when no endpoint names it: it is the part of the account that has the newest of them.
    let mut policies: BTreeMap<PolicyHash, Part> = BTreeMap::new();
    let mut certificates: BTreeMap<CertificateId, (AccountId, Vec<DomainId>)> = BTreeMap::new();
    for (name, object) in live.after(None) {
        match (name, object) {
            (ObjectKey::Endpoint(id), Object::Endpoint(spec)) => {
                let Some(hash) = spec.policy else { continue };
                let part = policies.entry(hash).or_insert_with(|| Part {
                    account: spec.account,
                    age: id.ksuid(),
                    bytes: live.get(&ObjectKey::Policy(hash)).map_or(0, Object::bytes),
                    closes: Vec::new(),
                });
                (part.account, part.age) = (spec.account, part.age.max(id.ksuid()));
                part.closes.push((name.clone(), key::<Endpoint>(spec.account, *id)));
            }
            (ObjectKey::Domain(id), Object::Domain(spec)) => {
                let Some(certificate) = spec.certificate else { continue };
                certificates.entry(certificate).or_insert_with(|| (spec.account, Vec::new())).1.push(*id);
            }
            (ObjectKey::Authority(id), Object::Authority(spec)) => parts.push(Part {
                account: spec.account,
                age: id.ksuid(),
                bytes: object.bytes(),
                closes: vec![(name.clone(), key::<CertificateAuthority>(spec.account, *id))],
            }),
            (ObjectKey::IpPolicy(id), Object::IpPolicy(spec)) => parts.push(Part {
                account: spec.account,
                age: id.ksuid(),
                bytes: object.bytes(),
                closes: vec![(name.clone(), key::<IpPolicy>(spec.account, *id))],
            }),
            _ => {}
        }
    }
    parts.extend(policies.into_values());
    for (id, (account, domains)) in certificates {
        let bytes = live.get(&ObjectKey::Certificate(id)).map_or(0, Object::bytes);
        let close = |domain| (ObjectKey::Domain(domain), key::<ReservedDomain>(account, domain));
        let closes = domains.into_iter().map(close).collect();
        parts.push(Part { account, age: id.ksuid(), bytes, closes });
    }
    parts
}

/// The parts that must go so that the rest takes at most `room` bytes.
fn chosen(mut parts: Vec<Part>, room: usize) -> Vec<Part> {
    let mut sizes: BTreeMap<AccountId, usize> = BTreeMap::new();
    for part in &parts {
        *sizes.entry(part.account).or_default() += part.bytes;
    }
    let share = share(sizes.values().copied().collect(), room);
    // Newest first.
    parts.sort_by_key(|part| std::cmp::Reverse(part.age));
    let mut surplus = Vec::new();
    for part in parts {
        if let Some(size) = sizes.get_mut(&part.account).filter(|size| **size > share) {
            *size = size.saturating_sub(part.bytes);
            surplus.push(part);
        }
    }
    surplus
}

/// The most an account may have so that all together take at most `room`: those below it get all they need.
fn share(mut sizes: Vec<usize>, mut room: usize) -> usize {
    sizes.sort_unstable();
    let mut accounts = sizes.len();
    for size in sizes {
        let share = room / accounts;
        if size > share {
            return share;
        }
        room -= size;
        accounts -= 1;
    }
    usize::MAX
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebbgate_model::{
        Action, Binding, CertificateSpec, CloudEndpointSpec, DomainSpec, EndpointId, Rule, TrafficPolicy,
    };
    use std::collections::BTreeSet;
    use std::sync::Arc;

    fn ksuid(account: u8, n: u8) -> Ksuid {
        Ksuid::new(1_700_000_000 + u64::from(n), [account; 16])
    }

    fn account(n: u8) -> AccountId {
        AccountId::new(ksuid(n, 0))
    }

    /// Adds an endpoint with a policy that no other has.
    fn add(live: &mut Live, of: u8, n: u8, policy_bytes: usize) {
        let config = serde_json::json!({ "content": format!("{of}{n}{}", "x".repeat(policy_bytes)) });
        let action = Action { kind: "custom-response".into(), config };
        let rule = Rule { name: None, expressions: Vec::new(), actions: vec![action] };
        let policy = TrafficPolicy { on_http_request: vec![rule], ..TrafficPolicy::default() };
        let hash = policy.hash();
        live.set(&ObjectKey::Policy(hash), Some(Object::Policy(Arc::new(policy))));
        let spec = CloudEndpointSpec {
            account: account(of),
            url: "https://a.example.com".parse().unwrap(),
            binding: Binding::Public,
            pooling_enabled: false,
            policy: Some(hash),
        };
        live.set(&ObjectKey::Endpoint(EndpointId::new(ksuid(of, n))), Some(Object::Endpoint(Arc::new(spec))));
    }

    /// What the planner does with what is chosen.
    fn close(live: &mut Live, closed: &BTreeMap<ObjectKey, String>) {
        for key in closed.keys() {
            let object = live.get(key).cloned().and_then(super::closed);
            live.set(key, object);
        }
        for key in live.take_unsettled() {
            if !live.is_named(&key) {
                live.set(&key, None);
            }
        }
    }

    /// Account 1 has one endpoint of 1 kB, account 2 five endpoints of 4 kB.
    #[test]
    fn what_is_too_large_costs_the_largest_account_its_newest_objects_and_nobody_else_anything() {
        for keep in 1..5_u8 {
            let mut live = Live::default();
            add(&mut live, 1, 1, 1_000);
            (1..=5).for_each(|n| add(&mut live, 2, n, 4_000));
            let bytes_max = live.bytes() - usize::from(5 - keep) * 4_000;
            let closed = surplus(&live, bytes_max);
            let newest = keep + 1..=5;
            let expect: BTreeSet<_> =
                newest.map(|n| key::<Endpoint>(account(2), EndpointId::new(ksuid(2, n)))).collect();
            assert_eq!(closed.values().cloned().collect::<BTreeSet<_>>(), expect, "{keep}");
            close(&mut live, &closed);
            assert!(live.bytes() <= bytes_max);
            let program = live.program(1);
            assert_eq!((program.endpoints.len(), program.policies.len()), (6, 1 + usize::from(keep)));
        }
        let mut live = Live::default();
        (1..=5).for_each(|n| add(&mut live, 2, n, 4_000));
        assert_eq!(surplus(&live, 0).len(), 5, "as many as can be");
    }

    #[test]
    fn a_certificate_that_is_left_out_leaves_its_domain_without_one() {
        let mut live = Live::default();
        let (id, domain) = (CertificateId::new(ksuid(1, 1)), DomainId::new(ksuid(1, 1)));
        let spec = CertificateSpec { chain_pem: "x".repeat(4_000), key_pem: String::new() };
        live.set(&ObjectKey::Certificate(id), Some(Object::Certificate(Arc::new(spec))));
        let host = "a.example.com".parse().unwrap();
        let spec = DomainSpec { account: account(1), host, certificate: Some(id) };
        live.set(&ObjectKey::Domain(domain), Some(Object::Domain(Arc::new(spec))));
        let closed = surplus(&live, 2_000);
        assert!(closed.values().eq([&key::<ReservedDomain>(account(1), domain)]));
        close(&mut live, &closed);
        let program = live.program(1);
        assert!(
            program.certificates.is_empty() && program.domains.get(&domain).unwrap().certificate.is_none()
        );
    }

    #[test]
    fn an_account_gets_what_it_needs_or_the_same_as_others() {
        for (sizes, room, expect) in [
            (vec![], 0, usize::MAX),
            (vec![1, 2, 3], 6, usize::MAX),
            (vec![1, 2, 3], 5, 2),
            (vec![10, 1, 10], 11, 5),
            (vec![10, 10], 0, 0),
        ] {
            assert_eq!(share(sizes.clone(), room), expect, "{sizes:?} in {room}");
        }
    }
}
