//! Names of the simulation's things, from their numbers and back.

use std::net::IpAddr;

use ebbgate_model::{AccountId, CredentialId, EdgeId, EndpointId, EndpointUrl, Ksuid, TunnelSessionId};

/// Unix time of all names.
const UNIX_SECS: u64 = 1_700_000_000;

/// A session of an agent, at whatever edge: agents' numbers times sessions of each, plus the session's.
pub(crate) type Slot = usize;
/// Counts the sessions of a slot that were let in; 0: none.
pub(crate) type Life = u32;

fn ksuid(kind: u8, high: usize, low: u32) -> Ksuid {
    let mut bytes = [0; 16];
    bytes[0] = kind;
    bytes[4..8].copy_from_slice(&u32::try_from(high).unwrap_or(u32::MAX).to_be_bytes());
    bytes[8..12].copy_from_slice(&low.to_be_bytes());
    Ksuid::new(UNIX_SECS, bytes)
}

fn numbers(ksuid: Ksuid) -> (usize, u32) {
    let bytes = ksuid.bytes();
    let number = |at: usize| bytes[at..at + 4].iter().fold(0_u32, |all, byte| all << 8 | u32::from(*byte));
    (usize::try_from(number(8)).unwrap_or(usize::MAX), number(12))
}

pub(crate) fn edge(number: usize) -> EdgeId {
    EdgeId::new(ksuid(1, number, 0))
}

pub(crate) fn edge_number(id: EdgeId) -> usize {
    numbers(id.ksuid()).0
}

pub(crate) fn account(number: usize) -> AccountId {
    AccountId::new(ksuid(2, number, 0))
}

pub(crate) fn credential(number: usize) -> CredentialId {
    CredentialId::new(ksuid(3, number, 0))
}

pub(crate) fn session(slot: Slot, life: Life) -> TunnelSessionId {
    TunnelSessionId::new(ksuid(4, slot, life))
}

pub(crate) fn session_numbers(id: TunnelSessionId) -> (Slot, Life) {
    numbers(id.ksuid())
}

pub(crate) fn endpoint(slot: Slot, life: Life) -> EndpointId {
    EndpointId::new(ksuid(5, slot, life))
}

/// Where agents reach an edge.
pub(crate) fn address(edge: usize) -> String {
    format!("e{edge}:443")
}

/// The edge at an address.
pub(crate) fn edge_at(host: &str) -> usize {
    host.get(1..).and_then(|number| number.parse().ok()).unwrap_or(usize::MAX)
}

/// The address that the agents of a site have in common.
pub(crate) fn source(site: usize) -> IpAddr {
    IpAddr::from((0x0a00_0000 + u32::try_from(site).unwrap_or(0)).to_be_bytes())
}

/// The URL of a service. Accounts have services of the same names.
pub(crate) fn url(service: usize) -> EndpointUrl {
    format!("tcp://s{service}.internal:1").parse().expect("a URL")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_their_numbers() {
        assert_eq!(session_numbers(session(99_999, 77)), (99_999, 77));
        assert_eq!(edge_number(edge(199)), 199);
        assert_eq!(edge_at("e17"), 17);
        assert_eq!(url(3).to_string(), "tcp://s3.internal:1");
    }
}
