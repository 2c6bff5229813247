//! TLS that ends in the agent (`agent_tls_termination`): the edge passes bytes it cannot read. Also answers the
//! PostgreSQL `SSLRequest` that libpq sends before its handshake, so that an ordinary `psql` works through pass-through.

mod anchor;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use ebbgate_relay::Prefixed;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::config::Secret;
use crate::trust;
use anchor::AnchorOrPath;

/// Longest wait for a visitor's first byte and handshake together, in seconds.
pub const HANDSHAKE_SECS_MAX: u64 = 10;
/// `SSLRequest`: length 8, code 80877103 (PostgreSQL protocol, "SSL Session Encryption").
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
/// `GSSENCRequest`: the same with 80877104; clients with Kerberos try it first and go on after an `N`.
const GSS_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 48];
/// Clients of PostgreSQL 17 offer this name on direct handshakes and insist on it being chosen.
const ALPN_POSTGRESQL: &[u8] = b"postgresql";
/// HTTP/2 over TLS (RFC 9113 section 3.2).
const ALPN_HTTP2: &[u8] = b"h2";

/// A ready TLS server.
#[derive(Clone)]
pub struct Terminator {
    /// Picks no application protocol.
    config: Arc<ServerConfig>,
    /// Application protocols that the service is known to speak (RFC 7301 section 3.2).
    known: Vec<&'static [u8]>,
    mutual: bool,
}

/// The certificate, key or authorities cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TerminatorError {
    /// Not a PEM certificate chain.
    #[error("not a PEM certificate: {0}")]
    Certificate(String),
    /// Not a PEM private key.
    #[error("not a PEM private key: {0}")]
    Key(String),
    /// Key and certificate do not belong together, or are of a kind TLS cannot use.
    #[error("the certificate and its key cannot be used together: {0}")]
    Pair(rustls::Error),
    /// A client authority is not a PEM CA certificate.
    #[error("not a PEM CA certificate: {0}")]
    Authority(String),
}

impl TerminatorError {
    /// The key below `agent_tls_termination` that is to blame.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Certificate(_) | Self::Pair(_) => ".server_certificate",
            Self::Key(_) => ".server_private_key",
            Self::Authority(_) => ".mutual_tls_certificate_authorities",
        }
    }
}

impl Terminator {
    /// Builds the server; with authorities, clients without a certificate from one of them are refused.
    pub fn new(certificate: &[u8], key: &Secret, authorities: &[String]) -> Result<Self, TerminatorError> {
        let chain = trust::certificates(certificate).map_err(TerminatorError::Certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes())
            .map_err(|error| TerminatorError::Key(error.to_string()))?;
        let builder = ServerConfig::builder_with_provider(trust::provider())
            .with_safe_default_protocol_versions()
            .map_err(TerminatorError::Pair)?;
        let builder = if authorities.is_empty() {
            builder.with_no_client_auth()
        } else {
            let pem = authorities.join("\n");
            let verifier = AnchorOrPath::new(pem.as_bytes()).map_err(TerminatorError::Authority)?;
            builder.with_client_cert_verifier(Arc::new(verifier))
        };
        let mut config = builder.with_single_cert(chain, key).map_err(TerminatorError::Pair)?;
        // A client that only sends never reads a ticket, and its close would be a reset that loses what is under way.
        config.send_tls13_tickets = 0;
        Ok(Self { config: Arc::new(config), known: vec![ALPN_POSTGRESQL], mutual: !authorities.is_empty() })
    }

    /// Says that the service behind speaks HTTP/2, so that clients that ask for it are told so.
    #[must_use]
    pub fn with_http2(mut self) -> Self {
        self.known.push(ALPN_HTTP2);
        self
    }

    /// Whether clients must present a certificate.
    pub fn is_mutual(&self) -> bool {
        self.mutual
    }

    /// The configuration for a client that offers `offered`. An offer of nothing we know is not refused: it says what the
    /// client can speak, and the service may well speak it.
    fn config_for<'a>(&self, mut offered: impl Iterator<Item = &'a [u8]>) -> Arc<ServerConfig> {
        let Some(&chosen) = offered.find_map(|name| self.known.iter().find(|known| **known == name)) else {
            return self.config.clone();
        };
        let mut config = ServerConfig::clone(&self.config);
        config.alpn_protocols = vec![chosen.to_vec()];
        Arc::new(config)
    }

    /// Performs the handshake as server, an `SSLRequest` answered first if one comes.
    pub async fn accept<T>(&self, mut io: T) -> io::Result<TlsStream<Prefixed<T>>>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let handshake = async {
            let first = answer_ssl_request(&mut io).await?;
            let hello = LazyConfigAcceptor::new(Acceptor::default(), Prefixed::new(first, io)).await?;
            let config = self.config_for(hello.client_hello().alpn().into_iter().flatten());
            hello.into_stream(config).await
        };
        match tokio::time::timeout(Duration::from_secs(HANDSHAKE_SECS_MAX), handshake).await {
            Ok(outcome) => outcome,
            Err(_) => {
                Err(io::Error::new(io::ErrorKind::TimedOut, "the visitor did not finish its TLS handshake"))
            }
        }
    }
}

/// Answers libpq's questions until a handshake begins; hands back what was read of that.
async fn answer_ssl_request<T: AsyncRead + AsyncWrite + Unpin>(io: &mut T) -> io::Result<Vec<u8>> {
    let mut gss_tried = false;
    loop {
        let mut first = Vec::with_capacity(SSL_REQUEST.len());
        while first.len() < SSL_REQUEST.len()
            && (SSL_REQUEST.starts_with(&first) || GSS_REQUEST.starts_with(&first))
        {
            first.push(io.read_u8().await?);
        }
        if first == GSS_REQUEST && !gss_tried {
            gss_tried = true;
            io.write_all(b"N").await?;
            io.flush().await?;
        } else if first == SSL_REQUEST {
            io.write_all(b"S").await?;
            io.flush().await?;
            return Ok(Vec::new());
        } else {
            return Ok(first);
        }
    }
}

impl fmt::Debug for Terminator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terminator").field("mutual", &self.mutual).finish_non_exhaustive()
    }
}
