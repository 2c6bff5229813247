//! `Carrier`: how a proxied stream reaches an agent. The multiplexed TLS session that the SDKs speak always; our own agent
//! adds links, claimed for one stream at a time, and raw links for what is encrypted from end to end.
//!
//! Knows the header and the PROXY protocol bytes that go in front; does not know who is allowed a stream.

mod claim;
mod link;
mod mux;
mod proxy_protocol;
mod quic;
mod raw;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ebbgate_model::Scheme;
use ebbgate_tunnel::driver;
use ebbgate_tunnel::reset_code;
use ebbgate_wire::mux::Code;
use ebbgate_wire::rpc::{EdgeType, ProxyHeader};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

pub use claim::{CLAIM_BYTES_MAX, CLAIM_MS_MAX, Duplex, Retry, resend};
pub use link::{Cut, Link, LinkIo, LinkStream, Place};
pub use quic::{QuicStream, QuicWay};
pub use raw::{RawFailed, RawLink, RawStream};

use crate::tunnel::health::Health;
use crate::tunnel::session::{AgentRef, OpenError, SessionState, Slot};

/// A way to one agent, on the shard that owns its session.
#[derive(Clone)]
pub enum Carrier {
    /// Streams multiplexed over one TLS connection.
    Mux(driver::Session),
}

/// For whom a stream is opened.
#[derive(Debug, Clone, Copy)]
pub struct Origin {
    /// The visitor.
    pub client: SocketAddr,
    /// Where the visitor connected to.
    pub server: SocketAddr,
    /// The endpoint's scheme.
    pub proto: Scheme,
    /// Whether the bytes are the visitor's own TLS, unread by the edge.
    pub passthrough: bool,
    /// The claim of a link that the stream replaces, as the agent did not confirm it; 0 for none.
    pub instead: u64,
}

impl Carrier {
    /// Opens one proxied stream: header sent, PROXY header too if the agent wants one. No byte of the visitor was sent
    /// when this fails.
    pub async fn open(&self, agent: &AgentRef, origin: Origin) -> Result<CarrierStream, OpenError> {
        let session = &agent.session;
        let slot = slot(session)?;
        let Self::Mux(carrier) = self;
        let stream = mux::open(carrier, session.id, &origin.header(agent), &origin.preamble(agent)).await?;
        Ok(CarrierStream::new(Way::Mux(stream), slot))
    }
}

/// Room for one stream of a session.
pub(crate) fn slot(session: &Arc<SessionState>) -> Result<Slot, OpenError> {
    Arc::clone(session).take_slot().ok_or_else(|| {
        if session.is_alive() {
            OpenError::SessionFull(session.id)
        } else {
            OpenError::SessionEnded(session.id)
        }
    })
}

impl Origin {
    /// What the agent is told of the stream.
    pub(crate) fn header(&self, agent: &AgentRef) -> ProxyHeader {
        ProxyHeader {
            id: agent.bind.to_string(),
            client_addr: self.client.to_string(),
            proto: self.proto.to_string(),
            edge_type: EdgeType::Undefined,
            passthrough_tls: self.passthrough,
            claim: 0,
            instead: self.instead,
        }
    }

    /// What the agent wants in front of the visitor's bytes.
    pub(crate) fn preamble(&self, agent: &AgentRef) -> Vec<u8> {
        let header = agent.proxy_protocol.map(|v| proxy_protocol::header(v, self.client, self.server));
        header.unwrap_or_default()
    }
}

/// One proxied stream. Dropping it before both ends finished resets it.
pub struct CarrierStream {
    way: Way,
    /// Hears whether the upstream answered; None once it did.
    health: Option<Arc<Health>>,
    slot: Slot,
}

enum Way {
    Mux(driver::Stream),
    Link(Box<LinkStream>),
    Quic(Box<QuicStream>),
}

impl CarrierStream {
    fn new(way: Way, slot: Slot) -> Self {
        Self { way, health: None, slot }
    }

    /// A stream on a claimed link.
    pub(crate) fn link(stream: LinkStream, slot: Slot) -> Self {
        Self::new(Way::Link(Box::new(stream)), slot)
    }

    /// A stream on a QUIC connection.
    pub(crate) fn quic(stream: QuicStream, slot: Slot) -> Self {
        Self::new(Way::Quic(Box::new(stream)), slot)
    }

    /// Tells an endpoint's health whether its upstream refused the stream or answered on it.
    pub(crate) fn tell(&mut self, health: &Arc<Health>) {
        self.health = Some(Arc::clone(health));
    }

    fn note<T>(&mut self, outcome: &Poll<io::Result<T>>, answered: bool) {
        match outcome {
            Poll::Ready(Err(error)) if reset_code(error) == Some(Code::REFUSED) => {
                if let Some(health) = self.health.take() {
                    health.refused(Instant::now());
                }
            }
            _ if answered => {
                if let Some(health) = self.health.take() {
                    health.answered();
                }
            }
            _ => {}
        }
    }

    /// Whether what carries it may end while its session lives.
    pub fn is_apart(&self) -> bool {
        matches!(self.way, Way::Link(_) | Way::Quic(_))
    }

    /// What metrics call its carrier.
    pub fn carrier(&self) -> &'static str {
        match &self.way {
            Way::Mux(_) => "mux",
            Way::Link(_) => "link",
            Way::Quic(_) => "quic",
        }
    }

    /// Whether its connection died because nothing was heard from the agent any more. A session's own death says so of
    /// its streams; this is about a connection beside it.
    pub fn is_unheard(&self) -> bool {
        matches!(&self.way, Way::Quic(stream) if stream.is_unheard())
    }
}

macro_rules! delegate {
    ($self:ident, $stream:ident => $call:expr) => {
        match &mut $self.way {
            Way::Mux($stream) => {
                let $stream = Pin::new($stream);
                $call
            }
            Way::Link($stream) => {
                let $stream = Pin::new(&mut **$stream);
                $call
            }
            Way::Quic($stream) => {
                let $stream = Pin::new(&mut $stream.stream);
                $call
            }
        }
    };
}

impl AsyncRead for CarrierStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let outcome = delegate!(self, stream => stream.poll_read(cx, buf));
        let answered = buf.filled().len() > before;
        if answered {
            self.slot.heard();
        }
        self.note(&outcome, answered);
        outcome
    }
}

impl AsyncWrite for CarrierStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = delegate!(self, stream => stream.poll_write(cx, bytes));
        self.note(&outcome, false);
        outcome
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = delegate!(self, stream => stream.poll_flush(cx));
        self.note(&outcome, false);
        outcome
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = delegate!(self, stream => stream.poll_shutdown(cx));
        self.note(&outcome, false);
        outcome
    }
}
