//! Drives a `Relay` over two kernel sockets: small messages by recv and send through the thread's scratch buffer, bulk by
//! `splice(2)` through a pooled pipe, never both at once in one direction.
//!
//! Who waits for a blocked sink does not watch its source. An idle relay owns neither buffer nor pipe.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::time::{Duration, Instant, sleep_until};

use crate::kernel::Kernel;
use crate::pipe::Loan;
use crate::scratch::{self, READ_BYTES_MAX};
use crate::state::{Ended, Limits, Next, Relay, Side};

/// Bytes one direction moves before other connections of the thread get their turn.
const TURN_BYTES_MAX: usize = 1 << 20;
/// Steps of one direction before other connections get their turn, whatever they moved.
const TURN_STEPS_MAX: usize = 32;
/// A pipe that filled with fewer bytes did not pay: the direction goes back to copying.
const SPLICE_BYTES_MIN: usize = 8 << 10;

/// Bytes that were read from the two sockets before they were joined.
#[derive(Debug, Default)]
pub struct First {
    /// From the client.
    pub to_agent: Bytes,
    /// From the agent.
    pub to_client: Bytes,
}

/// Moves bytes both ways until both ended, one failed or a limit was reached. Whoever drops the sockets afterwards, at
/// once, resets what did not finish; closing what did finish is what sends the last end.
pub async fn splice<C, A>(client: &C, agent: &A, first: First, limits: impl Into<Limits>) -> Ended
where
    C: Kernel,
    A: Kernel,
{
    let started = Instant::now();
    let elapsed_ms = || u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let at = |ms: u64| started.checked_add(Duration::from_millis(ms)).unwrap_or(started);
    let mut relay = Relay::new(limits, 0);
    let mut up = Direction::new(Side::Client, first.to_agent, &mut relay);
    let mut down = Direction::new(Side::Agent, first.to_client, &mut relay);
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

/// What one direction holds, in one of the two places.
struct Direction {
    source: Side,
    copied: Bytes,
    piped: Option<Loan>,
    bulk: bool,
}

/// A failure and whose it is.
type Fault = (Side, io::Error);

impl Direction {
    fn new(source: Side, first: Bytes, relay: &mut Relay) -> Self {
        if !first.is_empty() {
            relay.read(source, first.len(), 0);
        }
        Self { source, copied: first, piped: None, bulk: false }
    }

    /// Moves what can be moved now.
    fn poll(
        &mut self,
        relay: &mut Relay,
        from: &impl Kernel,
        to: &impl Kernel,
        now_ms: u64,
        cx: &mut Context<'_>,
    ) -> Result<(), Fault> {
        let sink = self.source.other();
        let mut moved = 0;
        for _ in 0..TURN_STEPS_MAX {
            let step = match relay.next(self.source) {
                Next::Read(_) => self.poll_read(relay, from, to, now_ms, cx)?,
                Next::Write(_) => self.poll_write(relay, to, now_ms, cx).map_err(|e| (sink, e))?,
                Next::Finish(_) => {
                    // The last end goes with the close.
                    if relay.next(sink) != Next::Nothing {
                        finish(to).map_err(|e| (sink, e))?;
                    }
                    relay.finished(sink, now_ms);
                    return Ok(());
                }
                Next::Nothing => return Ok(()),
            };
            match step {
                Poll::Pending => return Ok(()),
                Poll::Ready(n) => moved += n,
            }
            if moved >= TURN_BYTES_MAX {
                break;
            }
        }
        crate::turn::give_way(cx);
        Ok(())
    }

    /// Reads once, and writes at once what was read; the bytes written, if the source had anything.
    fn poll_read(
        &mut self,
        relay: &mut Relay,
        from: &impl Kernel,
        to: &impl Kernel,
        now_ms: u64,
        cx: &mut Context<'_>,
    ) -> Result<Poll<usize>, Fault> {
        let source = self.source;
        match from.poll_readable(cx) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(ready) => ready.map_err(|e| (source, e))?,
        }
        match self.pipe() {
            Some(pipe) => self.pipe_through(pipe, relay, from, to, now_ms),
            None => self.copy_through(relay, from, to, now_ms),
        }
        .map(Poll::Ready)
    }

    /// A pipe, if one is wanted and to be had.
    fn pipe(&self) -> Option<Loan> {
        if self.bulk { Loan::take().ok() } else { None }
    }

    fn pipe_through(
        &mut self,
        mut pipe: Loan,
        relay: &mut Relay,
        from: &impl Kernel,
        to: &impl Kernel,
        now_ms: u64,
    ) -> Result<usize, Fault> {
        let Some(n) = unless_blocked(from.fill(pipe.pipe())).map_err(|e| (self.source, e))? else {
            return Ok(0);
        };
        self.check_end(n, relay, from)?;
        relay.read(self.source, n, now_ms);
        pipe.filled(n);
        self.bulk = n >= SPLICE_BYTES_MIN;
        if n == 0 {
            return Ok(0);
        }
        let moved = empty(&mut pipe, to).map_err(|e| (self.source.other(), e))?;
        relay.wrote(self.source.other(), moved, now_ms);
        self.piped = (pipe.held() > 0).then_some(pipe);
        Ok(moved)
    }

    /// Whether an end is one. The kernel tells of a reset once, and `splice(2)` to a socket keeps it to itself when it had
    /// sent something before: then the read that follows sees an end where there was none.
    fn check_end(&self, n: usize, relay: &Relay, from: &impl Kernel) -> Result<(), Fault> {
        if n > 0 || relay.has_finished(self.source) || from.is_connected() {
            return Ok(());
        }
        Err((self.source, io::ErrorKind::ConnectionReset.into()))
    }

    fn copy_through(
        &mut self,
        relay: &mut Relay,
        from: &impl Kernel,
        to: &impl Kernel,
        now_ms: u64,
    ) -> Result<usize, Fault> {
        scratch::with(|scratch| {
            let Some(n) = unless_blocked(from.recv(scratch)).map_err(|e| (self.source, e))? else {
                return Ok(0);
            };
            self.check_end(n, relay, from)?;
            relay.read(self.source, n, now_ms);
            self.bulk = n >= READ_BYTES_MAX;
            let read = scratch.get(..n).unwrap_or_default();
            if n == 0 {
                return Ok(0);
            }
            let moved = taken(to.send(read)).map_err(|e| (self.source.other(), e))?;
            relay.wrote(self.source.other(), moved, now_ms);
            let rest = read.get(moved..).unwrap_or_default();
            if !rest.is_empty() {
                self.copied = Bytes::copy_from_slice(rest);
            }
            Ok(moved)
        })
    }

    /// Writes what is held, as soon as the sink takes it; the bytes written.
    fn poll_write(
        &mut self,
        relay: &mut Relay,
        to: &impl Kernel,
        now_ms: u64,
        cx: &mut Context<'_>,
    ) -> io::Result<Poll<usize>> {
        match to.poll_writable(cx) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(ready) => ready?,
        }
        let moved = if let Some(pipe) = &mut self.piped {
            empty(pipe, to)?
        } else {
            let moved = taken(to.send(&self.copied))?;
            self.copied.advance(moved.min(self.copied.len()));
            moved
        };
        self.piped.take_if(|pipe| pipe.held() == 0);
        if self.copied.is_empty() {
            self.copied = Bytes::new();
        }
        if moved > 0 {
            relay.wrote(self.source.other(), moved, now_ms);
        }
        Ok(Poll::Ready(moved))
    }
}

/// Sends from a pipe what the sink takes at once.
fn empty(pipe: &mut Loan, to: &impl Kernel) -> io::Result<usize> {
    let moved = taken(to.drain(pipe.pipe(), pipe.held()))?;
    pipe.drained(moved);
    Ok(moved)
}

/// The bytes that a sink took; none when it is blocked.
fn taken(sent: io::Result<usize>) -> io::Result<usize> {
    match unless_blocked(sent)? {
        Some(0) => Err(io::ErrorKind::WriteZero.into()),
        moved => Ok(moved.unwrap_or(0)),
    }
}

/// Not connected: the sink closed both directions already, and reading it says how.
fn finish(to: &impl Kernel) -> io::Result<()> {
    match to.finish() {
        Err(e) if e.kind() != io::ErrorKind::NotConnected => Err(e),
        _ => Ok(()),
    }
}

fn unless_blocked(done: io::Result<usize>) -> io::Result<Option<usize>> {
    match done {
        Ok(n) => Ok(Some(n)),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod simulation;
