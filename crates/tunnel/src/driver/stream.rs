//! One stream as `AsyncRead` and `AsyncWrite`. Knows nothing of frames or of the transport.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ebbgate_wire::mux::{Code, Readable, StreamId};
use ebbgate_wire::rpc::StreamKind;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use super::state::{End, Shared};
use crate::stream_error::StreamError;

/// Seconds a peer may take to send the four type bytes of a stream it opened.
pub const KIND_SECS_MAX: u64 = 10;

/// A stream of a session. `shutdown` sends FIN and keeps the other direction. Dropping a stream that has not seen
/// both FINs aborts it with [`Code::CANCELLED`], unless [`Stream::linger`] was called.
pub struct Stream {
    id: StreamId,
    shared: Arc<Shared>,
    lingers: bool,
}

impl Stream {
    pub(super) fn new(id: StreamId, shared: Arc<Shared>) -> Self {
        Self { id, shared, lingers: false }
    }

    /// Its id on the wire.
    pub fn id(&self) -> StreamId {
        self.id
    }

    /// Reads the four type bytes of a stream the peer opened, within [`KIND_SECS_MAX`] seconds. Call it once, first.
    pub async fn kind(&mut self) -> io::Result<StreamKind> {
        let limit = Duration::from_secs(KIND_SECS_MAX);
        let number = tokio::time::timeout(limit, self.read_u32())
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "stream sent no type in time"))??;
        Ok(StreamKind::from_number(number))
    }

    /// Aborts both directions now, with a code of the caller's choice. Later reads and writes fail with it.
    pub fn reset(&mut self, code: Code) {
        let mut state = self.shared.lock();
        state.mux.reset(self.id, code);
        let end = state.slots.get(&self.id).and_then(|slot| slot.end);
        state.end(self.id, end.unwrap_or(End::Reset(code)));
        state.wake_driver();
    }

    /// For the answering side of an RPC: when dropped, the stream sends what is queued and FIN, ignores what still
    /// comes, and waits for the peer's FIN without anybody's help.
    pub fn linger(&mut self) {
        self.lingers = true;
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let mut state = self.shared.lock();
        if state.read(self.id, buf) {
            return Poll::Ready(Ok(()));
        }
        let state = &mut *state;
        let Some(slot) = state.slots.get_mut(&self.id) else {
            return Poll::Ready(Err(StreamError::SessionEnded.into()));
        };
        match (state.mux.readable(self.id), slot.end) {
            (Ok(Readable::Finished), _) | (Err(_), Some(End::Orderly)) => Poll::Ready(Ok(())),
            (Ok(Readable::Empty | Readable::Bytes(_)), _) => {
                slot.reader = Some(cx.waker().clone());
                Poll::Pending
            }
            (Err(_), Some(End::Reset(code))) => Poll::Ready(Err(StreamError::Reset(code).into())),
            (Err(_), None) => Poll::Ready(Err(StreamError::SessionEnded.into())),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.shared.lock();
        let state = &mut *state;
        let Some(slot) = state.slots.get_mut(&self.id) else {
            return Poll::Ready(Err(StreamError::SessionEnded.into()));
        };
        match state.mux.write(self.id, bytes) {
            Ok(0) if !bytes.is_empty() => {
                slot.writer = Some(cx.waker().clone());
                Poll::Pending
            }
            Ok(taken) => {
                state.wake_driver();
                Poll::Ready(Ok(taken))
            }
            Err(_) => Poll::Ready(Err(match (slot.end, slot.stopped) {
                (Some(End::Reset(code)), _) | (_, Some(code)) => StreamError::Reset(code),
                (None, None) if state.mux.is_leaving() => StreamError::SessionEnded,
                (Some(End::Orderly) | None, None) => StreamError::Finished,
            }
            .into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// FIN; ready once everything queued has been handed to the transport, so it waits as long as the peer's window.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.shared.lock();
        let state = &mut *state;
        let Some(slot) = state.slots.get_mut(&self.id) else {
            return Poll::Ready(Err(StreamError::SessionEnded.into()));
        };
        if slot.fin_sent {
            return Poll::Ready(Ok(()));
        }
        if let (Some(End::Reset(code)), _) | (_, Some(code)) = (slot.end, slot.stopped) {
            return Poll::Ready(Err(StreamError::Reset(code).into()));
        }
        if state.mux.is_over() {
            return Poll::Ready(Err(StreamError::SessionEnded.into()));
        }
        slot.writer = Some(cx.waker().clone());
        state.mux.finish(self.id);
        state.wake_driver();
        Poll::Pending
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.slots.remove(&self.id);
        if self.lingers {
            state.mux.linger(self.id);
        } else {
            state.mux.release(self.id);
        }
        state.deliver();
        state.wake_driver();
    }
}
