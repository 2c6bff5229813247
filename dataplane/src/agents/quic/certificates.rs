//! TLS of the QUIC listener: TLS 1.3, and for each name the certificate of the Tables in force.

use std::fmt;
use std::sync::{Arc, Weak};

use ebbgate_model::Host;
use rustls::ServerConfig;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::net::tls;
use crate::state::edge::Edge;

/// A configuration that answers to the names of the agent listener and resumes nothing.
pub(super) fn tls(edge: &Arc<Edge>) -> ServerConfig {
    let mut config = ServerConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has TLS 1.3")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Certificates(Arc::downgrade(edge))));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config
}

/// Certificates by name. An unknown name gets none, and so no handshake.
struct Certificates(Weak<Edge>);

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = match hello.server_name() {
            Some(name) => Some(name.parse::<Host>().ok()?),
            None => None,
        };
        let found = self.0.upgrade()?.tables.load().connect.find(name.as_ref())?;
        Some(found.certificate)
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificates(..)")
    }
}
