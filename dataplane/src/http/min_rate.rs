//! `MinRate`: whether a peer that is waited for moves bytes at a tolerable rate.
//!
//! Only time spent waiting for the peer counts, so a slow upstream never makes a visitor look slow. Catches both the
//! peer that stops and the one that drips. A peer that does so may be honest, so a few of a source are borne with for
//! longer; many are not.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use super::timer::Timer;
use crate::net::listen::{ConnLimits, ConnPermit, PeerKind};

/// How long a slow peer is borne with, and where it is counted.
#[derive(Debug, Clone)]
pub(super) struct SlowAllowance {
    window: Duration,
    slow: Arc<ConnLimits>,
    source: IpAddr,
}

impl SlowAllowance {
    /// Up to `window` with a peer at `source`, if `slow` has room for it.
    pub(super) fn new(window: Duration, slow: &Arc<ConnLimits>, source: IpAddr) -> Rc<Self> {
        Rc::new(Self { window, slow: slow.clone(), source })
    }
}

/// Watches one direction of one peer.
#[derive(Debug)]
pub(super) struct MinRate {
    window: Duration,
    bytes_min: u64,
    waited: Duration,
    waiting_since: Option<Instant>,
    bytes: u64,
    patience: Option<Rc<SlowAllowance>>,
    /// Counts the peer as slow.
    slow: Option<ConnPermit>,
}

impl MinRate {
    /// At least `bytes_min` in every `window` spent waiting.
    pub(super) fn new(window: Duration, bytes_min: u64) -> Self {
        let (waited, waiting_since) = (Duration::ZERO, None);
        Self { window, bytes_min, waited, waiting_since, bytes: 0, patience: None, slow: None }
    }

    /// The same for a peer that may be slow, if not too many are.
    pub(super) fn lenient(window: Duration, bytes_min: u64, patience: &Rc<SlowAllowance>) -> Self {
        Self { patience: Some(patience.clone()), ..Self::new(window, bytes_min) }
    }

    /// The peer is waited for. Gives the moment by which it is late if nothing more is said to have moved.
    pub(super) fn wait(&mut self, now: Instant) -> Instant {
        let since = *self.waiting_since.get_or_insert(now);
        let window = match (&self.slow, &self.patience) {
            (Some(_), Some(patience)) => patience.window.max(self.window),
            _ => self.window,
        };
        since + window.saturating_sub(self.waited)
    }

    /// The peer is late. Whether that is a stall; if not, it is waited for again.
    pub(super) fn has_stalled(&mut self) -> bool {
        let Some(patience) = self.patience.as_ref().filter(|_| self.slow.is_none()) else { return true };
        self.slow = patience.slow.admit(patience.source, PeerKind::Client).ok();
        self.slow.is_none()
    }

    /// Ready once the peer has stalled.
    pub(super) fn poll_stalled(&mut self, cx: &mut Context<'_>, timer: &mut Timer) -> Poll<()> {
        loop {
            ready!(timer.poll(cx, self.wait(Instant::now())));
            if self.has_stalled() {
                return Poll::Ready(());
            }
        }
    }

    /// The peer moved bytes.
    pub(super) fn moved(&mut self, now: Instant, bytes: usize) {
        if let Some(since) = self.waiting_since.take() {
            self.waited += now.duration_since(since);
        }
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        if self.bytes >= self.bytes_min {
            (self.waited, self.bytes, self.slow) = (Duration::ZERO, 0, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate() -> MinRate {
        MinRate::new(Duration::from_secs(10), 100)
    }

    #[test]
    fn a_few_slow_peers_of_a_source_are_borne_with_and_no_more() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let slow = ConnLimits::new(100, 2);
        let patience = SlowAllowance::new(Duration::from_secs(50), &slow, "192.0.2.1".parse().unwrap());
        let mut paces = [(); 3].map(|()| MinRate::lenient(Duration::from_secs(10), 100, &patience));
        for pace in &mut paces {
            assert_eq!(pace.wait(at(0)), at(10), "nobody is slow yet");
        }
        let [one, two, three] = &mut paces;
        assert!(!one.has_stalled() && !two.has_stalled());
        assert!(three.has_stalled(), "the source has two slow ones");
        assert_eq!((one.wait(at(10)), two.wait(at(10))), (at(50), at(50)));
        assert!(one.has_stalled(), "patience ends");
        two.moved(at(20), 100);
        assert!(!three.has_stalled(), "one of them moves again");
        let other = SlowAllowance::new(Duration::from_secs(50), &slow, "192.0.2.2".parse().unwrap());
        assert!(!MinRate::lenient(Duration::from_secs(10), 100, &other).has_stalled(), "another source");
    }

    #[test]
    fn silence_and_dripping_are_stalls_and_our_own_pauses_are_not() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);

        let mut silent = rate();
        assert_eq!(silent.wait(at(0)), at(10));
        assert_eq!(silent.wait(at(9)), at(10));

        let mut dripping = rate();
        for second in 0..9 {
            dripping.wait(at(second));
            dripping.moved(at(second + 1), 1);
        }
        assert_eq!(dripping.wait(at(9)), at(10));

        let mut steady = rate();
        for second in 0..100 {
            assert!(steady.wait(at(second)) > at(second + 1), "{second}");
            steady.moved(at(second + 1), 20);
        }

        let mut paused = rate();
        paused.wait(at(0));
        paused.moved(at(1), 1);
        assert_eq!(paused.wait(at(1_000)), at(1_009), "nobody waited in between");
    }
}
