//! One client's byte stream, whatever carried it from the edge: delivery and programs need not know. And the source of
//! streams that come beside the session, where a transport has one.

mod link;
mod raw;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use ebbgate_relay::Prefixed;
use ebbgate_tunnel::{Abort, TunnelStream};
use ebbgate_wire::mux::Code;
use ebbgate_wire::rpc::ProxyHeader;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

pub use link::{Carrier, ClaimedLink};
pub use raw::RawStream;

/// A proxied stream. `shutdown` ends our direction and keeps the other; dropping it before both have ended aborts it.
pub enum Stream {
    /// A stream of the session's mux, of a QUIC connection, or a claimed link.
    Tunnel(TunnelStream<ClaimedLink>),
    /// A connection of its own that carries the client's TLS as it is.
    Raw(RawStream),
    /// One of the others after TLS ended here: reads and writes are in clear.
    Tls(Box<TlsStream<Prefixed<Self>>>),
    /// One of the others, counted as under way for as long as it lives.
    Counted(Box<CountedStream>),
}

/// A stream and the guard that counts it.
pub struct CountedStream {
    stream: Stream,
    _under_way: Box<dyn Send + Sync>,
}

impl Stream {
    /// Aborts both directions, and tells the edge why where the transport has words for it. [`Code::REFUSED`] says that
    /// nothing was delivered.
    pub fn reset(&mut self, code: Code) {
        match self {
            Self::Tunnel(stream) => stream.reset(code),
            Self::Raw(stream) => stream.reset(code),
            Self::Tls(stream) => stream.get_mut().0.get_mut().reset(code),
            Self::Counted(counted) => counted.stream.reset(code),
        }
    }

    /// The same stream, which keeps a guard until it is dropped.
    pub(crate) fn counted(self, under_way: impl Send + Sync + 'static) -> Self {
        Self::Counted(Box::new(CountedStream { stream: self, _under_way: Box::new(under_way) }))
    }
}

/// A proxied stream with what the edge said about it.
pub struct Proxied {
    /// For which bind, and from whom.
    pub header: ProxyHeader,
    /// The bytes.
    pub stream: Stream,
}

/// What comes next from a [`Streams`].
pub type NextStream<'a> = Pin<Box<dyn Future<Output = Option<Proxied>> + Send + 'a>>;

/// Proxied streams that do not come through the session. Dropping it hangs up; streams in flight live on.
pub trait Streams: Send {
    /// The next stream, its header read; `None` once there are no more. Cancel-safe. A stream that stalls in its header
    /// must not hold up the next.
    fn accept(&mut self) -> NextStream<'_>;
    /// Asks the edge to open no further streams this way; those under way still come.
    fn finish(&mut self);
}

/// Passes a call on to the stream inside.
macro_rules! each {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Tunnel($stream) => $call,
            Stream::Raw($stream) => $call,
            Stream::Tls($stream) => $call,
            Stream::Counted(counted) => {
                let $stream = &mut counted.stream;
                $call
            }
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
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
