//! A claimed link as a stream. When it is dropped after an orderly end the link goes back to where it came from, to wait
//! for its next client.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use ebbgate_tunnel::Abort;
use ebbgate_tunnel::link::LinkStream;
use ebbgate_wire::mux::Code;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

/// A byte stream to the edge.
pub trait Carrier: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Carrier for T {}

/// A claimed link.
pub struct ClaimedLink {
    stream: Option<LinkStream<Box<dyn Carrier>>>,
    home: Option<oneshot::Sender<Box<dyn Carrier>>>,
}

impl ClaimedLink {
    /// Wraps a claimed link; the receiver gets it back after an orderly end, and an error after any other.
    pub fn new(stream: LinkStream<Box<dyn Carrier>>) -> (Self, oneshot::Receiver<Box<dyn Carrier>>) {
        let (home, back) = oneshot::channel();
        (Self { stream: Some(stream), home: Some(home) }, back)
    }

    fn get_mut(&mut self) -> &mut LinkStream<Box<dyn Carrier>> {
        self.stream.as_mut().expect("the stream is taken by the drop only")
    }

    fn pinned(self: Pin<&mut Self>) -> Pin<&mut LinkStream<Box<dyn Carrier>>> {
        Pin::new(self.get_mut().get_mut())
    }
}

impl Abort for ClaimedLink {
    fn reset(&mut self, code: Code) {
        self.get_mut().reset(code);
    }
}

impl AsyncRead for ClaimedLink {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.pinned().poll_read(cx, buf)
    }
}

impl AsyncWrite for ClaimedLink {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.pinned().poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pinned().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pinned().poll_shutdown(cx)
    }
}

impl Drop for ClaimedLink {
    fn drop(&mut self) {
        if let Some(idle) = self.stream.take().and_then(LinkStream::into_idle)
            && let Some(home) = self.home.take()
        {
            // Nobody waits for it: the session is over, and so is the link.
            let _ = home.send(idle);
        }
    }
}
