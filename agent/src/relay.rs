//! Copies bytes both ways between a visitor and an upstream, half-close kept, and says which side broke.
//! Knows no protocol; memory is two buffers of [`COPY_BYTES`].

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Buffer of one direction, in bytes; one TLS record.
pub const COPY_BYTES: usize = 16 * 1024;

/// How a relay ended early.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The visitor's side failed or was aborted.
    #[error("the visitor's side broke off: {0}")]
    Visitor(#[source] io::Error),
    /// The upstream's side failed or was aborted.
    #[error("the upstream broke off: {0}")]
    Upstream(#[source] io::Error),
}

/// Copies until both directions have ended in order, or one side breaks.
pub async fn relay<V, U>(visitor: &mut V, upstream: &mut U) -> Result<(), Broken>
where
    V: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let mut visitor = Side { io: visitor, broken: false };
    let mut upstream = Side { io: upstream, broken: false };
    match tokio::io::copy_bidirectional_with_sizes(&mut visitor, &mut upstream, COPY_BYTES, COPY_BYTES).await
    {
        Ok(_) => Ok(()),
        Err(error) if upstream.broken => Err(Broken::Upstream(error)),
        Err(error) => Err(Broken::Visitor(error)),
    }
}

/// One side, remembering whether an error came from it.
struct Side<'a, T> {
    io: &'a mut T,
    broken: bool,
}

impl<T> Side<'_, T> {
    fn note<R>(&mut self, outcome: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        self.broken |= matches!(outcome, Poll::Ready(Err(_)));
        outcome
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Side<'_, T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut *self.io).poll_read(cx, buf) {
            // A TLS peer that closes without close_notify. So many servers do that it must count as an orderly end;
            // what lies inside (HTTP framing, a database protocol) notices a true truncation.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
            outcome => self.note(outcome),
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Side<'_, T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut *self.io).poll_write(cx, buf);
        self.note(outcome)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut *self.io).poll_flush(cx);
        self.note(outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut *self.io).poll_shutdown(cx) {
            // The peer closed both directions already: there is nobody left to tell.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            outcome => self.note(outcome),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_half_close_keeps_the_other_direction() {
        let (mut visitor, mut near) = tokio::io::duplex(64);
        let (mut far, mut upstream) = tokio::io::duplex(64);
        let copying = tokio::spawn(async move { relay(&mut near, &mut far).await });
        visitor.write_all(b"question").await.unwrap();
        visitor.shutdown().await.unwrap();
        let mut question = String::new();
        upstream.read_to_string(&mut question).await.unwrap();
        assert_eq!(question, "question");
        upstream.write_all(b"late answer").await.unwrap();
        drop(upstream);
        let mut answer = String::new();
        visitor.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "late answer");
        copying.await.unwrap().unwrap();
    }

    /// Reads end with an error; writes vanish.
    struct Failing(io::ErrorKind);

    impl AsyncRead for Failing {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(self.0.into()))
        }
    }

    impl AsyncWrite for Failing {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn the_side_that_broke_is_named() {
        let (mut quiet, _peer) = tokio::io::duplex(64);
        let reset = io::ErrorKind::ConnectionReset;
        assert!(matches!(relay(&mut Failing(reset), &mut quiet).await, Err(Broken::Visitor(_))));
        assert!(matches!(relay(&mut quiet, &mut Failing(reset)).await, Err(Broken::Upstream(_))));
    }

    #[tokio::test]
    async fn tls_without_close_notify_is_an_end() {
        let mut cut = Failing(io::ErrorKind::UnexpectedEof);
        let mut cut_too = Failing(io::ErrorKind::UnexpectedEof);
        relay(&mut cut, &mut cut_too).await.unwrap();
    }
}
