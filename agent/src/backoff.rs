//! How long to wait before trying again: a few quick tries, then doubling, always jittered. Pure; randomness is handed in.
//!
//! [`Backoff`] is for what was refused, [`Reconnect`] for an edge that cannot be reached.

use std::time::Duration;

use ebbgate_wire::retry::RETRY_AFTER_SECS_MAX;

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

/// Longest wait for an edge that cannot be reached, in milliseconds: with full jitter half of all agents are back within
/// 1.3 s of the edge, and the last within 5 s.
pub const RECONNECT_MS_MAX: u64 = 4_500;
/// Shortest wait, in milliseconds.
pub const RECONNECT_MS_MIN: u64 = 50;
/// Longest wait after an attempt that itself took longer than the wait, in milliseconds.
pub const AFTER_SILENCE_MS_MAX: u64 = 1_000;
/// Tries that count after a session that was let in and ended at once: the wait stays within a second.
const SHORT_SESSION_TRIES_MAX: u32 = FAST_TRIES + 1;

/// Counts attempts to reach an edge since the last session. Waits have full jitter, so that agents which lost their edge
/// together come back apart.
#[derive(Debug, Clone, Default)]
pub struct Reconnect {
    tries: u32,
}

impl Reconnect {
    /// The wait after an attempt that took `took`.
    pub fn wait(&mut self, took: Duration, random: u32) -> Duration {
        self.tries = self.tries.saturating_add(1);
        let doublings = self.tries.saturating_sub(FAST_TRIES).min(16);
        let step_ms = (FAST_MS << doublings).min(RECONNECT_MS_MAX);
        let jittered = |step_ms: u64| {
            let span = step_ms - RECONNECT_MS_MIN;
            Duration::from_millis(RECONNECT_MS_MIN + u64::from(random) * span / u64::from(u32::MAX))
        };
        if took >= Duration::from_millis(step_ms) {
            // The attempt was the wait.
            return jittered(step_ms.min(AFTER_SILENCE_MS_MAX));
        }
        jittered(step_ms).saturating_sub(took).max(Duration::from_millis(RECONNECT_MS_MIN))
    }

    /// The wait that an edge asked for, and up to as long again, so that agents which were turned away together come back apart.
    /// What an edge may ask for has bounds.
    pub fn asked_to_wait(retry_after: Duration, random: u32) -> Duration {
        let max = Duration::from_secs(RETRY_AFTER_SECS_MAX.into());
        let wait = retry_after.clamp(Duration::from_secs(1), max);
        wait + wait.mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    /// A session that was let in ended too soon to count as a success.
    pub fn short_session(&mut self) {
        self.tries = self.tries.min(SHORT_SESSION_TRIES_MAX);
    }

    /// A session lasted, or the way to the edge is a new one: start over.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A generator of test numbers (`SplitMix64`).
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u32 {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            u32::try_from((z ^ (z >> 31)) >> 32).unwrap()
        }
    }

    /// How long after its return an edge that was away for `away_ms` is reached. While it is away it refuses at once, or is
    /// silent: then the kernel repeats its SYN after 1 and 3 s, and the attempt ends after `CONNECT_SECS_MAX`.
    fn back_after_ms(random: &mut Random, away_ms: u64, silent: bool) -> u64 {
        let mut reconnect = Reconnect::default();
        let mut now = 0;
        let wait = |reconnect: &mut Reconnect, took_ms, random: &mut Random| {
            let took = Duration::from_millis(took_ms);
            u64::try_from(reconnect.wait(took, random.next()).as_millis()).unwrap()
        };
        now += wait(&mut reconnect, 0, random);
        loop {
            let asks: &[u64] = if silent { &[0, 1_000, 3_000] } else { &[0] };
            if let Some(heard) = asks.iter().map(|after| now + after).find(|at| *at >= away_ms) {
                return heard - away_ms;
            }
            let took = if silent { 1_000 * crate::edge_dialer::CONNECT_SECS_MAX } else { 0 };
            now += took + wait(&mut reconnect, took, random);
        }
    }

    #[test]
    fn two_hundred_agents_are_back_within_five_seconds_of_an_edge_that_was_away_a_minute_and_never_all_at_once()
     {
        for seed in 0..50 {
            for (silent, away_ms) in [(false, 60_000), (true, 60_000), (false, 600_000), (true, 63_500)] {
                let mut random = Random(seed);
                let mut back: Vec<_> =
                    (0..200).map(|_| back_after_ms(&mut random, away_ms, silent)).collect();
                back.sort_unstable();
                let what = format!("seed {seed}, silent {silent}, away {away_ms} ms");
                assert!(back[100] <= 2_000, "{what}: half after {} ms", back[100]);
                assert!(back[199] <= 5_000, "{what}: all after {} ms", back[199]);
                let crowd = |from: &u64| back.iter().filter(|at| (*from..from + 100).contains(*at)).count();
                let most = back.iter().map(crowd).max().unwrap();
                assert!(most <= 40, "{what}: {most} of 200 within a tenth of a second");
            }
        }
    }

    #[test]
    fn sessions_shorter_than_a_second_keep_the_wait_within_a_second() {
        let mut reconnect = Reconnect::default();
        for _ in 0..20 {
            assert!(reconnect.wait(Duration::ZERO, u32::MAX) <= Duration::from_secs(1));
            reconnect.short_session();
        }
        let mut away = Reconnect::default();
        let waits: Vec<_> = (0..9).map(|_| away.wait(Duration::ZERO, u32::MAX).as_millis()).collect();
        assert_eq!(waits, [250, 250, 250, 250, 500, 1_000, 2_000, 4_000, 4_500]);
        assert_eq!(away.wait(Duration::ZERO, 0).as_millis(), 50);
        assert_eq!(
            away.wait(Duration::from_secs(10), u32::MAX).as_millis(),
            1_000,
            "the attempt was the wait"
        );
        assert_eq!(away.wait(Duration::from_secs(3), u32::MAX).as_millis(), 1_500);
    }

    #[test]
    fn what_an_edge_asks_for_is_waited_for_within_bounds() {
        let wait = |secs, random| Reconnect::asked_to_wait(Duration::from_secs(secs), random).as_secs_f64();
        assert!((wait(4, 0) - 4.0).abs() < 1e-6 && (wait(4, u32::MAX) - 8.0).abs() < 1e-6);
        assert!((wait(0, 0) - 1.0).abs() < 1e-6);
        assert!(wait(u64::MAX, u32::MAX) <= 62.0);
    }

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
