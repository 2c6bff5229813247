//! How an edge that has no time for an agent's handshake says when the agent had better try again: by a fatal TLS alert in clear,
//! before any cryptography. Alerts from 224 up are private (RFC 5246 section 12); the number above 224 is the wait in seconds.
//!
//! Nobody proves such an alert. An agent loses no more by it than by a connection that is cut.

use std::time::Duration;

/// The alert that would stand for no wait at all. It is not sent.
const ALERT_BASE: u8 = 224;
/// Longest wait that an edge can ask for, in seconds.
pub const RETRY_AFTER_SECS_MAX: u8 = u8::MAX - ALERT_BASE;

/// The alert that asks for a wait, rounded up to a whole second and cut to [`RETRY_AFTER_SECS_MAX`].
pub fn alert(retry_after: Duration) -> u8 {
    let secs = retry_after.as_millis().div_ceil(1_000).clamp(1, u128::from(RETRY_AFTER_SECS_MAX));
    ALERT_BASE + u8::try_from(secs).unwrap_or(RETRY_AFTER_SECS_MAX)
}

/// The wait that an alert asks for. None: it is another alert.
pub fn retry_after(alert: u8) -> Option<Duration> {
    let secs = alert.checked_sub(ALERT_BASE).filter(|secs| *secs > 0)?;
    Some(Duration::from_secs(secs.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_whole_seconds_within_bounds_and_published_alerts_are_none() {
        let there_and_back = |ms| retry_after(alert(Duration::from_millis(ms))).map(|wait| wait.as_secs());
        assert_eq!([0, 1, 1_000, 1_001].map(there_and_back), [1, 1, 1, 2].map(Some));
        assert_eq!(there_and_back(u64::MAX), Some(RETRY_AFTER_SECS_MAX.into()));
        // 0 to 120 are published (RFC 8446 section 6).
        assert!((0..=ALERT_BASE).all(|alert| retry_after(alert).is_none()));
        assert!((ALERT_BASE + 1..=u8::MAX).all(|alert| retry_after(alert).is_some()));
    }
}
