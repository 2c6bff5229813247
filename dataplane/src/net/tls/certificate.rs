//! Certificates with keys, parsed once, found by server name: exact before the longest wildcard.

use std::sync::Arc;

use ebbgate_model::Host;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::provider::provider;
use crate::net::wildcard::WildcardMap;

/// Why a certificate cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// Not PEM, or no certificate in it.
    #[error("the certificate chain is not readable PEM; give the leaf first, then its issuers")]
    Chain,
    /// Not PEM, or no private key in it.
    #[error("the private key is not readable PEM; give an unencrypted PKCS #8, PKCS #1 or SEC 1 key")]
    Key,
    /// Key and leaf do not belong together, or the key is of no supported kind.
    #[error("the private key does not fit the certificate: {0}")]
    Mismatch(#[source] rustls::Error),
    /// Neither the policy nor the domain has one.
    #[error("there is no certificate for this name")]
    None,
}

/// Parses a chain and its key, and checks that they belong together.
pub fn parse(chain_pem: &str, key_pem: &str) -> Result<Arc<CertifiedKey>, CertificateError> {
    let certified = read(chain_pem, key_pem)?;
    match certified.keys_match() {
        // Unknown: the key type does not reveal its public half; the handshake will tell.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
            Ok(Arc::new(certified))
        }
        Err(error) => Err(CertificateError::Mismatch(error)),
    }
}

/// Parses the certificate of an ACME challenge and its key, unchecked: its critical extension (RFC 8737 section 3) is
/// unknown to what would check it.
pub fn parse_challenge(chain_pem: &str, key_pem: &str) -> Result<Arc<CertifiedKey>, CertificateError> {
    read(chain_pem, key_pem).map(Arc::new)
}

fn read(chain_pem: &str, key_pem: &str) -> Result<CertifiedKey, CertificateError> {
    let chain = CertificateDer::pem_slice_iter(chain_pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let chain = chain.ok().filter(|chain| !chain.is_empty()).ok_or(CertificateError::Chain)?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|_| CertificateError::Key)?;
    let key = provider().key_provider.load_private_key(key).map_err(CertificateError::Mismatch)?;
    Ok(CertifiedKey::new(chain, key))
}

/// The leaf of a chain, DER.
pub(super) fn leaf(chain_pem: &str) -> Option<Vec<u8>> {
    CertificateDer::pem_slice_iter(chain_pem.as_bytes()).next()?.ok().map(|der| der.to_vec())
}

/// Certificates by the names they are for.
#[derive(Debug, Clone, Default)]
pub struct CertificateTable(WildcardMap<Option<Arc<CertifiedKey>>>);

impl CertificateTable {
    /// Adds one for a name, exact or wildcard. None: handshakes for the name are refused, as for one that is not known,
    /// and no wildcard answers for it.
    pub fn insert(&mut self, host: Host, certificate: Option<Arc<CertifiedKey>>) {
        self.0.insert(host, certificate);
    }

    /// Removes a name.
    pub fn remove(&mut self, host: &Host) {
        self.0.remove(host);
    }

    /// The certificate of this very name.
    pub fn get(&self, host: &Host) -> Option<Arc<CertifiedKey>> {
        self.0.get(host)?.clone()
    }

    /// The certificate for a server name.
    pub fn find(&self, name: &Host) -> Option<&Arc<CertifiedKey>> {
        self.0.find(name)?.as_ref()
    }
}

/// Always the same certificate: the name was looked up before the handshake.
#[derive(Debug)]
pub(super) struct Single(pub(super) Arc<CertifiedKey>);

impl ResolvesServerCert for Single {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}
