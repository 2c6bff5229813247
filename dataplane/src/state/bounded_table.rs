//! `BoundedTable`: entries of all accounts, shared by all shards, with a bound in all and for each account.
//!
//! A full table forgets entries that are over, never others. Knows no clock, and not what an entry says.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ebbgate_model::AccountId;
use siphasher::sip128::{Hasher128, SipHasher13};
use tokio::time::Instant;

use super::random;

/// Parts of a table, each with a lock of its own.
pub(super) const STRIPES: usize = 64;
/// Entries of a stripe that are not worth a search.
const SEARCHED_MIN: usize = 256;
/// Milliseconds between two searches of a full stripe for entries that are over.
const SEARCH_MS_MIN: u64 = 1_000;

/// An entry's name: 128 bits of a keyed hash, so nobody outside can make two that meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    stripe: u64,
    slot: u64,
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.slot);
    }
}

/// Takes the hash that a [`Key`] is already.
#[derive(Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write(&mut self, _: &[u8]) {
        unreachable!("a key is hashed as one number");
    }

    fn write_u64(&mut self, slot: u64) {
        self.0 = slot;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// What a table holds.
pub(super) trait Entry {
    /// Its owner.
    fn account(&self) -> AccountId;

    /// Whether a new entry would say the same.
    fn is_over(&self, now_ms: u64) -> bool;
}

/// See the module.
pub(super) struct BoundedTable<E> {
    stripes: Vec<Mutex<Stripe<E>>>,
    /// Empty, with a secret of this table.
    hasher: SipHasher13,
    begun: Instant,
    /// Entries that a stripe, and an account in it, may have.
    sizes: (usize, usize),
}

struct Stripe<E> {
    entries: HashMap<Key, E, BuildHasherDefault<KeyHasher>>,
    /// Entries of each account.
    accounts: HashMap<AccountId, usize>,
    /// When entries that are over were last searched for.
    searched_ms: Option<u64>,
    /// Entries that were left then.
    left: usize,
}

impl<E> Default for Stripe<E> {
    fn default() -> Self {
        Self { entries: HashMap::default(), accounts: HashMap::new(), searched_ms: None, left: 0 }
    }
}

impl<E: Entry> BoundedTable<E> {
    /// An empty one, for so many entries in all and of one account.
    pub(super) fn new(all: usize, of_account: usize) -> Self {
        let stripes = std::iter::repeat_with(Mutex::default).take(STRIPES).collect();
        let sizes = ((all / STRIPES).max(1), (of_account / STRIPES).max(1));
        Self { stripes, hasher: SipHasher13::new_with_key(&random::bytes()), begun: Instant::now(), sizes }
    }

    /// Milliseconds since the table was made.
    pub(super) fn ms(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.begun).as_millis()).unwrap_or(u64::MAX)
    }

    /// So many milliseconds after the table was made.
    #[cfg(test)]
    pub(super) fn at(&self, ms: u64) -> Instant {
        self.begun + std::time::Duration::from_millis(ms)
    }

    /// The key that stands for these parts.
    pub(super) fn key<'p>(&self, parts: impl IntoIterator<Item = &'p [u8]>) -> Key {
        let mut hasher = self.hasher;
        for part in parts {
            // A slice is hashed with its length, so no two lists of parts are written alike.
            part.hash(&mut hasher);
        }
        let hash = hasher.finish128();
        Key { stripe: hash.h1, slot: hash.h2 }
    }

    /// Reads or changes the entry at a key, which is made if it is not there. None: there is no room for it.
    pub(super) fn entry<R>(
        &self,
        key: Key,
        now_ms: u64,
        make: impl FnOnce() -> E,
        change: impl FnOnce(&mut E) -> R,
    ) -> Option<R> {
        self.stripe(key).entry(key, now_ms, self.sizes, make, change)
    }

    /// The same, whether there is room or not: for a number of keys that is bounded otherwise.
    pub(super) fn entry_always<R>(
        &self,
        key: Key,
        now_ms: u64,
        make: impl FnOnce() -> E,
        change: impl FnOnce(&mut E) -> R,
    ) -> Option<R> {
        self.stripe(key).entry(key, now_ms, (usize::MAX, usize::MAX), make, change)
    }

    /// Reads or changes the entry at a key, if it is there.
    pub(super) fn existing<R>(&self, key: Key, change: impl FnOnce(&mut E) -> R) -> Option<R> {
        self.stripe(key).entries.get_mut(&key).map(change)
    }

    fn stripe(&self, key: Key) -> MutexGuard<'_, Stripe<E>> {
        let [number, ..] = key.stripe.to_be_bytes();
        let stripe = self.stripes.get(usize::from(number) % STRIPES).expect("there are so many stripes");
        stripe.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<E: Entry> Stripe<E> {
    fn entry<R>(
        &mut self,
        key: Key,
        now_ms: u64,
        sizes: (usize, usize),
        make: impl FnOnce() -> E,
        change: impl FnOnce(&mut E) -> R,
    ) -> Option<R> {
        if let Some(entry) = self.entries.get_mut(&key) {
            return Some(change(entry));
        }
        let mut entry = make();
        let account = entry.account();
        // A table that has doubled is searched too, so that it shrinks after a crowd.
        if self.entries.len() >= self.left.saturating_mul(2).max(SEARCHED_MIN)
            || !self.has_room(account, sizes)
        {
            self.search(now_ms);
        }
        if !self.has_room(account, sizes) {
            return None;
        }
        *self.accounts.entry(account).or_default() += 1;
        let result = change(&mut entry);
        self.entries.insert(key, entry);
        Some(result)
    }

    fn has_room(&self, account: AccountId, (all, of_account): (usize, usize)) -> bool {
        self.entries.len() < all && self.accounts.get(&account).is_none_or(|entries| *entries < of_account)
    }

    /// Forgets entries that are over; not too often, because it looks at all of them.
    fn search(&mut self, now_ms: u64) {
        if self.searched_ms.is_some_and(|last| now_ms.saturating_sub(last) < SEARCH_MS_MIN) {
            return;
        }
        self.searched_ms = Some(now_ms);
        let accounts = &mut self.accounts;
        self.entries.retain(|_, entry| {
            let is_over = entry.is_over(now_ms);
            if is_over && let Some(entries) = accounts.get_mut(&entry.account()) {
                *entries = entries.saturating_sub(1);
            }
            !is_over
        });
        accounts.retain(|_, entries| *entries > 0);
        self.left = self.entries.len();
        if self.entries.capacity() > self.left.saturating_mul(4) {
            self.entries.shrink_to(self.left.saturating_mul(2));
        }
    }
}
