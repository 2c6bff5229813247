//! One proxied stream, whatever carries it. `L` is how its end handles a claimed link.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use ebbgate_wire::mux::Code;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{driver, quic};

/// A stream that can be aborted with a reason.
pub trait Abort {
    /// Aborts both directions now. Later reads and writes fail with the code.
    fn reset(&mut self, code: Code);
}

/// A proxied stream. `shutdown` ends our direction and keeps the other; dropping it before both have ended aborts it.
pub enum TunnelStream<L> {
    /// A stream of the session's mux.
    Mux(driver::Stream),
    /// A link, claimed for this stream.
    Link(L),
    /// A stream of a QUIC connection.
    Quic(quic::Stream),
}

impl<L> TunnelStream<L> {
    /// What metrics call its transport.
    pub fn transport(&self) -> &'static str {
        match self {
            Self::Mux(_) => "mux",
            Self::Link(_) => "link",
            Self::Quic(_) => "quic",
        }
    }
}

impl<L: Abort> Abort for TunnelStream<L> {
    fn reset(&mut self, code: Code) {
        match self {
            Self::Mux(stream) => stream.reset(code),
            Self::Link(link) => link.reset(code),
            Self::Quic(stream) => stream.reset(code),
        }
    }
}

/// Passes a call on to the stream inside.
macro_rules! each {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            TunnelStream::Mux($stream) => $call,
            TunnelStream::Link($stream) => $call,
            TunnelStream::Quic($stream) => $call,
        }
    };
}

impl<L: AsyncRead + Unpin> AsyncRead for TunnelStream<L> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl<L: AsyncWrite + Unpin> AsyncWrite for TunnelStream<L> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
