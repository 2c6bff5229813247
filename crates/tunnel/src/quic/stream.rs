//! One stream with the manners of the multiplexed session's streams: the same errors, codes and meaning of a drop, so that
//! nobody above needs to know what carries it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ebbgate_wire::mux::Code;
use quinn::{Connection, ReadError, RecvStream, SendStream, StoppedError, VarInt, WriteError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::stream_error::StreamError;

type Finishing = Pin<Box<dyn Future<Output = Result<Option<VarInt>, StoppedError>> + Send + Sync>>;

/// A bidirectional stream. `shutdown` sends FIN, keeps the other direction, and completes once the peer's machine has all
/// bytes. Dropping a stream that has not seen both FINs aborts what is open of it with [`Code::CANCELLED`].
pub struct Stream {
    send: SendStream,
    recv: RecvStream,
    finishing: Option<Finishing>,
    finished: bool,
    read_ended: bool,
    /// What it was reset with, by us or by the peer.
    reset: Option<Code>,
}

impl Stream {
    /// Wraps the halves of a stream just opened or accepted.
    pub fn new((send, recv): (SendStream, RecvStream)) -> Self {
        Self { send, recv, finishing: None, finished: false, read_ended: false, reset: None }
    }

    /// Aborts both directions now. Later reads and writes fail with the code.
    pub fn reset(&mut self, code: Code) {
        self.reset.get_or_insert(code);
        self.abort(code);
    }

    fn abort(&mut self, code: Code) {
        // A direction that has ended already has nothing to abort.
        if !self.finished {
            let _ = self.send.reset(VarInt::from_u32(code.0));
            self.finished = true;
        }
        if !self.read_ended {
            let _ = self.recv.stop(VarInt::from_u32(code.0));
            self.read_ended = true;
        }
    }

    fn failed(&mut self, error: StreamError) -> io::Error {
        if let StreamError::Reset(code) = error {
            self.reset.get_or_insert(code);
        }
        error.into()
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(code) = this.reset {
            return Poll::Ready(Err(StreamError::Reset(code).into()));
        }
        let room = buf.remaining();
        match ready!(this.recv.poll_read_buf(cx, buf)) {
            Ok(()) => {
                this.read_ended |= room > 0 && buf.remaining() == room;
                Poll::Ready(Ok(()))
            }
            Err(error) => {
                this.read_ended = true;
                Poll::Ready(Err(this.failed(read_error(&error))))
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Some(code) = this.reset {
            return Poll::Ready(Err(StreamError::Reset(code).into()));
        }
        if this.finishing.is_some() || this.finished {
            return Poll::Ready(Err(StreamError::Finished.into()));
        }
        let wrote = ready!(Pin::new(&mut this.send).poll_write(cx, bytes));
        Poll::Ready(wrote.map_err(|error| this.failed(write_error(&error))))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(code) = this.reset {
            return Poll::Ready(Err(StreamError::Reset(code).into()));
        }
        if this.finished {
            return Poll::Ready(Ok(()));
        }
        let finishing = this.finishing.get_or_insert_with(|| {
            // Fails only where `stopped` says why.
            let _ = this.send.finish();
            Box::pin(this.send.stopped())
        });
        let outcome = ready!(finishing.as_mut().poll(cx));
        (this.finishing, this.finished) = (None, true);
        Poll::Ready(match outcome {
            Ok(None) => Ok(()),
            Ok(Some(code)) => Err(this.failed(StreamError::Reset(code_of(code)))),
            Err(_) => Err(StreamError::SessionEnded.into()),
        })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // What a FIN follows already is on its way and goes on.
        self.finished |= self.finishing.is_some();
        self.abort(Code::CANCELLED);
    }
}

/// Ends a connection at once, with a word for the log of the other end. One that has ended keeps the reason it ended for,
/// which quinn would forget.
pub fn close(connection: &Connection, code: Code, reason: &str) {
    if connection.close_reason().is_none() {
        connection.close(VarInt::from_u32(code.0), reason.as_bytes());
    }
}

fn read_error(error: &ReadError) -> StreamError {
    match error {
        ReadError::Reset(code) => StreamError::Reset(code_of(*code)),
        ReadError::ClosedStream => StreamError::Finished,
        ReadError::ConnectionLost(_) | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected => {
            StreamError::SessionEnded
        }
    }
}

fn write_error(error: &WriteError) -> StreamError {
    match error {
        WriteError::Stopped(code) => StreamError::Reset(code_of(*code)),
        WriteError::ClosedStream => StreamError::Finished,
        WriteError::ConnectionLost(_) | WriteError::ZeroRttRejected => StreamError::SessionEnded,
    }
}

/// A code out of the session protocol's range is nothing we know: the stream is reset all the same.
fn code_of(code: VarInt) -> Code {
    u32::try_from(code.into_inner()).map_or(Code::RESET, Code)
}
