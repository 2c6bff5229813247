//! Endpoints that end TLS with a certificate of the agent: an older process tells them to the process that serves. The key goes
//! over their pair of sockets alone: not to control, to another edge, to a disk or into the log. Pure.

use std::fmt;
use std::sync::Arc;

use ebbgate_model::TrafficPolicy;
use ebbgate_model::feed::{LINE_BYTES_MAX, ServedElsewhere, SharedBy};
use ebbgate_policy::{ServerCertificate, TlsSettings};
use serde::{Deserialize, Serialize};

use super::allowance::{JSON_BYTES_PER_BYTE_MAX, SESSION_TEXT_BYTES_MAX};
use crate::net::tls::default_settings;
use crate::tunnel::session::AgentRef;

/// Bytes of a chain and its key that are told.
const OWN_TLS_BYTES_MAX: usize = 64 << 10;
/// Bytes that JSON makes of all chains and keys of a session that are told.
const SESSION_OWN_TLS_BYTES_MAX: usize = 8 << 20;

// They go into one line with what control is told of the session.
const _: () = assert!(
    SESSION_TEXT_BYTES_MAX * JSON_BYTES_PER_BYTE_MAX + SESSION_OWN_TLS_BYTES_MAX < LINE_BYTES_MAX / 2
);

/// What is left for chains and keys in the line of a session.
pub(super) struct Room(usize);

impl Default for Room {
    fn default() -> Self {
        Self(SESSION_OWN_TLS_BYTES_MAX)
    }
}

impl Room {
    /// Whether a certificate is told. Those before it have taken their room.
    pub(super) fn take(&mut self, certificate: &ServerCertificate) -> bool {
        let ServerCertificate { chain_pem, key_pem } = certificate;
        if chain_pem.len() + key_pem.len() > OWN_TLS_BYTES_MAX {
            return false;
        }
        let left = self.0.checked_sub(json_bytes_max(chain_pem) + json_bytes_max(key_pem));
        left.map(|left| self.0 = left).is_some()
    }
}

/// Bytes that JSON makes of a text at most.
fn json_bytes_max(text: &str) -> usize {
    let bytes_max = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' => 2,
        _ if byte.is_ascii_control() => JSON_BYTES_PER_BYTE_MAX,
        _ => 1,
    };
    text.bytes().map(bytes_max).sum()
}

/// What the process that serves needs for such an endpoint.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct OwnTls {
    /// What any other edge would need too.
    pub(super) elsewhere: ServedElsewhere,
    chain_pem: String,
    /// Secret: absent from `Debug`.
    key_pem: String,
}

impl fmt::Debug for OwnTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnTls").field("elsewhere", &self.elsewhere).finish_non_exhaustive()
    }
}

impl OwnTls {
    /// None: it has no certificate of its own, or there is no room for it.
    pub(super) fn of(
        agent: &AgentRef,
        guard: Option<&TrafficPolicy>,
        has_lent_port: bool,
        room: &mut Room,
    ) -> Option<Self> {
        let certificate = agent.tls_termination.as_ref()?.certificate.as_ref()?;
        let ServerCertificate { chain_pem, key_pem } = room.take(certificate).then(|| certificate.clone())?;
        let elsewhere = served_elsewhere(agent, guard, has_lent_port);
        Some(Self { elsewhere, chain_pem, key_pem })
    }

    /// How TLS ends for its visitors.
    pub(super) fn settings(&self) -> Arc<TlsSettings> {
        let (chain_pem, key_pem) = (self.chain_pem.clone(), self.key_pem.clone());
        let certificate = Some(ServerCertificate { chain_pem, key_pem });
        Arc::new(TlsSettings { certificate, ..TlsSettings::clone(&default_settings()) })
    }
}

/// What another edge needs to serve an endpoint, beside a certificate.
pub(super) fn served_elsewhere(
    agent: &AgentRef,
    guard: Option<&TrafficPolicy>,
    lent_port: bool,
) -> ServedElsewhere {
    ServedElsewhere {
        identity: agent.identity.to_string(),
        guard: guard.cloned(),
        shared_by: match agent {
            AgentRef { proxy_protocol: Some(_), .. } => SharedBy::Visitor,
            AgentRef { shows_client: true, .. } => SharedBy::Source,
            _ => SharedBy::Everybody,
        },
        ends_tls: agent.tls_termination.is_some(),
        lent_port,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(chain: &str, length: usize) -> ServerCertificate {
        ServerCertificate { chain_pem: chain.repeat(length), key_pem: String::new() }
    }

    #[test]
    fn what_is_told_of_a_session_fits_into_its_line_whatever_json_makes_of_it() {
        for text in ["x", "\0", "\u{1f}", "\u{7f}", "\u{8}", "\"\\\n\r\t", "\u{e9}"] {
            let json = serde_json::to_string(text).unwrap().len() - 2;
            assert!((json..=6 * text.len()).contains(&json_bytes_max(text)), "{text:?}");
        }
        for (text, fit) in [("x", 128), ("\n", 64), ("\0", 21)] {
            let mut room = Room::default();
            let told = (0..150).filter(|_| room.take(&certificate(text, OWN_TLS_BYTES_MAX)));
            assert_eq!(told.count(), fit, "{text:?}");
        }
        let mut room = Room::default();
        assert!(!room.take(&certificate("x", OWN_TLS_BYTES_MAX + 1)));
        assert!(room.take(&certificate("x", OWN_TLS_BYTES_MAX)));
    }
}
