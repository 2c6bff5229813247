//! A link as streams: [`Parked`] at the edge, [`Waiting`] at the agent, [`LinkStream`] at both while it is claimed. Knows
//! frames and one byte stream below them, no TLS and no sockets.

mod hello;

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf as _, BytesMut};
use ebbgate_wire::link::{CLAIM_BYTES_MAX, DATA_BYTES_MAX, Frame, HEADER_BYTES, LinkError, Phase, Version};
use ebbgate_wire::mux::Code;
use ebbgate_wire::rpc::ProxyHeader;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use crate::stream_error::StreamError;

pub use hello::{Hello, HelloError, answer_hello, read_hello, say_hello};

/// DATA frames handed to the transport at once.
const BATCH_FRAMES_MAX: usize = 4;

/// Edge: a link that nobody uses.
pub struct Parked<T> {
    io: T,
    version: Version,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Parked<T> {
    /// A link whose hello was answered well, or that is free again ([`LinkStream::freed`]).
    pub fn new(io: T, version: Version) -> Self {
        Self { io, version }
    }

    /// What its agent speaks.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The transport below, to move it between runtimes.
    pub fn get_mut(&mut self) -> &mut T {
        &mut self.io
    }

    /// Whether the link still waits in silence, as a parked link must: false once it ended, failed or spoke. Costs no
    /// waiting; afterwards nobody is woken for it.
    pub fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(&mut self.io).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_pending()
    }

    /// Makes it one visitor's stream. The claim leaves with the first bytes written, or with the first read, so that both
    /// can share a packet.
    pub fn claim(self, header: &ProxyHeader) -> Result<LinkStream<T>, LinkError> {
        let json = header.json();
        if json.len() > CLAIM_BYTES_MAX {
            return Err(LinkError::ClaimTooLong(json.len()));
        }
        let mut stream = LinkStream::new(self.io, self.version);
        if self.version == Version::Two {
            stream.phase = Phase::Claimed;
        }
        stream.out.extend_from_slice(&Frame::Claim(json.len()).encode());
        stream.out.extend_from_slice(&json);
        stream.claim_due = true;
        Ok(stream)
    }
}

/// Agent: a link that waits for its next visitor.
pub struct Waiting<T> {
    io: T,
    version: Version,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Waiting<T> {
    /// A link that the edge took.
    pub fn new(io: T, version: Version) -> Self {
        Self { io, version }
    }

    /// A link whose last stream ended in order, and of which nothing is held any more: tells the edge where that waits
    /// for it. An error is the end of the link.
    pub async fn freed(mut io: T, version: Version) -> io::Result<Self> {
        if version == Version::Two {
            io.write_all(&Frame::Free.encode()).await?;
            io.flush().await?;
        }
        Ok(Self { io, version })
    }

    /// Waits for a visitor, and tells the edge that the claim was read where that waits for it. An error is the end of the
    /// link; so is dropping the future.
    pub async fn accept(mut self) -> io::Result<(ProxyHeader, LinkStream<T>)> {
        let mut header = [0; HEADER_BYTES];
        self.io.read_exact(&mut header).await?;
        let broken = |e: LinkError| io::Error::new(io::ErrorKind::InvalidData, e);
        let frame = Frame::decode(header).map_err(broken)?;
        Phase::Idle.receive(frame).map_err(broken)?;
        let Frame::Claim(length) = frame else {
            return Err(broken(LinkError::OutOfOrder { frame, phase: Phase::Idle }));
        };
        let mut json = vec![0; length];
        self.io.read_exact(&mut json).await?;
        let header = ProxyHeader::decode(&json).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        if self.version == Version::Two {
            self.io.write_all(&Frame::Taken.encode()).await?;
            self.io.flush().await?;
        }
        Ok((header, LinkStream::new(self.io, self.version)))
    }
}

/// How far our own direction is towards its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fin {
    Open,
    Queued,
    Sent,
}

/// One visitor's stream on a link. `shutdown` sends FIN and keeps the other direction. Dropping it before both directions
/// ended resets it with [`Code::CANCELLED`] and closes the link; afterwards [`LinkStream::into_idle`] gives the link back to
/// the agent, and [`LinkStream::freed`] to the edge.
pub struct LinkStream<T: AsyncRead + AsyncWrite + Unpin> {
    /// Some until [`LinkStream::into_idle`].
    io: Option<T>,
    version: Version,
    phase: Phase,
    /// A frame's header as far as it was read.
    header: [u8; HEADER_BYTES],
    header_read: usize,
    /// Data of the frame at hand that was not read yet.
    owed: usize,
    /// Framed bytes the transport did not take yet: less than one batch, plus the claim.
    out: BytesMut,
    /// The claim is still in `out`; readers push it out too.
    claim_due: bool,
    /// Who waits to write while the claim is due.
    writer: Option<Waker>,
    fin: Fin,
    failed: Option<StreamError>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> LinkStream<T> {
    fn new(io: T, version: Version) -> Self {
        Self {
            io: Some(io),
            version,
            phase: Phase::Open,
            header: [0; HEADER_BYTES],
            header_read: 0,
            owed: 0,
            out: BytesMut::new(),
            claim_due: false,
            writer: None,
            fin: Fin::Open,
            failed: None,
        }
    }

    /// Aborts both directions now. The link cannot be used again and closes when this is dropped.
    pub fn reset(&mut self, code: Code) {
        if self.failed.is_some() || self.is_over() {
            return;
        }
        self.failed = Some(StreamError::Reset(code));
        self.out.extend_from_slice(&Frame::Reset(code).encode());
        let mut cx = Context::from_waker(Waker::noop());
        // Best effort: where the transport takes no more, the end of the connection says as much.
        if let Poll::Ready(Ok(())) = self.poll_drain(&mut cx)
            && let Some(io) = &mut self.io
        {
            let _ = Pin::new(&mut *io).poll_flush(&mut cx);
            let _ = Pin::new(io).poll_shutdown(&mut cx);
        }
    }

    /// Agent: the link, if both directions have ended in order: wrap it for its next stream.
    pub fn into_idle(mut self) -> Option<T> {
        if self.is_over() { self.io.take() } else { None }
    }

    /// Edge: the link, once its agent says that it holds nothing of this stream any more; at once in [`Version::One`], which
    /// says nothing. None: it did not end in order. Dropping the future closes the link, and what was sent still arrives.
    pub async fn freed(mut self) -> Option<T> {
        if !self.is_over() {
            return None;
        }
        while self.version == Version::Two && self.phase == Phase::Finished {
            poll_fn(|cx| self.poll_header(cx)).await.ok()?;
        }
        self.io.take()
    }

    /// What both ends agreed on.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Edge: whether the claim still waits for the agent to say that it was read. Never in [`Version::One`].
    pub fn is_untaken(&self) -> bool {
        self.phase == Phase::Claimed
    }

    /// Whether both directions have ended in order.
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Finished && self.fin == Fin::Sent && self.failed.is_none()
    }

    /// Edge: reads until the claim is confirmed, and nothing beyond that.
    pub fn poll_taken(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.is_untaken() {
            if let Some(error) = self.failed {
                return Poll::Ready(Err(error.into()));
            }
            ready!(self.poll_header(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// The transport below.
    pub fn get_ref(&self) -> Option<&T> {
        self.io.as_ref()
    }

    fn fail(&mut self, error: StreamError) -> io::Error {
        (*self.failed.get_or_insert(error)).into()
    }

    /// Hands `out` to the transport.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(io) = &mut self.io else { return Poll::Ready(Err(StreamError::Finished.into())) };
        while !self.out.is_empty() {
            match ready!(Pin::new(&mut *io).poll_write(cx, &self.out)) {
                Ok(n @ 1..) => self.out.advance(n.min(self.out.len())),
                Ok(0) | Err(_) => return Poll::Ready(Err(self.fail(StreamError::SessionEnded))),
            }
        }
        self.drained();
        Poll::Ready(Ok(()))
    }

    /// Hands `out` and a batch to the transport, and keeps what it does not take of the batch.
    fn poll_batch(&mut self, batch: &Batch<'_>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(io) = &mut self.io else { return Poll::Ready(Err(StreamError::Finished.into())) };
        loop {
            let (slices, count) = batch.slices(&self.out);
            let written = Pin::new(&mut *io).poll_write_vectored(cx, slices.get(..count).unwrap_or_default());
            match written {
                Poll::Pending => {
                    self.writer = self.claim_due.then(|| cx.waker().clone());
                    return Poll::Pending;
                }
                Poll::Ready(Ok(n @ 1..)) if n < self.out.len() => self.out.advance(n),
                Poll::Ready(Ok(n @ 1..)) => {
                    let of_batch = n.saturating_sub(self.out.len());
                    self.drained();
                    batch.keep(of_batch, &mut self.out);
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(_) => return Poll::Ready(Err(self.fail(StreamError::SessionEnded))),
            }
        }
    }

    fn drained(&mut self) {
        self.out = BytesMut::new();
        self.claim_due = false;
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }

    /// Reads once from the transport; 0 is its end.
    fn poll_transport(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<usize>> {
        let Some(io) = &mut self.io else { return Poll::Ready(Ok(0)) };
        let before = buf.filled().len();
        match ready!(Pin::new(io).poll_read(cx, buf)) {
            Ok(()) => Poll::Ready(Ok(buf.filled().len().saturating_sub(before))),
            Err(_) => Poll::Ready(Err(self.fail(StreamError::SessionEnded))),
        }
    }

    /// Reads the rest of a frame's header and does what it says.
    fn poll_header(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.header_read < HEADER_BYTES {
            let mut header = self.header;
            let rest = header.get_mut(self.header_read..).unwrap_or_default();
            let n = ready!(self.poll_transport(cx, &mut ReadBuf::new(rest)))?;
            if n == 0 {
                return Poll::Ready(Err(self.fail(StreamError::SessionEnded)));
            }
            self.header = header;
            self.header_read += n;
        }
        self.header_read = 0;
        let received = Frame::decode(self.header).and_then(|frame| Ok((frame, self.phase.receive(frame)?)));
        let Ok((frame, phase)) = received else {
            self.reset(Code::PROTOCOL);
            return Poll::Ready(Err(self.fail(StreamError::Reset(Code::PROTOCOL))));
        };
        self.phase = phase;
        match frame {
            Frame::Data(length) => self.owed = length,
            Frame::Reset(code) => return Poll::Ready(Err(self.fail(StreamError::Reset(code)))),
            Frame::Fin | Frame::Claim(_) | Frame::Taken | Frame::Free => {}
        }
        Poll::Ready(Ok(()))
    }

    /// Reads data of the frame at hand.
    fn poll_data(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let n = if buf.remaining() <= self.owed {
            ready!(self.poll_transport(cx, buf))?
        } else {
            let mut part = ReadBuf::new(buf.initialize_unfilled_to(self.owed));
            let n = ready!(self.poll_transport(cx, &mut part))?;
            buf.advance(n);
            n
        };
        if n == 0 {
            return Poll::Ready(Err(self.fail(StreamError::SessionEnded)));
        }
        self.owed -= n.min(self.owed);
        Poll::Ready(Ok(()))
    }

    /// Fills `buf` as far as there is something.
    fn poll_fill(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while buf.remaining() > 0 && matches!(self.phase, Phase::Claimed | Phase::Open) {
            if self.owed == 0 {
                ready!(self.poll_header(cx))?;
            } else {
                ready!(self.poll_data(cx, buf))?;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for LinkStream<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(error) = self.failed {
            return Poll::Ready(Err(error.into()));
        }
        if self.claim_due
            && self.poll_drain(cx)?.is_ready()
            && let Some(io) = &mut self.io
            && matches!(Pin::new(io).poll_flush(cx), Poll::Ready(Err(_)))
        {
            return Poll::Ready(Err(self.fail(StreamError::SessionEnded)));
        }
        let before = buf.filled().len();
        match self.poll_fill(cx, buf) {
            // What was read first is delivered first; a failure is remembered.
            _ if buf.filled().len() > before => Poll::Ready(Ok(())),
            outcome => outcome,
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for LinkStream<T> {
    /// Takes up to [`BATCH_FRAMES_MAX`] frames of data: what the transport does not take is kept, and nothing more is
    /// taken until that has left.
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(error) = self.failed {
            return Poll::Ready(Err(error.into()));
        }
        if self.fin != Fin::Open {
            return Poll::Ready(Err(StreamError::Finished.into()));
        }
        let this = &mut *self;
        if !this.out.is_empty() && !this.claim_due {
            ready!(this.poll_drain(cx))?;
        }
        let batch = Batch::new(bytes);
        if batch.taken > 0 {
            ready!(this.poll_batch(&batch, cx))?;
        }
        Poll::Ready(Ok(batch.taken))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(error) = self.failed {
            return Poll::Ready(Err(error.into()));
        }
        ready!(self.poll_drain(cx))?;
        let Some(io) = &mut self.io else { return Poll::Ready(Ok(())) };
        ready!(Pin::new(io).poll_flush(cx)).map_err(|_| self.fail(StreamError::SessionEnded))?;
        if self.fin == Fin::Queued {
            self.fin = Fin::Sent;
        }
        Poll::Ready(Ok(()))
    }

    /// FIN; ready once it was handed to the transport.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.fin == Fin::Open && self.failed.is_none() {
            self.fin = Fin::Queued;
            self.out.extend_from_slice(&Frame::Fin.encode());
        }
        self.poll_flush(cx)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Drop for LinkStream<T> {
    fn drop(&mut self) {
        if self.io.is_some() {
            self.reset(Code::CANCELLED);
        }
    }
}

/// Data cut into frames, without a copy.
struct Batch<'a> {
    headers: [[u8; HEADER_BYTES]; BATCH_FRAMES_MAX],
    pieces: [&'a [u8]; BATCH_FRAMES_MAX],
    taken: usize,
}

impl<'a> Batch<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let mut batch = Self {
            headers: [[0; HEADER_BYTES]; BATCH_FRAMES_MAX],
            pieces: [&[]; BATCH_FRAMES_MAX],
            taken: 0,
        };
        let places = batch.headers.iter_mut().zip(&mut batch.pieces);
        for ((header, place), piece) in places.zip(bytes.chunks(DATA_BYTES_MAX)) {
            *header = Frame::Data(piece.len()).encode();
            *place = piece;
            batch.taken += piece.len();
        }
        batch
    }

    fn frames(&self) -> impl Iterator<Item = (&[u8; HEADER_BYTES], &'a [u8])> {
        self.headers.iter().zip(self.pieces.iter().copied()).filter(|(_, piece)| !piece.is_empty())
    }

    /// What is to be written: `first`, then the frames.
    fn slices<'s>(&'s self, first: &'s [u8]) -> ([IoSlice<'s>; 2 * BATCH_FRAMES_MAX + 1], usize) {
        let mut slices = [IoSlice::new(&[]); 2 * BATCH_FRAMES_MAX + 1];
        let parts = self.frames().flat_map(|(header, piece)| [header.as_slice(), piece]);
        let mut count = 0;
        for (slot, part) in
            slices.iter_mut().zip(std::iter::once(first).filter(|f| !f.is_empty()).chain(parts))
        {
            *slot = IoSlice::new(part);
            count += 1;
        }
        (slices, count)
    }

    /// Keeps what follows the first `written` bytes of the frames.
    fn keep(&self, mut written: usize, out: &mut BytesMut) {
        for part in self.frames().flat_map(|(header, piece)| [header.as_slice(), piece]) {
            out.extend_from_slice(part.get(written..).unwrap_or_default());
            written = written.saturating_sub(part.len());
        }
    }
}
