//! The agent's stream as hyper's client may see it: every byte passes the response framer first.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use ebbgate_tunnel::reset_code;
use ebbgate_wire::mux::Code;
use http::{HeaderMap, Method, Request, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http::body::Progress;
use crate::http::exchange::Exchange;
use crate::http::framing::{BodyFraming, Refusal, ResponseFramer, Spelling};
use crate::http::sieve::{Passed, Sieve};
use crate::http::slices;

/// What the gate and whoever sends requests through it tell each other.
#[derive(Debug, Default)]
pub(super) struct Shared {
    expected: Cell<Option<(bool, bool)>>,
    progress: RefCell<Option<Rc<Progress>>>,
    exchange: RefCell<Exchange>,
    respelled: RefCell<Option<Respelled>>,
    /// A byte came back since the last request went out.
    pub(super) received: Cell<bool>,
    /// The framer refused.
    pub(super) refusal: Cell<Option<Refusal>>,
    /// The stream broke, rather than ended.
    pub(super) broken: Cell<bool>,
    /// The agent says that nothing behind it has seen a byte (wire.md section 2, code 5).
    pub(super) refused: Cell<bool>,
}

impl Shared {
    /// A request goes out.
    pub(super) fn expect(&self, head: bool, upgrade: bool, progress: &Rc<Progress>) {
        self.received.set(false);
        self.expected.set(Some((head, upgrade)));
        self.progress.replace(Some(progress.clone()));
    }

    /// The request belongs to this exchange, in which its target may have another spelling.
    pub(super) fn of(&self, exchange: &Exchange, request: &Request<()>) {
        let spelling = exchange.spelling_of(request.uri());
        self.respelled.replace(spelling.map(|spelling| Respelled::new(request.method(), &spelling)));
        self.exchange.replace(exchange.clone());
    }

    fn interim(&self, status: StatusCode, headers: HeaderMap) {
        if let Some(progress) = &*self.progress.borrow() {
            progress.touch();
        }
        self.exchange.borrow().answer_before(status, headers);
    }

    fn note_refusal(&self, error: &io::Error) {
        self.refused.set(self.refused.get() || reset_code(error) == Some(Code::REFUSED));
    }

    fn note<T>(&self, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &outcome {
            self.note_refusal(error);
        }
        outcome
    }

    /// What the upstream takes is progress too: hyper reads ahead of it.
    fn touch(&self, wrote: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let wrote = self.note(wrote);
        if let (Poll::Ready(Ok(1..)), Some(progress)) = (&wrote, &*self.progress.borrow()) {
            progress.touch();
        }
        wrote
    }
}

/// The front of a request line as the visitor wrote it, in place of what hyper writes.
#[derive(Debug)]
struct Respelled {
    written: Bytes,
    /// Bytes of hyper's that it stands for.
    instead_of: usize,
}

impl Respelled {
    fn new(method: &Method, spelling: &Spelling) -> Self {
        let written = [method.as_str().as_bytes(), b" ", &spelling.written].concat();
        Self { written: written.into(), instead_of: method.as_str().len() + 1 + spelling.encoded.len() }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Gate<S> {
    io: S,
    sieve: Sieve<ResponseFramer>,
    shared: Rc<Shared>,
    respelled: Option<Respelled>,
}

impl<S> Gate<S> {
    pub(super) fn new(io: S, shared: Rc<Shared>) -> Self {
        Self { io, sieve: Sieve::default(), shared, respelled: None }
    }

    /// The stream, and what was read from it but not passed.
    pub(super) fn into_parts(self) -> (S, BytesMut) {
        (self.io, self.sieve.input)
    }
}

impl<S: AsyncRead + Unpin> Gate<S> {
    /// Nothing was asked: the end is welcome, bytes are not.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.sieve.input.is_empty() && ready!(self.sieve.poll_fill(&mut self.io, cx))? == 0 {
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "bytes after the response")))
    }

    /// Looks at the chunk behind a head, if it is here already, while the answer can still be another.
    fn first_chunk(&mut self, cx: &mut Context<'_>) -> Result<(), Refusal> {
        if self.sieve.input.is_empty()
            && let Poll::Ready(Ok(0) | Err(_)) = self.sieve.poll_fill(&mut self.io, cx)
        {
            return Err(Refusal::Truncated);
        }
        self.sieve.framer.check_first_chunk(&self.sieve.input)
    }

    fn refused(&self, refusal: Refusal) -> Poll<io::Result<()>> {
        self.shared.refusal.set(Some(refusal));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, refusal)))
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let passed = self.sieve.poll_pass(&mut self.io, cx, buf);
            if !self.sieve.input.is_empty() {
                self.shared.received.set(true);
            }
            match ready!(passed)? {
                Passed::Bytes | Passed::Text => self.shared.received.set(true),
                Passed::Head(head) => {
                    self.shared.received.set(true);
                    if head.framing == BodyFraming::Chunked {
                        match self.first_chunk(cx) {
                            Ok(()) => {}
                            Err(refusal) => return self.refused(refusal),
                        }
                    }
                    continue;
                }
                Passed::Interim(status, headers) => {
                    self.shared.received.set(true);
                    self.shared.interim(status, headers);
                    continue;
                }
                Passed::End => return self.poll_idle(cx),
                Passed::Closed => {}
                Passed::Refused(refusal) => return self.refused(refusal),
            }
            return Poll::Ready(Ok(()));
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gate<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let gate = &mut *self;
        if let Some((head, upgrade)) = gate.shared.expected.take() {
            gate.sieve.framer.expect(head, upgrade);
        }
        let polled = if gate.sieve.framer.is_idle() { gate.poll_idle(cx) } else { gate.poll_answer(cx, buf) };
        if let Poll::Ready(Err(error)) = &polled {
            gate.shared.broken.set(true);
            gate.shared.note_refusal(error);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> Gate<S> {
    /// Writes the front of a request line that has another spelling. How many of `n` bytes of hyper's it stands for.
    fn poll_respelled(&mut self, cx: &mut Context<'_>, n: usize) -> Poll<io::Result<usize>> {
        if let Some(next) = self.shared.respelled.take() {
            self.respelled = Some(next);
        }
        let Some(front) = &mut self.respelled else { return Poll::Ready(Ok(0)) };
        while !front.written.is_empty() {
            let wrote = Pin::new(&mut self.io).poll_write(cx, &front.written);
            match ready!(self.shared.touch(wrote))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => front.written.advance(n),
            }
        }
        let n = n.min(front.instead_of);
        front.instead_of -= n;
        if front.instead_of == 0 {
            self.respelled = None;
        }
        Poll::Ready(Ok(n))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gate<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match ready!(self.poll_respelled(cx, buf.len()))? {
            0 => {}
            n => return Poll::Ready(Ok(n)),
        }
        let wrote = Pin::new(&mut self.io).poll_write(cx, buf);
        self.shared.touch(wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(0, |buf| buf.len());
        match ready!(self.poll_respelled(cx, first))? {
            0 => {}
            n => return Poll::Ready(Ok(n)),
        }
        let wrote = slices::poll_write(&mut self.io, cx, bufs);
        self.shared.touch(wrote)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.shared.note(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = Pin::new(&mut self.io).poll_shutdown(cx);
        self.shared.note(ended)
    }
}
