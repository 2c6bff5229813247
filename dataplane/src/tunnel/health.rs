//! `Health`: whether new work may go to an endpoint, from all that is known against it. An upstream that was refused is set
//! aside at once and tried again with backoff, one stream at a time; one that fails its agent's checks waits until they pass;
//! one that answered too many errors, or too slowly, is ejected for a while. One that an operator drains waits until that is taken back.
//!
//! Decides from what streams and agents report and from the time, which is an argument. Does not know pools or streams.

mod outlier;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ebbgate_model::feed::{Drain, HealthReport, HealthState};
use tokio::time::{Duration, Instant};

use outlier::{Outlier, Pace};
pub use outlier::{OutlierLimits, UpstreamAnswer};

/// Milliseconds until the first trial of an upstream that was refused. Each trial that fails doubles the wait.
pub const FIRST_TRIAL_MS: u64 = 500;
/// Milliseconds between trials at most.
pub const TRIAL_WAIT_MS_MAX: u64 = 30_000;
/// Milliseconds a trial may be due before work that cannot be repeated may begin it too.
pub const OVERDUE_MS: u64 = 5_000;
/// Why a drained endpoint gets no new work, as the API says it.
const DRAINED: &str = "an operator drains it: it gets new work only while no other member can have it";
/// Doublings from the first wait to beyond the longest.
const DOUBLINGS_MAX: u32 = 6;

/// Whether new work may go to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its upstream is reached, as far as is known.
    Good,
    /// The same, and it gets its share little by little: [`Health::takes_turn`].
    Starting,
    /// It was set aside, and one stream may try it now that can be repeated elsewhere.
    Due,
    /// No such stream has come for long: any may try it.
    Overdue,
    /// It is set aside, unhealthy or ejected.
    Aside,
    /// An operator keeps new work from it, and nothing else is known against it.
    Drained,
    /// An operator keeps new work from it, and something else is known against it too.
    DrainedAside,
}

/// What is known against an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Against {
    /// Its agent could not reach the upstream.
    Refused,
    /// Its agent's checks fail.
    Checks,
    /// It answered too many errors, or too slowly.
    Errors,
    /// An operator wants no new work there.
    Drain,
}

/// What became of something that is known against an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// It is known from now on.
    Begins,
    /// It holds no longer.
    Ends,
    /// It held until the endpoint went.
    Gone,
}

/// Hears what is known against the endpoint, whenever that changes.
type OnChange = Box<dyn Fn(Against, News) + Send + Sync>;

/// See the module. Shared by every policy the endpoint is served under.
pub struct Health {
    /// Mirrors whether `known` has anything that matters, for reads without a lock.
    is_doubted: AtomicBool,
    /// Mirrors whether errors in a row are counted, for reads without a lock.
    has_errors: AtomicBool,
    known: Mutex<Known>,
    slow_start: Duration,
    on_change: OnChange,
}

#[derive(Debug, Default)]
struct Known {
    aside: Option<Aside>,
    checked: Option<Checked>,
    drain: Drain,
    outlier: Outlier,
    /// Why it was ejected.
    errors: String,
    pace: Option<Pace>,
}

/// What its agent's checks came to.
#[derive(Debug)]
struct Checked {
    healthy: bool,
    check: String,
    reason: String,
    since: Instant,
}

impl Known {
    fn is_unhealthy(&self) -> bool {
        self.checked.as_ref().is_some_and(|checked| !checked.healthy)
    }

    fn against(&self) -> impl Iterator<Item = Against> {
        let all = [
            (self.aside.is_some(), Against::Refused),
            (self.is_unhealthy(), Against::Checks),
            (self.outlier.is_open(), Against::Errors),
            (self.drain.drained, Against::Drain),
        ];
        all.into_iter().filter_map(|(holds, against)| holds.then_some(against))
    }
}

/// An endpoint that is set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Aside {
    /// Since when.
    since: Instant,
    /// Trials that failed since it was set aside.
    failed: u32,
    /// When the next trial may begin.
    until: Instant,
    /// Whether a trial is under way.
    on_trial: bool,
}

impl Aside {
    fn first(now: Instant) -> Self {
        Self { since: now, failed: 0, until: now + wait(0), on_trial: false }
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
        Self { failed, until: now + wait(failed), on_trial: false, ..self }
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
        Self::new(Duration::ZERO, Box::new(|_, _| {}))
    }
}

impl Health {
    /// Good; `on_change` hears what is known against it. One that comes back takes `slow_start` to get its whole share.
    pub fn new(slow_start: Duration, on_change: OnChange) -> Self {
        let known = Mutex::default();
        let (is_doubted, has_errors) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { is_doubted, has_errors, known, slow_start, on_change }
    }

    /// Begins a slow start: the endpoint is new.
    #[must_use]
    pub fn starting(self, now: Instant) -> Self {
        self.change(now, |known| known.pace = Pace::begin(now, self.slow_start));
        self
    }

    /// Whether new work may go to the endpoint.
    pub fn standing(&self, now: Instant) -> Standing {
        if !self.is_doubted.load(Ordering::Acquire) {
            return Standing::Good;
        }
        let known = self.held();
        let is_out = known.is_unhealthy() || known.outlier.ejected(now).is_some();
        if known.drain.drained {
            return if is_out || known.aside.is_some() { Standing::DrainedAside } else { Standing::Drained };
        }
        match (&known.aside, &known.pace) {
            _ if is_out => Standing::Aside,
            (Some(aside), _) => aside.standing(now),
            (None, Some(pace)) if !pace.is_over(now) => Standing::Starting,
            (None, _) => Standing::Good,
        }
    }

    /// Whether the endpoint is set aside since its agent could not reach the upstream, be it due for a trial or not.
    pub fn is_aside(&self) -> bool {
        self.is_doubted.load(Ordering::Acquire) && self.held().aside.is_some()
    }

    /// Whether it is ejected.
    pub fn is_ejected(&self, now: Instant) -> bool {
        self.is_doubted.load(Ordering::Acquire) && self.held().outlier.ejected(now).is_some()
    }

    /// Begins a trial. False: it is not due, or another stream was faster.
    pub fn begin_trial(&self, now: Instant) -> bool {
        let mut held = self.held();
        let due = held.aside.filter(|aside| aside.standing(now) != Standing::Aside);
        if let Some(aside) = due {
            held.aside = Some(aside.on_trial(now));
        }
        due.is_some()
    }

    /// Whether an endpoint that starts slowly takes this turn.
    pub fn takes_turn(&self, now: Instant) -> bool {
        let mut held = self.held();
        held.pace.take_if(|pace| pace.is_over(now));
        held.pace.as_mut().is_none_or(|pace| pace.takes(now))
    }

    /// The agent said that it could not reach the upstream.
    pub fn refused(&self, now: Instant) {
        self.change(now, |known| {
            let before = known.aside;
            known.aside = Some(before.map_or_else(|| Aside::first(now), |aside| aside.refused(now)));
        });
    }

    /// The upstream answered.
    pub fn answered(&self, now: Instant) {
        if self.is_aside() {
            self.change(now, |known| known.aside = None);
        }
    }

    /// The agent said what its checks come to. True: that changes what is reported, and the endpoint's listener did not hear of it.
    pub fn checked(&self, now: Instant, healthy: bool, check: String, reason: String) -> bool {
        let mut is_new = false;
        let is_heard = self.change(now, |known| {
            let same = known.checked.as_ref().filter(|before| before.healthy == healthy);
            is_new = same.is_none_or(|before| before.check != check || before.reason != reason);
            let since = same.map_or(now, |before| before.since);
            known.checked = Some(Checked { healthy, check, reason, since });
        });
        is_new && !is_heard
    }

    /// The agent's own edge said what the checks come to.
    pub fn told(&self, now: Instant, healthy: bool) {
        if self.held().is_unhealthy() == healthy {
            self.checked(now, healthy, String::new(), String::new());
        }
    }

    /// Takes an operator's word, unless a later one is known.
    pub fn set_drain(&self, now: Instant, drain: Drain) {
        self.change(now, |known| known.drain = known.drain.max(drain));
    }

    /// Whether its agent's checks fail.
    pub fn is_unhealthy(&self) -> bool {
        self.is_doubted.load(Ordering::Acquire) && self.held().is_unhealthy()
    }

    /// An operator's last word.
    pub fn drain(&self) -> Drain {
        self.held().drain
    }

    /// Takes what a request came to. True: the endpoint is to be ejected, if its pool can do without it.
    pub fn noted(&self, answer: UpstreamAnswer, limits: &OutlierLimits) -> bool {
        if !limits.count_answers() || (limits.is_good(answer) && !self.has_errors.load(Ordering::Relaxed)) {
            return false;
        }
        let mut held = self.held();
        let why = held.outlier.note(answer, limits);
        self.has_errors.store(!held.outlier.is_clean(), Ordering::Relaxed);
        let wants = why.is_some() && !held.outlier.is_open();
        if let Some(why) = why {
            held.errors = why;
        }
        wants
    }

    /// Ejects the endpoint; gives the time at which [`Health::settle`] is due.
    pub fn eject(&self, now: Instant, limits: &OutlierLimits) -> Instant {
        let mut until = now;
        self.change(now, |known| until = known.outlier.eject(now, limits));
        self.has_errors.store(false, Ordering::Relaxed);
        until
    }

    /// Ends an ejection that has lasted its time.
    pub fn settle(&self, now: Instant) {
        self.change(now, |known| _ = known.outlier.settle(now));
    }

    /// What the API shows, where it is `unix_ms` now.
    pub fn report(&self, now: Instant, unix_ms: i64) -> HealthReport {
        let known = self.held();
        let check = known.checked.as_ref().map(|checked| checked.check.clone()).unwrap_or_default();
        let told = |state, since: Instant, reason: &str| {
            let ago_ms = i64::try_from(now.saturating_duration_since(since).as_millis()).unwrap_or(i64::MAX);
            // The nearest second: the two clocks are not read at the same instant.
            let since = unix_ms.saturating_sub(ago_ms).saturating_add(500) / 1000;
            HealthReport { state, since, reason: reason.to_owned(), check: check.clone() }
        };
        let unreachable = "the agent could not reach the upstream for a visitor";
        if known.drain.drained {
            let (since, reason) = (known.drain.at_ms / 1000, DRAINED.to_owned());
            return HealthReport { state: HealthState::Drained, since, reason, check };
        }
        match (&known.checked, known.outlier.ejected(now), known.aside) {
            (Some(checked), ..) if !checked.healthy => {
                told(HealthState::Unhealthy, checked.since, &checked.reason)
            }
            (_, Some(ejection), _) => told(HealthState::Ejected, ejection.since, &known.errors),
            (_, None, Some(aside)) => told(HealthState::Unreachable, aside.since, unreachable),
            (Some(checked), None, None) => told(HealthState::Healthy, checked.since, ""),
            (None, None, None) => HealthReport::default(),
        }
    }

    /// Changes what is known, and tells what is new; gives whether anything was. What was out and is back starts slowly.
    fn change(&self, now: Instant, change: impl FnOnce(&mut Known)) -> bool {
        let (before, after) = {
            let mut known = self.held();
            let before: Vec<_> = known.against().collect();
            change(&mut known);
            let after: Vec<_> = known.against().collect();
            if !before.is_empty() && after.is_empty() {
                known.pace = Pace::begin(now, self.slow_start);
            }
            self.is_doubted.store(!after.is_empty() || known.pace.is_some(), Ordering::Release);
            (before, after)
        };
        let all = [Against::Refused, Against::Checks, Against::Errors, Against::Drain];
        let news = all.into_iter().filter(|against| before.contains(against) != after.contains(against));
        let mut is_heard = false;
        for against in news {
            is_heard = true;
            (self.on_change)(against, if after.contains(&against) { News::Begins } else { News::Ends });
        }
        is_heard
    }

    fn held(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        let all: Vec<_> = self.held().against().collect();
        for against in all {
            (self.on_change)(against, News::Gone);
        }
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").field("known", &*self.held()).finish_non_exhaustive()
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
        health.answered(start);
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
        let health = Health::new(
            Duration::ZERO,
            Box::new(move |against, news| {
                assert_eq!(against, Against::Refused);
                match news {
                    News::Begins => counted.fetch_add(1, Ordering::Relaxed),
                    News::Ends | News::Gone => counted.fetch_sub(1, Ordering::Relaxed),
                };
            }),
        );
        let now = Instant::now();
        health.refused(now);
        health.refused(now + ms(700));
        assert_eq!(aside.load(Ordering::Relaxed), 1);
        health.answered(now);
        health.answered(now);
        assert_eq!(aside.load(Ordering::Relaxed), 0);
        health.refused(now);
        drop(health);
        assert_eq!(aside.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn failing_checks_outlast_what_visitors_see() {
        let (health, start) = (Health::default(), Instant::now());
        let told = |now: Instant| {
            let report = health.report(now, 1_000_100_200);
            (report.state, report.since, report.reason, report.check)
        };
        assert_eq!(told(start), (HealthState::Unknown, 0, String::new(), String::new()));
        health.checked(start, true, "http".into(), String::new());
        let later = start + ms(40_000);
        assert_eq!(told(later), (HealthState::Healthy, 1_000_060, String::new(), "http".into()));
        health.checked(later, false, "http".into(), "503".into());
        health.checked(later + ms(10_000), false, "http".into(), "no answer".into());
        health.refused(later);
        health.answered(later);
        let after = later + ms(60_000);
        assert_eq!(health.standing(after), Standing::Aside, "no trial of visitors either");
        assert_eq!(told(after), (HealthState::Unhealthy, 1_000_040, "no answer".into(), "http".into()));
        health.checked(after, true, "http".into(), String::new());
        assert_eq!(health.standing(after), Standing::Good);
    }

    #[test]
    fn a_drain_stands_in_front_of_everything_and_its_end_is_slow() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&heard);
        let on_change = Box::new(move |against, holds| told.lock().unwrap().push((against, holds)));
        let (health, start) = (Health::new(ms(10_000), on_change), Instant::now());
        assert!(health.checked(start, true, "http".into(), String::new()), "a first verdict is news");
        assert!(!health.checked(start, true, "http".into(), String::new()), "the same again is none");
        let drained = Drain { at_ms: 7_900, drained: true };
        health.set_drain(start, drained);
        assert_eq!((health.standing(start), health.drain()), (Standing::Drained, drained));
        assert!(!health.checked(start, false, "http".into(), "503".into()), "its listener has heard of it");
        assert_eq!(health.standing(start), Standing::DrainedAside);
        let report = health.report(start, 60_000);
        assert_eq!((report.state, report.since, report.check.as_str()), (HealthState::Drained, 7, "http"));
        assert_eq!(report.reason, DRAINED);
        let back = Drain { at_ms: 9_000, drained: false };
        health.set_drain(start, back);
        for earlier in [drained, Drain::default()] {
            health.set_drain(start, earlier);
            assert_eq!(health.drain(), back, "a later word holds");
        }
        assert_eq!(
            (health.standing(start), health.report(start, 0).state),
            (Standing::Aside, HealthState::Unhealthy)
        );
        health.told(start, true);
        assert_eq!((health.standing(start), health.drain()), (Standing::Starting, back));
        let expect = [
            (Against::Drain, News::Begins),
            (Against::Checks, News::Begins),
            (Against::Drain, News::Ends),
            (Against::Checks, News::Ends),
        ];
        assert_eq!(*heard.lock().unwrap(), expect);
    }

    #[test]
    fn a_run_of_errors_ejects_for_a_time_and_the_return_is_slow() {
        let limits = OutlierLimits {
            consecutive_5xx: 2,
            slow_start: ms(10_000),
            ejection: ms(5_000),
            ..OutlierLimits::default()
        };
        let (health, start) = (Health::new(limits.slow_start, Box::new(|_, _| {})), Instant::now());
        let status = |status| UpstreamAnswer::Status { status, waited: None };
        assert!(!health.noted(status(500), &limits));
        assert!(!health.noted(status(200), &limits));
        assert!(!health.noted(status(500), &limits));
        assert!(health.noted(UpstreamAnswer::None, &limits));
        let until = health.eject(start, &limits);
        assert_eq!((until, health.standing(start)), (start + ms(5_000), Standing::Aside));
        assert_eq!(health.report(start, 7_000).state, HealthState::Ejected);
        assert!(!health.noted(status(500), &limits) && !health.noted(status(500), &limits));
        health.settle(until);
        assert_eq!(health.standing(until), Standing::Starting);
        assert_eq!((0..100).filter(|_| health.takes_turn(until + ms(5_000))).count(), 50);
        assert_eq!(health.standing(until + ms(10_000)), Standing::Good);
        assert_eq!(health.report(until, 7_000).state, HealthState::Unknown);
    }

    #[test]
    fn a_new_endpoint_starts_slowly_where_that_is_asked_for() {
        let now = Instant::now();
        let health = |slow| Health::new(ms(slow), Box::new(|_, _| {})).starting(now);
        assert_eq!(health(0).standing(now), Standing::Good);
        assert_eq!(health(1_000).standing(now), Standing::Starting);
        assert_eq!(health(1_000).standing(now + ms(1_000)), Standing::Good);
    }
}
