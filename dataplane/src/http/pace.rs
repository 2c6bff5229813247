//! `Pace`: whether a peer that is waited for moves bytes at a tolerable rate.
//!
//! Only time spent waiting for the peer counts, so a slow upstream never makes a visitor look slow. Catches both the
//! peer that stops and the one that drips. Pure: the clock is an argument.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

/// Watches one direction of one peer.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    window: Duration,
    bytes_min: u64,
    waited: Duration,
    waiting_since: Option<Instant>,
    bytes: u64,
}

impl Pace {
    /// At least `bytes_min` in every `window` spent waiting.
    pub(super) fn new(window: Duration, bytes_min: u64) -> Self {
        Self { window, bytes_min, waited: Duration::ZERO, waiting_since: None, bytes: 0 }
    }

    /// The peer is waited for. Gives the moment by which it has stalled if nothing more is said to have moved.
    pub(super) fn wait(&mut self, now: Instant) -> Instant {
        let since = *self.waiting_since.get_or_insert(now);
        since + self.window.saturating_sub(self.waited)
    }

    /// The peer moved bytes.
    pub(super) fn moved(&mut self, now: Instant, bytes: usize) {
        if let Some(since) = self.waiting_since.take() {
            self.waited += now.duration_since(since);
        }
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        if self.bytes >= self.bytes_min {
            (self.waited, self.bytes) = (Duration::ZERO, 0);
        }
    }
}

/// Whether a peer may rest as long as its exchange does. Shared by whoever reads from the peer and whoever finds out
/// later whom it talks to; no until then.
#[derive(Debug, Clone, Default)]
pub(super) struct Leisure(Rc<Cell<bool>>);

impl Leisure {
    /// From now on it may, or may not.
    pub(super) fn set(&self, may_rest: bool) {
        self.0.set(may_rest);
    }

    /// Whether it may.
    pub(super) fn may_rest(&self) -> bool {
        self.0.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace() -> Pace {
        Pace::new(Duration::from_secs(10), 100)
    }

    #[test]
    fn silence_and_dripping_are_stalls_and_our_own_pauses_are_not() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);

        let mut silent = pace();
        assert_eq!(silent.wait(at(0)), at(10));
        assert_eq!(silent.wait(at(9)), at(10));

        let mut dripping = pace();
        for second in 0..9 {
            dripping.wait(at(second));
            dripping.moved(at(second + 1), 1);
        }
        assert_eq!(dripping.wait(at(9)), at(10));

        let mut steady = pace();
        for second in 0..100 {
            assert!(steady.wait(at(second)) > at(second + 1), "{second}");
            steady.moved(at(second + 1), 20);
        }

        let mut paused = pace();
        paused.wait(at(0));
        paused.moved(at(1), 1);
        assert_eq!(paused.wait(at(1_000)), at(1_009), "nobody waited in between");
    }
}
