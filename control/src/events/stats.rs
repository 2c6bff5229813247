//! What is counted and known of each destination, for metrics, `/readyz` and alerts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ebbgate_model::{AccountId, EventDestinationId};

use crate::clock::UnixSecs;

/// What is known of one destination.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Events delivered.
    pub delivered: u64,
    /// Batches that were tried again.
    pub retried: u64,
    /// Events dropped: for want of room or disk, or because the receiver refused them for good.
    pub dropped: u64,
    /// Segments of the spool set aside because they are damaged.
    pub damaged: u64,
    /// Bytes in the spool.
    pub spool_bytes: u64,
    /// Events that wait.
    pub waiting: u64,
    /// Since when events wait without any being delivered; None: none wait.
    pub waiting_since: Option<UnixSecs>,
    /// Since when every attempt has failed; None: the last one succeeded.
    pub failing_since: Option<UnixSecs>,
    /// Why the last attempt failed.
    pub reason: String,
    /// When events were dropped last.
    pub dropped_at: Option<UnixSecs>,
}

/// Stats of all destinations. Cheap to clone; all clones see the same.
#[derive(Debug, Clone, Default)]
pub struct AllStats(Arc<Mutex<BTreeMap<EventDestinationId, (AccountId, Stats)>>>);

impl AllStats {
    fn locked(&self) -> MutexGuard<'_, BTreeMap<EventDestinationId, (AccountId, Stats)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is known of one destination.
    pub fn change(&self, id: EventDestinationId, account: AccountId, change: impl FnOnce(&mut Stats)) {
        change(&mut self.locked().entry(id).or_insert_with(|| (account, Stats::default())).1);
    }

    /// A destination is gone.
    pub fn forget(&self, id: EventDestinationId) {
        self.locked().remove(&id);
    }

    /// All there are.
    pub fn all(&self) -> BTreeMap<EventDestinationId, (AccountId, Stats)> {
        self.locked().clone()
    }
}
