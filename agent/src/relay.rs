//! Joins a visitor and an upstream until both have ended, half-close kept, and says which side broke: two kernel sockets
//! are spliced, anything else is copied, both by `ebbgate-relay`. Knows no protocol.

use std::io;

use bytes::Bytes;
use ebbgate_relay::{End, Ended, First, IdleLimits, Side};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// How long nothing may move, in milliseconds. How long a visitor may be idle is the edge's to say; this only bounds what
/// an edge leaves behind that vanished without a word.
pub const IDLE_MS_MAX: u64 = 7 * 24 * 3_600 * 1_000;

const LIMITS: IdleLimits = IdleLimits { open_ms: IDLE_MS_MAX, half_closed_ms: IDLE_MS_MAX };

/// How a relay ended early.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The visitor's side failed or was aborted.
    #[error("the visitor's side broke off: {0}")]
    Visitor(#[source] io::Error),
    /// The upstream's side failed or was aborted.
    #[error("the upstream broke off: {0}")]
    Upstream(#[source] io::Error),
    /// Nothing moved for [`IDLE_MS_MAX`].
    #[error("nothing moved for a week")]
    Idle,
}

/// Copies until both directions have ended in order, or one side breaks.
pub async fn relay<V, U>(visitor: &mut V, upstream: &mut U) -> Result<(), Broken>
where
    V: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    outcome(ebbgate_relay::copy(visitor, upstream, LIMITS).await)
}

/// Splices two sockets until both directions have ended in order, or one side breaks. `first` was read from the visitor
/// before.
pub async fn splice(visitor: &TcpStream, upstream: &TcpStream, first: Bytes) -> Result<(), Broken> {
    let first = First { to_agent: first, to_client: Bytes::new() };
    outcome(ebbgate_relay::splice(visitor, upstream, first, LIMITS).await)
}

fn outcome(ended: Ended) -> Result<(), Broken> {
    let error = ended.error.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into());
    match ended.end {
        End::Finished => Ok(()),
        End::Failed(Side::Client) => Err(Broken::Visitor(error)),
        End::Failed(Side::Agent) => Err(Broken::Upstream(error)),
        End::Idle | End::Expired => Err(Broken::Idle),
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadBuf};

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
}
