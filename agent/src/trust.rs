//! Whose certificates the agent believes: for the edge (`connect_cas`) and for upstreams (`tls_verify_cas`).
//!
//! `trusted` has no vendor CA baked in, for a self-hosted edge has its own: it means the file an installer puts at
//! `/etc/ebbgate/connect-ca.pem` where that exists, and the host's roots where it does not.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// The CA an installer leaves for `connect_cas: trusted`.
pub const INSTALLED_CA: &str = "/etc/ebbgate/connect-ca.pem";

/// Where trust roots come from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Trust {
    /// `trusted`: [`INSTALLED_CA`] where it exists, else the host's roots.
    #[default]
    Installed,
    /// `host`: the roots of the operating system (`SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured).
    Host,
    /// A PEM file.
    File(PathBuf),
    /// PEM text in memory, for programs that embed the agent.
    Pem(Arc<str>),
}

/// There are no roots to trust.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A PEM file is missing or not PEM.
    #[error("cannot read certificates from {}: {reason}; it must be a PEM file of CA certificates", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// PEM text given by a program is not PEM.
    #[error("the trusted certificates are not PEM: {0}")]
    Pem(String),
    /// The host has no roots.
    #[error("this host has no trusted certificates; install ca-certificates or name a PEM file")]
    HostEmpty,
}

impl Trust {
    /// `trusted`, `host` or a path.
    pub fn parse(text: &str) -> Self {
        match text {
            "trusted" => Self::Installed,
            "host" => Self::Host,
            path => Self::File(path.into()),
        }
    }

    /// Loads the roots.
    pub fn roots(&self) -> Result<RootCertStore, TrustError> {
        match self {
            Self::Installed if Path::new(INSTALLED_CA).exists() => from_file(Path::new(INSTALLED_CA)),
            Self::Installed | Self::Host => from_host(),
            Self::File(path) => from_file(path),
            Self::Pem(text) => from_pem(text.as_bytes()).map_err(TrustError::Pem),
        }
    }
}

fn from_host() -> Result<RootCertStore, TrustError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(TrustError::HostEmpty) } else { Ok(roots) }
}

fn from_file(path: &Path) -> Result<RootCertStore, TrustError> {
    let refused = |reason: String| TrustError::File { path: path.to_owned(), reason };
    let text = std::fs::read(path).map_err(|error| refused(error.to_string()))?;
    from_pem(&text).map_err(refused)
}

/// Roots from PEM text; text without a certificate is an error.
pub(crate) fn from_pem(text: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(text)? {
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    Ok(roots)
}

/// The certificates in PEM text, at least one.
pub(crate) fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match found {
        Ok(list) if list.is_empty() => Err("no certificate found".into()),
        Ok(list) => Ok(list),
        Err(error) => Err(error.to_string()),
    }
}

/// The one cryptographic provider of the agent.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
