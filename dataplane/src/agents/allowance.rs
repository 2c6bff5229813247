//! What agents may make this edge hold: sessions of one account, and bytes of text (policies, names, metadata) of one
//! session and one account. Counted where it is kept, given back when that is dropped.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ebbgate_model::AccountId;
use ebbgate_model::feed::LINE_BYTES_MAX;

/// Most sessions of one account.
pub(super) const ACCOUNT_SESSIONS_MAX: usize = 10_000;
/// Most bytes of text that all sessions of one account may have the edge keep.
pub(super) const ACCOUNT_TEXT_BYTES_MAX: usize = 64 << 20;
/// Most bytes of text that one session may have the edge keep.
pub(super) const SESSION_TEXT_BYTES_MAX: usize = 8 << 20;
/// Bytes that JSON makes of one byte of text at most: `\u0000`.
pub(super) const JSON_BYTES_PER_BYTE_MAX: usize = 6;

// Control is told of a session in one line; the other half of it is for names, URLs and numbers.
const _: () = assert!(SESSION_TEXT_BYTES_MAX * JSON_BYTES_PER_BYTE_MAX < LINE_BYTES_MAX / 2);

/// A number of things, up to a most.
#[derive(Debug)]
pub(super) struct Counter {
    used: AtomicUsize,
    max: usize,
}

/// Part of a [`Counter`], given back on drop.
#[derive(Debug)]
pub(super) struct Permit {
    from: Arc<Counter>,
    amount: usize,
}

impl Counter {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), max })
    }

    /// How much is taken now.
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// None: it would be more than the most.
    pub(super) fn take(self: &Arc<Self>, amount: usize) -> Option<Permit> {
        let more = |used: usize| used.checked_add(amount).filter(|used| *used <= self.max);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Permit { from: Arc::clone(self), amount })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.from.used.fetch_sub(self.amount, Ordering::Relaxed);
    }
}

/// What one account's agents have of this edge.
#[derive(Debug, Clone)]
pub(super) struct Allowance {
    pub(super) sessions: Arc<Counter>,
    pub(super) text_bytes: Arc<Counter>,
}

/// Of every account that has had a session here.
#[derive(Debug, Default)]
pub(super) struct Allowances(Mutex<HashMap<AccountId, Allowance>>);

impl Allowances {
    pub(super) fn of(&self, account: AccountId) -> Allowance {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Allowance {
            sessions: Counter::new(ACCOUNT_SESSIONS_MAX),
            text_bytes: Counter::new(ACCOUNT_TEXT_BYTES_MAX),
        };
        all.entry(account).or_insert_with(new).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_can_be_taken_again() {
        let counter = Counter::new(10);
        let six = counter.take(6).unwrap();
        assert!(counter.take(5).is_none() && counter.take(usize::MAX).is_none());
        let four = counter.take(4).unwrap();
        drop(six);
        assert!(counter.take(6).is_some());
        drop(four);
        assert!(counter.take(10).is_some());
    }

    #[test]
    fn accounts_have_an_allowance_each() {
        let all = Allowances::default();
        let account = crate::state::endpoint::fixture::account;
        let _taken = all.of(account(1)).sessions.take(ACCOUNT_SESSIONS_MAX).unwrap();
        assert!(all.of(account(1)).sessions.take(1).is_none());
        assert!(all.of(account(2)).sessions.take(1).is_some());
    }
}
