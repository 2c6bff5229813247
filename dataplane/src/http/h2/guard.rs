//! `Guard`: the visitor's connection as h2 may see it: frames counted, half-sent frames and unread answers timed.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use h2::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::blocks::{BlockError, Blocks};
use super::flood::{Flood, Floods};
use super::scan::{CONTINUATION, Part, Scanner};
use crate::http::limits::Limits;
use crate::http::min_rate::{MinRate, SlowAllowance};
use crate::http::timer::Timer;

/// Why a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Cut {
    /// It is a flood.
    #[error("{0}")]
    Flood(#[from] Flood),
    /// A header block is not to be had.
    #[error("{0}")]
    Block(#[from] BlockError),
    /// A frame or header block did not arrive whole in time.
    #[error("a frame did not arrive in time")]
    FrameLate,
    /// The visitor does not read.
    #[error("the visitor stopped reading")]
    WriteStalled,
}

/// Where the guard leaves what it found.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    found: Cell<Option<Cut>>,
    told: Notify,
}

impl Cut {
    /// What the visitor is told.
    pub(super) fn reason(self) -> Reason {
        match self {
            Self::Block(BlockError::PseudoTrailer) => Reason::PROTOCOL_ERROR,
            _ => Reason::ENHANCE_YOUR_CALM,
        }
    }
}

impl Trouble {
    /// What was found.
    pub(super) fn found(&self) -> Option<Cut> {
        self.found.get()
    }

    /// Completes when something is found.
    pub(super) async fn told(&self) {
        self.told.notified().await;
    }

    fn tell(&self, cut: Cut) {
        self.found.set(Some(cut));
        self.told.notify_one();
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Guard<IO> {
    io: IO,
    scanner: Scanner,
    floods: Floods,
    blocks: Blocks,
    trouble: Rc<Trouble>,
    limits: Rc<Limits>,
    /// When the frame or block in hand began.
    inside_since: Option<Instant>,
    /// A header block went by: let the streams it opened be taken before more is decoded.
    pause: bool,
    read_timer: Timer,
    write_pace: MinRate,
    write_timer: Timer,
}

impl<IO> Guard<IO> {
    /// `patience` is what the visitor's source has.
    pub(super) fn new(
        io: IO,
        trouble: Rc<Trouble>,
        limits: Rc<Limits>,
        patience: &Rc<SlowAllowance>,
    ) -> Self {
        let now = Instant::now();
        Self {
            io,
            scanner: Scanner::default(),
            floods: Floods::new(now),
            blocks: Blocks::default(),
            trouble,
            inside_since: Some(now),
            pause: false,
            read_timer: Timer::default(),
            write_pace: MinRate::lenient(limits.write_pace, limits.pace_bytes_min, patience),
            write_timer: Timer::default(),
            limits,
        }
    }

    /// After trouble nothing is read any more; the connection's loop says goodbye.
    fn cut<T>(&self, cut: Cut) -> Poll<io::Result<T>> {
        self.trouble.tell(cut);
        Poll::Pending
    }

    fn received(&mut self, mut bytes: &[u8]) -> Result<(), Cut> {
        let (now, done) = (Instant::now(), self.blocks.done());
        while let Some(part) = self.scanner.next(&mut bytes) {
            match part {
                Part::Head(head) => {
                    self.floods.frame(now, &head)?;
                    self.blocks.head(&head)?;
                    if head.kind != CONTINUATION {
                        self.inside_since = None;
                    }
                }
                Part::Payload(bytes, last) => self.blocks.payload(bytes, last)?,
            }
        }
        self.pause = self.blocks.done() != done;
        let inside = self.scanner.is_inside() || self.blocks.is_open();
        self.inside_since = inside.then(|| self.inside_since.unwrap_or(now));
        Ok(())
    }

    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(since) = self.inside_since {
            ready!(self.read_timer.poll(cx, since + self.limits.head));
            return self.cut(Cut::FrameLate);
        }
        Poll::Pending
    }

    fn poll_blocked<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        ready!(self.write_pace.poll_stalled(cx, &mut self.write_timer));
        self.trouble.tell(Cut::WriteStalled);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Guard<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let guard = &mut *self;
        if guard.trouble.found().is_some() {
            return Poll::Pending;
        }
        if std::mem::take(&mut guard.pause) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        match Pin::new(&mut guard.io).poll_read(cx, buf) {
            Poll::Pending => guard.poll_late(cx),
            Poll::Ready(Ok(())) => {
                let bytes = buf.filled().get(before..).unwrap_or_default();
                match guard.received(bytes) {
                    Ok(()) => Poll::Ready(Ok(())),
                    Err(cut) => guard.cut(cut),
                }
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        }
    }
}

impl<IO: AsyncWrite + Unpin> Guard<IO> {
    fn wrote(&mut self, result: &io::Result<usize>) {
        if let Ok(n) = result {
            self.floods.sent(*n);
            self.write_pace.moved(Instant::now(), *n);
        }
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Guard<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.io).poll_write(cx, buf) {
            Poll::Ready(result) => {
                self.wrote(&result);
                Poll::Ready(result)
            }
            Poll::Pending => self.poll_blocked(cx),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.io).poll_write_vectored(cx, bufs) {
            Poll::Ready(result) => {
                self.wrote(&result);
                Poll::Ready(result)
            }
            Poll::Pending => self.poll_blocked(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.io).poll_flush(cx) {
            Poll::Pending => self.poll_blocked(cx),
            Poll::Ready(flushed) => Poll::Ready(flushed),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
