//! `Outlier`: an endpoint that answers too many requests in a row with errors, or too slowly, is ejected for a while, longer
//! each time. Pure.
//!
//! Does not know how many others of a pool are ejected: its owner asks before it ejects.

use tokio::time::{Duration, Instant};

/// Longest time of one ejection, in times the first one's.
const EJECTIONS_MAX: u32 = 10;
/// One turn, in the parts that a slow start counts by.
const TURN: u128 = 1_000;
/// Part of its turns that an endpoint takes at least while it starts slowly.
const START_PART: u128 = TURN / 10;

/// When an endpoint is ejected, and how it comes back. All zero: never, and with its whole share at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutlierLimits {
    /// Answers of 500 and above in a row; 0: any number.
    pub consecutive_5xx: u32,
    /// Answers of 502, 503 and 504, and requests without an answer, in a row; 0: any number.
    pub consecutive_gateway_failures: u32,
    /// Answers in a row with a status that came later than `slow`; 0: any number.
    pub consecutive_slow: u32,
    /// How long a status may take, from the whole request on.
    pub slow: Duration,
    /// How long the first ejection lasts. The n-th in a row lasts n times as long, at most ten times.
    pub ejection: Duration,
    /// Percent of a pool's members that may be ejected at a time; one of several may always be.
    pub ejected_percent_max: u8,
    /// How long an endpoint that is new or came back takes to get its whole share of a pool.
    pub slow_start: Duration,
}

impl Default for OutlierLimits {
    fn default() -> Self {
        Self {
            consecutive_5xx: 0,
            consecutive_gateway_failures: 0,
            consecutive_slow: 0,
            slow: Duration::from_secs(1),
            ejection: Duration::from_secs(30),
            ejected_percent_max: 10,
            slow_start: Duration::ZERO,
        }
    }
}

impl OutlierLimits {
    /// Whether answers are looked at.
    pub fn count_answers(&self) -> bool {
        self.consecutive_5xx > 0 || self.consecutive_gateway_failures > 0 || self.consecutive_slow > 0
    }

    /// Whether an answer counts against nobody.
    pub(super) fn is_good(&self, answer: UpstreamAnswer) -> bool {
        match answer {
            UpstreamAnswer::Status { status, waited } => status < 500 && !self.is_slow(waited),
            UpstreamAnswer::None => false,
        }
    }

    fn is_slow(&self, waited: Option<Duration>) -> bool {
        self.consecutive_slow > 0 && waited.is_some_and(|waited| waited > self.slow)
    }

    /// Whether one more of so many members may be ejected.
    pub fn let_go(&self, members: usize, ejected: usize) -> bool {
        let share = members.saturating_mul(self.ejected_percent_max.into()) / 100;
        members > 1 && ejected < share.max(1)
    }
}

/// What a request came to, as far as an upstream is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamAnswer {
    /// An answer.
    Status {
        /// Its status.
        status: u16,
        /// How long it took. None: the visitor was still sending the request, so it says nothing of the upstream.
        waited: Option<Duration>,
    },
    /// The connection broke before a status.
    None,
}

/// Errors in a row, and ejections.
#[derive(Debug, Default)]
pub(super) struct Outlier {
    run_5xx: u32,
    run_gateway: u32,
    run_slow: u32,
    ejections: u32,
    ejected: Option<Ejection>,
    returned: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Ejection {
    pub(super) since: Instant,
    pub(super) until: Instant,
}

impl Outlier {
    /// Takes an answer. Some: the endpoint is to be ejected, for this reason.
    pub(super) fn note(&mut self, answer: UpstreamAnswer, limits: &OutlierLimits) -> Option<String> {
        let (is_5xx, is_gateway) = match answer {
            UpstreamAnswer::Status { status, .. } => (status >= 500, matches!(status, 502..=504)),
            UpstreamAnswer::None => (true, true),
        };
        let run = |before: u32, fails: bool| if fails { before.saturating_add(1) } else { 0 };
        (self.run_5xx, self.run_gateway) = (run(self.run_5xx, is_5xx), run(self.run_gateway, is_gateway));
        // An answer without a time, and none at all, neither add to the slow ones nor end their run.
        if let UpstreamAnswer::Status { waited: Some(waited), .. } = answer {
            self.run_slow = run(self.run_slow, limits.is_slow(Some(waited)));
        }
        let is_full = |run: u32, limit: u32| limit > 0 && run >= limit;
        if is_full(self.run_gateway, limits.consecutive_gateway_failures) {
            return Some(format!("{} requests in a row met 502, 503, 504 or no answer", self.run_gateway));
        }
        if is_full(self.run_5xx, limits.consecutive_5xx) {
            return Some(format!("{} requests in a row met a 5xx or no answer", self.run_5xx));
        }
        let is_outlier = is_full(self.run_slow, limits.consecutive_slow);
        let slow_ms = limits.slow.as_millis();
        is_outlier.then(|| format!("{} answers in a row took more than {slow_ms} ms", self.run_slow))
    }

    /// Whether every answer of late was good.
    pub(super) fn is_clean(&self) -> bool {
        self.run_5xx == 0 && self.run_gateway == 0 && self.run_slow == 0
    }

    /// Ejects; gives the time of the return. A time without ejection makes up for one before.
    pub(super) fn eject(&mut self, now: Instant, limits: &OutlierLimits) -> Instant {
        let rested = self.returned.map_or(Duration::ZERO, |returned| now.saturating_duration_since(returned));
        let forgiven = rested.as_millis().checked_div(limits.ejection.as_millis()).unwrap_or(0);
        self.ejections = self.ejections.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX));
        self.ejections = self.ejections.saturating_add(1).min(EJECTIONS_MAX);
        let until = now + limits.ejection * self.ejections;
        self.ejected = Some(Ejection { since: now, until });
        (self.run_5xx, self.run_gateway, self.run_slow) = (0, 0, 0);
        until
    }

    /// The ejection under way.
    pub(super) fn ejected(&self, now: Instant) -> Option<Ejection> {
        self.ejected.filter(|ejection| now < ejection.until)
    }

    /// Ends an ejection that has lasted its time. Whether there was one.
    pub(super) fn settle(&mut self, now: Instant) -> bool {
        let over = self.ejected.take_if(|ejection| ejection.until <= now);
        if let Some(ejection) = over {
            self.returned = Some(ejection.until);
        }
        over.is_some()
    }

    /// Whether it was not told yet that the ejection is over.
    pub(super) fn is_open(&self) -> bool {
        self.ejected.is_some()
    }
}

/// How an endpoint gets more and more of its share.
#[derive(Debug)]
pub(super) struct Pace {
    since: Instant,
    over: Duration,
    /// Work it may take, in parts of one turn.
    credit: u128,
}

impl Pace {
    /// None where nothing starts slowly.
    pub(super) fn begin(now: Instant, over: Duration) -> Option<Self> {
        (!over.is_zero()).then_some(Self { since: now, over, credit: 0 })
    }

    /// Whether it has its whole share.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= self.over
    }

    /// Whether a turn is taken. Of so many turns it takes that part that has passed of its start.
    pub(super) fn takes(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.since).as_millis();
        let part = (passed * TURN).checked_div(self.over.as_millis()).unwrap_or(TURN);
        self.credit += part.clamp(START_PART, TURN);
        let takes = self.credit >= TURN;
        if takes {
            self.credit -= TURN;
        }
        takes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: OutlierLimits = OutlierLimits {
        consecutive_5xx: 3,
        consecutive_gateway_failures: 2,
        consecutive_slow: 3,
        slow: Duration::from_millis(200),
        ejection: Duration::from_secs(30),
        ejected_percent_max: 50,
        slow_start: Duration::from_secs(100),
    };

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn errors_in_a_row_count_and_one_good_answer_forgives_them() {
        let check = |answers: &[u16], expect: bool| {
            let mut outlier = Outlier::default();
            let answer = |status: &u16| {
                let status = *status;
                if status == 0 {
                    UpstreamAnswer::None
                } else {
                    UpstreamAnswer::Status { status, waited: None }
                }
            };
            let wants = answers.iter().map(|status| outlier.note(answer(status), &LIMITS).is_some());
            assert_eq!(wants.last(), Some(expect), "{answers:?}");
        };
        check(&[500, 500], false);
        check(&[500, 500, 500], true);
        check(&[500, 500, 404, 500], false);
        check(&[503, 504], true);
        check(&[503, 0], true);
        check(&[503, 500, 503], true);
        check(&[503, 500], false);
        check(&[503, 200, 503], false);
        check(&[599, 501, 505], true);
        let mut off = Outlier::default();
        assert!((0..1000).all(|_| off.note(UpstreamAnswer::None, &OutlierLimits::default()).is_none()));
    }

    #[test]
    fn slow_answers_in_a_row_count_where_a_time_is_known() {
        let check = |waits: &[Option<u64>], expect: bool| {
            let mut outlier = Outlier::default();
            let answer = |waited: &Option<u64>| UpstreamAnswer::Status {
                status: 200,
                waited: waited.map(Duration::from_millis),
            };
            let wants = waits.iter().map(|waited| outlier.note(answer(waited), &LIMITS).is_some());
            assert_eq!(wants.last(), Some(expect), "{waits:?}");
            let good = waits.iter().all(|waited| LIMITS.is_good(answer(waited)));
            assert_eq!(good, outlier.is_clean() && !expect, "{waits:?}");
        };
        check(&[Some(200), Some(200), Some(200)], false);
        check(&[Some(201), Some(201)], false);
        check(&[Some(201), Some(201), Some(201)], true);
        check(&[Some(201), None, Some(201), Some(201)], true);
        check(&[None, None, None], false);
        let off = OutlierLimits::default();
        assert!(off.is_good(UpstreamAnswer::Status { status: 200, waited: Some(secs(3600)) }));
        assert!(!off.is_good(UpstreamAnswer::None));
    }

    #[test]
    fn each_ejection_in_a_row_is_longer_and_rest_makes_up_for_it() {
        let (mut outlier, mut now) = (Outlier::default(), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..12 {
            let until = outlier.eject(now, &LIMITS);
            waits.push((until - now).as_secs());
            assert!(outlier.ejected(now).is_some() && outlier.ejected(until).is_none());
            now = until;
            assert!(outlier.settle(now) && !outlier.settle(now));
        }
        assert_eq!(waits, [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300, 300]);
        let until = outlier.eject(now + secs(270), &LIMITS);
        assert_eq!(until, now + secs(270 + 60), "nine rests forgive nine of ten");
    }

    #[test]
    fn a_part_of_a_pool_may_be_ejected_and_one_of_several_always() {
        let check = |members, ejected, percent, expect| {
            let limits = OutlierLimits { ejected_percent_max: percent, ..LIMITS };
            assert_eq!(limits.let_go(members, ejected), expect, "{ejected} of {members} at {percent} %");
        };
        check(1, 0, 100, false);
        check(2, 0, 10, true);
        check(2, 1, 50, false);
        check(10, 1, 10, false);
        check(10, 4, 50, true);
        check(10, 5, 50, false);
        check(3, 2, 100, true);
    }

    #[test]
    fn a_slow_start_takes_a_growing_part_of_its_turns() {
        let now = Instant::now();
        assert!(Pace::begin(now, Duration::ZERO).is_none());
        let mut pace = Pace::begin(now, secs(100)).unwrap();
        let mut part = |at: u64| (0..100).filter(|_| pace.takes(now + secs(at))).count();
        assert_eq!([part(0), part(10), part(25), part(50), part(75)], [10, 10, 25, 50, 75]);
        assert!(!pace.is_over(now + secs(99)) && pace.is_over(now + secs(100)));
    }
}
