//! Values for tests of this room.

use std::collections::BTreeMap;

use ebbgate_model::feed::{CommandRefusals, SessionReport};
use ebbgate_model::{AccountId, CredentialId, EdgeId, Ksuid, TunnelSessionId};

fn ksuid(n: u32) -> Ksuid {
    let mut payload = [0; 16];
    for (to, from) in payload.iter_mut().zip(n.to_be_bytes()) {
        *to = from;
    }
    Ksuid::new(1_700_000_000, payload)
}

pub(super) fn edge(n: u32) -> EdgeId {
    EdgeId::new(ksuid(n))
}

pub(super) fn session(n: u32) -> TunnelSessionId {
    TunnelSessionId::new(ksuid(n))
}

pub(super) fn account() -> AccountId {
    AccountId::new(ksuid(1))
}

/// A session that differs by its metadata.
pub(super) fn report(metadata: &str) -> SessionReport {
    SessionReport {
        account: account(),
        credential: CredentialId::new(ksuid(9)),
        agent_version: String::new(),
        user_agent: String::new(),
        os: String::new(),
        ip: String::new(),
        metadata: metadata.to_owned(),
        started_at: 0,
        transport: String::new(),
        refusals: CommandRefusals::default(),
        endpoints: BTreeMap::new(),
    }
}
