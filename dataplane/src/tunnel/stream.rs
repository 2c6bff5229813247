//! `AgentStream`: one proxied stream at the edge. Tells the endpoint's health what came of it, and holds the stream's room
//! in its session.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ebbgate_tunnel::{TunnelStream, reset_code};
use ebbgate_wire::mux::Code;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::health::Health;
use super::link::LinkStream;
use super::quic::QuicTransport;
use super::session::Slot;

/// What carries a stream at the edge.
pub(super) type Carried = TunnelStream<Box<LinkStream>>;

/// One proxied stream. Dropping it before both ends finished resets it.
pub struct AgentStream {
    stream: Carried,
    /// The connection below, if it is a QUIC one.
    quic: Option<Arc<QuicTransport>>,
    /// Told whether the upstream answered; None once it was told.
    health: Option<Arc<Health>>,
    slot: Slot,
}

impl AgentStream {
    pub(super) fn new(
        stream: Carried,
        quic: Option<Arc<QuicTransport>>,
        health: &Arc<Health>,
        slot: Slot,
    ) -> Self {
        Self { stream, quic, health: Some(Arc::clone(health)), slot }
    }

    /// Whether what carries it may end while its session lives.
    pub fn is_apart(&self) -> bool {
        !matches!(self.stream, TunnelStream::Mux(_))
    }

    /// What metrics call what carries it.
    pub fn transport(&self) -> &'static str {
        self.stream.transport()
    }

    /// Whether its connection timed out. A session that timed out says so itself; this is about a QUIC connection beside it.
    pub fn timed_out(&self) -> bool {
        self.quic.as_ref().is_some_and(|quic| quic.timed_out())
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
                    health.answered(Instant::now());
                }
            }
            _ => {}
        }
    }
}

impl AsyncRead for AgentStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buf);
        let answered = buf.filled().len() > before;
        if answered {
            self.slot.heard();
        }
        self.note(&outcome, answered);
        outcome
    }
}

impl AsyncWrite for AgentStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note(&outcome, false);
        outcome
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(cx);
        self.note(&outcome, false);
        outcome
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.note(&outcome, false);
        outcome
    }
}
