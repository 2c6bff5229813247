//! A link's TLS connection as a byte stream, once its keys are known. Knows nothing of frames.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use super::records::{Opened, PLAIN_BYTES_MAX, Records};

/// Bytes sealed at once: four full records.
pub(super) const SEAL_BYTES_MAX: usize = 4 * PLAIN_BYTES_MAX;
/// Bytes asked of the transport at once while much comes.
const READ_BYTES_MAX: usize = 64 << 10;
/// Bytes asked of it otherwise: what a small message needs.
const READ_BYTES_MIN: usize = 4 << 10;

thread_local! {
    /// Where records are sealed; empty between calls.
    static SEALED: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// A link's TLS connection. An idle one owns no buffer.
pub struct TlsStream<T> {
    io: T,
    pub(super) records: Records,
    /// Received and not opened yet: less than a record, or what one read brought.
    pub(super) incoming: BytesMut,
    /// Opened and not read yet.
    pub(super) plain: BytesMut,
    /// Sealed and not sent yet: at most what one write sealed.
    pub(super) out: BytesMut,
    /// Whether the last read filled its buffer.
    much: bool,
    over: bool,
    closing: bool,
}

impl<T: AsyncRead + AsyncWrite + Unpin> TlsStream<T> {
    pub(super) fn new(io: T, records: Records, incoming: BytesMut, plain: BytesMut) -> Self {
        Self { io, records, incoming, plain, out: BytesMut::new(), much: false, over: false, closing: false }
    }

    /// The transport below.
    pub fn get_ref(&self) -> &T {
        &self.io
    }

    /// The transport below, to move it between runtimes.
    pub fn get_mut(&mut self) -> &mut T {
        &mut self.io
    }

    /// Reads from the transport; 0 is its end.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let room = if self.much { READ_BYTES_MAX } else { READ_BYTES_MIN };
        self.incoming.reserve(room.max(Records::wanted(&self.incoming)));
        let capacity = self.incoming.capacity();
        // Holds no state between polls.
        let received = pin!(self.io.read_buf(&mut self.incoming)).poll(cx);
        self.much = received.is_ready() && self.incoming.len() == capacity;
        if received.is_pending() && self.incoming.is_empty() {
            self.incoming = BytesMut::new();
        }
        received
    }

    fn take_plain(&mut self, buf: &mut ReadBuf<'_>) {
        let n = self.plain.len().min(buf.remaining());
        buf.put_slice(self.plain.get(..n).unwrap_or_default());
        self.plain.advance(n);
        if self.plain.is_empty() {
            self.plain = BytesMut::new();
        }
    }

    /// Sends what is sealed.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.out))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.out.advance(n.min(self.out.len())),
            }
        }
        self.out = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    /// Seals on the thread's own buffer, sends from it, and keeps what the transport does not take.
    fn seal_and_send(&mut self, bufs: &[IoSlice<'_>], cx: &mut Context<'_>) -> io::Result<usize> {
        SEALED.with_borrow_mut(|sealed| {
            sealed.clear();
            let taken = self.records.seal(bufs, SEAL_BYTES_MAX, sealed)?;
            let mut sent = 0;
            while sent < sealed.len() {
                let rest = sealed.get(sent..).unwrap_or_default();
                match Pin::new(&mut self.io).poll_write(cx, rest) {
                    Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                    Poll::Ready(Ok(n)) => sent += n,
                    Poll::Ready(Err(error)) => return Err(error),
                    Poll::Pending => {
                        self.out.extend_from_slice(rest);
                        break;
                    }
                }
            }
            Ok(taken)
        })
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        loop {
            this.take_plain(buf);
            if buf.remaining() == 0 || this.over {
                return Poll::Ready(Ok(()));
            }
            match this.records.open(&mut this.incoming, &mut this.out) {
                Ok(Opened::Data(plain)) => this.plain = plain,
                Ok(Opened::Nothing) => {}
                Ok(Opened::Closed) => this.over = true,
                Ok(Opened::Incomplete) if buf.filled().len() > before => return Poll::Ready(Ok(())),
                Ok(Opened::Incomplete) => {
                    if ready!(this.poll_receive(cx))? == 0 {
                        return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                    }
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_send(cx))?;
        Poll::Ready(self.seal_and_send(bufs, cx))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closing {
            self.closing = true;
            let this = &mut *self;
            this.records.seal_close(&mut this.out)?;
        }
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
