//! Turns for agents' handshakes: an edge begins so many a second and no more, so that agents which come back together leave its
//! shards time for visitors. All shards share the turns.
//!
//! What decides is `turns`; this has the clock and waits.

pub mod turns;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::{Duration, Instant, sleep_until};

use super::listen::source;
use turns::{Turn, Turns};

/// Handshakes a second for each shard, unless the operator says otherwise; what one costs stands in docs/reliability.md.
pub const OF_SHARD_PER_SEC: u32 = 200;

/// There is no turn for a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("as many agents connect as this edge lets in; try again in {retry_after:?}")]
pub struct Busy {
    /// When its agent had better come again.
    pub retry_after: Duration,
}

/// See the module. Clones share the turns.
#[derive(Debug, Clone)]
pub struct Handshakes {
    turns: Arc<Mutex<Turns>>,
    start: Instant,
}

impl Handshakes {
    /// At most so many begin within any second.
    pub fn new(per_sec_max: u32) -> Self {
        Self { turns: Arc::new(Mutex::new(Turns::new(per_sec_max))), start: Instant::now() }
    }

    /// Waits for the turn of a handshake from `peer`, [`turns::WAIT_MS_MAX`] at most. Err at once: there is none. Cancel-safe: a
    /// turn that is given up is lost.
    pub async fn turn(&self, peer: IpAddr) -> Result<(), Busy> {
        let source = source(peer);
        let turn = self.turns().ask(self.start.elapsed(), source);
        match turn {
            Turn::Now => Ok(()),
            Turn::At(at) => {
                let _waiting = Waiting { of: self, source };
                sleep_until(self.start + at).await;
                Ok(())
            }
            Turn::Refused(retry_after) => Err(Busy { retry_after }),
        }
    }

    /// Time between two turns: agents that are asked to come one after the other at this pace find one each.
    pub fn pace(&self) -> Duration {
        self.turns().interval()
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of a source's handshakes that wait, until dropped.
struct Waiting<'a> {
    of: &'a Handshakes,
    source: IpAddr,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.of.turns().ended_waiting(self.source);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_turn_comes_and_one_that_is_given_up_makes_room_for_its_source() {
        let handshakes = Handshakes::new(turns::PER_SEC_MIN);
        let from = |n: u8| IpAddr::from([192, 0, 2, n]);
        let started = Instant::now();
        let mut waiting = Vec::new();
        let refused = loop {
            let mut turn = Box::pin(handshakes.turn(from(1)));
            match turn.as_mut().now_or_never() {
                Some(Ok(())) => {}
                None => waiting.push(turn),
                Some(Err(busy)) => break busy,
            }
        };
        assert!(refused.retry_after >= Duration::from_secs(1));
        assert_eq!(waiting.len(), 2, "a quarter of what waits at most");
        drop(waiting.pop());
        handshakes.turn(from(1)).await.unwrap();
        assert!(started.elapsed() > Duration::from_millis(100), "{:?}", started.elapsed());
    }
}
