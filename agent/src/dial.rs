//! Reaches the edge: TCP (through a proxy or a chosen interface where asked), then TLS with the trust of `connect_cas`.
//! `Dial` is the seam where tests put a simulated network.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use crate::config::{AgentConfig, ConnectAddress, Secret};
use crate::proxy::{ProxyError, ProxyUrl};
use crate::stream::Streams;
use crate::trust::{self, Trust, TrustError};
use crate::upstream::race;

/// A byte stream to the edge.
pub trait Carrier: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Carrier for T {}

/// What a session starts with.
pub struct Dialled {
    /// The session's own bytes.
    pub io: Box<dyn Carrier>,
    /// Proxied streams beside them, where the carrier has its own kind.
    pub streams: Option<Box<dyn Streams>>,
}

impl Dialled {
    /// A connection that carries the session and nothing beside it.
    pub fn alone(io: impl Carrier + 'static) -> Self {
        Self { io: Box::new(io), streams: None }
    }
}

/// A dial under way.
pub type Dialling<'a, T = Dialled> = Pin<Box<dyn Future<Output = Result<T, DialError>> + Send + 'a>>;

/// Makes connections to the edge: one per session, and those that carry streams beside it. A dialler may know only
/// sessions; the edge then offers the rest in vain.
pub trait Dial: Send + Sync + 'static {
    /// A fresh connection for a session, TLS included.
    fn dial(&self) -> Dialling<'_>;

    /// A fresh connection for a link, TLS included; nothing has been said on it.
    fn link(&self) -> Dialling<'_, Box<dyn Carrier>> {
        Box::pin(async { Err(DialError::Unsupported("links")) })
    }

    /// A fresh connection without TLS for a raw link; nothing has been said on it.
    fn raw(&self) -> Dialling<'_, TcpStream> {
        Box::pin(async { Err(DialError::Unsupported("raw links")) })
    }

    /// Streams over QUIC for the session of this link ticket.
    fn attach(&self, _ticket: Secret) -> Dialling<'_, Box<dyn Streams>> {
        Box::pin(async { Err(DialError::Unsupported("QUIC")) })
    }

    /// Where to, for people.
    fn target(&self) -> String;
}

/// Why the edge was not reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// TCP failed.
    #[error("cannot connect to {target}: {source}")]
    Tcp {
        /// Edge or proxy.
        target: String,
        /// What the system said.
        source: io::Error,
    },
    /// The proxy is no help.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// The edge's certificate or protocol is not acceptable.
    #[error("TLS with {target} failed: {source}; check connect_url and connect_cas")]
    Tls {
        /// The edge.
        target: String,
        /// What rustls said.
        source: io::Error,
    },
    /// Nothing came about in time.
    #[error("{target} did not answer within {limit:?}")]
    Timeout {
        /// The edge.
        target: String,
        /// `connect_timeout`.
        limit: Duration,
    },
    /// This dialler knows no such connections.
    #[error("this dialler makes no {0}")]
    Unsupported(&'static str),
}

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
    /// The edge's host can be no TLS server name.
    #[error("connect_url: `{0}` cannot be a TLS server name; use a DNS name or an address")]
    ServerName(String),
}

/// The dialler of real networks.
pub struct EdgeDialer {
    address: ConnectAddress,
    name: ServerName<'static>,
    tls: Arc<ClientConfig>,
    timeout: Duration,
    interface: Option<String>,
    proxy: Option<ProxyUrl>,
}

impl EdgeDialer {
    /// From the `agent:` section.
    pub fn new(agent: &AgentConfig) -> Result<Self, DialerError> {
        let address = agent.connect.clone().ok_or(DialerError::NoAddress)?;
        let name = ServerName::try_from(address.host.clone())
            .map_err(|_| DialerError::ServerName(address.host.clone()))?;
        Ok(Self {
            name,
            tls: client_config(&agent.trust)?,
            address,
            timeout: agent.connect_timeout,
            interface: agent.interface.clone(),
            proxy: agent.proxy.clone(),
        })
    }

    async fn connect(&self) -> Result<Dialled, DialError> {
        let (host, port) = match &self.proxy {
            Some(proxy) => (proxy.host(), proxy.port()),
            None => (self.address.host.as_str(), self.address.port),
        };
        let mut tcp = self
            .tcp(host, port)
            .await
            .map_err(|source| DialError::Tcp { target: format!("{host}:{port}"), source })?;
        if let Some(proxy) = &self.proxy {
            proxy.open(&mut tcp, &self.address.host, self.address.port).await?;
        }
        let connecting = TlsConnector::from(self.tls.clone()).connect(self.name.clone(), tcp);
        let tls = connecting.await.map_err(|source| DialError::Tls { target: self.target(), source })?;
        Ok(Dialled::alone(tls))
    }

    async fn tcp(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let found: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.collect();
        let interface: Option<Arc<str>> = self.interface.as_deref().map(Into::into);
        race(found, move |address| {
            let interface = interface.clone();
            async move {
                let socket = if address.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
                if let Some(interface) = interface {
                    socket.bind_device(Some(interface.as_bytes()))?;
                }
                socket.connect(address).await
            }
        })
        .await
    }
}

impl Dial for EdgeDialer {
    fn dial(&self) -> Dialling<'_> {
        Box::pin(async {
            let limit = self.timeout;
            match tokio::time::timeout(limit, self.connect()).await {
                Ok(outcome) => outcome,
                Err(_) => Err(DialError::Timeout { target: self.target(), limit }),
            }
        })
    }

    fn target(&self) -> String {
        self.address.to_string()
    }
}

/// TLS 1.2 or 1.3, no ALPN and no client certificate: what the SDKs speak.
pub fn client_config(trust: &Trust) -> Result<Arc<ClientConfig>, DialerError> {
    let config = ClientConfig::builder_with_provider(trust::provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(trust.roots()?)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests;
