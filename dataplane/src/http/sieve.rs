//! `Sieve`: reads a connection through a framer, so that whoever reads from it sees only what the framer passed.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use tokio::io::{AsyncRead, ReadBuf};

use super::framing::{Refusal, RequestFramer, RequestHead, ResponseFramer, ResponseHead, Step};

/// Bytes asked of the connection at once while framing is read.
const READ_BYTES: usize = 8 * 1024;
/// Bytes of data passed at once. hyper's buffers grow while reads fill them; these never do, so a connection holds little.
const DATA_BYTES_MAX: usize = 16 * 1024;

/// What both framers have in common.
pub(super) trait Framer {
    /// What it learns from a head.
    type Head;
    /// See [`RequestFramer::step`].
    fn step(&mut self, input: &mut BytesMut) -> Result<Step<Self::Head>, Refusal>;
    /// See [`RequestFramer::passed`].
    fn passed(&mut self, n: u64);
}

impl Framer for RequestFramer {
    type Head = RequestHead;
    fn step(&mut self, input: &mut BytesMut) -> Result<Step<RequestHead>, Refusal> {
        self.step(input)
    }
    fn passed(&mut self, n: u64) {
        self.passed(n);
    }
}

impl Framer for ResponseFramer {
    type Head = ResponseHead;
    fn step(&mut self, input: &mut BytesMut) -> Result<Step<ResponseHead>, Refusal> {
        self.step(input)
    }
    fn passed(&mut self, n: u64) {
        self.passed(n);
    }
}

/// What came through.
#[derive(Debug)]
pub(super) enum Passed<H> {
    /// Bytes of a body are in the reader's buffer.
    Bytes,
    /// Bytes of a head or of framing are in the reader's buffer.
    Text,
    /// A head was found; its bytes follow.
    Head(H),
    /// An interim answer was found.
    Interim(StatusCode, HeaderMap),
    /// A message is over.
    End,
    /// The connection ended.
    Closed,
    /// The message is refused.
    Refused(Refusal),
}

/// A framer, what it has not taken yet, and what it passed but nobody has read.
#[derive(Debug, Default)]
pub(super) struct Sieve<F> {
    /// The framer.
    pub(super) framer: F,
    /// Bytes read from the connection that the framer has not taken.
    pub(super) input: BytesMut,
    text: Bytes,
}

impl<F: Framer> Sieve<F> {
    /// Passes what can be passed. `buf` must have room.
    pub(super) fn poll_pass<IO: AsyncRead + Unpin>(
        &mut self,
        io: &mut IO,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<Passed<F::Head>>> {
        loop {
            if !self.text.is_empty() {
                let n = self.text.len().min(buf.remaining());
                buf.put_slice(&self.text.split_to(n));
                return Poll::Ready(Ok(Passed::Text));
            }
            match self.framer.step(&mut self.input) {
                Err(refusal) => return Poll::Ready(Ok(Passed::Refused(refusal))),
                Ok(Step::End) => return Poll::Ready(Ok(Passed::End)),
                Ok(Step::Interim(status, headers)) => {
                    return Poll::Ready(Ok(Passed::Interim(status, headers)));
                }
                Ok(Step::Text(text)) => self.text = text,
                Ok(Step::Head(head, bytes)) => {
                    self.text = bytes;
                    return Poll::Ready(Ok(Passed::Head(head)));
                }
                Ok(Step::Data(left)) => return self.poll_data(io, cx, buf, left),
                Ok(Step::UntilClose) => return self.poll_data(io, cx, buf, u64::MAX),
                Ok(Step::More) => {
                    if ready!(self.poll_fill(io, cx))? == 0 {
                        return Poll::Ready(Ok(Passed::Closed));
                    }
                }
            }
        }
    }

    /// Reads more of the connection without looking at it; 0 is its end.
    pub(super) fn poll_fill<IO: AsyncRead + Unpin>(
        &mut self,
        io: &mut IO,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut bytes = [MaybeUninit::uninit(); READ_BYTES];
        let mut buf = ReadBuf::uninit(&mut bytes);
        ready!(Pin::new(io).poll_read(cx, &mut buf))?;
        self.input.extend_from_slice(buf.filled());
        Poll::Ready(Ok(buf.filled().len()))
    }

    /// Data goes from the connection to the reader without a stop in between.
    fn poll_data<IO: AsyncRead + Unpin>(
        &mut self,
        io: &mut IO,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        left: u64,
    ) -> Poll<io::Result<Passed<F::Head>>> {
        let room = buf.remaining().min(DATA_BYTES_MAX).min(usize::try_from(left).unwrap_or(usize::MAX));
        let n = if self.input.is_empty() {
            let mut part = ReadBuf::new(buf.initialize_unfilled_to(room));
            ready!(Pin::new(io).poll_read(cx, &mut part))?;
            let n = part.filled().len();
            buf.advance(n);
            n
        } else {
            let n = room.min(self.input.len());
            buf.put_slice(self.input.get(..n).unwrap_or_default());
            self.input.advance(n);
            n
        };
        self.framer.passed(u64::try_from(n).unwrap_or(u64::MAX));
        Poll::Ready(Ok(if n == 0 { Passed::Closed } else { Passed::Bytes }))
    }
}
