//! `Session`: markers that make a write happen exactly once, however often it must be sent.
//!
//! Each write in flight has a slot: a key of its own, of which it knows the revision. The write compares that revision and
//! puts its number there, in the same transaction. When no answer comes, the very same transaction is sent again: if the
//! first did happen, the compare fails, and the number in the slot says so. A late first one fails the same way.
//!
//! Slots belong to a lease, so that they go when the process does. A lost lease costs the session and nothing else.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::sleep;

use super::cluster::{Cluster, Failure};
use super::lease;
use crate::secret::{SystemEntropy, base62};
use crate::store::StoreError;

/// Writes under way at once.
pub(super) const WRITES_MAX: usize = 32;
/// Seconds after which the slots of a process that died are removed.
const LEASE_SECS: u64 = 60;
/// Seconds between two renewals of the lease.
const KEEP_SECS: u64 = 15;
/// Base62 characters of a session's name.
const NAME_CHARS: usize = 16;

/// A lease, and a name that no other session has.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Held {
    name: String,
    pub lease: i64,
}

/// A key for one write at a time.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub held: Arc<Held>,
    number: usize,
    /// etcd's revision that last wrote it; 0: none did.
    pub known: i64,
}

impl Slot {
    /// The key, below the store's prefix.
    pub(super) fn key(&self) -> String {
        format!("w/{}/{}", self.held.name, self.number)
    }
}

/// The slots of this process.
#[derive(Debug)]
pub(super) struct Session {
    room: Semaphore,
    free: Mutex<Vec<Slot>>,
    held: tokio::sync::Mutex<Option<Arc<Held>>>,
    made: AtomicU64,
    writes: AtomicU64,
}

impl Default for Session {
    fn default() -> Self {
        Self {
            room: Semaphore::new(WRITES_MAX),
            free: Mutex::default(),
            held: tokio::sync::Mutex::default(),
            made: AtomicU64::new(0),
            writes: AtomicU64::new(0),
        }
    }
}

impl Session {
    /// A number that no other write of this process has.
    pub(super) fn number(&self) -> String {
        self.writes.fetch_add(1, Ordering::Relaxed).to_string()
    }

    /// A slot of the session that holds now, and the room it takes.
    pub(super) async fn slot(&self, cluster: &Cluster) -> Result<(Slot, SemaphorePermit<'_>), StoreError> {
        let permit = self.room.acquire().await.map_err(|_| StoreError::Closed)?;
        let held = self.current(cluster).await?;
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.retain(|slot| slot.held == held);
        let slot = free.pop().unwrap_or_else(|| {
            let number = usize::try_from(self.made.fetch_add(1, Ordering::Relaxed)).unwrap_or(usize::MAX);
            Slot { held, number, known: 0 }
        });
        Ok((slot, permit))
    }

    /// Takes a slot back when its revision is known.
    pub(super) fn give_back(&self, slot: Slot) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(slot);
    }

    /// Gives a session up when its slots cannot be relied on any more.
    pub(super) async fn lose(&self, lost: &Arc<Held>) {
        let mut held = self.held.lock().await;
        if held.as_ref() == Some(lost) {
            tracing::warn!("the lease of this control's writes is lost; it takes a new one");
            *held = None;
        }
    }

    async fn current(&self, cluster: &Cluster) -> Result<Arc<Held>, StoreError> {
        let mut held = self.held.lock().await;
        if let Some(held) = &*held {
            return Ok(Arc::clone(held));
        }
        let lease = lease::grant(cluster, LEASE_SECS).await?;
        let new = Arc::new(Held { name: base62(&SystemEntropy, NAME_CHARS), lease });
        *held = Some(Arc::clone(&new));
        Ok(new)
    }

    /// Keeps the lease alive until dropped.
    pub(super) async fn keep(&self, cluster: &Cluster) {
        loop {
            sleep(Duration::from_secs(KEEP_SECS)).await;
            let held = self.held.lock().await.clone();
            if let Some(held) = held
                && !self.is_alive(cluster, &held).await
            {
                self.lose(&held).await;
            }
        }
    }

    /// Whether a session's lease runs; begins its time anew. When etcd does not answer, it is taken to run.
    pub(super) async fn is_alive(&self, cluster: &Cluster, held: &Held) -> bool {
        !matches!(lease::keep_alive(cluster, held.lease).await, Err(Failure::Refused(_)))
    }
}
