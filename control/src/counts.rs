//! `Counts`: how much each of many has open, so that one cannot take what all need. Knows no sockets.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

/// How much each has open, and how much it may.
#[derive(Debug)]
pub(crate) struct Counts<K> {
    max: usize,
    open: Mutex<HashMap<K, usize>>,
}

/// One that counts until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted<K: Hash + Eq> {
    counts: Arc<Counts<K>>,
    of: K,
}

impl<K: Hash + Eq + Copy> Counts<K> {
    /// Each may have `max` open.
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, open: Mutex::default() })
    }

    /// Counts one in; None: that one has enough.
    pub(crate) fn admit(self: &Arc<Self>, of: K) -> Option<Counted<K>> {
        let mut all = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let open = all.entry(of).or_insert(0);
        if *open >= self.max {
            return None;
        }
        *open += 1;
        Some(Counted { counts: Arc::clone(self), of })
    }
}

impl<K: Hash + Eq> Drop for Counted<K> {
    fn drop(&mut self) {
        let mut all = self.counts.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = all.get_mut(&self.of) {
            *open -= 1;
            if *open == 0 {
                all.remove(&self.of);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_counted_apart_and_forgotten() {
        let counts = Counts::new(3);
        let open: Vec<_> = (0..3).map(|_| counts.admit("one").unwrap()).collect();
        assert!(counts.admit("one").is_none() && counts.admit("two").is_some());
        drop(open);
        assert!(counts.admit("one").is_some());
        assert!(counts.open.lock().unwrap().is_empty());
    }
}
