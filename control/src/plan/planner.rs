//! `Planner`: follows records, and keeps what edges must have up to date, object by object.

use std::collections::{BTreeMap, BTreeSet};

use ebbgate_model::ObjectKey;

use super::live::Live;
use super::{fit, left_out, object};
use crate::holdings::Holdings;
use crate::secret::Vault;
use crate::snapshot::Snapshot;
use crate::store::{Batch, Change, Item, Revision};

/// What is recorded, and what of it is left out for its size.
#[derive(Debug)]
pub struct Planner {
    /// What is recorded.
    pub snapshot: Snapshot,
    /// How much of it accounts have.
    pub holdings: Holdings,
    bytes_max: usize,
    /// Objects closed for their size, with the keys of their records.
    closed: BTreeMap<ObjectKey, String>,
    /// Objects that may be another than `live` has.
    touched: BTreeSet<ObjectKey>,
}

impl Planner {
    /// Knows of nothing, and plans at most so many bytes as far as objects can be left out.
    pub fn new(bytes_max: usize) -> Self {
        let touched = BTreeSet::from([ObjectKey::Settings]);
        let (snapshot, holdings) = (Snapshot::default(), Holdings::default());
        Self { snapshot, holdings, bytes_max, closed: BTreeMap::new(), touched }
    }

    /// Takes records in as they are read, each key once.
    pub fn read(&mut self, items: &[Item], vault: &Vault) {
        for item in items {
            self.holdings.set(&item.key, Some(item.value.len()));
            self.snapshot.take_new(item, vault, &mut self.touched);
        }
    }

    /// Follows changes.
    pub fn follow(&mut self, batch: &Batch, vault: &Vault) {
        for change in &batch.changes {
            match change {
                Change::Put(item) => self.holdings.set(&item.key, Some(item.value.len())),
                Change::Delete { key, .. } => self.holdings.set(key, None),
            }
        }
        self.touched.extend(self.snapshot.follow(&batch.changes, batch.revision, vault));
    }

    /// Revision of what is known.
    pub fn revision(&self) -> Revision {
        self.snapshot.revision
    }

    /// Brings `live` up to date. Costs what has changed; while objects are left out for their size, it costs what there is.
    pub fn plan(&mut self, live: &mut Live) {
        let touched = std::mem::take(&mut self.touched);
        self.settle(live, touched);
        live.count();
        if self.closed.is_empty() && live.bytes() <= self.bytes_max {
            return;
        }
        let reopened = std::mem::take(&mut self.closed);
        self.settle(live, reopened.into_keys());
        if live.bytes() > self.bytes_max {
            self.closed = fit::surplus(live, self.bytes_max);
            self.settle(live, self.closed.keys().cloned().collect::<Vec<_>>());
        }
    }

    fn settle(&self, live: &mut Live, keys: impl IntoIterator<Item = ObjectKey>) {
        for key in keys {
            self.settle_one(live, &key);
        }
        // Policies and certificates come last: whether they travel depends on the others. They name nothing themselves.
        for key in live.take_unsettled() {
            self.settle_one(live, &key);
        }
    }

    fn settle_one(&self, live: &mut Live, key: &ObjectKey) {
        let travels = match key {
            ObjectKey::Policy(hash) => live.is_named(key) || self.snapshot.rollouts.needs(*hash),
            ObjectKey::Certificate(_) => live.is_named(key),
            _ => true,
        };
        let wanted = if travels { object(&self.snapshot, key) } else { None };
        let is_closed = self.closed.contains_key(key);
        live.set(key, if is_closed { wanted.and_then(fit::closed) } else { wanted });
    }

    /// Whether something is left out.
    pub fn leaves_out(&self) -> bool {
        !self.closed.is_empty() || !self.snapshot.damaged.is_empty()
    }

    /// What edges do not get, by the key of its record, each with the reason.
    pub fn left_out(&self) -> BTreeMap<String, String> {
        let mut all = left_out(&self.snapshot);
        for key in self.closed.values() {
            let reason = format!(
                "all objects of all accounts would take more than the {} MiB that edges take: delete or shorten objects of this account",
                self.bytes_max >> 20
            );
            all.insert(key.clone(), reason);
        }
        all
    }

    /// Even without what can be left out it is too much.
    pub fn trouble(&self, live: &Live) -> Option<String> {
        let (bytes, max) = (live.bytes(), self.bytes_max);
        (bytes > max).then(|| {
            format!(
                "what cannot be left out makes {} MiB, and edges take {} MiB: delete credentials or endpoints",
                bytes >> 20,
                max >> 20
            )
        })
    }
}
