//! `Index`: names and sizes of all values, in memory, kept by a watch of its own: etcd itself tells no sizes.
//!
//! It follows within milliseconds. What must be exact as of now asks etcd; [`Index::caught_up`] waits for this process's
//! own writes.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{PoisonError, RwLock};

use tokio::sync::watch;

use crate::store::Usage;

/// All keys, with the sizes of their values.
#[derive(Debug)]
pub(super) struct Index {
    sizes: RwLock<BTreeMap<Box<str>, u32>>,
    /// etcd's revision of the newest change in it; None: it is not filled yet.
    revision: watch::Sender<Option<i64>>,
}

impl Default for Index {
    fn default() -> Self {
        Self { sizes: RwLock::default(), revision: watch::channel(None).0 }
    }
}

impl Index {
    /// Puts everything in place of what there was.
    pub(super) fn fill(&self, all: BTreeMap<Box<str>, u32>, revision: i64) {
        *self.sizes.write().unwrap_or_else(PoisonError::into_inner) = all;
        self.revision.send_replace(Some(revision));
    }

    /// Takes changes in: a size, or None for a key that is gone.
    pub(super) fn follow(&self, changes: impl Iterator<Item = (String, Option<usize>)>, revision: i64) {
        let mut sizes = self.sizes.write().unwrap_or_else(PoisonError::into_inner);
        for (key, size) in changes {
            match size {
                Some(size) => sizes.insert(key.into(), u32::try_from(size).unwrap_or(u32::MAX)),
                None => sizes.remove(&*key),
            };
        }
        drop(sizes);
        self.revision.send_replace(Some(revision));
    }

    /// etcd's revision of the newest change in it.
    pub(super) fn revision(&self) -> Option<i64> {
        *self.revision.borrow()
    }

    /// Waits until it has every change up to a revision of etcd's.
    pub(super) async fn caught_up(&self, revision: i64) {
        let mut seen = self.revision.subscribe();
        // The sender lives as long as `self`.
        let _ = seen.wait_for(|seen| seen.is_some_and(|seen| seen >= revision)).await;
    }

    pub(super) fn usage(&self, prefix: &str) -> Usage {
        let sizes = self.sizes.read().unwrap_or_else(PoisonError::into_inner);
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let below = sizes.range::<str, _>(from).take_while(|(key, _)| key.starts_with(prefix));
        below.fold(Usage::default(), |all, (_, size)| Usage {
            keys: all.keys + 1,
            bytes: all.bytes + usize::try_from(*size).unwrap_or(usize::MAX),
        })
    }

    /// The key at which the last `wanted` keys before another begin. None: there are fewer, as far as is known here.
    pub(super) fn back_from(&self, prefix: &str, before: &str, wanted: usize) -> Option<String> {
        let sizes = self.sizes.read().unwrap_or_else(PoisonError::into_inner);
        if before <= prefix {
            return None;
        }
        let range = (Bound::Included(prefix), Bound::Excluded(before));
        let key = sizes.range::<str, _>(range).rev().map(|(key, _)| key).nth(wanted.checked_sub(1)?);
        key.map(ToString::to_string)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_what_lies_below_a_prefix_and_finds_the_last_keys() {
        let index = Index::default();
        index.fill(["/a/1", "/a/2", "/a/3", "/b"].into_iter().map(|key| (key.into(), 10)).collect(), 7);
        index.follow([("/a/2".to_owned(), None), ("/a/4".to_owned(), Some(5))].into_iter(), 9);
        assert_eq!(index.usage("/a/"), Usage { keys: 3, bytes: 25 });
        assert_eq!((index.usage("/c"), index.revision()), (Usage::default(), Some(9)));
        assert_eq!(index.back_from("/a/", "/b", 2).as_deref(), Some("/a/3"));
        assert_eq!(index.back_from("/a/", "/a/4", 2).as_deref(), Some("/a/1"));
        assert_eq!(index.back_from("/a/", "/b", 4), None);
        assert_eq!(index.back_from("/a/", "/a/", 1), None);
    }
}
