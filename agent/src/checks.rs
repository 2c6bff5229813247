//! Checks upstreams, one task for each endpoint whatever sessions the agent has, and writes what it finds on the board.
//!
//! What a check does is the upstream's; what many of them mean is the verdict's.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::config::HealthCheck;
use crate::health::{Board, Health, Verdict};
use crate::session::{Event, Observer, Random};
use crate::upstream::Upstream;

/// Longest reason that is told, in bytes.
pub const REASON_BYTES_MAX: usize = 256;

/// Checks an endpoint's upstream for ever, as its file says. Returns at once when the file asks for no checks.
pub async fn watch(name: String, upstream: Arc<Upstream>, board: Board, random: Random, observer: Observer) {
    let Some(check) = upstream.health_check().cloned() else { return };
    let mut verdict = Verdict::default();
    // Agents that start together do not check in step.
    let mut next = Instant::now() + part(check.jitter, random());
    loop {
        sleep_until(next).await;
        let begun = Instant::now();
        let outcome = upstream.check().await;
        if let Some(healthy) = verdict.checked(outcome.is_ok(), check.rise, check.fall) {
            let mut reason = outcome.err().unwrap_or_default();
            reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
            board.write(&name, Health { healthy, check: check.kind.name(), reason: reason.clone() });
            observer(Event::EndpointHealth { name: name.clone(), healthy, reason });
        }
        next = (begun + wait(&check, random())).max(Instant::now());
    }
}

/// From the beginning of a check to that of the next.
fn wait(check: &HealthCheck, random: u32) -> Duration {
    check.interval + part(check.jitter, random)
}

/// A random part of a duration.
fn part(whole: Duration, random: u32) -> Duration {
    whole.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CheckKind;

    #[test]
    fn jitter_lengthens_an_interval_and_never_shortens_it() {
        let check = HealthCheck {
            kind: CheckKind::Tcp,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            rise: 1,
            fall: 1,
            jitter: Duration::from_secs(2),
        };
        assert_eq!(wait(&check, 0), Duration::from_secs(10));
        assert_eq!(wait(&check, u32::MAX), Duration::from_secs(12));
    }
}
