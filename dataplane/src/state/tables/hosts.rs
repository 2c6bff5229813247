//! Names with their certificates, as Tables hold them. Knows nothing of Tables, nor of how a name gets its certificate.

use std::collections::BTreeSet;
use std::sync::Arc;

use ebbgate_model::{AccountId, DomainId, DomainSpec, Host, IngressId};
use rustls::sign::CertifiedKey;

use crate::net::tls::CertificateError;
use crate::persistent::Map;

/// A certificate, or what is wrong with it.
pub(super) type Parsed = Result<Arc<CertifiedKey>, Arc<CertificateError>>;

/// A reserved domain under its name.
#[derive(Debug, Clone)]
pub(super) struct Domain {
    pub(super) id: DomainId,
    pub(super) spec: Arc<DomainSpec>,
}

/// The names below the default domain, and the certificate they are answered with.
#[derive(Debug, Clone)]
pub(super) struct RandomNames {
    pub(super) wildcard: Host,
    pub(super) certificate: Arc<CertifiedKey>,
}

/// The names of the agent listener.
#[derive(Debug, Clone, Default)]
pub struct ConnectNames {
    pub(super) default: Option<Arc<CertifiedKey>>,
    pub(super) hosts: Arc<BTreeSet<Host>>,
    pub(super) ingresses: Map<Host, Ingress>,
}

/// A custom connect name of an account.
#[derive(Debug, Clone)]
pub(super) struct Ingress {
    pub(super) id: IngressId,
    pub(super) account: AccountId,
    pub(super) certificate: Option<Arc<CertifiedKey>>,
}

/// A name of the agent listener: its certificate, and whose agents may use it.
#[derive(Debug, Clone)]
pub struct ConnectName {
    /// Shown in the handshake.
    pub certificate: Arc<CertifiedKey>,
    /// Only sessions of this account; None: of any.
    pub account: Option<AccountId>,
}

impl ConnectNames {
    /// Whether agents connect to this name, said so by the installation or by an ingress.
    pub fn contains(&self, name: &Host) -> bool {
        self.hosts.contains(name) || self.ingresses.contains_key(name)
    }

    #[cfg(test)]
    pub(crate) fn of(hosts: &[&str]) -> Self {
        let hosts = hosts.iter().map(|host| host.parse().expect("a test's own name")).collect();
        Self { hosts: Arc::new(hosts), ..Self::default() }
    }

    /// The entry for a server name; none asked for is the default. None: the name is not known.
    pub fn find(&self, name: Option<&Host>) -> Option<ConnectName> {
        if let Some(ingress) = name.and_then(|name| self.ingresses.get(name)) {
            let (account, certificate) = (Some(ingress.account), ingress.certificate.clone()?);
            return Some(ConnectName { certificate, account });
        }
        let known = name.is_none_or(|name| self.hosts.is_empty() || self.hosts.contains(name));
        Some(ConnectName { certificate: self.default.clone().filter(|_| known)?, account: None })
    }
}
