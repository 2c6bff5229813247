//! How often somebody may be wrong: each failure of an address or a source makes the next try wait longer.
//!
//! Knows no passwords and no clock. Kept in memory, by each control for itself.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Email;

/// Failures of one address before it has to wait.
const EMAIL_FAILURES_FREE: u32 = 5;
/// Failures of one source before it has to wait. Many people may share one.
const SOURCE_FAILURES_FREE: u32 = 30;
/// Seconds of the first wait; each further failure doubles it.
const WAIT_SECS_MIN: u64 = 10;
/// Seconds of the longest wait.
const WAIT_SECS_MAX: u64 = 900;
/// Seconds without a failure after which the earlier ones are forgotten.
const FORGET_SECS: u64 = 3_600;
/// Addresses and sources counted at once.
const COUNTED_MAX: usize = 20_000;

/// What is counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Email(Email),
    Source(IpAddr),
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Failures {
    fn wait(self, free: u32) -> Duration {
        let Some(doubled) = self.count.checked_sub(free) else { return Duration::ZERO };
        let secs = WAIT_SECS_MIN.saturating_mul(1 << doubled.min(16));
        Duration::from_secs(secs.min(WAIT_SECS_MAX))
    }
}

/// Failures of addresses and of sources.
#[derive(Debug, Default)]
pub struct Guesses(Mutex<HashMap<Key, Failures>>);

impl Guesses {
    /// Whether a guess may be made now. It counts as a failure until [`Guesses::right`] says otherwise, so that guesses made
    /// at the same moment count too. Err: how long to wait.
    pub fn admit(&self, email: &Email, source: Option<IpAddr>, now: Instant) -> Result<(), Duration> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = keys(email, source);
        let waits = keys.iter().filter_map(|(key, free)| {
            let failures = all.get(key).copied()?;
            let since = now.saturating_duration_since(failures.last);
            failures.wait(*free).checked_sub(since).filter(|left| !left.is_zero())
        });
        if let Some(wait) = waits.max() {
            return Err(wait);
        }
        if all.len() + keys.len() > COUNTED_MAX {
            make_room(&mut all, now);
        }
        for (key, _) in keys {
            let failures = all.entry(key).or_insert(Failures { count: 0, last: now });
            if now.saturating_duration_since(failures.last).as_secs() >= FORGET_SECS {
                failures.count = 0;
            }
            *failures = Failures { count: failures.count.saturating_add(1), last: now };
        }
        Ok(())
    }

    /// The guess was right: the address begins anew, and the source has one failure less.
    pub fn right(&self, email: &Email, source: Option<IpAddr>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&Key::Email(email.clone()));
        for (key, _) in keys(email, source) {
            if let Some(failures) = all.get_mut(&key) {
                failures.count = failures.count.saturating_sub(1);
            }
        }
    }
}

fn keys(email: &Email, source: Option<IpAddr>) -> Vec<(Key, u32)> {
    let source = source.map(|ip| (Key::Source(crate::listen::source_of(ip)), SOURCE_FAILURES_FREE));
    [(Key::Email(email.clone()), EMAIL_FAILURES_FREE)].into_iter().chain(source).collect()
}

/// Forgets what is old; where that is not enough, those that failed least, never those that must wait longest.
fn make_room(all: &mut HashMap<Key, Failures>, now: Instant) {
    all.retain(|_, failures| now.saturating_duration_since(failures.last).as_secs() < FORGET_SECS);
    if all.len() < COUNTED_MAX / 2 {
        return;
    }
    let mut counts: Vec<_> = all.values().map(|failures| failures.count).collect();
    counts.sort_unstable();
    let middle = counts.get(counts.len() / 2).copied().unwrap_or_default();
    all.retain(|_, failures| failures.count > middle);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ann() -> Email {
        "ann@example.com".parse().unwrap()
    }

    #[test]
    fn each_failure_makes_the_next_try_wait_longer() {
        let (guesses, start) = (Guesses::default(), Instant::now());
        for _ in 0..EMAIL_FAILURES_FREE {
            assert_eq!(guesses.admit(&ann(), None, start), Ok(()));
        }
        assert_eq!(guesses.admit(&ann(), None, start), Err(Duration::from_secs(WAIT_SECS_MIN)));
        let later = start + Duration::from_secs(WAIT_SECS_MIN);
        assert_eq!(guesses.admit(&ann(), None, later), Ok(()));
        assert_eq!(guesses.admit(&ann(), None, later), Err(Duration::from_secs(2 * WAIT_SECS_MIN)));
        assert_eq!(
            guesses.admit(&"bob@example.com".parse().unwrap(), None, start),
            Ok(()),
            "others are free"
        );
        let mut now = later;
        for _ in 0..20 {
            now += Duration::from_secs(WAIT_SECS_MAX);
            assert_eq!(guesses.admit(&ann(), None, now), Ok(()), "no wait is longer than the longest");
        }
        guesses.right(&ann(), None);
        assert_eq!(guesses.admit(&ann(), None, now), Ok(()), "the right password ends it");
    }

    #[test]
    fn one_source_that_tries_many_addresses_waits_too() {
        let (guesses, start) = (Guesses::default(), Instant::now());
        let from = |last: u8| Some(IpAddr::from([203, 0, 113, last]));
        let email = |n: u32| format!("p{n}@example.com").parse().unwrap();
        for n in 0..SOURCE_FAILURES_FREE {
            assert_eq!(guesses.admit(&email(n), from(9), start), Ok(()));
        }
        assert!(guesses.admit(&ann(), from(9), start).is_err());
        assert_eq!(guesses.admit(&ann(), from(10), start), Ok(()));
        let forgotten = start + Duration::from_secs(FORGET_SECS);
        assert_eq!(guesses.admit(&ann(), from(9), forgotten), Ok(()));
    }

    #[test]
    fn a_flood_of_addresses_does_not_free_one_that_must_wait() {
        let (guesses, start) = (Guesses::default(), Instant::now());
        for _ in 0..EMAIL_FAILURES_FREE {
            let _ = guesses.admit(&ann(), None, start);
        }
        for n in 0..2 * COUNTED_MAX {
            assert_eq!(guesses.admit(&format!("p{n}@example.com").parse().unwrap(), None, start), Ok(()));
        }
        assert!(guesses.admit(&ann(), None, start).is_err());
        assert!(guesses.0.lock().unwrap().len() <= COUNTED_MAX);
    }
}
