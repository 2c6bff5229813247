//! `Watched`: an agent's stream that notes whether the agent refused it (wire.md section 2, code 5): libraries keep the kind
//! of an error and lose its cause.

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
    refused: Rc<Cell<bool>>,
}

impl<S> Watched<S> {
    /// The stream, and whether it was refused.
    pub(super) fn new(io: S) -> (Self, Rc<Cell<bool>>) {
        let refused = Rc::<Cell<bool>>::default();
        (Self { io, refused: refused.clone() }, refused)
    }

    fn note<T>(&self, outcome: &Poll<io::Result<T>>) {
        if matches!(outcome, Poll::Ready(Err(error)) if reset_code(error) == Some(Code::REFUSED)) {
            self.refused.set(true);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.io).poll_read(cx, buf);
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
