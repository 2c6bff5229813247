//! `RateLimits`: how many requests of each bucket were let through, for all shards of this edge.
//!
//! A bucket has two counters: of the window that runs, and of the one before, which counts by the part that a sliding
//! window still covers. Knows no policy and no clock.

use std::time::Duration;

use ebbgate_model::AccountId;
use ebbgate_policy::Quota;
use tokio::time::Instant;

use super::bounded_table::{BoundedTable, Entry, Key};

/// Buckets of all accounts at once; one takes about 90 bytes.
pub const BUCKETS_MAX: usize = 2 << 20;
/// Buckets of one account at once. Further ones of an action share one bucket.
pub const BUCKETS_OF_ACCOUNT_MAX: usize = 1 << 20;

/// See the module.
pub struct RateLimits(BoundedTable<Bucket>);

#[derive(Debug, Clone, Copy)]
struct Bucket {
    account: AccountId,
    window_ms: u64,
    /// Which window, counted from the table's beginning.
    window: u64,
    now: u32,
    before: u32,
}

impl Default for RateLimits {
    fn default() -> Self {
        Self(BoundedTable::new(BUCKETS_MAX, BUCKETS_OF_ACCOUNT_MAX))
    }
}

impl RateLimits {
    /// Counts a request at an endpoint's URL, if its bucket has room. Otherwise: how long until it has.
    pub fn count(&self, account: AccountId, url: &str, quota: &Quota, now: Instant) -> Option<Duration> {
        let now_ms = self.0.ms(now);
        let asked = Asked { account, capacity: quota.capacity, window_ms: window_ms(quota), now_ms };
        let (make, count) = (|| Bucket::new(&asked), |bucket: &mut Bucket| bucket.count(&asked));
        let key = self.key(&asked, url, &quota.name, Some(&quota.bucket));
        if let Some(wait) = self.0.entry(key, now_ms, make, count) {
            return wait;
        }
        // The table is full for this account: all further buckets of the action are one, which is always kept.
        let shared = self.key(&asked, url, &quota.name, None);
        self.0.entry_always(shared, now_ms, make, count).flatten()
    }

    fn key(&self, asked: &Asked, url: &str, name: &str, bucket: Option<&str>) -> Key {
        let (account, window) = (asked.account.ksuid().bytes(), asked.window_ms.to_be_bytes());
        let parts = [&account[..], &window[..], url.as_bytes(), name.as_bytes()];
        self.0.key(parts.into_iter().chain(bucket.map(str::as_bytes)))
    }
}

/// One request, as its bucket sees it.
#[derive(Debug, Clone, Copy)]
struct Asked {
    account: AccountId,
    capacity: u32,
    window_ms: u64,
    now_ms: u64,
}

impl Entry for Bucket {
    fn account(&self) -> AccountId {
        self.account
    }

    fn is_over(&self, now_ms: u64) -> bool {
        (now_ms / self.window_ms).saturating_sub(self.window) > 1
    }
}

impl Bucket {
    fn new(asked: &Asked) -> Self {
        let window = asked.now_ms / asked.window_ms;
        Self { account: asked.account, window_ms: asked.window_ms, window, now: 0, before: 0 }
    }

    /// Counts a request, or says how long it has to wait.
    fn count(&mut self, asked: &Asked) -> Option<Duration> {
        let window = asked.now_ms / asked.window_ms;
        match window.saturating_sub(self.window) {
            0 => {}
            1 => (self.before, self.now) = (self.now, 0),
            _ => (self.before, self.now) = (0, 0),
        }
        self.window = window.max(self.window);
        let passed_ms = asked.now_ms.saturating_sub(self.window.saturating_mul(asked.window_ms));
        if self.has_room(asked, passed_ms) {
            self.now = self.now.saturating_add(1);
            return None;
        }
        Some(Duration::from_millis(self.wait_ms(asked).saturating_sub(passed_ms)))
    }

    /// Whether one more request fits, so long after the window began.
    fn has_room(&self, asked: &Asked, passed_ms: u64) -> bool {
        let left_ms = u128::from(asked.window_ms.saturating_sub(passed_ms));
        let window_ms = u128::from(asked.window_ms);
        let sum = u128::from(self.before) * left_ms + (u128::from(self.now) + 1) * window_ms;
        sum <= u128::from(asked.capacity) * window_ms
    }

    /// Milliseconds after the window began at which one more request fits, if none comes meanwhile.
    fn wait_ms(&self, asked: &Asked) -> u64 {
        let more = match asked.capacity.checked_sub(self.now.saturating_add(1)) {
            Some(free) => return share_ms(self.before, free, asked.window_ms),
            None => self.now,
        };
        // Nothing fits in this window; in the next one, what it counted wears off.
        asked.window_ms.saturating_add(share_ms(more, asked.capacity.saturating_sub(1), asked.window_ms))
    }
}

/// Milliseconds of a window after which `counted` requests of the one before weigh at most `free`.
fn share_ms(counted: u32, free: u32, window_ms: u64) -> u64 {
    let over = u128::from(counted.saturating_sub(free)) * u128::from(window_ms);
    u64::try_from(over.div_ceil(u128::from(counted.max(1)))).unwrap_or(u64::MAX)
}

fn window_ms(quota: &Quota) -> u64 {
    u64::try_from(quota.window.as_millis()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::super::bounded_table::STRIPES;
    use super::*;
    use ebbgate_model::Ksuid;
    use proptest::prelude::*;

    fn account(n: u8) -> AccountId {
        AccountId::new(Ksuid::new(1_700_000_000, [n; 16]))
    }

    fn quota(bucket: impl Into<String>, capacity: u32) -> Quota {
        Quota { name: "q".into(), bucket: bucket.into(), capacity, window: Duration::from_mins(1) }
    }

    const URL: &str = "https://api.example.com";

    fn at(limits: &RateLimits, ms: u64) -> Instant {
        limits.0.at(ms)
    }

    #[test]
    fn a_bucket_has_room_again_as_the_window_slides() {
        let limits = RateLimits::default();
        let count =
            |ms| limits.count(account(1), URL, &quota("a", 3), at(&limits, ms)).map(|w| w.as_millis());
        assert_eq!([count(50_000), count(51_000), count(52_000)], [None; 3]);
        // Three in the window before weigh two from a third of this window on: at 80 s.
        assert_eq!(count(53_000), Some(27_000));
        assert_eq!(count(79_999), Some(1));
        assert_eq!(count(80_000), None);
        // One here and three before, which weigh at most one from two thirds on: at 100 s.
        assert_eq!(count(80_000), Some(20_000));
        // After two windows nothing is left.
        assert_eq!([count(240_000), count(240_000), count(240_000)], [None; 3]);
        assert!(count(240_000).is_some());
    }

    #[test]
    fn buckets_names_urls_and_accounts_are_apart() {
        let limits = RateLimits::default();
        let now = at(&limits, 1);
        let other = Quota { name: "other".into(), ..quota("a", 1) };
        let asked = [
            (account(1), URL, quota("a", 1)),
            (account(2), URL, quota("a", 1)),
            (account(1), "https://b.example.com", quota("a", 1)),
            (account(1), URL, quota("b", 1)),
            (account(1), URL, other),
        ];
        for (account, url, quota) in &asked {
            assert_eq!(limits.count(*account, url, quota, now), None);
        }
        for (account, url, quota) in &asked {
            assert!(limits.count(*account, url, quota, now).is_some());
        }
    }

    #[test]
    fn a_full_table_counts_further_buckets_as_one_and_leaves_other_accounts_alone() {
        let limits = RateLimits(BoundedTable::new(STRIPES * 100, STRIPES));
        let now = at(&limits, 1);
        let refused = |account, from: u32, to: u32| {
            let asked = (from..to).map(|n| limits.count(account, URL, &quota(format!("b{n}"), 5), now));
            asked.flatten().count()
        };
        // At most one bucket a stripe has room, and five requests share the bucket of the rest.
        let many = u32::try_from(STRIPES).unwrap() * 20;
        assert!(refused(account(1), 0, many) >= STRIPES * 19 - 5);
        assert_eq!(refused(account(2), 0, 5), 0, "another account has its own room");
        // Two windows later the room is free again.
        let later = at(&limits, 200_000);
        assert_eq!(limits.count(account(1), URL, &quota("new", 1), later), None);
    }

    proptest! {
        /// Against every request's own time: never more than the capacity by the counters' own measure, never fewer than
        /// a window that began at the last one's end would let through; and a request that waits as told gets through.
        #[test]
        fn the_wait_is_exact_and_no_window_has_twice_the_capacity(
            capacity in 1u32..20,
            pauses in proptest::collection::vec(0u64..30_000, 1..200),
        ) {
            let limits = RateLimits::default();
            let (mut now_ms, mut let_through) = (0, Vec::new());
            for pause in pauses {
                now_ms += pause;
                let quota = quota("a", capacity);
                match limits.count(account(1), URL, &quota, at(&limits, now_ms)) {
                    None => let_through.push(now_ms),
                    Some(wait) => {
                        let wait_ms = u64::try_from(wait.as_millis()).unwrap();
                        prop_assert!(wait_ms > 0);
                        if wait_ms > 1 {
                            let early = at(&limits, now_ms + wait_ms - 1);
                            prop_assert!(limits.count(account(1), URL, &quota, early).is_some());
                        }
                        now_ms += wait_ms;
                        prop_assert_eq!(limits.count(account(1), URL, &quota, at(&limits, now_ms)), None);
                        let_through.push(now_ms);
                    }
                }
            }
            for (at, first) in let_through.iter().enumerate() {
                let window = let_through.iter().skip(at).take_while(|ms| **ms < first + 60_000).count();
                prop_assert!(window <= 2 * capacity as usize);
            }
        }
    }
}
