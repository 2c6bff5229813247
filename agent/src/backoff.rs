//! How long to wait before trying again: a few quick tries, then doubling, always jittered. Pure; randomness is handed in.

use std::time::Duration;

/// Longest first waits: an edge that restarts is back within these.
pub const FAST_MS: u64 = 250;
/// Tries before the wait begins to double.
pub const FAST_TRIES: u32 = 4;
/// Longest wait, in seconds.
pub const WAIT_SECS_MAX: u64 = 30;

/// Counts tries since the last success.
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    tries: u32,
}

impl Backoff {
    /// The next wait, between half of the step and all of it as `random` says.
    pub fn wait(&mut self, random: u32) -> Duration {
        self.tries = self.tries.saturating_add(1);
        let doublings = self.tries.saturating_sub(FAST_TRIES).min(16);
        let step_ms = (FAST_MS << doublings).min(WAIT_SECS_MAX * 1_000);
        let half = step_ms / 2;
        Duration::from_millis(half + u64::from(random) * half / u64::from(u32::MAX))
    }

    /// Something worked: start over.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_at_first_then_doubling_to_the_limit() {
        let mut backoff = Backoff::default();
        let steps: Vec<_> = (0..13).map(|_| backoff.wait(u32::MAX).as_millis()).collect();
        assert_eq!(
            steps,
            [250, 250, 250, 250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]
        );
        backoff.tries = u32::MAX;
        assert_eq!(backoff.wait(u32::MAX).as_secs(), WAIT_SECS_MAX);
        backoff.reset();
        assert_eq!(backoff.wait(0).as_millis(), 125);
    }

    #[test]
    fn an_edge_that_is_down_for_a_second_has_everybody_back_within_two_and_a_half() {
        let mut backoff = Backoff::default();
        let mut at = Duration::ZERO;
        while at < Duration::from_secs(1) {
            at += backoff.wait(u32::MAX);
        }
        assert!(at <= Duration::from_millis(2_500), "{at:?}");
    }
}
