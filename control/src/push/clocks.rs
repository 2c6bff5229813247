//! `EdgeClock`: the seconds by which an edge's clock is ahead of ours, from its beats. Control feeds an edge with a wrong clock
//! all the same: without a feed it would miss revocations.

use ebbgate_model::EdgeId;

use crate::clock::{Clock, SystemClock, UnixSecs};
use crate::presence::Hold;

/// Seconds by which clocks may be apart unsaid. Certificates leave an hour.
const APART_SECS_MAX: UnixSecs = 300;
/// Seconds by which it must change to be told anew: beats may be late.
const STEP_SECS: u64 = 60;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct EdgeClock {
    /// By how much it is ahead, as was told last.
    ahead_secs: Option<UnixSecs>,
}

impl EdgeClock {
    /// The edge says what time it is; 0: it does not.
    pub(super) fn hear(&mut self, unix_secs: UnixSecs, edge: EdgeId, hold: &Hold) {
        let Some(ahead_secs) = self.news(unix_secs, SystemClock.unix_secs()) else { return };
        hold.clock_ahead(ahead_secs);
        if ahead_secs.abs() > APART_SECS_MAX {
            tracing::warn!(
                %edge,
                ahead_secs,
                "the clock of this edge is ahead of control's, or behind it if negative: one of the two is wrong"
            );
        }
    }

    /// By how much the edge is ahead, unless that was told.
    fn news(&mut self, unix_secs: UnixSecs, now: UnixSecs) -> Option<UnixSecs> {
        let ahead_secs = unix_secs.saturating_sub(now);
        let is_told = self.ahead_secs.is_some_and(|told| told.abs_diff(ahead_secs) < STEP_SECS);
        if unix_secs <= 0 || is_told {
            return None;
        }
        self.ahead_secs = Some(ahead_secs);
        Some(ahead_secs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_turned_is_told_and_a_late_beat_is_not() {
        let mut clock = EdgeClock::default();
        let day = 86_400;
        for (says, now, expect) in [
            (0, 1_000_000, None),
            (1_000_002, 1_000_000, Some(2)),
            (1_000_003, 1_000_015, None),
            (1_000_020 + day, 1_000_020, Some(day)),
            (1_000_024 + day, 1_000_025, None),
            (1_000_030 - day, 1_000_030, Some(-day)),
            (0, 1_000_035, None),
            (1_000_040, 1_000_040, Some(0)),
        ] {
            assert_eq!(clock.news(says, now), expect, "{says} at {now}");
        }
    }
}
