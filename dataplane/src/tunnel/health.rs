//! `Health`: whether an endpoint's agent reaches its upstream. One that was refused is set aside at once and tried again
//! with backoff, one stream at a time.
//!
//! Decides from what streams report and from the time, which is an argument. Does not know pools or streams.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::{Duration, Instant};

/// Milliseconds until the first trial of an upstream that was refused. Each trial that fails doubles the wait.
pub const FIRST_TRIAL_MS: u64 = 500;
/// Milliseconds between trials at most.
pub const TRIAL_WAIT_MS_MAX: u64 = 30_000;
/// Milliseconds a trial may be due before work that cannot be repeated may begin it too.
pub const OVERDUE_MS: u64 = 5_000;
/// Doublings from the first wait to beyond the longest.
const DOUBLINGS_MAX: u32 = 6;

/// Whether new work may go to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its upstream is reached, as far as is known.
    Good,
    /// It was set aside, and one stream may try it now that can be repeated elsewhere.
    Due,
    /// No such stream has come for long: any may try it.
    Overdue,
    /// It is set aside.
    Aside,
}

/// Hears whether the endpoint is set aside, whenever that changes.
type OnChange = Box<dyn Fn(bool) + Send + Sync>;

/// See the module. Shared by every policy the endpoint is served under.
pub struct Health {
    /// Mirrors `aside`, for reads without a lock.
    is_aside: AtomicBool,
    aside: Mutex<Option<Aside>>,
    on_change: OnChange,
}

/// An endpoint that is set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Aside {
    /// Trials that failed since it was set aside.
    failed: u32,
    /// When the next trial may begin.
    until: Instant,
    /// Whether a trial is under way.
    on_trial: bool,
}

impl Aside {
    fn first(now: Instant) -> Self {
        Self { failed: 0, until: now + wait(0), on_trial: false }
    }

    fn standing(&self, now: Instant) -> Standing {
        let late = now.saturating_duration_since(self.until);
        if now < self.until {
            Standing::Aside
        } else if late < Duration::from_millis(OVERDUE_MS) {
            Standing::Due
        } else {
            Standing::Overdue
        }
    }

    /// Its upstream was refused again. Streams that began before it was set aside say nothing new.
    fn refused(self, now: Instant) -> Self {
        if !self.on_trial && now < self.until {
            return self;
        }
        let failed = self.failed.saturating_add(1);
        Self { failed, until: now + wait(failed), on_trial: false }
    }

    /// One stream tries it. Should nothing be heard of the trial, the next may begin one wait later.
    fn on_trial(self, now: Instant) -> Self {
        Self { until: now + wait(self.failed), on_trial: true, ..self }
    }
}

/// How long an endpoint rests after so many failed trials.
fn wait(failed: u32) -> Duration {
    Duration::from_millis((FIRST_TRIAL_MS << failed.min(DOUBLINGS_MAX)).min(TRIAL_WAIT_MS_MAX))
}

impl Default for Health {
    fn default() -> Self {
        Self::new(Box::new(|_| {}))
    }
}

impl Health {
    /// Good; `on_change` hears whether it is set aside.
    pub fn new(on_change: OnChange) -> Self {
        Self { is_aside: AtomicBool::new(false), aside: Mutex::new(None), on_change }
    }

    /// Whether new work may go to the endpoint.
    pub fn standing(&self, now: Instant) -> Standing {
        if !self.is_aside() {
            return Standing::Good;
        }
        self.held().as_ref().map_or(Standing::Good, |aside| aside.standing(now))
    }

    /// Whether the endpoint is set aside, be it due for a trial or not.
    pub fn is_aside(&self) -> bool {
        self.is_aside.load(Ordering::Acquire)
    }

    /// Begins a trial. False: it is not due, or another stream was faster.
    pub fn begin_trial(&self, now: Instant) -> bool {
        let mut held = self.held();
        let due = held.filter(|aside| aside.standing(now) != Standing::Aside);
        if let Some(aside) = due {
            *held = Some(aside.on_trial(now));
        }
        due.is_some()
    }

    /// The agent said that it could not reach the upstream.
    pub fn refused(&self, now: Instant) {
        let mut held = self.held();
        let before = *held;
        *held = Some(before.map_or_else(|| Aside::first(now), |aside| aside.refused(now)));
        if before.is_none() {
            self.is_aside.store(true, Ordering::Release);
            (self.on_change)(true);
        }
    }

    /// The upstream answered.
    pub fn answered(&self) {
        if !self.is_aside() {
            return;
        }
        let mut held = self.held();
        if held.take().is_some() {
            self.is_aside.store(false, Ordering::Release);
            (self.on_change)(false);
        }
    }

    fn held(&self) -> MutexGuard<'_, Option<Aside>> {
        self.aside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        if self.is_aside() {
            (self.on_change)(false);
        }
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").field("aside", &*self.held()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn waits_double_up_to_a_limit() {
        let waits: Vec<u64> = (0..9).map(|n| u64::try_from(wait(n).as_millis()).unwrap()).collect();
        assert_eq!(waits, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
    }

    #[test]
    fn set_aside_at_once_and_tried_by_one_stream_at_a_time() {
        let (health, start) = (Health::default(), Instant::now());
        assert_eq!((health.standing(start), health.begin_trial(start)), (Standing::Good, false));
        health.refused(start);
        assert_eq!(health.standing(start), Standing::Aside);
        // Streams that were under way with the first one.
        health.refused(start + ms(10));
        let due = start + ms(FIRST_TRIAL_MS);
        assert_eq!(health.standing(due - ms(1)), Standing::Aside);
        assert_eq!(health.standing(due), Standing::Due);
        assert!(health.begin_trial(due));
        assert!(!health.begin_trial(due));
        assert_eq!(health.standing(due), Standing::Aside);
        health.refused(due + ms(1));
        let due = due + ms(1 + 2 * FIRST_TRIAL_MS);
        assert_eq!(health.standing(due - ms(1)), Standing::Aside);
        assert!(health.begin_trial(due));
        health.answered();
        assert_eq!(health.standing(due), Standing::Good);
        health.refused(due);
        assert_eq!(health.standing(due + ms(FIRST_TRIAL_MS)), Standing::Due, "backoff begins anew");
    }

    #[test]
    fn a_trial_that_nobody_begins_is_open_to_all_in_the_end() {
        let (health, start) = (Health::default(), Instant::now());
        health.refused(start);
        let late = start + ms(FIRST_TRIAL_MS + OVERDUE_MS);
        assert_eq!(health.standing(late - ms(1)), Standing::Due);
        assert_eq!(health.standing(late), Standing::Overdue);
        assert!(health.begin_trial(late));
        assert_eq!(health.standing(late), Standing::Aside);
    }

    #[test]
    fn a_trial_that_says_nothing_is_followed_by_another() {
        let (health, start) = (Health::default(), Instant::now());
        health.refused(start);
        assert!(health.begin_trial(start + ms(FIRST_TRIAL_MS)));
        assert!(health.begin_trial(start + ms(2 * FIRST_TRIAL_MS)));
    }

    #[test]
    fn changes_are_told_once_and_the_end_takes_them_back() {
        let aside = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&aside);
        let health = Health::new(Box::new(move |is_aside| {
            if is_aside {
                counted.fetch_add(1, Ordering::Relaxed);
            } else {
                counted.fetch_sub(1, Ordering::Relaxed);
            }
        }));
        let now = Instant::now();
        health.refused(now);
        health.refused(now + ms(700));
        assert_eq!(aside.load(Ordering::Relaxed), 1);
        health.answered();
        health.answered();
        assert_eq!(aside.load(Ordering::Relaxed), 0);
        health.refused(now);
        drop(health);
        assert_eq!(aside.load(Ordering::Relaxed), 0);
    }
}
