//! TLS of the listener for edges: our own leaf, made anew in time, and client certificates of the `edge` authority.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ebbgate_model::{EdgeId, Host};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert, VerifierBuilderError, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{RootCertStore, ServerConfig};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::App;
use crate::authority::{AuthorityError, Pair, Purpose, certificates, is_due};
use crate::clock::{Clock, UnixSecs};
use crate::error_chain::ErrorChain;

/// Why the listener for edges has no TLS.
#[derive(Debug, thiserror::Error)]
pub enum FleetTlsError {
    /// The leaf.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The leaf, or what is trusted.
    #[error("the edge authority cannot be used: restore DIR/ca from a backup")]
    Rustls(#[from] rustls::Error),
    /// What is trusted.
    #[error("the edge authority cannot be used: restore DIR/ca from a backup")]
    Verifier(#[from] VerifierBuilderError),
    /// The leaf's key.
    #[error("the certificate for edges cannot be read back")]
    Pem(#[from] rustls::pki_types::pem::Error),
}

/// Takes edges with a certificate of these authorities, and those that come to join without one.
pub(super) fn config(app: &App, host: &Host, authorities_pem: &str) -> Result<ServerConfig, FleetTlsError> {
    let provider = Arc::new(default_provider());
    let mut roots = RootCertStore::empty();
    for authority in certificates(authorities_pem) {
        roots.add(authority)?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let verifier = verifier.allow_unauthenticated().build()?;
    let leaf = Leaf::new(app.clone(), host.clone(), Arc::clone(&provider))?;
    let time = Arc::new(Time(Arc::clone(&app.clock)));
    let builder = ServerConfig::builder_with_details(provider, time).with_protocol_versions(&[&TLS13])?;
    let mut config = builder.with_client_cert_verifier(verifier).with_cert_resolver(Arc::new(leaf));
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// The clock that certificates are judged by.
pub(super) struct Time(pub(super) Arc<dyn Clock>);

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        let secs = u64::try_from(self.0.unix_secs()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(secs)))
    }
}

impl std::fmt::Debug for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Time")
    }
}

/// The edge that a certificate is of; the chain has been verified.
pub(super) fn edge_of(leaf: &CertificateDer<'_>) -> Option<EdgeId> {
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    let name = certificate.subject().iter_common_name().next()?;
    name.as_str().ok()?.parse().ok()
}

/// Our certificate, which nobody stores: every start makes another.
struct Leaf {
    app: App,
    host: Host,
    provider: Arc<CryptoProvider>,
    made: Mutex<Made>,
}

#[derive(Clone)]
struct Made {
    certified: Arc<CertifiedKey>,
    not_before: UnixSecs,
    not_after: UnixSecs,
}

impl Leaf {
    fn new(app: App, host: Host, provider: Arc<CryptoProvider>) -> Result<Self, FleetTlsError> {
        let made = Mutex::new(make(&app, &host, &provider)?);
        Ok(Self { app, host, provider, made })
    }
}

fn make(app: &App, host: &Host, provider: &CryptoProvider) -> Result<Made, FleetTlsError> {
    let Pair { certificate_pem, key_pem, not_before, not_after } =
        app.issuer.server(Purpose::Edge, host, app.now())?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())?;
    let certified = CertifiedKey::from_der(certificates(&certificate_pem), key, provider)?;
    Ok(Made { certified: Arc::new(certified), not_before, not_after })
}

impl ResolvesServerCert for Leaf {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if is_due(made.not_before, made.not_after, self.app.now()) {
            match make(&self.app, &self.host, &self.provider) {
                Ok(new) => *made = new,
                Err(error) => {
                    tracing::error!(error = %ErrorChain(&error), "the certificate for edges could not be renewed");
                }
            }
        }
        Some(Arc::clone(&made.certified))
    }
}

impl std::fmt::Debug for Leaf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leaf").field("host", &self.host).finish_non_exhaustive()
    }
}
