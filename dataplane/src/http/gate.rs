//! `Gate`: the visitor's HTTP/1 connection as hyper may see it.
//!
//! Every byte passes the request framer first; the next request is held back until the last one is answered, which also
//! holds whatever follows a request to upgrade. All waits on the visitor end here: head, body pace, rest between
//! requests, write stall. What went wrong is left in [`Shared`] for whoever answers. Does not know hyper, routing or
//! policies.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::exchange::Exchange;
use super::framing::{Refusal, RequestFramer, RequestHead};
use super::limits::{Limits, READ_AHEAD_BYTES_MAX};
use super::pace::{Pace, Patience};
use super::sieve::{Passed, Sieve};
use super::slices;
use super::timer::Timer;

/// Header fields that hyper takes without being asked for room.
const USUAL_FIELDS_MAX: usize = 100;

/// Why a visitor's connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// The framer refused.
    #[error("{0}")]
    Refused(Refusal),
    /// A head did not arrive in time.
    #[error("the request did not arrive in time")]
    HeadLate,
    /// A body stalled.
    #[error("the request body stalled")]
    BodyStalled,
    /// The visitor does not read.
    #[error("the visitor stopped reading")]
    WriteStalled,
    /// No further request came.
    #[error("no further request came")]
    Idle,
    /// The connection broke or ended inside a message.
    #[error("the visitor went away")]
    Gone,
}

/// What the gate and the service that answers tell each other.
#[derive(Debug, Default)]
pub(super) struct Shared {
    width: Cell<Width>,
    /// A head does not fit [`Width::Usual`]: it waits for a parser that takes it.
    outgrown: Cell<bool>,
    answering: Cell<bool>,
    /// The request in hand has a body that has not all arrived (or not been looked for).
    receiving: Cell<bool>,
    upgrade_asked: Cell<bool>,
    fault: Cell<Option<Fault>>,
    /// The fault was found between two messages.
    between: Cell<bool>,
    version_1_0: Cell<bool>,
    exchange: RefCell<Exchange>,
    requests: Cell<u64>,
    reader: RefCell<Option<Waker>>,
}

/// Header fields that the parser behind the gate has room for. Room costs at every message, used or not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Width {
    /// [`USUAL_FIELDS_MAX`].
    #[default]
    Usual,
    /// As many as the framer lets through.
    Full,
}

impl Shared {
    /// What the parser must have room for.
    pub(super) fn width(&self) -> Width {
        self.width.get()
    }

    /// Whether the parser was shown an end because of a head that it has no room for; the next one must have it.
    pub(super) fn outgrew(&self) -> bool {
        self.outgrown.take()
    }

    /// The answer to the request in hand has been handed over whole, or will never be.
    pub(super) fn answered(&self) {
        self.answering.set(false);
        self.wake();
    }

    /// Why the connection cannot go on, once it cannot.
    pub(super) fn fault(&self) -> Option<Fault> {
        self.fault.get()
    }

    /// Why the connection cannot go on, if no request is in hand: then nobody else says so. A request in hand is answered
    /// by the service, once, and nothing may follow that answer.
    pub(super) fn unanswered_fault(&self) -> Option<Fault> {
        self.fault.get().filter(|_| self.between.get())
    }

    /// Whether the connection ends with the answer in hand: it broke, or the request is answered before it is whole.
    pub(super) fn is_last(&self) -> bool {
        self.fault.get().is_some() || self.receiving.get()
    }

    /// Whether the request in hand asks to leave HTTP.
    pub(super) fn upgrade_asked(&self) -> bool {
        self.upgrade_asked.get()
    }

    /// Whether the request in hand is of HTTP/1.0.
    pub(super) fn is_version_1_0(&self) -> bool {
        self.version_1_0.get()
    }

    /// What the request in hand and its upstream tell each other.
    pub(super) fn exchange(&self) -> Exchange {
        self.exchange.borrow().clone()
    }

    /// Requests seen.
    pub(super) fn requests(&self) -> u64 {
        self.requests.get()
    }

    fn begin(&self, head: RequestHead) {
        if head.fields > USUAL_FIELDS_MAX && self.width.replace(Width::Full) == Width::Usual {
            self.outgrown.set(true);
        }
        self.answering.set(true);
        self.upgrade_asked.set(head.upgrade);
        self.version_1_0.set(head.version_1_0);
        let exchange = if head.version_1_0 { Exchange::default() } else { Exchange::new(head.expects) };
        exchange.set_spelling(head.spelling);
        self.exchange.replace(exchange);
        self.requests.set(self.requests.get() + 1);
    }

    fn fail(&self, fault: Fault) {
        if self.fault.get().is_none() {
            self.fault.set(Some(fault));
            self.between.set(!self.receiving.get() && !self.answering.get());
        }
    }

    fn wake(&self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Gate<IO> {
    io: IO,
    sieve: Sieve<RequestFramer>,
    shared: Rc<Shared>,
    limits: Rc<Limits>,
    flushed: bool,
    ended: bool,
    /// Interim answers on their way out.
    interim: BytesMut,
    /// When the current wait for a head, for the next request or for more of a half-closed visitor's answer began.
    since: Instant,
    patience: Rc<Patience>,
    read_pace: Pace,
    write_pace: Pace,
    read_timer: Timer,
    write_timer: Timer,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Gate<IO> {
    /// `patience` is what the visitor's source has.
    pub(super) fn new(io: IO, shared: Rc<Shared>, limits: Rc<Limits>, patience: Rc<Patience>) -> Self {
        Self {
            io,
            sieve: Sieve::default(),
            shared,
            flushed: true,
            ended: false,
            interim: BytesMut::new(),
            since: Instant::now(),
            read_pace: Pace::patient(limits.pace, limits.pace_bytes_min, &patience),
            write_pace: Pace::patient(limits.write_pace, limits.pace_bytes_min, &patience),
            patience,
            read_timer: Timer::default(),
            write_timer: Timer::default(),
            limits,
        }
    }

    /// The connection, and what was read from it but not passed.
    pub(super) fn into_parts(self) -> (IO, BytesMut) {
        (self.io, self.sieve.input)
    }

    /// Watches the visitor while its request is answered: reads ahead a little, so that a reset is noticed.
    fn poll_while_answering(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.reader.replace(Some(cx.waker().clone()));
        while !self.ended && self.sieve.input.len() < READ_AHEAD_BYTES_MAX {
            match self.sieve.poll_fill(&mut self.io, cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => (self.ended, self.since) = (true, Instant::now()),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return self.broken(Fault::Gone, error),
            }
        }
        if self.ended {
            ready!(self.read_timer.poll(cx, self.since + self.limits.half_closed));
            return self.broken(Fault::Gone, io::ErrorKind::TimedOut.into());
        }
        Poll::Pending
    }

    fn broken<T>(&mut self, fault: Fault, error: io::Error) -> Poll<io::Result<T>> {
        self.shared.fail(fault);
        Poll::Ready(Err(error))
    }

    /// The framer needs bytes and there are none: is the visitor late?
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.shared.receiving.get() {
            if self.shared.exchange.borrow().may_rest() {
                return Poll::Pending;
            }
            ready!(self.read_pace.poll_stalled(cx, &mut self.read_timer));
            return self.broken(Fault::BodyStalled, io::ErrorKind::TimedOut.into());
        }
        let fresh = self.sieve.framer.is_between(&self.sieve.input);
        let (fault, wait) = match (fresh, self.shared.requests()) {
            (true, 0) => (Fault::Idle, self.limits.head),
            (true, _) => (Fault::Idle, self.limits.keep_alive),
            (false, _) => (Fault::HeadLate, self.limits.head),
        };
        ready!(self.read_timer.poll(cx, self.since + wait));
        self.shared.fail(fault);
        Poll::Ready(Ok(()))
    }

    /// The visitor's bytes ended.
    fn closed(&mut self) -> Poll<io::Result<()>> {
        if self.shared.receiving.get() {
            return self.broken(Fault::Gone, io::ErrorKind::UnexpectedEof.into());
        }
        if !self.sieve.framer.is_between(&self.sieve.input) {
            self.shared.fail(Fault::Refused(Refusal::Truncated));
        }
        Poll::Ready(Ok(()))
    }

    fn refused(&mut self, refusal: Refusal) -> Poll<io::Result<()>> {
        let fault = Fault::Refused(refusal);
        if self.shared.receiving.get() {
            return self.broken(fault, io::Error::new(io::ErrorKind::InvalidData, fault));
        }
        // hyper sees the end of the connection; whoever runs it then sends the refusal.
        self.shared.fail(fault);
        Poll::Ready(Ok(()))
    }

    /// Writes what an upstream answered before its answer. Between messages and before every write of an answer there is
    /// nothing else on its way out.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while !self.interim.is_empty() {
                match Pin::new(&mut self.io).poll_write(cx, &self.interim) {
                    Poll::Ready(result) => {
                        let n = self.wrote(result)?;
                        self.interim.advance(n);
                    }
                    Poll::Pending => return self.poll_blocked(cx).map(Err),
                }
            }
            match self.shared.exchange.borrow().take_interim(cx.waker()) {
                Some(interim) => interim.write(&mut self.interim),
                None => return Poll::Ready(Ok(())),
            }
        }
    }

    fn poll_blocked(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.flushed = false;
        ready!(self.write_pace.poll_stalled(cx, &mut self.write_timer));
        self.shared.fail(Fault::WriteStalled);
        Poll::Ready(io::ErrorKind::TimedOut.into())
    }

    fn wrote(&mut self, result: io::Result<usize>) -> io::Result<usize> {
        self.flushed = false;
        match &result {
            Ok(n) => {
                let now = Instant::now();
                self.write_pace.moved(now, *n);
                if self.ended {
                    self.since = now;
                }
            }
            Err(_) => self.shared.fail(Fault::Gone),
        }
        result
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gate<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let gate = &mut *self;
        loop {
            if gate.shared.fault().is_some() && !gate.shared.receiving.get() {
                return Poll::Ready(Ok(()));
            }
            if !gate.shared.receiving.get() && (gate.shared.answering.get() || !gate.flushed) {
                return gate.poll_while_answering(cx);
            }
            let untouched = !gate.shared.receiving.get() && gate.sieve.framer.is_between(&gate.sieve.input);
            match gate.sieve.poll_pass(&mut gate.io, cx, buf) {
                Poll::Pending => {
                    if untouched && !gate.sieve.framer.is_between(&gate.sieve.input) {
                        gate.since = Instant::now();
                    }
                    return gate.poll_late(cx);
                }
                Poll::Ready(Err(error)) => return gate.broken(Fault::Gone, error),
                // Framing is not what the visitor is waited for.
                Poll::Ready(Ok(Passed::Text)) => {
                    gate.read_pace.moved(Instant::now(), 0);
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Ok(Passed::Bytes)) => {
                    gate.shared.exchange.borrow().body_begun();
                    gate.read_pace.moved(Instant::now(), buf.filled().len());
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Ok(Passed::Head(head))) => {
                    gate.shared.begin(head);
                    gate.shared.receiving.set(true);
                    gate.read_pace =
                        Pace::patient(gate.limits.pace, gate.limits.pace_bytes_min, &gate.patience);
                    if gate.shared.outgrown.get() {
                        return Poll::Ready(Ok(()));
                    }
                }
                // Requests have none.
                Poll::Ready(Ok(Passed::Interim(..))) => {}
                Poll::Ready(Ok(Passed::End)) => {
                    gate.shared.receiving.set(false);
                    gate.since = Instant::now();
                }
                Poll::Ready(Ok(Passed::Closed)) => return gate.closed(),
                Poll::Ready(Ok(Passed::Refused(refusal))) => return gate.refused(refusal),
            }
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Gate<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_interim(cx))?;
        match Pin::new(&mut self.io).poll_write(cx, buf) {
            Poll::Ready(result) => Poll::Ready(self.wrote(result)),
            Poll::Pending => self.poll_blocked(cx).map(Err),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_interim(cx))?;
        match slices::poll_write(&mut self.io, cx, bufs) {
            Poll::Ready(result) => Poll::Ready(self.wrote(result)),
            Poll::Pending => self.poll_blocked(cx).map(Err),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_interim(cx))?;
        match Pin::new(&mut self.io).poll_flush(cx) {
            Poll::Ready(Ok(())) => {
                if !self.flushed {
                    self.flushed = true;
                    self.since = if self.shared.receiving.get() { self.since } else { Instant::now() };
                    self.write_pace =
                        Pace::patient(self.limits.write_pace, self.limits.pace_bytes_min, &self.patience);
                    self.shared.wake();
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => self.broken(Fault::Gone, error),
            Poll::Pending => self.poll_blocked(cx).map(Err),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
