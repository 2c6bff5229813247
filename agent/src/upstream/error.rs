//! Why an endpoint can deliver nothing.

use crate::trust::TrustError;

/// The endpoint cannot deliver anything.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The roots for the upstream's certificate cannot be loaded.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// TLS cannot be set up.
    #[error("cannot set up TLS to {address}: {source}")]
    Tls {
        /// The upstream.
        address: String,
        /// What rustls said.
        source: rustls::Error,
    },
    /// The upstream's host can be no TLS server name.
    #[error("`{0}` cannot be the server name of a TLS upstream; use a DNS name or an address")]
    ServerName(String),
}
