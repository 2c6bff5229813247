//! Drives a `Relay` over two tokio streams by copying through the thread's one scratch buffer.
//!
//! A connection owns memory only while its sink is blocked: what was read and could not be written at once. An idle
//! connection owns none.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Duration, Instant, sleep_until};

use crate::scratch;
use crate::state::{Ended, Limits, Next, Relay, Side};

/// Reads of one direction before other connections of the thread get their turn.
const TURNS_MAX: usize = 16;

/// Copies both ways until both ended, one failed or a limit was reached. Whoever drops the streams afterwards resets what
/// did not finish.
pub async fn copy<C, A>(client: &mut C, agent: &mut A, limits: impl Into<Limits>) -> Ended
where
    C: AsyncRead + AsyncWrite + Unpin,
    A: AsyncRead + AsyncWrite + Unpin,
{
    let started = Instant::now();
    let elapsed_ms = || u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let at = |ms: u64| started.checked_add(Duration::from_millis(ms)).unwrap_or(started);
    let mut relay = Relay::new(limits, 0);
    let (mut up, mut down) = (Direction::new(Side::Client), Direction::new(Side::Agent));
    let mut timer = pin!(sleep_until(at(relay.deadline_ms())));
    let mut error = None;
    let end = poll_fn(|cx| {
        loop {
            let now_ms = elapsed_ms();
            // The kernel tells of a reset once. A write that heard of it is followed by a read that sees an orderly end, so
            // nothing is read any more once a side has failed.
            let moved = up.poll(&mut relay, client, agent, now_ms, cx);
            if let Err((side, e)) = moved.and_then(|()| down.poll(&mut relay, agent, client, now_ms, cx)) {
                relay.fail(side);
                error.get_or_insert(e);
            }
            if let Some(end) = relay.end(now_ms) {
                return Poll::Ready(end);
            }
            // The timer is moved only when it fires: traffic pushes the deadline on without touching the timer wheel.
            ready!(timer.as_mut().poll(cx));
            timer.as_mut().reset(at(relay.deadline_ms()));
        }
    })
    .await;
    relay.ended(end, error)
}

/// One direction's leftovers.
struct Direction {
    source: Side,
    held: Bytes,
    flush: bool,
}

impl Direction {
    fn new(source: Side) -> Self {
        Self { source, held: Bytes::new(), flush: false }
    }

    /// Moves what can be moved now; the error names the side that failed.
    fn poll<R, W>(
        &mut self,
        relay: &mut Relay,
        from: &mut R,
        to: &mut W,
        now_ms: u64,
        cx: &mut Context<'_>,
    ) -> Result<(), (Side, io::Error)>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let (source, sink) = (self.source, self.source.other());
        for _ in 0..TURNS_MAX {
            let step = match relay.next(source) {
                Next::Read(_) => {
                    match self.poll_read(relay, from, to, now_ms, cx).map_err(|e| (source, e))? {
                        Poll::Ready(Ok(())) => Poll::Ready(()),
                        Poll::Ready(Err(e)) => return Err((sink, e)),
                        Poll::Pending => Poll::Pending,
                    }
                }
                Next::Write(_) => self.poll_write(relay, to, now_ms, cx).map_err(|e| (sink, e))?,
                Next::Finish(_) => match Pin::new(&mut *to).poll_shutdown(cx) {
                    // Not connected: the sink closed both directions already, and its own direction says how.
                    Poll::Ready(Err(e)) if e.kind() != io::ErrorKind::NotConnected => return Err((sink, e)),
                    Poll::Ready(_) => {
                        relay.finished(sink, now_ms);
                        Poll::Ready(())
                    }
                    Poll::Pending => Poll::Pending,
                },
                Next::Nothing => return Ok(()),
            };
            if step.is_pending() {
                return self.poll_flush(to, cx).map_err(|e| (sink, e));
            }
        }
        crate::turn::give_way(cx);
        Ok(())
    }

    /// Reads into the scratch buffer and writes from it at once; keeps what the sink does not take. The outer error is
    /// the source's, the inner one the sink's.
    fn poll_read<R, W>(
        &mut self,
        relay: &mut Relay,
        from: &mut R,
        to: &mut W,
        now_ms: u64,
        cx: &mut Context<'_>,
    ) -> io::Result<Poll<io::Result<()>>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        scratch::with(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            match Pin::new(from).poll_read(cx, &mut buffer) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(Err(e)) => return Err(e),
                Poll::Ready(Ok(())) => {}
            }
            let mut filled = buffer.filled();
            relay.read(self.source, filled.len(), now_ms);
            while !filled.is_empty() {
                match Pin::new(&mut *to).poll_write(cx, filled) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(0)) => return Ok(Poll::Ready(Err(io::ErrorKind::WriteZero.into()))),
                    Poll::Ready(Err(e)) => return Ok(Poll::Ready(Err(e))),
                    Poll::Ready(Ok(n)) => {
                        self.flush = true;
                        relay.wrote(self.source.other(), n, now_ms);
                        filled = filled.get(n..).unwrap_or_default();
                    }
                }
            }
            self.held = Bytes::copy_from_slice(filled);
            Ok(Poll::Ready(Ok(())))
        })
    }

    fn poll_write<W>(
        &mut self,
        relay: &mut Relay,
        to: &mut W,
        now_ms: u64,
        cx: &mut Context<'_>,
    ) -> io::Result<Poll<()>>
    where
        W: AsyncWrite + Unpin,
    {
        match Pin::new(to).poll_write(cx, &self.held) {
            Poll::Pending => Ok(Poll::Pending),
            Poll::Ready(Ok(0)) => Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(Err(e)) => Err(e),
            Poll::Ready(Ok(n)) => {
                self.flush = true;
                self.held.advance(n.min(self.held.len()));
                if self.held.is_empty() {
                    self.held = Bytes::new();
                }
                relay.wrote(self.source.other(), n, now_ms);
                Ok(Poll::Ready(()))
            }
        }
    }

    /// TLS and mux streams buffer what was written; nothing more comes now, so push it out.
    fn poll_flush<W>(&mut self, to: &mut W, cx: &mut Context<'_>) -> io::Result<()>
    where
        W: AsyncWrite + Unpin,
    {
        if self.flush
            && let Poll::Ready(flushed) = Pin::new(to).poll_flush(cx)
        {
            flushed?;
            self.flush = false;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{End, IdleLimits};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    const IDLE: IdleLimits = IdleLimits { open_ms: 60_000, half_closed_ms: 10_000 };

    #[tokio::test]
    async fn copies_both_ways_with_half_close_through_small_pipes() {
        let (mut visitor, mut client) = duplex(100);
        let (mut agent, mut upstream) = duplex(70);
        let question = vec![1u8; 50_000];
        let answer = vec![2u8; 80_000];
        let relay = copy(&mut client, &mut agent, IDLE);
        let walk = async {
            let (q, a) = (question.clone(), answer.clone());
            let ask = async {
                visitor.write_all(&q).await.unwrap();
                visitor.shutdown().await.unwrap();
                let mut got = Vec::new();
                visitor.read_to_end(&mut got).await.unwrap();
                got
            };
            let reply = async {
                let mut got = Vec::new();
                upstream.read_to_end(&mut got).await.unwrap();
                upstream.write_all(&a).await.unwrap();
                upstream.shutdown().await.unwrap();
                got
            };
            tokio::join!(ask, reply)
        };
        let (ended, (got_answer, got_question)) = tokio::join!(relay, walk);
        assert_eq!(ended.end, End::Finished);
        assert_eq!((got_answer, got_question), (answer, question));
        assert_eq!((ended.bytes_up, ended.bytes_down), (50_000, 80_000));
    }

    #[tokio::test(start_paused = true)]
    async fn ends_when_idle_and_not_before() {
        let (mut visitor, mut client) = duplex(100);
        let (mut agent, _upstream) = duplex(100);
        let walk = async {
            tokio::time::sleep(Duration::from_secs(50)).await;
            visitor.write_all(b"x").await.unwrap();
            Instant::now()
        };
        let (ended, moved) = tokio::join!(copy(&mut client, &mut agent, IDLE), walk);
        assert_eq!(ended.end, End::Idle);
        let idle = moved.elapsed();
        assert!(idle >= Duration::from_mins(1) && idle < Duration::from_secs(61), "{idle:?}");
    }

    #[tokio::test]
    async fn a_vanished_peer_is_named() {
        let (visitor, mut client) = duplex(10);
        let (mut agent, mut upstream) = duplex(1000);
        upstream.write_all(&[0; 500]).await.unwrap();
        drop(visitor);
        let ended = copy(&mut client, &mut agent, IDLE).await;
        assert_eq!(ended.end, End::Failed(Side::Client));
        assert!(ended.error.is_some());
    }
}
