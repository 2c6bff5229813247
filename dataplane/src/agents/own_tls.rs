//! Endpoints whose TLS ends with the agent's own certificate, as a process of this edge tells the one that serves. The key goes over
//! their pair of sockets alone: not to control, to another edge, to a disk or into the log. Pure.

use std::fmt;
use std::sync::Arc;

use ebbgate_model::TrafficPolicy;
use ebbgate_model::feed::{ServedElsewhere, SharedBy};
use ebbgate_policy::{ServerCertificate, TlsSettings};
use serde::{Deserialize, Serialize};

use crate::net::tls::default_settings;
use crate::tunnel::session::AgentRef;

/// Bytes of a chain and its key that are told. A session has up to 1,000 endpoints, and goes into a line of the feed's length.
const OWN_TLS_BYTES_MAX: usize = 64 << 10;

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
    /// None: it has no certificate of its own, or a longer one than is told.
    pub(super) fn of(agent: &AgentRef, guard: Option<&TrafficPolicy>, has_lent_port: bool) -> Option<Self> {
        let ServerCertificate { chain_pem, key_pem } = agent.tls_termination.as_ref()?.certificate.clone()?;
        let elsewhere = served_elsewhere(agent, guard, has_lent_port);
        (chain_pem.len() + key_pem.len() <= OWN_TLS_BYTES_MAX).then_some(Self {
            elsewhere,
            chain_pem,
            key_pem,
        })
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
