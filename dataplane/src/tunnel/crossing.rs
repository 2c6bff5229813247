//! A stream from one shard to another: bounded, with half-close and reset kept apart.
//!
//! A plain in-memory pipe shows its other end's death as an end of stream; here only a finished direction ends, a dropped
//! one is reset, and a refused one is reset with the agent's own code.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use ebbgate_tunnel::StreamError;
use ebbgate_wire::mux::Code;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::shared::{AtomicBool, DuplexStream, Ordering, duplex};

/// Bytes on their way between shards, per direction.
const CROSSING_BYTES_MAX: usize = 64 << 10;

/// One end of a crossing. Dropping it before both directions finished resets the other end.
#[derive(Debug)]
pub struct Crossing {
    pipe: DuplexStream,
    finished: Arc<AtomicBool>,
    peer_finished: Arc<AtomicBool>,
    refused: Arc<AtomicBool>,
}

/// Both ends of a new crossing.
pub fn crossing() -> (Crossing, Crossing) {
    let (near, far) = duplex(CROSSING_BYTES_MAX);
    let flag = || Arc::new(AtomicBool::new(false));
    let (a, b, refused) = (flag(), flag(), flag());
    (
        Crossing {
            pipe: near,
            finished: Arc::clone(&a),
            peer_finished: Arc::clone(&b),
            refused: Arc::clone(&refused),
        },
        Crossing { pipe: far, finished: b, peer_finished: a, refused },
    )
}

impl Crossing {
    /// Ends it with the word that nothing was delivered.
    pub fn refuse(self) {
        self.refused.store(true, Ordering::Release);
    }

    fn reset(&self) -> io::Error {
        if self.refused.load(Ordering::Acquire) {
            return StreamError::Reset(Code::REFUSED).into();
        }
        io::ErrorKind::ConnectionReset.into()
    }
}

impl AsyncRead for Crossing {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.pipe).poll_read(cx, buf))?;
        let ended = buf.filled().len() == before && buf.remaining() > 0;
        if ended && !self.peer_finished.load(Ordering::Acquire) {
            return Poll::Ready(Err(self.reset()));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Crossing {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = ready!(Pin::new(&mut self.pipe).poll_write(cx, bytes));
        Poll::Ready(wrote.map_err(|_| self.reset()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Marked before the pipe ends, so that nobody can see the end without the mark.
        self.finished.store(true, Ordering::Release);
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn half_close_keeps_the_other_direction() {
        let (mut near, mut far) = crossing();
        near.write_all(b"question").await.unwrap();
        near.shutdown().await.unwrap();
        let mut text = String::new();
        far.read_to_string(&mut text).await.unwrap();
        far.write_all(b"answer").await.unwrap();
        far.shutdown().await.unwrap();
        text.clear();
        near.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "answer");
    }

    #[tokio::test]
    async fn a_dropped_end_resets() {
        let (mut near, mut far) = crossing();
        near.write_all(b"half").await.unwrap();
        drop(near);
        let mut got = Vec::new();
        assert_eq!(far.read_to_end(&mut got).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(got, b"half");
        assert!(far.write_all(b"x").await.is_err());
    }

    #[tokio::test]
    async fn a_refusal_crosses() {
        let (mut near, far) = crossing();
        far.refuse();
        for error in [near.read_u8().await.unwrap_err(), near.write_all(b"x").await.unwrap_err()] {
            assert_eq!(ebbgate_tunnel::reset_code(&error), Some(Code::REFUSED));
        }
    }
}
