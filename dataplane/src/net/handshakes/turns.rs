//! `Turns`: when a handshake may begin, decided at its arrival. Pure: time is a `Duration` since some start.
//!
//! Turns are evenly spaced after a small burst, first come first served, so that nothing has to be queued: a handshake is told its
//! time, or refused. Those that wait are counted by source: one source has a part of the queue.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

/// Longest wait for a turn, in milliseconds. After a second of silence our agent tries QUIC beside TCP, and would take two turns.
pub const WAIT_MS_MAX: u64 = 800;
/// One source has this part of those that wait.
const SOURCE_PART: u32 = 4;
/// Of a second's handshakes, this part may begin at one moment.
const BURST_PART: u32 = 10;
/// Longest time that a refused agent is asked to stay away, in seconds.
const RETRY_AFTER_SECS_MAX: u64 = 10;
/// Fewest handshakes a second that can be spaced.
pub const PER_SEC_MIN: u32 = 10;

/// What is decided on a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It may begin now.
    Now,
    /// It may begin then. [`Turns::ended_waiting`] is due when it does, or when it is given up.
    At(Duration),
    /// There is no turn for it. Its agent had better come again after this time.
    Refused(Duration),
}

/// See the module.
#[derive(Debug)]
pub struct Turns {
    /// Between two turns.
    interval: Duration,
    /// How far turns may run ahead of their interval.
    burst: Duration,
    waiting_of_source_max: usize,
    /// When the next turn would be if there were no burst.
    next: Duration,
    /// When those that were refused are expected to have had their turns, if they come again.
    expected: Duration,
    waiting: HashMap<IpAddr, usize>,
}

impl Turns {
    /// At most so many handshakes begin within any second; fewer than [`PER_SEC_MIN`] count as that.
    pub fn new(per_sec_max: u32) -> Self {
        let per_sec_max = per_sec_max.max(PER_SEC_MIN);
        let burst = per_sec_max / BURST_PART;
        // In a second begin the burst, what is spaced within it, and the one at its beginning.
        let interval = Duration::from_secs(1) / (per_sec_max - burst - 1);
        let waiting = u64::from(per_sec_max) * WAIT_MS_MAX / 1_000 / u64::from(SOURCE_PART);
        Self {
            interval,
            burst: interval * burst,
            waiting_of_source_max: usize::try_from(waiting).unwrap_or(usize::MAX),
            next: Duration::ZERO,
            expected: Duration::ZERO,
            waiting: HashMap::new(),
        }
    }

    /// Between two turns, where many wait.
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// Decides on a handshake of this source. `now` never goes back.
    pub fn ask(&mut self, now: Duration, source: IpAddr) -> Turn {
        let at = self.next.saturating_sub(self.burst);
        if at <= now {
            self.next = self.next.max(now) + self.interval;
            return Turn::Now;
        }
        let of_source = self.waiting.get(&source).copied().unwrap_or(0);
        if at.saturating_sub(now) > Duration::from_millis(WAIT_MS_MAX)
            || of_source >= self.waiting_of_source_max
        {
            return Turn::Refused(self.refuse(now));
        }
        self.waiting.insert(source, of_source + 1);
        self.next += self.interval;
        Turn::At(at)
    }

    /// A turn that was told as [`Turn::At`] begins, or is given up.
    pub fn ended_waiting(&mut self, source: IpAddr) {
        if let Some(count) = self.waiting.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.waiting.remove(&source);
            }
        }
    }

    /// How long a refused agent had better stay away: each is given a time of its own behind the others, within bounds.
    fn refuse(&mut self, now: Duration) -> Duration {
        let latest = now + Duration::from_secs(RETRY_AFTER_SECS_MAX);
        self.expected = (self.expected.max(self.next) + self.interval).min(latest);
        self.expected.saturating_sub(now).max(Duration::from_secs(1))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn source(n: u32) -> IpAddr {
        IpAddr::from(n.to_be_bytes())
    }

    /// Most of these moments within one second.
    fn most_in_a_second(begun: &[Duration]) -> usize {
        let of = |from: usize| {
            let until = begun[from] + Duration::from_secs(1);
            begun[from..].iter().take_while(|at| **at < until).count()
        };
        (0..begun.len()).map(of).max().unwrap_or(0)
    }

    #[test]
    fn a_thousand_agents_at_once_get_their_turns_one_after_the_other_or_a_time_to_come_again() {
        let mut turns = Turns::new(200);
        let mut begun = Vec::new();
        let mut refused = Vec::new();
        for agent in 0..1_000 {
            match turns.ask(Duration::ZERO, source(agent)) {
                Turn::Now => begun.push(Duration::ZERO),
                Turn::At(at) => begun.push(at),
                Turn::Refused(after) => refused.push(after),
            }
        }
        assert!(begun.is_sorted() && refused.is_sorted());
        assert!(begun.len() > 150, "{}", begun.len());
        assert!(begun.iter().all(|at| *at <= Duration::from_millis(WAIT_MS_MAX)));
        assert!(most_in_a_second(&begun) <= 200, "{}", most_in_a_second(&begun));
        let secs = |after: &Duration| after.as_secs_f64();
        assert!(secs(refused.first().unwrap()) >= 1.0 && secs(refused.last().unwrap()) <= 6.0, "{refused:?}");
    }

    #[test]
    fn one_source_leaves_turns_to_others_and_hostile_ones_get_no_more_memory() {
        let mut turns = Turns::new(200);
        let storm = (0..100_000).filter(|_| matches!(turns.ask(Duration::ZERO, source(1)), Turn::At(_)));
        assert_eq!(storm.count(), 40);
        assert_eq!(turns.waiting.len(), 1);
        let Turn::At(at) = turns.ask(Duration::ZERO, source(2)) else { panic!("another source waits") };
        assert!(at < Duration::from_secs(1), "{at:?}");
        let Turn::Refused(after) = turns.ask(Duration::ZERO, source(1)) else { panic!("it has enough") };
        assert_eq!(after.as_secs(), RETRY_AFTER_SECS_MAX);
        for _ in 0..40 {
            turns.ended_waiting(source(1));
        }
        turns.ended_waiting(source(2));
        assert!(turns.waiting.is_empty());
        assert_eq!(turns.ask(Duration::from_secs(9), source(1)), Turn::Now);
    }

    proptest! {
        #[test]
        fn no_second_has_more_than_its_handshakes(
            per_sec_max in 0..400_u32,
            arrivals in prop::collection::vec((0..200_u64, 0..8_u32), 1..2_000),
        ) {
            let mut turns = Turns::new(per_sec_max);
            let mut now = Duration::ZERO;
            let mut begun = Vec::new();
            let mut waiting: Vec<(Duration, IpAddr)> = Vec::new();
            for (pause, from) in arrivals {
                // Most come at once.
                now += Duration::from_millis(pause.saturating_sub(150) * 4);
                waiting.retain(|(at, from)| {
                    if *at <= now {
                        turns.ended_waiting(*from);
                    }
                    *at > now
                });
                match turns.ask(now, source(from)) {
                    Turn::Now => begun.push(now),
                    Turn::At(at) => {
                        begun.push(at);
                        waiting.push((at, source(from)));
                    }
                    Turn::Refused(after) => prop_assert!((1..=RETRY_AFTER_SECS_MAX).contains(&after.as_secs())),
                }
            }
            prop_assert!(begun.is_sorted(), "first come, first served");
            let most = most_in_a_second(&begun);
            prop_assert!(most <= usize::try_from(per_sec_max.max(PER_SEC_MIN)).unwrap(), "{}", most);
        }
    }
}
