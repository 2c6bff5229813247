//! The future that moves a session's bytes: transport to `Mux` and `Mux` to transport. Knows no stream by name.

use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use ebbgate_wire::mux::{Code, MuxError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::state::Shared;

/// Seconds the transport may refuse to take any byte before the session is given up.
pub const WRITE_SECS_MAX: u64 = 30;
/// Seconds to wait for the transport to close after the last frame.
pub const CLOSE_SECS_MAX: u64 = 5;
/// Bytes read from the transport at once; they live on the stack, so an idle session holds none.
const READ_BYTES: usize = 16_384;
/// Reads and writes done before other tasks get a turn.
const STEPS_PER_POLL_MAX: usize = 8;
/// Bytes read and thrown away after our last frame, so that closing does not destroy it on its way.
const DRAIN_BYTES_MAX: usize = 1 << 20;

/// Why a session ended other than in order.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The transport failed.
    #[error("agent transport failed: {0}")]
    Io(#[source] io::Error),
    /// The peer broke the protocol; it was told so by GOAWAY.
    #[error("peer broke the agent protocol: {0}")]
    Mux(#[from] MuxError),
    /// The peer said GOAWAY with an error code.
    #[error("peer ended the session: {code}: {message}")]
    GoneAway {
        /// Its reason.
        code: Code,
        /// Its words.
        message: String,
    },
    /// The transport took nothing for [`WRITE_SECS_MAX`] seconds.
    #[error("peer took no byte for {WRITE_SECS_MAX} s")]
    WriteTimeout,
}

pub(super) struct Driver<IO> {
    io: IO,
    shared: Arc<Shared>,
    out: BytesMut,
    flush_due: bool,
    /// Runs while the transport refuses bytes, and while it closes.
    deadline: Option<Pin<Box<Sleep>>>,
    started: Instant,
    failure: Option<DriverError>,
    closing: Option<Closing>,
}

#[derive(Clone, Copy)]
struct Closing {
    shut_down: bool,
    drained: usize,
}

/// What one attempt at the transport came to.
enum Step {
    Progress,
    Waiting,
    /// The transport is finished; nothing more can be read or written.
    Lost(Result<(), DriverError>),
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Driver<IO> {
    pub(super) fn new(io: IO, shared: Arc<Shared>) -> Self {
        Self {
            io,
            shared,
            out: BytesMut::new(),
            flush_due: false,
            deadline: None,
            started: Instant::now(),
            failure: None,
            closing: None,
        }
    }

    fn poll_steps(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), DriverError>> {
        for _ in 0..STEPS_PER_POLL_MAX {
            if let Some(closing) = self.closing {
                return self.poll_close(cx, closing);
            }
            let wrote = self.write_step(cx);
            let read = match wrote {
                Step::Lost(result) => return Poll::Ready(result),
                Step::Progress | Step::Waiting => self.read_step(cx),
            };
            match (wrote, read) {
                (_, Step::Lost(result)) => return Poll::Ready(result),
                (Step::Waiting, Step::Waiting) if self.closing.is_none() => return Poll::Pending,
                _ => {}
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Fills `out` when it is empty, then offers it to the transport once.
    fn write_step(&mut self, cx: &mut Context<'_>) -> Step {
        if self.out.is_empty() {
            let mut state = self.shared.lock();
            state.driver = Some(cx.waker().clone());
            if state.is_abandoned() {
                state.mux.go_away(Code::NONE, "");
            }
            state.mux.poll_transmit(&mut self.out);
            state.deliver();
            if state.mux.is_over() && self.out.is_empty() && !self.flush_due {
                state.wake_all();
                drop(state);
                self.closing = Some(Closing { shut_down: false, drained: 0 });
                self.arm(CLOSE_SECS_MAX);
                return Step::Progress;
            }
        }
        let outcome = if !self.out.is_empty() {
            Pin::new(&mut self.io).poll_write(cx, &self.out)
        } else if self.flush_due {
            Pin::new(&mut self.io).poll_flush(cx).map_ok(|()| 0)
        } else {
            self.out = BytesMut::new();
            return Step::Waiting;
        };
        match outcome {
            Poll::Ready(Ok(0)) if !self.out.is_empty() => {
                Step::Lost(Err(DriverError::Io(io::ErrorKind::WriteZero.into())))
            }
            Poll::Ready(Ok(written)) => {
                self.flush_due = !self.out.is_empty();
                self.out.advance(written);
                self.deadline = None;
                Step::Progress
            }
            Poll::Ready(Err(error)) => Step::Lost(Err(DriverError::Io(error))),
            Poll::Pending => {
                if self.deadline.is_none() {
                    self.arm(WRITE_SECS_MAX);
                }
                if self.deadline_passed(cx) {
                    Step::Lost(Err(DriverError::WriteTimeout))
                } else {
                    Step::Waiting
                }
            }
        }
    }

    fn read_step(&mut self, cx: &mut Context<'_>) -> Step {
        let mut bytes = [MaybeUninit::<u8>::uninit(); READ_BYTES];
        let mut buf = ReadBuf::uninit(&mut bytes);
        match Pin::new(&mut self.io).poll_read(cx, &mut buf) {
            Poll::Pending => return Step::Waiting,
            // TLS says so when the peer closes without a farewell, as the Rust family does; streams that lack their
            // FIN fail all the same.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Step::Lost(self.failure.take().map_or(Ok(()), Err));
            }
            Poll::Ready(Err(error)) => return Step::Lost(Err(DriverError::Io(error))),
            Poll::Ready(Ok(())) if buf.filled().is_empty() => {
                return Step::Lost(self.failure.take().map_or(Ok(()), Err));
            }
            Poll::Ready(Ok(())) => {}
        }
        let now_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut state = self.shared.lock();
        let outcome = state.mux.receive(now_ms, buf.filled());
        state.deliver();
        if let Err(error) = outcome {
            state.wake_all();
            self.failure = Some(error.into());
        }
        if let Some((code, message)) = state.gone_away.take() {
            let orderly = code == Code::NONE;
            return Step::Lost(if orderly { Ok(()) } else { Err(DriverError::GoneAway { code, message }) });
        }
        Step::Progress
    }

    /// After the last frame: close our direction, then wait a moment for the peer to close its own.
    fn poll_close(&mut self, cx: &mut Context<'_>, mut closing: Closing) -> Poll<Result<(), DriverError>> {
        let mut over = self.deadline_passed(cx);
        if !closing.shut_down {
            match Pin::new(&mut self.io).poll_shutdown(cx) {
                Poll::Ready(outcome) => {
                    closing.shut_down = true;
                    over |= outcome.is_err();
                }
                Poll::Pending if !over => return Poll::Pending,
                Poll::Pending => {}
            }
        }
        while !over {
            let mut bytes = [MaybeUninit::<u8>::uninit(); READ_BYTES];
            let mut buf = ReadBuf::uninit(&mut bytes);
            match Pin::new(&mut self.io).poll_read(cx, &mut buf) {
                Poll::Pending => {
                    self.closing = Some(closing);
                    return Poll::Pending;
                }
                Poll::Ready(outcome) => {
                    closing.drained += buf.filled().len();
                    over = outcome.is_err() || buf.filled().is_empty() || closing.drained > DRAIN_BYTES_MAX;
                }
            }
        }
        Poll::Ready(self.failure.take().map_or(Ok(()), Err))
    }

    fn arm(&mut self, secs: u64) {
        self.deadline = Some(Box::pin(tokio::time::sleep(Duration::from_secs(secs))));
    }

    fn deadline_passed(&mut self, cx: &mut Context<'_>) -> bool {
        self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready())
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Future for Driver<IO> {
    type Output = Result<(), DriverError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.get_mut().poll_steps(cx)
    }
}

impl<IO> Drop for Driver<IO> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.mux.transport_lost();
        state.deliver();
        state.wake_all();
    }
}
