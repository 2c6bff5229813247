//! How many raw connections to another edge are kept ready: none before a visitor could have used one, more as visitors come,
//! fewer again once they stay away. Pure.

use tokio::time::{Duration, Instant};

/// Connections kept ready where visitors come at all.
pub(super) const IDLE_MIN: usize = 4;
/// Connections kept ready at most.
pub(super) const IDLE_MAX: usize = 64;
/// Seconds after which what was not needed is given up.
const LOOK_SECS: u64 = 60;
/// Seconds without new connections after the first failure; it doubles with each.
const PAUSE_SECS_MIN: u64 = 1;
/// Seconds without new connections at most.
const PAUSE_SECS_MAX: u64 = 60;

/// See the module.
#[derive(Debug)]
pub(super) struct Demand {
    wanted: usize,
    /// Fewest that were idle since the last look.
    lowest: usize,
    /// Visitors since the last look.
    visitors: usize,
    looked: Instant,
    failures: u32,
    paused_until: Option<Instant>,
}

impl Demand {
    /// Nobody has come yet.
    pub(super) fn new(now: Instant) -> Self {
        Self { wanted: 0, lowest: 0, visitors: 0, looked: now, failures: 0, paused_until: None }
    }

    /// A visitor found none.
    pub(super) fn missed(&mut self) {
        self.visitors += 1;
        self.lowest = 0;
        self.wanted = (self.wanted * 2).clamp(IDLE_MIN, IDLE_MAX);
    }

    /// A visitor took one, and so many are left.
    pub(super) fn taken(&mut self, left: usize) {
        self.visitors += 1;
        self.lowest = self.lowest.min(left);
    }

    /// A connection did not come about, or served nobody. Those that fail during the pause count no more.
    pub(super) fn failed(&mut self, now: Instant) {
        if self.paused_until(now).is_some() {
            return;
        }
        let secs = PAUSE_SECS_MIN.saturating_mul(1 << self.failures.min(6)).min(PAUSE_SECS_MAX);
        self.failures = self.failures.saturating_add(1);
        self.paused_until = Some(now + Duration::from_secs(secs));
    }

    /// A connection serves a visitor.
    pub(super) fn served(&mut self) {
        (self.failures, self.paused_until) = (0, None);
    }

    /// How many are to be ready; `idle` are. After a failure one, until it serves.
    pub(super) fn wanted(&mut self, now: Instant, idle: usize) -> usize {
        if now.saturating_duration_since(self.looked) >= Duration::from_secs(LOOK_SECS) {
            let least = if self.visitors > 0 { IDLE_MIN } else { 0 };
            self.wanted = self.wanted.saturating_sub(self.lowest).max(least.min(self.wanted));
            (self.visitors, self.looked, self.lowest) = (0, now, idle);
        }
        if self.failures > 0 { self.wanted.min(1) } else { self.wanted }
    }

    /// Until when none is to be made.
    pub(super) fn paused_until(&self, now: Instant) -> Option<Instant> {
        self.paused_until.filter(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, secs: u64) -> Instant {
        start + Duration::from_secs(secs)
    }

    #[test]
    fn none_before_the_first_visitor_and_none_after_the_last() {
        let start = Instant::now();
        let mut demand = Demand::new(start);
        assert_eq!(demand.wanted(at(start, 1), 0), 0);
        demand.missed();
        assert_eq!(demand.wanted(at(start, 2), 0), IDLE_MIN);
        demand.missed();
        assert_eq!(demand.wanted(at(start, 3), 0), 2 * IDLE_MIN);
        for _ in 0..20 {
            demand.missed();
        }
        assert_eq!(demand.wanted(at(start, 4), 0), IDLE_MAX);
        // A minute in which one went, and one in which none did.
        assert_eq!(demand.wanted(at(start, 60), IDLE_MAX), IDLE_MAX, "what visitors just wanted stays");
        demand.taken(IDLE_MAX - 1);
        assert_eq!(demand.wanted(at(start, 120), IDLE_MAX), IDLE_MIN);
        assert_eq!(demand.wanted(at(start, 180), IDLE_MIN), 0);
    }

    #[test]
    fn what_was_needed_at_once_is_kept() {
        let start = Instant::now();
        let mut demand = Demand::new(start);
        for _ in 0..5 {
            demand.missed();
        }
        assert_eq!(demand.wanted(at(start, 60), 64), 64);
        demand.taken(50);
        demand.taken(40);
        demand.taken(60);
        assert_eq!(demand.wanted(at(start, 120), 64), 24, "40 were never needed");
    }

    #[test]
    fn failures_pause_longer_each_time_until_one_serves() {
        let start = Instant::now();
        let mut demand = Demand::new(start);
        let mut now = start;
        for secs in [1, 2, 4, 8, 16, 32, 60, 60] {
            demand.failed(now);
            assert_eq!(demand.paused_until(now), Some(at(now, secs)));
            demand.failed(now);
            assert_eq!(demand.paused_until(now), Some(at(now, secs)), "those that fail together count once");
            now = at(now, secs);
            assert_eq!(demand.paused_until(now), None);
        }
        demand.served();
        assert_eq!(demand.paused_until(now), None);
        demand.failed(now);
        assert_eq!(demand.paused_until(now), Some(at(now, 1)));
    }

    #[test]
    fn after_a_failure_one_is_tried_until_it_serves() {
        let start = Instant::now();
        let mut demand = Demand::new(start);
        demand.failed(start);
        assert_eq!(demand.wanted(at(start, 1), 0), 0, "nobody wants one");
        demand.missed();
        demand.missed();
        assert_eq!(demand.wanted(at(start, 2), 0), 1);
        demand.served();
        assert_eq!(demand.wanted(at(start, 3), 1), 2 * IDLE_MIN);
    }
}
