//! `ClientConn`: an accepted client, in clear or inside TLS, that can be rewound while nothing was answered.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use crate::net::socket::Socket;
use crate::relay::IgnoreUnexpectedEof;

/// Bytes of a client kept for another member of the pool, until the first answer.
const REWIND_BYTES_MAX: usize = 64 << 10;

/// A client.
pub struct ClientConn {
    io: Io,
    again: Bytes,
    kept: Option<BytesMut>,
}

enum Io {
    Clear(Socket),
    Tls(Box<IgnoreUnexpectedEof<TlsStream<Socket>>>),
    Gone,
}

impl ClientConn {
    /// A client in clear.
    pub fn clear(socket: Socket) -> Self {
        Self { io: Io::Clear(socket), again: Bytes::new(), kept: None }
    }

    /// A client whose handshake is done. Its end is an end with and without `close_notify`.
    pub fn tls(stream: TlsStream<Socket>) -> Self {
        Self { io: Io::Tls(Box::new(IgnoreUnexpectedEof(stream))), again: Bytes::new(), kept: None }
    }

    /// The socket, when TLS has not begun; what is left can no longer be read.
    pub fn take_clear(&mut self) -> Option<Socket> {
        match std::mem::replace(&mut self.io, Io::Gone) {
            Io::Clear(socket) => Some(socket),
            other => {
                self.io = other;
                None
            }
        }
    }

    /// Whether TLS ended at this edge.
    pub fn is_tls(&self) -> bool {
        matches!(self.io, Io::Tls(_))
    }

    /// Acknowledges what belongs to a handshake that an upstream ends.
    pub fn for_handshake_behind(&mut self) {
        if let Some(socket) = self.socket() {
            socket.for_handshake_behind();
        }
    }

    /// Starts keeping what is read, until something is written.
    pub fn keep(&mut self) {
        self.kept = Some(BytesMut::new());
    }

    /// Makes what was kept the next to be read. False: too much was read, or something was answered.
    pub fn rewind(&mut self) -> bool {
        let Some(mut kept) = self.kept.take() else { return false };
        kept.extend_from_slice(&self.again);
        self.again = kept.freeze();
        true
    }

    /// For a client in clear of which nothing was read yet: tells whether that is still so.
    pub fn untouched(&self) -> Option<impl Fn() -> bool + use<>> {
        let Io::Clear(socket) = &self.io else { return None };
        let (traffic, before) = (socket.traffic(), socket.traffic().received());
        let nothing_read = self.again.is_empty() && socket.peeked().is_empty();
        nothing_read.then_some(move || traffic.received() == before)
    }

    /// Makes the close an abort, so that a cut-off answer is not taken for a whole one.
    pub fn abort_on_close(&mut self) {
        if let Some(socket) = self.socket() {
            socket.abort_on_close();
        }
    }

    /// What was read from a client in clear and not used yet. None: TLS has begun.
    pub fn unread(&self) -> Option<Vec<u8>> {
        match &self.io {
            Io::Clear(socket) => Some([&self.again, socket.peeked()].concat()),
            _ => None,
        }
    }

    /// The socket of a client in clear, whose unread bytes were passed on: what is left can be spliced.
    pub fn passed_on(&mut self) -> Option<&mut Socket> {
        let Io::Clear(socket) = &mut self.io else { return None };
        self.again = Bytes::new();
        socket.consume(socket.peeked().len());
        Some(socket)
    }

    fn socket(&mut self) -> Option<&mut Socket> {
        match &mut self.io {
            Io::Clear(socket) => Some(socket),
            Io::Tls(stream) => Some(stream.0.get_mut().0),
            Io::Gone => None,
        }
    }

    fn poll_io(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Clear(socket) => Pin::new(socket).poll_read(cx, buf),
            Io::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Io::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl AsyncRead for ClientConn {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = if self.again.is_empty() {
            self.poll_io(cx, buf)
        } else {
            let n = self.again.len().min(buf.remaining());
            buf.put_slice(self.again.get(..n).unwrap_or_default());
            self.again.advance(n);
            Poll::Ready(Ok(()))
        };
        let read = buf.filled().get(before..).unwrap_or_default();
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(read);
            if kept.len() > REWIND_BYTES_MAX {
                self.kept = None;
            }
        }
        polled
    }
}

impl AsyncWrite for ClientConn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.kept = None;
        match &mut self.io {
            Io::Clear(socket) => Pin::new(socket).poll_write(cx, bytes),
            Io::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Io::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.kept = None;
        match &mut self.io {
            Io::Clear(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Io::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Io::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Clear(socket) => socket.is_write_vectored(),
            Io::Tls(stream) => stream.is_write_vectored(),
            Io::Gone => false,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Clear(socket) => Pin::new(socket).poll_flush(cx),
            Io::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Io::Gone => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Clear(socket) => Pin::new(socket).poll_shutdown(cx),
            Io::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Io::Gone => Poll::Ready(Ok(())),
        }
    }
}
