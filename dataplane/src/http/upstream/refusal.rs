//! `Watched`: an agent's stream that notes whether the agent refused it (wire.md section 2, code 5), and whether a byte came
//! back. Libraries keep the kind of an error and lose its cause.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use ebbgate_tunnel::reset_code;
use ebbgate_wire::mux::Code;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// See the module.
pub(super) struct Watched<S> {
    io: S,
    notes: Rc<Notes>,
}

/// What a [`Watched`] stream has seen.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// The agent refused the stream: nothing behind it has seen a byte.
    pub(super) refused: Cell<bool>,
    /// A byte came back.
    pub(super) heard: Cell<bool>,
}

impl<S> Watched<S> {
    /// The stream, and what it will have seen.
    pub(super) fn new(io: S) -> (Self, Rc<Notes>) {
        let notes = Rc::<Notes>::default();
        (Self { io, notes: notes.clone() }, notes)
    }

    fn note<T>(&self, outcome: &Poll<io::Result<T>>) {
        if matches!(outcome, Poll::Ready(Err(error)) if reset_code(error) == Some(Code::REFUSED)) {
            self.notes.refused.set(true);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let outcome = Pin::new(&mut self.io).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.notes.heard.set(true);
        }
        self.note(&outcome);
        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.note(&outcome);
        outcome
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.io).poll_flush(cx);
        self.note(&outcome);
        outcome
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.io).poll_shutdown(cx);
        self.note(&outcome);
        outcome
    }
}
