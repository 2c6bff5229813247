//! The agent's stream as hyper's client may see it: every byte passes the response framer first.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use ebbgate_wire::driver::reset_code;
use ebbgate_wire::mux::Code;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http::body::Progress;
use crate::http::framing::{Refusal, ResponseFramer};
use crate::http::sieve::{Passed, Sieve};
use crate::http::slices;

/// What the gate and whoever sends requests through it tell each other.
#[derive(Debug, Default)]
pub(super) struct Shared {
    expected: Cell<Option<(bool, bool)>>,
    progress: RefCell<Option<Rc<Progress>>>,
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

/// See the module.
#[derive(Debug)]
pub(super) struct Gate<S> {
    io: S,
    sieve: Sieve<ResponseFramer>,
    shared: Rc<Shared>,
}

impl<S> Gate<S> {
    pub(super) fn new(io: S, shared: Rc<Shared>) -> Self {
        Self { io, sieve: Sieve::default(), shared }
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

    fn poll_answer(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let passed = self.sieve.poll_pass(&mut self.io, cx, buf);
            if !self.sieve.input.is_empty() {
                self.shared.received.set(true);
            }
            match ready!(passed)? {
                Passed::Bytes => self.shared.received.set(true),
                Passed::Head(_) => {
                    self.shared.received.set(true);
                    continue;
                }
                Passed::End => return self.poll_idle(cx),
                Passed::Closed => {}
                Passed::Refused(refusal) => {
                    self.shared.refusal.set(Some(refusal));
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, refusal)));
                }
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

impl<S: AsyncWrite + Unpin> AsyncWrite for Gate<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.io).poll_write(cx, buf);
        self.shared.touch(wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
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
