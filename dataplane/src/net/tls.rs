//! TLS as a server: certificates by name, settings by policy, handshakes with a deadline.
//!
//! A server configuration is made per certificate and settings, so that nothing of one endpoint (client authorities,
//! protocols) reaches another. Tickets are for one server name (RFC 6066 section 3), and only where no client certificate
//! is asked for. Knows no routes: the caller decides which certificate is asked for.

mod certificate;
mod client_auth;
mod peers;
mod provider;
mod tickets;

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, OnceLock};

use ebbgate_policy::{TlsFacts, TlsSettings, TlsVersion, Verification};
use ebbgate_wire::link::ALPN_LINK;
use rustls::crypto::CryptoProvider;
use rustls::server::NoServerSessionStorage;
use rustls::sign::CertifiedKey;
use rustls::{ProtocolVersion, ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Duration, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

pub use certificate::{CertificateError, CertificateTable, parse as parse_certificate, parse_challenge};
pub use peers::{PeerTls, PeerTlsError, edge_of};
pub use provider::provider;
pub use tickets::{TICKET_KEY_SECS_MAX, give_ticket_keys, take_ticket_keys};

use crate::net::detect::ClientHello;
use client_auth::{AnchorOrPath, AnyCertificate, Authorities, Demand};
use provider::link_provider;

/// Seconds from accept to a whole hello.
pub const HELLO_SECS_MAX: u64 = 10;
/// Seconds from the hello to the end of the handshake.
pub const HANDSHAKE_SECS_MAX: u64 = 20;
/// Configurations one shard keeps ready.
const CONFIGS_MAX: usize = 4096;

/// What a certificate authority offers that checks a name (RFC 8737 section 6.2).
pub const ALPN_ACME_TLS: &[u8] = b"acme-tls/1";

/// What the handshake offers by ALPN (RFC 7301).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocols {
    /// `h2` and `http/1.1`.
    Http,
    /// `postgresql`, which libpq's direct negotiation insists on.
    Postgres,
    /// None: raw bytes.
    Raw,
    /// A challenge of a certificate authority, and nothing else on that connection (RFC 8737 section 3).
    AcmeTls,
    /// An agent's link. TLS 1.3 alone, and the fastest suite first: one secret more or less per connection is all that sets
    /// AES-128 apart from what browsers take.
    Link,
}

impl Protocols {
    /// What a terminated `tls://` endpoint answers this hello with.
    pub fn for_raw(hello: &ClientHello) -> Self {
        if hello.offers(b"postgresql") { Self::Postgres } else { Self::Raw }
    }

    fn names(self) -> Vec<Vec<u8>> {
        match self {
            Self::Http => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Self::Postgres => vec![b"postgresql".to_vec()],
            Self::Raw => Vec::new(),
            Self::AcmeTls => vec![ALPN_ACME_TLS.to_vec()],
            Self::Link => vec![ALPN_LINK.to_vec()],
        }
    }
}

/// Why no handshake can be offered.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A certificate or key of a policy.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The authorities for client certificates.
    #[error("the authorities for client certificates are not usable: {0}")]
    Authorities(String),
    /// rustls does not take the settings.
    #[error("the TLS settings are not usable: {0}")]
    Settings(#[source] rustls::Error),
    /// The peer broke off, or sent what is no handshake.
    #[error("the TLS handshake failed: {0}")]
    Handshake(#[source] io::Error),
    /// [`HANDSHAKE_SECS_MAX`] passed.
    #[error("the TLS handshake was not finished within {HANDSHAKE_SECS_MAX} s")]
    TimedOut,
}

/// The fatal alert a peer gets before any handshake (RFC 8446 section 6), as one record in clear.
pub fn alert(description: rustls::AlertDescription) -> [u8; 7] {
    [21, 3, 3, 0, 2, 2, description.into()]
}

/// Settings of a handshake that no policy shaped.
pub fn default_settings() -> Arc<TlsSettings> {
    static SETTINGS: OnceLock<Arc<TlsSettings>> = OnceLock::new();
    let settings = || TlsSettings {
        min: TlsVersion::V1_2,
        max: TlsVersion::V1_3,
        certificate: None,
        client_authorities: Vec::new(),
        verification: Verification::Request,
    };
    Arc::clone(SETTINGS.get_or_init(|| Arc::new(settings())))
}

/// Ready configurations of one shard, by the identity of what they were made from.
#[derive(Default)]
pub struct Configs(HashMap<(usize, usize, Protocols), Entry>);

/// Keeps alive what its key's addresses point to, so that no other settings can take their place.
struct Entry {
    config: Arc<ServerConfig>,
    _certificate: Option<Arc<CertifiedKey>>,
    _settings: Arc<TlsSettings>,
}

impl Configs {
    /// The configuration for these settings, with the domain's certificate unless the settings bring their own.
    pub fn get(
        &mut self,
        settings: &Arc<TlsSettings>,
        domain: Option<&Arc<CertifiedKey>>,
        protocols: Protocols,
    ) -> Result<Arc<ServerConfig>, TlsError> {
        let domain = domain.filter(|_| settings.certificate.is_none());
        let key = (Arc::as_ptr(settings).addr(), domain.map_or(0, |c| Arc::as_ptr(c).addr()), protocols);
        if let Some(entry) = self.0.get(&key) {
            return Ok(Arc::clone(&entry.config));
        }
        let config = Arc::new(match protocols {
            Protocols::Link => {
                build(settings, domain, protocols, link_provider(), &[&rustls::version::TLS13])?
            }
            _ => build(settings, domain, protocols, provider(), &versions(settings))?,
        });
        if self.0.len() >= CONFIGS_MAX {
            self.0.clear();
        }
        let entry = Entry {
            config: Arc::clone(&config),
            _certificate: domain.cloned(),
            _settings: Arc::clone(settings),
        };
        self.0.insert(key, entry);
        Ok(config)
    }
}

fn build(
    settings: &TlsSettings,
    domain: Option<&Arc<CertifiedKey>>,
    protocols: Protocols,
    provider: Arc<CryptoProvider>,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<ServerConfig, TlsError> {
    let own = settings.certificate.as_ref().map(|own| parse_certificate(&own.chain_pem, &own.key_pem));
    let certificate = match own {
        Some(parsed) => parsed?,
        None => domain.cloned().ok_or(CertificateError::None)?,
    };
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(TlsError::Settings)?;
    let builder = if settings.client_authorities.is_empty() {
        builder.with_no_client_auth()
    } else {
        builder.with_client_cert_verifier(verifier(settings)?)
    };
    let mut config = builder.with_cert_resolver(Arc::new(certificate::Single(certificate)));
    config.alpn_protocols = protocols.names();
    let is_link = protocols == Protocols::Link;
    (config.ignore_client_order, config.enable_secret_extraction) = (is_link, is_link);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    if may_resume(settings, protocols)
        && let Some(ticketer) = tickets::ticketer()
    {
        (config.ticketer, config.send_tls13_tickets) = (ticketer, tickets::TICKETS);
    }
    Ok(config)
}

/// Whether sessions may be resumed. Never where client certificates are asked for: a ticket would stand for a certificate
/// that nobody judges again, and for another endpoint's authorities. Only for HTTP: a client of raw bytes that never reads
/// would leave tickets unread, and the kernel would make its close a reset.
fn may_resume(settings: &TlsSettings, protocols: Protocols) -> bool {
    protocols == Protocols::Http && settings.client_authorities.is_empty()
}

fn versions(settings: &TlsSettings) -> Vec<&'static SupportedProtocolVersion> {
    match (settings.min, settings.max) {
        (TlsVersion::V1_2, TlsVersion::V1_2) => vec![&rustls::version::TLS12],
        (TlsVersion::V1_2, TlsVersion::V1_3) => vec![&rustls::version::TLS13, &rustls::version::TLS12],
        (TlsVersion::V1_3, _) => vec![&rustls::version::TLS13],
    }
}

fn verifier(settings: &TlsSettings) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, TlsError> {
    let authorities = Authorities::parse(&settings.client_authorities).map_err(TlsError::Authorities)?;
    let demand = match settings.verification {
        Verification::RequireAndVerify => {
            return Ok(Arc::new(AnchorOrPath::new(authorities).map_err(TlsError::Authorities)?));
        }
        Verification::RequireAny => Demand::Required,
        Verification::Request => Demand::Optional,
    };
    Ok(Arc::new(AnyCertificate::new(&authorities, demand)))
}

/// Finishes the handshake as server, within [`HANDSHAKE_SECS_MAX`].
pub async fn handshake<IO>(io: IO, config: Arc<ServerConfig>) -> Result<TlsStream<IO>, TlsError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    match timeout(Duration::from_secs(HANDSHAKE_SECS_MAX), TlsAcceptor::from(config).accept(io)).await {
        Ok(stream) => stream.map_err(TlsError::Handshake),
        Err(_) => Err(TlsError::TimedOut),
    }
}

/// The same for a link.
pub async fn link_handshake<IO>(
    io: IO,
    config: Arc<ServerConfig>,
) -> Result<ebbgate_tunnel::tls::TlsStream<IO>, TlsError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    match timeout(Duration::from_secs(HANDSHAKE_SECS_MAX), ebbgate_tunnel::tls::accept(io, config)).await {
        Ok(stream) => stream.map_err(TlsError::Handshake),
        Err(_) => Err(TlsError::TimedOut),
    }
}

/// What policies may see of a finished handshake.
pub fn facts<IO>(stream: &TlsStream<IO>, hello: &ClientHello) -> TlsFacts {
    let (_, session) = stream.get_ref();
    let chain = session.peer_certificates().unwrap_or_default();
    TlsFacts {
        version: match session.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "1.2".into(),
            Some(ProtocolVersion::TLSv1_3) => "1.3".into(),
            _ => String::new(),
        },
        cipher_suite: session
            .negotiated_cipher_suite()
            .and_then(|suite| suite.suite().as_str().map(str::to_owned))
            .unwrap_or_default(),
        sni: hello.sni.as_ref().map(ToString::to_string).unwrap_or_default(),
        alpn: session.alpn_protocol().map(|p| String::from_utf8_lossy(p).into_owned()).unwrap_or_default(),
        resumed: session.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
        client_chain: chain.iter().map(|der| der.to_vec()).collect(),
        server_leaf: Vec::new(),
        ja4: hello.ja4(),
    }
}

/// The leaf that a handshake with these settings presents, DER.
pub fn leaf(settings: &TlsSettings, domain: Option<&Arc<CertifiedKey>>) -> Vec<u8> {
    let own = settings.certificate.as_ref().and_then(|own| certificate::leaf(&own.chain_pem));
    own.or_else(|| Some(domain?.cert.first()?.to_vec())).unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod tests;
