//! `Holdings`: how many objects each account has of a kind, and how many bytes all of them take in the store. Kept up to
//! date change by change, so that a limit is checked without counting.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};

use ebbgate_model::AccountId;

use crate::record::ACCOUNTS_PREFIX;

/// What one account has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owned {
    /// Bytes of all its records.
    pub bytes: usize,
    /// Objects by collection.
    pub keys: BTreeMap<String, usize>,
}

/// What accounts have.
#[derive(Debug, Default)]
pub struct Holdings {
    /// Bytes of each value, by a keyed hash of its key: two that collide cost a wrong count, and are not to be had on
    /// purpose.
    sizes: HashMap<u64, u32>,
    hasher: RandomState,
    accounts: HashMap<AccountId, Owned>,
    changed: BTreeSet<AccountId>,
}

impl Holdings {
    /// A key was written with a value of so many bytes, or removed.
    pub fn set(&mut self, key: &str, bytes: Option<usize>) {
        let Some((account, rest)) = key.strip_prefix(ACCOUNTS_PREFIX).and_then(|path| path.split_once('/'))
        else {
            return;
        };
        let Ok(account) = account.parse::<AccountId>() else { return };
        let hash = self.hasher.hash_one(key);
        let bytes = bytes.map(|bytes| u32::try_from(bytes).unwrap_or(u32::MAX));
        let old = match bytes {
            Some(bytes) => self.sizes.insert(hash, bytes),
            None => self.sizes.remove(&hash),
        };
        let owned = self.accounts.entry(account).or_default();
        let count =
            |bytes: Option<u32>| bytes.map_or(0, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        owned.bytes = (owned.bytes + count(bytes)).saturating_sub(count(old));
        if old.is_some() != bytes.is_some() {
            let collection = rest.split_once('/').map_or(rest, |(collection, _)| collection);
            if !owned.keys.contains_key(collection) {
                owned.keys.insert(collection.to_owned(), 0);
            }
            if let Some(keys) = owned.keys.get_mut(collection) {
                *keys = if bytes.is_some() { *keys + 1 } else { keys.saturating_sub(1) };
            }
        }
        if owned.keys.values().all(|keys| *keys == 0) {
            self.accounts.remove(&account);
        }
        self.changed.insert(account);
    }

    /// What every account has.
    pub fn all(&mut self) -> HashMap<AccountId, Owned> {
        self.changed.clear();
        self.accounts.clone()
    }

    /// What accounts have, of those with holdings that have changed since this was last asked.
    pub fn take_changed(&mut self) -> Vec<(AccountId, Owned)> {
        let changed = std::mem::take(&mut self.changed);
        let owned = |account| self.accounts.get(&account).cloned().unwrap_or_default();
        changed.into_iter().map(|account| (account, owned(account))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebbgate_model::Ksuid;

    #[test]
    fn what_is_written_replaced_and_removed_is_counted() {
        let account = AccountId::new(Ksuid::new(1_700_000_000, [1; 16]));
        let mut holdings = Holdings::default();
        let key = |name: &str| format!("{ACCOUNTS_PREFIX}{account}/{name}");
        holdings.set(&key("account"), Some(10));
        holdings.set(&key("endpoints/ep_1"), Some(100));
        holdings.set(&key("endpoints/ep_2"), Some(50));
        holdings.set(&key("endpoints/ep_1"), Some(70));
        holdings.set("/u/urls/x", Some(1_000));
        let [(_, owned)] = &holdings.take_changed()[..] else { panic!("one account") };
        assert_eq!((owned.bytes, owned.keys.get("endpoints")), (130, Some(&2)));
        holdings.set(&key("endpoints/ep_1"), None);
        holdings.set(&key("endpoints/ep_1"), None);
        let [(_, owned)] = &holdings.take_changed()[..] else { panic!("one account") };
        assert_eq!((owned.bytes, owned.keys.get("endpoints")), (60, Some(&1)));
        holdings.set(&key("endpoints/ep_2"), None);
        holdings.set(&key("account"), None);
        assert_eq!(holdings.take_changed(), [(account, Owned::default())]);
        assert!(holdings.all().is_empty());
    }
}
