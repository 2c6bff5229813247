//! The one place with tokio: turns a [`Mux`] and any byte stream into sessions and streams with `AsyncRead` and
//! `AsyncWrite`. Knows no sockets and no TLS, and nothing of what streams carry beyond their four type bytes.
//!
//! One future per session does all transport I/O; streams share its `Mux` behind a lock that is never held across an
//! await. All waiting bytes live in the `Mux`, so its limits are the session's limits.

mod io;
mod stream;

use std::collections::HashMap;
use std::future::{Future, Ready, ready};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::mux::{Code, Limits, Mux, MuxError, MuxEvent, OpenError, Readable, Role, StreamId};
use crate::rpc::StreamKind;

pub use stream::{Stream, StreamError, reset_code};

/// Seconds the transport may refuse to take any byte before the session is given up.
pub const WRITE_SECS_MAX: u64 = 30;
/// Seconds a peer may take to send the four type bytes of a stream it opened.
pub const KIND_SECS_MAX: u64 = 10;
/// Seconds to wait for the transport to close after the last frame.
pub const CLOSE_SECS_MAX: u64 = 5;

/// Why a session ended other than in order.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The transport failed.
    #[error("agent transport failed: {0}")]
    Io(#[source] std::io::Error),
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

/// Starts a session over `io`. The caller spawns the future, which does all the work and ends with the session;
/// dropping it ends the session at once.
pub fn connect<IO>(
    io: IO,
    role: Role,
    limits: Limits,
) -> (Session, Incoming, impl Future<Output = Result<(), DriverError>> + Send)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            mux: Mux::new(role, limits),
            slots: HashMap::new(),
            driver: None,
            acceptor: None,
            handles: 1,
            accepting: true,
            gone_away: None,
        }),
    });
    let session = Session { shared: Arc::clone(&shared) };
    let incoming = Incoming { shared: Arc::clone(&shared) };
    (session, incoming, io::Driver::new(io, shared))
}

/// A handle to open streams with. When the last one, the [`Incoming`] and all streams are gone, the session ends.
pub struct Session {
    shared: Arc<Shared>,
}

impl Session {
    /// Opens a stream and queues its type bytes. Ready at once; a future because other carriers have to wait.
    pub fn open(&self, kind: StreamKind) -> Ready<Result<Stream, OpenError>> {
        ready(self.try_open(kind))
    }

    fn try_open(&self, kind: StreamKind) -> Result<Stream, OpenError> {
        let mut state = self.shared.lock();
        let id = state.mux.open()?;
        // A fresh stream of an open session takes four bytes.
        let _ = state.mux.write(id, &kind.number().to_be_bytes());
        state.slots.insert(id, Slot::default());
        state.wake_driver();
        drop(state);
        Ok(Stream::new(id, Arc::clone(&self.shared)))
    }

    /// Ends the session: with [`Code::NONE`] after queued bytes have left, otherwise at once.
    pub fn goaway(&self, code: Code, message: &str) {
        let mut state = self.shared.lock();
        state.mux.go_away(code, message);
        state.wake_all();
        state.wake_driver();
    }

    /// Open streams, whoever opened them.
    pub fn streams(&self) -> usize {
        self.shared.lock().mux.streams()
    }

    /// Open streams that we opened.
    pub fn local_streams(&self) -> usize {
        self.shared.lock().mux.local_streams()
    }

    /// Goes by other limits from now on, once more is known of the peer.
    pub fn set_limits(&self, limits: Limits) {
        self.shared.lock().mux.set_limits(limits);
    }

    /// Whether the session ended.
    pub fn is_closed(&self) -> bool {
        self.shared.lock().mux.is_over()
    }
}

impl Clone for Session {
    fn clone(&self) -> Self {
        self.shared.lock().handles += 1;
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.handles = state.handles.saturating_sub(1);
        state.wake_driver();
    }
}

/// The streams the peer opens. Dropping it refuses them.
pub struct Incoming {
    shared: Arc<Shared>,
}

impl Incoming {
    /// The next stream, or `None` once the session is over. Cancel-safe.
    pub async fn accept(&mut self) -> Option<Stream> {
        std::future::poll_fn(|cx| self.poll_accept(cx)).await
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Option<Stream>> {
        let mut state = self.shared.lock();
        if let Some(id) = state.mux.accept() {
            state.slots.insert(id, Slot::default());
            drop(state);
            return Poll::Ready(Some(Stream::new(id, Arc::clone(&self.shared))));
        }
        if state.mux.is_over() {
            return Poll::Ready(None);
        }
        state.acceptor = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.accepting = false;
        state.refuse_unaccepted();
        state.wake_driver();
    }
}

struct Shared {
    state: Mutex<State>,
}

impl Shared {
    /// A panic elsewhere leaves the books as they were after the last whole call, so the lock stays usable.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the application's half of a stream needs beyond the `Mux`: who waits, and how it ended.
#[derive(Default)]
struct Slot {
    reader: Option<Waker>,
    writer: Option<Waker>,
    fin_sent: bool,
    end: Option<End>,
    stopped: Option<Code>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Orderly,
    Reset(Code),
}

struct State {
    mux: Mux,
    slots: HashMap<StreamId, Slot>,
    driver: Option<Waker>,
    acceptor: Option<Waker>,
    handles: usize,
    accepting: bool,
    /// The peer's GOAWAY, until the driver takes it.
    gone_away: Option<(Code, String)>,
}

impl State {
    fn wake_driver(&mut self) {
        if let Some(waker) = self.driver.take() {
            waker.wake();
        }
    }

    /// Moves what has been received into `buf`; false when there was nothing.
    fn read(&mut self, id: StreamId, buf: &mut ReadBuf<'_>) -> bool {
        let before = buf.remaining();
        while buf.remaining() > 0
            && let Ok(Readable::Bytes(bytes)) = self.mux.readable(id)
        {
            let taken = bytes.get(..buf.remaining()).unwrap_or(bytes);
            buf.put_slice(taken);
            let taken = taken.len();
            self.mux.consume(id, taken);
        }
        self.deliver();
        if self.mux.has_control_due() {
            self.wake_driver();
        }
        buf.remaining() < before
    }

    /// Wakes whoever the events concern. Called after every step that may cause some.
    fn deliver(&mut self) {
        while let Some(event) = self.mux.poll_event() {
            match event {
                MuxEvent::Opened => self.wake_acceptor(),
                MuxEvent::Readable(id) => self.wake(id, |slot| slot.reader.take()),
                MuxEvent::Writable(id) => self.wake(id, |slot| slot.writer.take()),
                MuxEvent::FinSent(id) => self.wake(id, |slot| {
                    slot.fin_sent = true;
                    slot.writer.take()
                }),
                MuxEvent::Reset(id, code) => self.end(id, End::Reset(code)),
                MuxEvent::Closed(id) => self.end(id, End::Orderly),
                MuxEvent::Stopped(id, code) => self.wake(id, |slot| {
                    slot.stopped = Some(code);
                    slot.writer.take()
                }),
                MuxEvent::GoAway { code, message } => {
                    self.gone_away = Some((code, String::from_utf8_lossy(&message).into_owned()));
                    self.wake_all();
                }
            }
        }
        if !self.accepting {
            self.refuse_unaccepted();
        }
    }

    fn end(&mut self, id: StreamId, end: End) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.end = Some(end);
        }
        self.wake(id, |slot| slot.writer.take());
        self.wake(id, |slot| slot.reader.take());
    }

    fn wake(&mut self, id: StreamId, waiter: impl FnOnce(&mut Slot) -> Option<Waker>) {
        if let Some(waker) = self.slots.get_mut(&id).and_then(waiter) {
            waker.wake();
        }
    }

    fn wake_acceptor(&mut self) {
        if let Some(waker) = self.acceptor.take() {
            waker.wake();
        }
    }

    fn wake_all(&mut self) {
        self.wake_acceptor();
        for slot in self.slots.values_mut() {
            for waker in [slot.reader.take(), slot.writer.take()].into_iter().flatten() {
                waker.wake();
            }
        }
    }

    fn refuse_unaccepted(&mut self) {
        while let Some(id) = self.mux.accept() {
            self.mux.reset(id, Code::REFUSED);
        }
    }

    /// Nobody is left who could use the session; what lingers is flushed by the GOAWAY.
    fn is_abandoned(&self) -> bool {
        self.handles == 0 && !self.accepting && self.slots.is_empty()
    }
}
