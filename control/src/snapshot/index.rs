//! `Index`: which records refer to a record.

use std::collections::{BTreeMap, BTreeSet};

/// Records by what they refer to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Index<K, V>(BTreeMap<K, BTreeSet<V>>);

impl<K, V> Default for Index<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + Copy, V: Ord + Copy> Index<K, V> {
    /// The records that refer to this.
    pub(crate) fn of(&self, key: K) -> impl Iterator<Item = V> {
        self.0.get(&key).into_iter().flatten().copied()
    }

    /// A record has changed; `entry` says what it refers to, and its id.
    pub(super) fn moved<R>(
        &mut self,
        old: Option<&R>,
        new: Option<&R>,
        entry: impl Fn(&R) -> Option<(K, V)>,
    ) {
        let (old, new) = (old.and_then(&entry), new.and_then(&entry));
        if old == new {
            return;
        }
        if let Some((key, value)) = old
            && let Some(values) = self.0.get_mut(&key)
        {
            values.remove(&value);
            if values.is_empty() {
                self.0.remove(&key);
            }
        }
        if let Some((key, value)) = new {
            self.0.entry(key).or_default().insert(value);
        }
    }
}
