//! Makes a Program fit into what an edge takes: measures it, and where it is too large leaves objects out, those of the
//! largest accounts first. Pure, like `plan`.
//!
//! Writes that would make a Program too large are refused (`room`), so this is for what was stored before, and for what
//! grows by itself. An account gets what it needs or the same as others, whichever is less; within it the newest go.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use ebbgate_model::{
    AccountId, AuthorityId, CertificateId, DomainId, EndpointId, IpPolicyId, Ksuid, Program, ProgramDigest,
};
use serde::Serialize;

use crate::record::{CertificateAuthority, Endpoint, IpPolicy, ReservedDomain, key};

/// Bytes of a line besides the Program: its tag and the end of the line.
const FRAME_BYTES: usize = r#""type":"program","#.len() + 1;
/// Bytes an object's own closing may take: `null` instead of what it had.
const CLOSED_BYTES: usize = 8;

/// A Program that an edge can be sent whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fitted {
    /// The Program.
    pub program: Program,
    /// Its digest.
    pub digest: ProgramDigest,
    /// Bytes of the line that carries it.
    pub bytes: usize,
    /// Bytes of the line if nothing were left out.
    pub bytes_whole: usize,
    /// Keys of the records left out for their size, each with the reason.
    pub left_out: BTreeMap<String, String>,
}

/// Even without any policy, certificate and rule of an account the Program is too large.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("what cannot be left out makes a Program of {} MiB, and an edge takes {} MiB: delete credentials or endpoints", bytes >> 20, max >> 20)]
pub struct TooLarge {
    bytes: usize,
    max: usize,
}

/// The Program, or as much of it as a line of `line_bytes_max` carries.
pub fn fit(mut program: Program, line_bytes_max: usize) -> Result<Fitted, TooLarge> {
    let (mut bytes, mut digest) = measure(&program);
    let bytes_whole = bytes;
    let mut left_out = BTreeMap::new();
    if bytes > line_bytes_max {
        let parts = parts(&program);
        let movable: usize = parts.iter().map(|part| part.bytes).sum();
        let room = line_bytes_max.saturating_sub(bytes.saturating_sub(movable));
        for part in surplus(parts, room) {
            let reason = format!(
                "all objects of all accounts would make {} MiB, and edges take {} MiB: delete or shorten objects of this account",
                bytes >> 20,
                line_bytes_max >> 20
            );
            left_out.extend(part.close(&mut program).into_iter().map(|key| (key, reason.clone())));
        }
        let named: BTreeSet<_> = program.endpoints.values().filter_map(|endpoint| endpoint.policy).collect();
        program.policies.retain(|hash, _| named.contains(hash));
        (bytes, digest) = measure(&program);
        if bytes > line_bytes_max {
            return Err(TooLarge { bytes, max: line_bytes_max });
        }
    }
    Ok(Fitted { program, digest, bytes, bytes_whole, left_out })
}

/// Bytes of the line that carries a Program, and its digest.
fn measure(program: &Program) -> (usize, ProgramDigest) {
    (FRAME_BYTES + json_bytes(program), program.digests().root())
}

fn json_bytes(value: &impl Serialize) -> usize {
    let mut sink = Sink { bytes: 0 };
    serde_json::to_writer(&mut sink, value).expect("objects have string keys only, and the sink takes all");
    sink.bytes
}

/// Counts bytes, and keeps none.
struct Sink {
    bytes: usize,
}

impl io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Something of an account that may be left out.
struct Part {
    account: AccountId,
    /// Orders by age.
    age: Ksuid,
    /// Bytes that leaving it out frees.
    bytes: usize,
    what: What,
}

enum What {
    Policy(EndpointId),
    Certificate(CertificateId, Vec<DomainId>),
    Authority(AuthorityId),
    IpPolicy(IpPolicyId),
}

impl Part {
    fn new(account: AccountId, age: Ksuid, value: &impl Serialize, what: What) -> Self {
        Self { account, age, bytes: json_bytes(value).saturating_sub(CLOSED_BYTES), what }
    }

    /// Leaves it out; what needs it is closed by that. Gives the keys of the records concerned.
    fn close(self, program: &mut Program) -> Vec<String> {
        match self.what {
            What::Policy(id) => {
                if let Some(endpoint) = program.endpoints.get_mut(&id) {
                    endpoint.policy = None;
                }
                vec![key::<Endpoint>(self.account, id)]
            }
            What::Certificate(id, domains) => {
                program.certificates.remove(&id);
                let closed = domains.into_iter().filter_map(|id| {
                    let domain = program.domains.get_mut(&id)?;
                    domain.certificate = None;
                    Some(key::<ReservedDomain>(domain.account, id))
                });
                closed.collect()
            }
            What::Authority(id) => {
                program.authorities.remove(&id);
                vec![key::<CertificateAuthority>(self.account, id)]
            }
            What::IpPolicy(id) => {
                program.ip_policies.remove(&id);
                vec![key::<IpPolicy>(self.account, id)]
            }
        }
    }
}

fn parts(program: &Program) -> Vec<Part> {
    let mut parts = Vec::new();
    for (id, endpoint) in &program.endpoints {
        if let Some(policy) = endpoint.policy.and_then(|hash| program.policies.get(&hash)) {
            parts.push(Part::new(endpoint.account, id.ksuid(), policy, What::Policy(*id)));
        }
    }
    let mut users: BTreeMap<CertificateId, (AccountId, Vec<DomainId>)> = BTreeMap::new();
    for (id, domain) in &program.domains {
        if let Some(certificate) = domain.certificate {
            users.entry(certificate).or_insert_with(|| (domain.account, Vec::new())).1.push(*id);
        }
    }
    for (id, (account, domains)) in users {
        if let Some(spec) = program.certificates.get(&id) {
            parts.push(Part::new(account, id.ksuid(), spec, What::Certificate(id, domains)));
        }
    }
    for (id, authority) in &program.authorities {
        parts.push(Part::new(authority.account, id.ksuid(), authority, What::Authority(*id)));
    }
    for (id, policy) in &program.ip_policies {
        parts.push(Part::new(policy.account, id.ksuid(), policy, What::IpPolicy(*id)));
    }
    parts
}

/// The parts that must go so that the rest takes at most `room` bytes.
fn surplus(mut parts: Vec<Part>, room: usize) -> Vec<Part> {
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
        Action, Binding, CertificateSpec, CloudEndpointSpec, CredentialId, CredentialSpec, DomainSpec, Rule,
        TokenHash, TrafficPolicy,
    };

    fn ksuid(account: u8, n: u8) -> Ksuid {
        Ksuid::new(1_700_000_000 + u64::from(n), [account; 16])
    }

    fn account(n: u8) -> AccountId {
        AccountId::new(ksuid(n, 0))
    }

    /// An endpoint whose policy no other has.
    fn endpoint(program: &mut Program, n: u8, of: u8, policy_bytes: usize) -> CloudEndpointSpec {
        let config = serde_json::json!({ "content": format!("{of}{}", "x".repeat(policy_bytes)) });
        let action = Action { kind: "custom-response".into(), config };
        let rule = Rule { name: None, expressions: Vec::new(), actions: vec![action] };
        CloudEndpointSpec {
            account: account(n),
            url: "https://a.example.com".parse().unwrap(),
            binding: Binding::Public,
            pooling_enabled: false,
            policy: Some(
                program.share(TrafficPolicy { on_http_request: vec![rule], ..TrafficPolicy::default() }),
            ),
        }
    }

    /// Account 1 has one endpoint of 1 kB and a credential, account 2 five endpoints of 4 kB.
    fn program() -> Program {
        let mut program = Program { generation: 7, ..Program::default() };
        let spec = endpoint(&mut program, 1, 0, 1_000);
        program.endpoints.insert(EndpointId::new(ksuid(1, 1)), spec);
        for n in 1..=5 {
            let spec = endpoint(&mut program, 2, n, 4_000);
            program.endpoints.insert(EndpointId::new(ksuid(2, n)), spec);
        }
        let credential = CredentialSpec {
            account: account(1),
            account_name: "one".into(),
            token: TokenHash([1; 32]),
            acl: ebbgate_model::Acl::default(),
            passthrough_links: false,
        };
        program.credentials.insert(CredentialId::new(ksuid(1, 1)), credential);
        program
    }

    fn line(program: &Program) -> usize {
        serde_json::to_vec(program).unwrap().len() + FRAME_BYTES
    }

    #[test]
    fn a_program_is_measured_to_the_byte_and_told_by_its_digest() {
        let (one, bytes) = (program(), line(&program()));
        let fitted = fit(one.clone(), bytes).unwrap();
        assert_eq!((fitted.bytes, fitted.left_out.len()), (bytes, 0));
        assert_eq!(fitted.program, one);
        assert_eq!(fitted.digest, one.digests().root());
        assert_eq!(fit(one.clone(), bytes - 1).unwrap().left_out.len(), 1, "one byte too many is too many");
        let other = Program { endpoints: BTreeMap::new(), ..one };
        assert_ne!(fit(other, bytes).unwrap().digest, fitted.digest);
    }

    #[test]
    fn what_is_too_large_costs_the_largest_account_its_newest_objects_and_nobody_else_anything() {
        let whole = program();
        for keep in 1..5_u8 {
            let max = 3_400 + usize::from(keep) * 4_450;
            let fitted = fit(whole.clone(), max).unwrap();
            assert!(fitted.bytes <= max && line(&fitted.program) == fitted.bytes);
            let newest = keep + 1..=5;
            let expect: BTreeSet<_> =
                newest.map(|n| key::<Endpoint>(account(2), EndpointId::new(ksuid(2, n)))).collect();
            assert!(fitted.left_out.keys().eq(&expect), "{keep}: {:?}", fitted.left_out);
            for (id, spec) in &fitted.program.endpoints {
                let closed = fitted.left_out.contains_key(&key::<Endpoint>(spec.account, *id));
                assert_eq!(spec.policy.is_none(), closed, "closed at its place, not gone");
            }
            assert_eq!(fitted.program.credentials, whole.credentials);
        }
        let message = fit(whole, 700).unwrap_err().to_string();
        assert!(message.contains("an edge takes"), "{message}");
    }

    #[test]
    fn a_certificate_that_is_left_out_leaves_its_domain_without_one() {
        let mut program = Program::default();
        let (id, domain) = (CertificateId::new(ksuid(1, 1)), DomainId::new(ksuid(1, 1)));
        let spec = CertificateSpec { chain_pem: "x".repeat(4_000), key_pem: String::new() };
        program.certificates.insert(id, spec);
        let host = "a.example.com".parse().unwrap();
        program.domains.insert(domain, DomainSpec { account: account(1), host, certificate: Some(id) });
        let fitted = fit(program, 2_000).unwrap();
        assert!(fitted.program.certificates.is_empty());
        assert_eq!(fitted.program.domains.get(&domain).unwrap().certificate, None);
        assert!(fitted.left_out.keys().eq([&key::<ReservedDomain>(account(1), domain)]));
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
