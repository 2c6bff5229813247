//! Reaches the edge: TCP (through a proxy or a chosen interface where asked), then TLS with the trust of `connect_cas`; or
//! QUIC, where TCP is silent.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ebbgate_wire::link::ALPN_LINK;
use ebbgate_wire::retry;
use rustls::pki_types::ServerName;
use rustls::{CipherSuite, ClientConfig};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::{AgentConfig, CarrierChoice, ConnectAddress, Secret};
use crate::dial::{Dial, DialError, Dialled, Dialling};
use crate::network::{Ends, HostNetwork, Network};
use crate::proxy::ProxyUrl;
use crate::quic::QuicDialer;
use crate::stream::{Carrier, Streams};
use crate::trust::{self, Trust, TrustError};
use crate::upstream::{race, ready};

/// Milliseconds that TCP has before QUIC is tried beside it.
const TCP_HEAD_START_MS: u64 = 1_000;
/// Longest wait for an answer to a SYN, in seconds. The kernel repeats it after 1, 3 and 7 s (RFC 6298): a new attempt after
/// 4 s is heard sooner than the third repetition by an edge that just came back.
pub const CONNECT_SECS_MAX: u64 = 4;
/// Silence on a link before the kernel asks whether the edge is there, in seconds.
const KEEP_ALIVE_SECS: u64 = 30;
/// Seconds between such questions.
const KEEP_ALIVE_INTERVAL_SECS: u64 = 10;
/// Questions without an answer after which the link is over.
const KEEP_ALIVE_PROBES: u32 = 3;

/// Why no dialler can be made from a configuration.
#[derive(Debug, thiserror::Error)]
pub enum DialerError {
    /// No edge is named.
    #[error(
        "no edge to connect to: write `connect_url: HOST:PORT` under `agent:`, or set EBBGATE_CONNECT_URL \
         (a self-hosted gateway has no default)"
    )]
    NoAddress,
    /// No roots to trust.
    #[error("connect_cas: {0}")]
    Trust(#[from] TrustError),
    /// TLS cannot be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// QUIC cannot be set up.
    #[error(transparent)]
    Quic(#[from] ebbgate_tunnel::quic::ConfigError),
    /// QUIC only, and a proxy that carries none.
    #[error("`carrier: quic` cannot go through proxy_url; use `auto` or `link`")]
    QuicProxy,
    /// The edge's host can be no TLS server name.
    #[error("connect_url: `{0}` cannot be a TLS server name; use a DNS name or an address")]
    ServerName(String),
}

/// What the diallers of all edges have in common.
struct Common {
    tls: Arc<ClientConfig>,
    link_tls: Arc<ClientConfig>,
    agent: AgentConfig,
}

impl Common {
    /// The name that an edge's certificate must have. All edges of an installation have the certificates of its names, so
    /// one that was named by another is held to the name of the configuration, and cannot be a host of its own choice.
    fn server_name<'a>(&'a self, edge: &'a ConnectAddress) -> &'a str {
        let configured = &self.agent.connect;
        let first = configured.first().filter(|_| !configured.contains(edge));
        first.map_or(&edge.host, |first| &first.host)
    }
}

/// The dialler of real networks, for one edge.
pub struct EdgeDialer {
    common: Arc<Common>,
    address: ConnectAddress,
    /// The address that the session reached, for what has to reach the same edge: a name may have several.
    reached: Option<SocketAddr>,
    name: ServerName<'static>,
    /// None where a proxy is in between: it carries TCP only.
    quic: Option<QuicDialer>,
}

impl EdgeDialer {
    /// From the `agent:` section, for the first edge that it names.
    pub fn new(agent: &AgentConfig) -> Result<Self, DialerError> {
        let address = agent.connect.first().cloned().ok_or(DialerError::NoAddress)?;
        let (tls, link_tls) = (client_config(&agent.trust)?, link_config(&agent.trust)?);
        Self::made(Arc::new(Common { tls, link_tls, agent: agent.clone() }), address)
    }

    /// The same for another edge.
    pub fn to(&self, address: ConnectAddress) -> Result<Self, DialerError> {
        Self::made(Arc::clone(&self.common), address)
    }

    fn made(common: Arc<Common>, address: ConnectAddress) -> Result<Self, DialerError> {
        let agent = &common.agent;
        let host = common.server_name(&address).to_owned();
        let name = ServerName::try_from(host.clone()).map_err(|_| DialerError::ServerName(host.clone()))?;
        let quic = match agent.proxy_to(&address) {
            None => {
                let tls = ClientConfig::clone(&common.link_tls);
                Some(QuicDialer::new(address.clone(), &host, tls, agent.interface.as_deref())?)
            }
            Some(_) if agent.carrier == CarrierChoice::Quic => return Err(DialerError::QuicProxy),
            Some(_) => None,
        };
        Ok(Self { common, address, reached: None, name, quic })
    }

    /// The same edge by the address at which a session reached it.
    #[must_use]
    pub fn at(mut self, reached: SocketAddr) -> Self {
        if self.proxy().is_none() {
            self.reached = Some(reached);
            self.quic = self.quic.map(|quic| quic.at(reached));
        }
        self
    }

    fn proxy(&self) -> Option<&ProxyUrl> {
        self.common.agent.proxy_to(&self.address)
    }

    /// A TCP connection to the edge, through the proxy where there is one.
    async fn reach(&self) -> Result<TcpStream, DialError> {
        let (host, port) = match self.proxy() {
            Some(proxy) => (proxy.host(), proxy.port()),
            None => (self.address.host.as_str(), self.address.port),
        };
        let mut tcp = self
            .tcp(host, port)
            .await
            .map_err(|source| DialError::Tcp { target: format!("{host}:{port}"), source })?;
        if let Some(proxy) = self.proxy() {
            proxy.open(&mut tcp, &self.address.host, self.address.port).await?;
        }
        Ok(tcp)
    }

    /// The same with TLS on it.
    async fn reach_tls(&self, config: &Arc<ClientConfig>) -> Result<TlsStream<TcpStream>, DialError> {
        let tcp = self.reach().await?;
        let connecting = TlsConnector::from(config.clone()).connect(self.name.clone(), tcp);
        connecting.await.map_err(|source| match asked_to_wait(&source) {
            Some(retry_after) => DialError::Busy { target: self.target(), retry_after },
            None => DialError::Tls { target: self.target(), source },
        })
    }

    async fn reach_link(&self) -> Result<Box<dyn Carrier>, DialError> {
        let tcp = self.reach().await?;
        keep_alive(&tcp);
        let connecting = ebbgate_tunnel::tls::connect(tcp, self.common.link_tls.clone(), self.name.clone());
        let tls = connecting.await.map_err(|source| match source.kind() {
            io::ErrorKind::Unsupported => DialError::Unsupported("links with this edge"),
            _ => DialError::Tls { target: self.target(), source },
        })?;
        Ok(Box::new(tls))
    }

    /// Within `connect_timeout`, as every dial.
    async fn within<T>(&self, dial: impl Future<Output = Result<T, DialError>>) -> Result<T, DialError> {
        let limit = self.common.agent.connect_timeout;
        match tokio::time::timeout(limit, dial).await {
            Ok(outcome) => outcome,
            Err(_) => Err(DialError::Timeout { target: self.target(), limit }),
        }
    }

    async fn tcp(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let found = match self.reached {
            Some(reached) => vec![reached],
            None => tokio::net::lookup_host((host, port)).await?.collect(),
        };
        let interface: Option<Arc<str>> = self.common.agent.interface.as_deref().map(Into::into);
        let racing = race(found, move |address| {
            let interface = interface.clone();
            async move {
                let socket = if address.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
                if let Some(interface) = interface {
                    socket.bind_device(Some(interface.as_bytes()))?;
                }
                socket.connect(address).await
            }
        });
        let limit = Duration::from_secs(CONNECT_SECS_MAX);
        let silent =
            || io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {CONNECT_SECS_MAX} s"));
        tokio::time::timeout(limit, racing).await.unwrap_or_else(|_| Err(silent())).map(ready)
    }

    async fn reach_session(&self) -> Result<Dialled, DialError> {
        let tcp = async {
            let tls = self.reach_tls(&self.common.tls).await?;
            let socket = tls.get_ref().0;
            let ends = socket.local_addr().ok().zip(socket.peer_addr().ok());
            let ends = ends.map(|(local, peer)| Ends { local, peer });
            Ok(Dialled { ends, ..Dialled::alone(tls) })
        };
        match (&self.quic, self.common.agent.carrier) {
            (Some(quic), CarrierChoice::Quic) => quic.session().await,
            (Some(quic), CarrierChoice::Auto) => first(tcp, quic.session()).await,
            _ => tcp.await,
        }
    }
}

/// A session over TCP; one over QUIC instead if TCP is silent for its head start and QUIC is there first. A TCP that says
/// no is believed: an edge that restarts refuses, and is back over TCP in a moment. What comes too late is hung up.
async fn first<T>(
    tcp: impl Future<Output = Result<T, DialError>>,
    quic: impl Future<Output = Result<T, DialError>>,
) -> Result<T, DialError> {
    let mut tcp = pin!(tcp);
    if let Ok(outcome) = tokio::time::timeout(Duration::from_millis(TCP_HEAD_START_MS), &mut tcp).await {
        return outcome;
    }
    let mut quic = pin!(quic);
    tokio::select! {
        outcome = &mut tcp => match outcome {
            Ok(dialled) => Ok(dialled),
            // The error of the carrier everybody has says more than that of the other.
            Err(error) => quic.await.or(Err(error)),
        },
        outcome = &mut quic => match outcome {
            Ok(dialled) => Ok(dialled),
            Err(_) => tcp.await,
        },
    }
}

impl Dial for EdgeDialer {
    fn dial(&self) -> Dialling<'_> {
        Box::pin(self.within(self.reach_session()))
    }

    fn link(&self) -> Dialling<'_, Box<dyn Carrier>> {
        Box::pin(self.within(self.reach_link()))
    }

    fn raw(&self) -> Dialling<'_, TcpStream> {
        Box::pin(self.within(async { self.reach().await.inspect(keep_alive) }))
    }

    fn attach(&self, ticket: Secret) -> Dialling<'_, Box<dyn Streams>> {
        let Some(quic) = &self.quic else {
            return Box::pin(async { Err(DialError::Unsupported("QUIC through a proxy")) });
        };
        Box::pin(self.within(quic.attach(ticket)))
    }

    fn network(&self) -> Box<dyn Network> {
        Box::new(HostNetwork::watch(self.common.agent.interface.as_deref().map(Into::into)))
    }

    fn target(&self) -> String {
        self.address.to_string()
    }
}

/// How long the edge asks the agent to stay away, if that is why the handshake failed.
fn asked_to_wait(error: &io::Error) -> Option<Duration> {
    match error.get_ref()?.downcast_ref()? {
        rustls::Error::AlertReceived(alert) => retry::retry_after((*alert).into()),
        _ => None,
    }
}

/// A link may wait for hours without a byte: keep what lies between awake, and notice when the edge is gone.
fn keep_alive(tcp: &TcpStream) {
    let probes = TcpKeepalive::new()
        .with_time(Duration::from_secs(KEEP_ALIVE_SECS))
        .with_interval(Duration::from_secs(KEEP_ALIVE_INTERVAL_SECS))
        .with_retries(KEEP_ALIVE_PROBES);
    // Without it the link is as good until something on the way forgets it.
    let _ = SockRef::from(tcp).set_tcp_keepalive(&probes);
}

/// TLS 1.2 or 1.3, no ALPN and no client certificate: what the SDKs speak.
pub fn client_config(trust: &Trust) -> Result<Arc<ClientConfig>, DialerError> {
    let config = ClientConfig::builder_with_provider(trust::provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(trust.roots()?)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// For links: TLS 1.3 only, AES-128-GCM first (the cheapest per byte), their own ALPN. No link resumes another's
/// TLS session: each shakes hands in full, once, before any visitor comes.
fn link_config(trust: &Trust) -> Result<Arc<ClientConfig>, DialerError> {
    let mut provider = (*trust::provider()).clone();
    let aes_128 = CipherSuite::TLS13_AES_128_GCM_SHA256;
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != aes_128);
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(trust.roots()?)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_LINK.to_vec()];
    // The records are sealed by `ebbgate_tunnel::tls`.
    config.enable_secret_extraction = true;
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests;
