//! Whether visitors had better come over QUIC than over TCP: decided by the round trips of small probes on the session,
//! sans-IO. TCP waits for what was lost before it passes on what came after; QUIC's streams do not wait for one another.
//! But QUIC costs several times the CPU per byte, so it is taken only while TCP stalls.

use std::collections::VecDeque;
use std::time::Duration;

/// Seconds between probes.
pub const PROBE_SECS: u64 = 2;
/// A probe this much above the quickest one is late, in milliseconds.
pub const LATE_MS: u64 = 150;
/// Probes that are remembered.
pub const PROBES_KEPT_MAX: usize = 10;
/// Late ones among them that make a stalling path.
pub const LATE_MIN: usize = 3;
/// Seconds without a late probe after which TCP is good enough again.
pub const CALM_SECS: u64 = 60;
/// Seconds after which QUIC is tried again where it failed or was given up; doubles each time.
pub const HOLD_SECS: u64 = 60;
/// Longest such time, in seconds.
pub const HOLD_SECS_MAX: u64 = 3_600;

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// Nothing.
    Stay,
    /// Have new streams come over QUIC.
    Attach,
    /// Have them come over TCP again.
    Detach,
}

/// What is known of the path to the edge. Times are since some start.
#[derive(Debug)]
pub struct Path {
    least: Duration,
    late: VecDeque<bool>,
    last_late: Duration,
    over_quic: bool,
    not_before: Duration,
    hold: Duration,
}

impl Default for Path {
    fn default() -> Self {
        Self {
            least: Duration::MAX,
            late: VecDeque::new(),
            last_late: Duration::ZERO,
            over_quic: false,
            not_before: Duration::ZERO,
            hold: Duration::from_secs(HOLD_SECS),
        }
    }
}

impl Path {
    /// A probe came back.
    pub fn probed(&mut self, now: Duration, round_trip: Duration) -> Advice {
        self.least = self.least.min(round_trip);
        let late = round_trip > self.least + Duration::from_millis(LATE_MS);
        if late {
            self.last_late = now;
        }
        self.late.push_back(late);
        if self.late.len() > PROBES_KEPT_MAX {
            self.late.pop_front();
        }
        let stalls = self.late.iter().filter(|late| **late).count() >= LATE_MIN;
        let calm = now.saturating_sub(self.last_late) >= Duration::from_secs(CALM_SECS);
        match self.over_quic {
            false if stalls && now >= self.not_before => {
                self.over_quic = true;
                Advice::Attach
            }
            true if calm => {
                self.left(now);
                Advice::Detach
            }
            _ => Advice::Stay,
        }
    }

    /// QUIC did not come about, or ended. Says nothing new after [`Advice::Detach`].
    pub fn left(&mut self, now: Duration) {
        if !self.over_quic {
            return;
        }
        self.over_quic = false;
        self.late.clear();
        self.not_before = now + self.hold;
        self.hold = (self.hold * 2).min(Duration::from_secs(HOLD_SECS_MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_millis(20);
    const LATE: Duration = Duration::from_millis(20 + LATE_MS + 1);

    /// Probes with these round trips, and the first advice other than to stay, with its time in seconds.
    fn advice(path: &mut Path, start: u64, round_trips: &[Duration]) -> Option<(u64, Advice)> {
        round_trips.iter().zip((start..).step_by(2)).find_map(|(round_trip, second)| {
            let advice = path.probed(Duration::from_secs(second), *round_trip);
            (advice != Advice::Stay).then_some((second, advice))
        })
    }

    #[test]
    fn a_quiet_path_and_a_slow_one_stay_as_they_are() {
        assert_eq!(advice(&mut Path::default(), 0, &[QUICK; 1_000]), None);
        assert_eq!(advice(&mut Path::default(), 0, &[Duration::from_secs(1); 1_000]), None);
        let jitter = [QUICK, QUICK + Duration::from_millis(LATE_MS)];
        assert_eq!(advice(&mut Path::default(), 0, &jitter.repeat(100)), None);
    }

    #[test]
    fn single_stalls_are_forgiven_and_several_are_not() {
        let rare = [[LATE].as_slice(), &[QUICK; 4]].concat().repeat(20);
        assert_eq!(advice(&mut Path::default(), 0, &[&[QUICK], rare.as_slice()].concat()), None);
        let often = [QUICK, QUICK, LATE, QUICK, LATE, QUICK, LATE];
        assert_eq!(advice(&mut Path::default(), 0, &often), Some((12, Advice::Attach)));
    }

    #[test]
    fn a_path_that_recovers_is_used_again_and_one_that_flaps_ever_more_slowly() {
        let mut path = Path::default();
        let stall = [QUICK, LATE, LATE, LATE];
        let mut start = 0;
        let mut gaps = Vec::new();
        for _ in 0..4 {
            let (attached, what) =
                advice(&mut path, start, &[&stall, vec![LATE; 4_000].as_slice()].concat()).unwrap();
            assert_eq!(what, Advice::Attach);
            gaps.push(attached - start);
            let (detached, what) = advice(&mut path, attached + 2, &[QUICK; 100]).unwrap();
            assert_eq!(what, Advice::Detach);
            assert_eq!(detached - attached, CALM_SECS);
            start = detached + 2;
        }
        assert_eq!(gaps, [6, 58, 118, 238]);
    }

    #[test]
    fn quic_that_fails_is_not_tried_again_at_once() {
        let mut path = Path::default();
        assert_eq!(advice(&mut path, 0, &[QUICK, LATE, LATE, LATE]), Some((6, Advice::Attach)));
        path.left(Duration::from_secs(7));
        assert_eq!(advice(&mut path, 8, &[LATE; 40]), Some((68, Advice::Attach)));
    }
}
