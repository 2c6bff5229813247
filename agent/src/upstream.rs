//! Delivers one proxied connection: from the edge's stream to the service inside the private network and back.
//!
//! Order on the way in: PROXY header off the stream, TLS ended here if so configured, upstream dialled, PROXY header on,
//! TLS to the upstream if its address says so, bytes both ways. Knows nothing of sessions or of access control.

mod check;
mod dial;
mod error;
mod proxy_head;
mod tls;

use std::io;
use std::time::Duration;

use ebbgate_relay::IgnoreUnexpectedEof;
use ebbgate_wire::mux::Code;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::address::Transport;
use crate::config::{AppProtocol, CheckKind, EndpointConfig, UpstreamConfig};
use crate::relay::{Broken, relay, splice};
use crate::session::Inbound;
use crate::stream::{RawStream, Stream};
use crate::terminate::{HANDSHAKE_SECS_MAX, Terminator};

pub use dial::{ADDRESSES_MAX, DIAL_SECS_MAX, NEXT_ADDRESS_MS};
pub(crate) use dial::{race, ready};
pub use error::UpstreamError;
pub use proxy_head::{PROXY_V1_BYTES_MAX, PROXY_V2_BYTES_MAX};
pub use tls::UPSTREAM_HANDSHAKE_SECS_MAX;

/// Everything one endpoint needs to deliver connections; built once.
#[derive(Debug)]
pub struct Upstream {
    config: UpstreamConfig,
    termination: Option<Terminator>,
    tls: Option<tls::UpstreamTls>,
    /// TLS of checks, where visitors' connections have none.
    check_tls: Option<tls::UpstreamTls>,
}

/// Why one connection was not delivered, or broke.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// The edge promised a PROXY header and sent something else.
    #[error("the edge sent no valid PROXY header: {0}")]
    ProxyHead(#[source] io::Error),
    /// The visitor's handshake with the agent failed.
    #[error("TLS with the visitor failed: {0}")]
    VisitorTls(#[source] io::Error),
    /// The upstream could not be reached.
    #[error("cannot connect to {address}: {source}")]
    Dial {
        /// The upstream.
        address: String,
        /// What happened.
        source: io::Error,
    },
    /// Bytes stopped flowing.
    #[error(transparent)]
    Broken(#[from] Broken),
}

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

impl Upstream {
    /// Prepares delivery for a checked endpoint: loads roots, builds TLS.
    pub fn new(endpoint: &EndpointConfig) -> Result<Self, UpstreamError> {
        let config = endpoint.upstream.clone();
        // A TLS endpoint has a protocol only where TLS ends here, and then the upstream is an HTTP server too.
        let http = endpoint.url.scheme().is_http() || config.protocol == AppProtocol::Http2;
        let tls = match config.address.transport() {
            Transport::Tcp => None,
            Transport::Tls => Some(tls::UpstreamTls::new(&config, http)?),
        };
        let needs_tls = config.health_check.as_ref().is_some_and(|check| match &check.kind {
            CheckKind::Tcp => false,
            CheckKind::Http(http) => http.tls == Some(true),
            CheckKind::Tls | CheckKind::Postgres => true,
        });
        let check_tls =
            (needs_tls && tls.is_none()).then(|| tls::UpstreamTls::new(&config, false)).transpose()?;
        Ok(Self { config, termination: endpoint.termination.clone(), tls, check_tls })
    }

    /// Delivers one connection; returns when it is over. The edge is told of failures by a reset.
    pub async fn deliver(&self, mut visitor: Stream) -> Result<(), DeliveryError> {
        let outcome = self.try_deliver(&mut visitor).await;
        match &outcome {
            Ok(()) => {}
            // REFUSED says that nothing was delivered: the edge may try another member of a pool, and knows what to tell
            // a visitor in the visitor's own version of HTTP.
            Err(DeliveryError::Dial { .. }) => visitor.reset(Code::REFUSED),
            Err(DeliveryError::ProxyHead(_)) => visitor.reset(Code::PROTOCOL),
            Err(DeliveryError::VisitorTls(_)) => visitor.reset(Code::CANCELLED),
            Err(DeliveryError::Broken(_)) => visitor.reset(Code::RESET),
        }
        outcome
    }

    async fn try_deliver(&self, visitor: &mut Stream) -> Result<(), DeliveryError> {
        let head = match self.config.proxy_protocol {
            Some(_) => proxy_head::read(visitor).await.map_err(DeliveryError::ProxyHead)?,
            None => Vec::new(),
        };
        let Some(terminator) = &self.termination else {
            let mut upstream = self.connect(&head).await?;
            return match (visitor, &mut upstream) {
                (Stream::Raw(raw), Link::Tcp(tcp)) => splice_raw(raw, tcp).await,
                (visitor, upstream) => self.relay(visitor, upstream).await,
            };
        };
        // Handshake first: a stranger who fails it costs the upstream nothing.
        let inner = terminator.accept(&mut *visitor).await.map_err(DeliveryError::VisitorTls)?;
        let mut upstream = self.connect(&head).await?;
        self.relay(&mut IgnoreUnexpectedEof(inner), &mut upstream).await
    }

    async fn relay<V: Duplex>(&self, visitor: &mut V, upstream: &mut Link) -> Result<(), DeliveryError> {
        let outcome = match upstream {
            Link::Tcp(tcp) => relay(visitor, tcp).await,
            Link::Tls(tls) => relay(visitor, &mut IgnoreUnexpectedEof(&mut **tls)).await,
        };
        if matches!(outcome, Err(Broken::Visitor(_) | Broken::Idle)) {
            upstream.abort();
        }
        outcome.map_err(DeliveryError::Broken)
    }

    /// Dials, writes the PROXY header in clear, then wraps the rest in TLS: the order HAProxy and nginx expect.
    async fn connect(&self, head: &[u8]) -> Result<Link, DeliveryError> {
        let failed = |source| DeliveryError::Dial { address: self.config.address.to_string(), source };
        let mut tcp =
            dial::dial(self.config.address.host(), self.config.address.port()).await.map_err(failed)?;
        if !head.is_empty() {
            tcp.write_all(head).await.map_err(failed)?;
        }
        match &self.tls {
            None => Ok(Link::Tcp(tcp)),
            Some(tls) => tls.connect(tcp).await.map(|tls| Link::Tls(Box::new(tls))).map_err(failed),
        }
    }
}

/// Takes off what comes before the bytes that a program gets: the edge's PROXY header, then the visitor's TLS. The edge is
/// told of a failure by a reset.
pub(crate) async fn unwrap(mut stream: Stream, inbound: &Inbound) -> Result<Stream, DeliveryError> {
    if inbound.proxy_header {
        let limit = Duration::from_secs(HANDSHAKE_SECS_MAX);
        let reading = tokio::time::timeout(limit, proxy_head::read(&mut stream)).await;
        if let Err(error) = reading.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            stream.reset(Code::PROTOCOL);
            return Err(DeliveryError::ProxyHead(error));
        }
    }
    let Some(terminator) = &inbound.termination else { return Ok(stream) };
    // A stream that is dropped halfway is a reset.
    let tls = terminator.accept(stream).await.map_err(DeliveryError::VisitorTls)?;
    Ok(Stream::Tls(Box::new(tls)))
}

/// Bytes that go to the upstream as they are: the kernel moves them.
async fn splice_raw(visitor: &mut RawStream, upstream: &TcpStream) -> Result<(), DeliveryError> {
    let (socket, first) = visitor.serve().await.map_err(Broken::Visitor)?;
    let outcome = splice(socket, upstream, first).await;
    match &outcome {
        Ok(()) => visitor.finished(),
        // Failing only means the upstream is gone already.
        Err(Broken::Visitor(_) | Broken::Idle) => drop(upstream.set_zero_linger()),
        Err(Broken::Upstream(_)) => {}
    }
    outcome.map_err(DeliveryError::Broken)
}

/// A connection to the upstream.
enum Link {
    Tcp(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

impl Link {
    /// Makes the close that follows a reset, so that the upstream does not take a broken request for a whole one.
    fn abort(&self) {
        let tcp = match self {
            Self::Tcp(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
        };
        // Failing only means the upstream is gone already.
        let _ = tcp.set_zero_linger();
    }
}

#[cfg(test)]
mod tests;
