//! Whether a connection is still heard: decides from counts of datagrams and the time, both arguments, whether new streams
//! should take another way while silence lasts. Streams in flight are not its business; the idle limit is theirs.

use std::time::Duration;

/// Milliseconds between looks.
pub const LOOK_MS: u64 = 250;
/// Milliseconds without a datagram, while we keep sending, that make a connection silent.
pub const SILENT_MS: u64 = 1_500;
/// Round trips that must have passed too: a slow path is not a silent one.
const SILENT_ROUND_TRIPS: u32 = 4;

/// What is known of one connection.
#[derive(Debug, Default)]
pub struct PathLiveness {
    received: u64,
    sent: u64,
    /// Since when we have sent without liveness anything.
    unanswered_since: Option<Duration>,
    silent: bool,
}

impl PathLiveness {
    /// Takes a look: datagrams so far each way, the least round trip known, and a clock that never runs backwards. Whether
    /// the connection is silent.
    pub fn look(&mut self, now: Duration, sent: u64, received: u64, round_trip: Duration) -> bool {
        if received != self.received {
            (self.received, self.sent) = (received, sent);
            (self.unanswered_since, self.silent) = (None, false);
            return false;
        }
        if sent != self.sent {
            let since = *self.unanswered_since.get_or_insert(now);
            let limit = Duration::from_millis(SILENT_MS).max(round_trip * SILENT_ROUND_TRIPS);
            self.silent = now.saturating_sub(since) >= limit;
        }
        self.silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: Duration = Duration::from_millis(20);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn rest_is_not_silence() {
        let mut liveness = PathLiveness::default();
        assert!(!liveness.look(ms(0), 5, 5, FAST));
        assert!(!liveness.look(ms(60_000), 5, 5, FAST), "nobody sent anything");
    }

    #[test]
    fn unanswered_words_are_silence_until_something_is_heard() {
        let mut liveness = PathLiveness::default();
        liveness.look(ms(0), 5, 5, FAST);
        assert!(!liveness.look(ms(1_000), 6, 5, FAST));
        assert!(!liveness.look(ms(1_000 + SILENT_MS - 1), 7, 5, FAST));
        assert!(liveness.look(ms(1_000 + SILENT_MS), 7, 5, FAST));
        assert!(liveness.look(ms(9_000), 7, 5, FAST));
        assert!(!liveness.look(ms(9_001), 8, 6, FAST));
        assert!(!liveness.look(ms(20_000), 8, 6, FAST));
    }

    #[test]
    fn a_slow_path_gets_its_time() {
        let mut liveness = PathLiveness::default();
        liveness.look(ms(0), 1, 1, ms(600));
        assert!(!liveness.look(ms(10), 2, 1, ms(600)));
        assert!(!liveness.look(ms(2_000), 3, 1, ms(600)));
        assert!(liveness.look(ms(2_410), 3, 1, ms(600)));
    }
}
