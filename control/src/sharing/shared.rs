//! `Sharing`: what the parts of this room have in common: this control's name, the store, and what is under way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::time::sleep;

use super::ledger::Ledger;
use super::message::Answered;
use crate::clock::Clock;
use crate::error_chain::ErrorChain;
use crate::metrics::Metrics;
use crate::presence::{Presence, RemoteCommand};
use crate::secret::{self, Entropy};
use crate::store::{LeaseId, Outcome, Store, StoreError, Txn};

/// Seconds after which others take an edge for gone when its control ended and no other has it. etcd takes no less than 2.
pub const LEASE_SECS: u64 = 10;
/// Seconds between two renewals of a lease.
pub(super) const KEEP_SECS: u64 = 3;
/// Seconds until something is tried again after an error.
pub(super) const RETRY_SECS: u64 = 1;
/// Writes under way at once; the store takes more, which are the API's.
const WRITES_MAX: usize = 8;
/// Commands to edges of other controls that wait.
pub(super) const COMMANDS_MAX: usize = 64;
/// Bytes of values in the history of etcd, as far as controls wrote them here, after which most of it is compacted away.
const HISTORY_BYTES_MAX: u64 = 256 << 20;
/// Base62 characters of a control's name, and of a command's.
pub(super) const NAME_CHARS: usize = 16;

/// This control among those on its store.
pub struct Sharing {
    pub(super) store: Arc<dyn Store>,
    pub(super) presence: Presence,
    pub(super) metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    /// Another one after each start.
    pub(super) name: String,
    /// Where edges of other machines reach this control.
    pub(super) at: Option<String>,
    /// Woken when an edge begins to be fed here.
    pub(super) began: Arc<Notify>,
    /// Commands to edges of other controls.
    pub(super) asked: tokio::sync::Mutex<mpsc::Receiver<RemoteCommand>>,
    epochs: AtomicU64,
    /// Bytes of values seen since history was last found too long.
    history: AtomicU64,
    room: Semaphore,
    ledger: Mutex<Ledger>,
    /// Commands of this control that wait for an answer, by their names.
    pub(super) waiting: Mutex<BTreeMap<String, oneshot::Sender<Answered>>>,
    /// Commands to this control that were taken, as long as they are in the store.
    pub(super) taken: Mutex<BTreeSet<String>>,
}

impl Sharing {
    /// One among several on a store. From now on `presence` notes what is new for the others. `at`: `host:port` where edges of other machines reach this control.
    pub fn new(
        store: Arc<dyn Store>,
        presence: Presence,
        metrics: Arc<Metrics>,
        (clock, entropy): (Arc<dyn Clock>, Arc<dyn Entropy>),
        at: Option<String>,
    ) -> Arc<Self> {
        let name = secret::base62(&*entropy, NAME_CHARS);
        let (began, (commands, asked)) = (Arc::<Notify>::default(), mpsc::channel(COMMANDS_MAX));
        presence.share(Arc::clone(&began), commands);
        Arc::new(Self {
            store,
            presence,
            metrics,
            clock,
            entropy,
            name,
            at,
            began,
            asked: tokio::sync::Mutex::new(asked),
            epochs: AtomicU64::new(0),
            history: AtomicU64::new(0),
            room: Semaphore::new(WRITES_MAX),
            ledger: Mutex::default(),
            waiting: Mutex::default(),
            taken: Mutex::default(),
        })
    }

    /// Whether controls wrote more than 256 MiB since this was last true. Etcd then has to keep fewer revisions.
    pub fn take_excess_history(&self) -> bool {
        let is_due = self.history.load(Ordering::Relaxed) > HISTORY_BYTES_MAX;
        if is_due {
            self.history.store(0, Ordering::Relaxed);
        }
        is_due
    }

    /// What controls tell each other was seen just now.
    pub(super) fn see(&self, bytes: usize) {
        self.history.fetch_add(bytes as u64, Ordering::Relaxed);
        self.metrics.presence_seen.set(self.clock.unix_secs());
    }

    /// Writes, and counts it.
    pub(super) async fn write(&self, txn: Txn) -> Result<Outcome, StoreError> {
        let _room = self.room.acquire().await.map_err(|_| StoreError::Closed)?;
        let done = self.store.commit(txn).await;
        match &done {
            Ok(_) => self.metrics.presence_writes.inc(),
            Err(_) => self.metrics.presence_failures.inc(),
        };
        done
    }

    /// Keeps a lease alive. Returns when it is lost.
    pub(super) async fn keep(&self, lease: LeaseId) -> StoreError {
        let mut pause = KEEP_SECS;
        loop {
            sleep(Duration::from_secs(pause)).await;
            match self.store.keep_alive(lease).await {
                Ok(()) => pause = KEEP_SECS,
                Err(error @ StoreError::LeaseUnknown(_)) => return error,
                Err(_) => pause = RETRY_SECS,
            }
        }
    }

    /// Ends a lease. One that cannot be ended ends by itself.
    pub(super) async fn release(&self, lease: LeaseId) {
        if let Err(error) = self.store.revoke(lease).await {
            tracing::debug!(error = %ErrorChain(&error), "a lease was not revoked; it ends by itself");
        }
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn new_epoch(&self) -> String {
        format!("{}-{}", self.name, self.epochs.fetch_add(1, Ordering::Relaxed))
    }

    /// Whether an epoch is of this control.
    pub(super) fn is_own(&self, epoch: &str) -> bool {
        epoch.strip_prefix(&self.name).is_some_and(|rest| rest.starts_with('-'))
    }
}
