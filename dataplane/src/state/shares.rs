//! `Shares`: so much of something, for all accounts and for each: bytes that are held for policies, requests that policies
//! make.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ebbgate_model::AccountId;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

/// See the module. Clones share what there is.
#[derive(Clone)]
pub struct Shares(Arc<Inner>);

struct Inner {
    used: Mutex<Used>,
    all: usize,
    of_account: usize,
    refused: Counter,
    in_use: Gauge,
}

#[derive(Default)]
struct Used {
    all: usize,
    accounts: HashMap<AccountId, usize>,
}

/// A part that is in use, until dropped.
pub struct Share {
    of: Shares,
    account: AccountId,
    amount: usize,
}

impl Shares {
    /// So much in all, and for each account. Counts in `refused` how often that was not enough.
    pub fn new(all: usize, of_account: usize, refused: &Counter) -> Self {
        Self::told(all, of_account, refused, &Gauge::default())
    }

    /// The same; `in_use` says how much is in use.
    pub fn told(all: usize, of_account: usize, refused: &Counter, in_use: &Gauge) -> Self {
        let (refused, in_use) = (refused.clone(), in_use.clone());
        Self(Arc::new(Inner { used: Mutex::default(), all, of_account, refused, in_use }))
    }

    /// Takes a part for an account, if it is there.
    pub fn take(&self, account: AccountId, amount: usize) -> Option<Share> {
        let mut share = Share { of: self.clone(), account, amount: 0 };
        share.grow(amount).then_some(share)
    }

    /// How much is in use.
    pub fn used(&self) -> usize {
        self.lock().all
    }

    fn lock(&self) -> MutexGuard<'_, Used> {
        self.0.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn tell(&self, all: usize) {
        self.in_use.set(i64::try_from(all).unwrap_or(i64::MAX));
    }
}

impl Share {
    /// Takes as much as is lacking for it to be this amount at least. False: that is not there, and nothing was taken.
    pub fn cover(&mut self, amount: usize) -> bool {
        amount <= self.amount || self.grow(amount - self.amount)
    }

    /// Takes more. False: it is not there, and nothing was taken.
    pub fn grow(&mut self, amount: usize) -> bool {
        let mut used = self.of.lock();
        let of_account = used.accounts.get(&self.account).copied().unwrap_or_default();
        let (all, own) = (used.all.saturating_add(amount), of_account.saturating_add(amount));
        if all > self.of.0.all || own > self.of.0.of_account {
            self.of.0.refused.inc();
            return false;
        }
        used.all = all;
        used.accounts.insert(self.account, own);
        self.of.0.tell(all);
        drop(used);
        self.amount = self.amount.saturating_add(amount);
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut used = self.of.lock();
        used.all = used.all.saturating_sub(self.amount);
        self.of.0.tell(used.all);
        let left = used.accounts.get(&self.account).copied().unwrap_or_default().saturating_sub(self.amount);
        if left == 0 {
            used.accounts.remove(&self.account);
        } else {
            used.accounts.insert(self.account, left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebbgate_model::Ksuid;

    #[test]
    fn an_account_has_its_own_bound_and_all_have_one() {
        let account = |n: u8| AccountId::new(Ksuid::new(1_700_000_000, [n; 16]));
        let in_use = Gauge::default();
        let shares = Shares::told(10, 6, &Counter::default(), &in_use);
        let mut first = shares.take(account(1), 4).unwrap();
        assert!(shares.take(account(1), 3).is_none(), "more than one account may have");
        assert!(first.grow(2) && !first.grow(1));
        let second = shares.take(account(2), 4).unwrap();
        assert!(shares.take(account(3), 1).is_none(), "more than there is");
        assert_eq!((shares.used(), in_use.get()), (10, 10));
        assert!(first.cover(6) && !first.cover(7), "there is no more");
        drop(first);
        assert_eq!(shares.used(), 4);
        assert!(shares.take(account(1), 6).is_some());
        drop(second);
        assert_eq!((shares.used(), in_use.get(), shares.lock().accounts.len()), (0, 0, 0));
    }
}
