//! A TLS stream whose peer may close without `close_notify`. Knows no TLS: only how TLS streams tell of it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream of which `UnexpectedEof` is the end. Everything else passes unchanged.
///
/// RFC 8446 section 6.1: without `close_notify` the end is not authenticated, but every record before it is good data.
/// Many clients and servers close so. HTTP framing and database protocols notice a true truncation. A reset stays an
/// error.
#[derive(Debug)]
pub struct IgnoreUnexpectedEof<T>(pub T);

impl<T: AsyncRead + Unpin> AsyncRead for IgnoreUnexpectedEof<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.0).poll_read(cx, buf) {
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
            outcome => outcome,
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for IgnoreUnexpectedEof<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    /// Reads end with an error.
    struct Failing(io::ErrorKind);

    impl AsyncRead for Failing {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(self.0.into()))
        }
    }

    #[tokio::test]
    async fn a_missing_close_notify_is_an_end_and_a_reset_is_none() {
        let mut text = String::new();
        let mut cut = IgnoreUnexpectedEof(Failing(io::ErrorKind::UnexpectedEof));
        assert_eq!(cut.read_to_string(&mut text).await.unwrap(), 0);
        let mut reset = IgnoreUnexpectedEof(Failing(io::ErrorKind::ConnectionReset));
        let error = reset.read_to_string(&mut text).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
