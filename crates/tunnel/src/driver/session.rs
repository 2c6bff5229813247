//! The handles of a session: [`Session`] and [`SessionHandle`] open streams, [`Incoming`] takes those that the peer opens.

use std::fmt;
use std::future::{Future, Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use ebbgate_wire::mux::{Code, Limits, Mux, OpenError, Role};
use ebbgate_wire::rpc::StreamKind;
use tokio::io::{AsyncRead, AsyncWrite};

use super::io::{Driver, DriverError};
use super::state::{Shared, Slot};
use super::stream::Stream;

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
    let shared = Arc::new(Shared::new(Mux::new(role, limits)));
    let session = Session { shared: Arc::clone(&shared) };
    let incoming = Incoming { shared: Arc::clone(&shared) };
    (session, incoming, Driver::new(io, shared))
}

/// A handle to open streams with. When the last one, the [`Incoming`] and all streams are gone, the session ends.
pub struct Session {
    shared: Arc<Shared>,
}

impl Session {
    /// Opens a stream and queues its type bytes. Ready at once; a future because other carriers have to wait.
    pub fn open(&self, kind: StreamKind) -> Ready<Result<Stream, OpenError>> {
        ready(open(&self.shared, kind))
    }

    /// A handle that opens streams and does not keep the session open.
    pub fn handle(&self) -> SessionHandle {
        SessionHandle { shared: Arc::clone(&self.shared) }
    }

    /// Ends the session: with [`Code::NONE`] after queued bytes have left, otherwise at once.
    pub fn goaway(&self, code: Code, message: &str) {
        let mut state = self.shared.lock();
        state.mux.go_away(code, message);
        state.wake_all();
        state.wake_driver();
    }

    /// Open streams, of both sides.
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

/// Opens streams of a session from any thread, for as long as others keep the session open.
#[derive(Clone)]
pub struct SessionHandle {
    shared: Arc<Shared>,
}

impl SessionHandle {
    /// The handle of a session that has ended: it opens nothing.
    pub fn ended() -> Self {
        let shared = Shared::new(Mux::new(Role::Server, Limits::STRANGER));
        shared.lock().mux.transport_lost();
        Self { shared: Arc::new(shared) }
    }

    /// Opens a stream and queues its type bytes. The stream may be used on any thread.
    pub fn open(&self, kind: StreamKind) -> Result<Stream, OpenError> {
        open(&self.shared, kind)
    }
}

impl fmt::Debug for SessionHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionHandle(..)")
    }
}

fn open(shared: &Arc<Shared>, kind: StreamKind) -> Result<Stream, OpenError> {
    let mut state = shared.lock();
    let id = state.mux.open()?;
    // A fresh stream of an open session takes four bytes.
    let _ = state.mux.write(id, &kind.number().to_be_bytes());
    state.slots.insert(id, Slot::default());
    state.wake_driver();
    drop(state);
    Ok(Stream::new(id, Arc::clone(shared)))
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
