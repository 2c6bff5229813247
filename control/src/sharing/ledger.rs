//! `Ledger`: which chunks there are in the store, and which of them no head names. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ebbgate_model::EdgeId;

/// Seconds after which chunks that no head names are nobody's: a control writes its head within seconds after them.
pub(super) const ORPHAN_SECS: u64 = 60;

/// Chunks of one epoch of an edge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Orphan {
    pub(super) edge: EdgeId,
    pub(super) epoch: String,
    pub(super) numbers: BTreeSet<u16>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    chunks: BTreeMap<(EdgeId, String), BTreeSet<u16>>,
    heads: BTreeMap<EdgeId, String>,
    /// Since when no head names them.
    unnamed: BTreeMap<(EdgeId, String), Instant>,
}

impl Ledger {
    /// A head names an epoch, or is gone.
    pub(super) fn head(&mut self, edge: EdgeId, epoch: Option<String>) {
        match epoch {
            Some(epoch) => drop(self.heads.insert(edge, epoch)),
            None => drop(self.heads.remove(&edge)),
        }
    }

    /// A chunk was written.
    pub(super) fn put(&mut self, edge: EdgeId, epoch: &str, number: u16) {
        self.chunks.entry((edge, epoch.to_owned())).or_default().insert(number);
    }

    /// A chunk is gone.
    pub(super) fn gone(&mut self, edge: EdgeId, epoch: &str, number: u16) {
        let at = (edge, epoch.to_owned());
        if let Some(numbers) = self.chunks.get_mut(&at) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.chunks.remove(&at);
            }
        }
    }

    /// All was read anew. Since when chunks have no head is kept of the ledger before.
    pub(super) fn follow(&mut self, before: Self) {
        self.unnamed = before.unnamed;
    }

    /// What no head has named for [`ORPHAN_SECS`].
    pub(super) fn orphans(&mut self, now: Instant) -> Vec<Orphan> {
        let is_named = |(edge, epoch): &(EdgeId, String)| self.heads.get(edge) == Some(epoch);
        let unnamed: BTreeSet<_> = self.chunks.keys().filter(|at| !is_named(at)).cloned().collect();
        self.unnamed.retain(|at, _| unnamed.contains(at));
        for at in unnamed {
            self.unnamed.entry(at).or_insert(now);
        }
        let is_old =
            |since: &Instant| now.saturating_duration_since(*since) >= Duration::from_secs(ORPHAN_SECS);
        let old = self.unnamed.iter().filter(|(_, since)| is_old(since)).map(|(at, _)| at);
        let orphan = |at: &(EdgeId, String)| {
            let numbers = self.chunks.get(at)?.clone();
            Some(Orphan { edge: at.0, epoch: at.1.clone(), numbers })
        };
        old.filter_map(orphan).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::edge;
    use super::*;

    #[test]
    fn chunks_are_nobodys_when_no_head_has_named_them_for_a_while() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        let later = now + Duration::from_secs(ORPHAN_SECS);
        ledger.put(edge(1), "a-1", 0);
        ledger.put(edge(1), "a-1", 1);
        assert!(ledger.orphans(now).is_empty());
        ledger.head(edge(1), Some("a-1".into()));
        assert!(ledger.orphans(later).is_empty(), "its head has come");
        ledger.head(edge(1), Some("b-1".into()));
        assert!(ledger.orphans(later).is_empty());
        let mut anew = Ledger::default();
        anew.put(edge(1), "a-1", 1);
        anew.follow(ledger);
        let found = anew.orphans(later + Duration::from_secs(ORPHAN_SECS));
        assert_eq!(found, [Orphan { edge: edge(1), epoch: "a-1".into(), numbers: [1].into() }]);
        anew.gone(edge(1), "a-1", 1);
        assert!(anew.orphans(later + Duration::from_secs(2 * ORPHAN_SECS)).is_empty());
    }
}
