//! `sharing`: what controls on one store tell each other of the edges that they feed, so that each of them knows all.
//!
//! An edge has a head (`presence/heads/EDGE`), which names its control and an epoch, and lives by a lease that its control keeps.
//! The edge's sessions are in the chunks of that epoch, which have no lease: a lease with very many keys blocks etcd when it
//! ends. A control writes chunks first, then the head. Of two controls that feed an edge one after the other the head's revision
//! decides. Chunks without a head are deleted after a minute by whichever control has that job.
//!
//! Only controls write here, each by the id that an edge's certificate has. Knows no API and no feed.

mod chunks;
mod commands;
mod keys;
mod ledger;
mod sweep;
mod tell;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ebbgate_model::EdgeId;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::clock::Clock;
use crate::error_chain::ErrorChain;
use crate::leader::Candidate;
use crate::metrics::Metrics;
use crate::presence::{Presence, RemoteCommand};
use crate::secret::{self, Entropy};
use crate::store::{LeaseId, Outcome, Store, StoreError, Txn};

use commands::Answered;
use ledger::Ledger;

/// Seconds after which others take an edge for gone when its control ended and no other has it. etcd takes no less than 2.
pub const LEASE_SECS: u64 = 10;
/// Seconds between two renewals of a lease.
const KEEP_SECS: u64 = 3;
/// Seconds until something is tried again after an error.
const RETRY_SECS: u64 = 1;
/// Seconds between two signs of life of this control in the store.
const BEAT_SECS: u64 = 5;
/// Seconds between two looks for edges that began to be fed here.
const LOOK_SECS: u64 = 1;
/// Writes under way at once; the store takes more, which are the API's.
const WRITES_MAX: usize = 8;
/// Commands to edges of other controls that wait.
const COMMANDS_MAX: usize = 64;
/// Bytes of values in the history of etcd, as far as controls wrote them here, after which most of it is compacted away.
const HISTORY_BYTES_MAX: u64 = 256 << 20;
/// Base62 characters of a control's name, and of a command's.
const NAME_CHARS: usize = 16;

/// This control among those on its store.
pub struct Sharing {
    store: Arc<dyn Store>,
    presence: Presence,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    /// Another one after each start.
    name: String,
    /// Where edges of other machines reach this control.
    at: Option<String>,
    /// Woken when an edge begins to be fed here.
    began: Arc<Notify>,
    /// Commands to edges of other controls.
    asked: tokio::sync::Mutex<mpsc::Receiver<RemoteCommand>>,
    epochs: AtomicU64,
    /// Bytes of values seen since history was last found too long.
    history: AtomicU64,
    room: Semaphore,
    ledger: Mutex<Ledger>,
    /// Commands of this control that wait for an answer, by their names.
    waiting: Mutex<BTreeMap<String, oneshot::Sender<Answered>>>,
    /// Commands to this control that were taken, as long as they are in the store.
    taken: Mutex<BTreeSet<String>>,
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

    /// Shares until dropped. `candidate`: by which this control asks for the job of removing what nobody needs.
    pub async fn run(self: Arc<Self>, candidate: Candidate) {
        tokio::join!(
            watch::follow(&self),
            self.tell_edges(),
            self.beat(),
            self.send_commands(),
            sweep::lead(&self, &candidate),
        );
    }

    /// Whether controls have written so much here since the last time this was so that etcd's history is to be shortened.
    pub fn is_history_long(&self) -> bool {
        let is_long = self.history.load(Ordering::Relaxed) > HISTORY_BYTES_MAX;
        if is_long {
            self.history.store(0, Ordering::Relaxed);
        }
        is_long
    }

    /// What controls tell each other was seen just now.
    fn see(&self, bytes: usize) {
        self.history.fetch_add(bytes as u64, Ordering::Relaxed);
        self.metrics.presence_seen.set(self.clock.unix_secs());
    }

    /// Keeps a task for every edge that is fed here.
    async fn tell_edges(self: &Arc<Self>) {
        let mut tasks = JoinSet::new();
        let mut told = BTreeMap::<EdgeId, tokio::task::AbortHandle>::new();
        loop {
            while tasks.try_join_next().is_some() {}
            told.retain(|_, task| !task.is_finished());
            for edge in self.presence.own_edges() {
                told.entry(edge).or_insert_with(|| {
                    let sharing = Arc::clone(self);
                    tasks.spawn(async move { tell::edge(&sharing, edge).await })
                });
            }
            // The look finds an edge that came back while its task was about to end.
            let _ = timeout(Duration::from_secs(LOOK_SECS), self.began.notified()).await;
        }
    }

    /// Says that this control is there, for ever.
    async fn beat(&self) {
        loop {
            let Err(error) = self.beat_with_lease().await;
            tracing::debug!(error = %ErrorChain(&error), "this control could not say that it is there");
            sleep(Duration::from_secs(RETRY_SECS)).await;
        }
    }

    async fn beat_with_lease(&self) -> Result<std::convert::Infallible, StoreError> {
        let lease = self.store.grant(Duration::from_secs(LEASE_SECS)).await?;
        let (key, value) = (keys::control(&self.name), self.at.clone().unwrap_or_default());
        loop {
            let _ = self.store.commit(Txn::new().put_leased(&key, value.clone(), lease)).await?;
            sleep(Duration::from_secs(BEAT_SECS)).await;
            self.store.keep_alive(lease).await?;
        }
    }

    async fn send_commands(self: &Arc<Self>) {
        let mut asked = self.asked.lock().await;
        let mut tasks = JoinSet::new();
        while let Some(command) = asked.recv().await {
            while tasks.try_join_next().is_some() {}
            if tasks.len() < COMMANDS_MAX {
                let sharing = Arc::clone(self);
                tasks.spawn(async move { commands::send(&sharing, command).await });
            }
        }
        // Presence holds the other end as long as this control runs.
        std::future::pending().await
    }

    /// Writes, and counts it.
    async fn write(&self, txn: Txn) -> Result<Outcome, StoreError> {
        let _room = self.room.acquire().await.map_err(|_| StoreError::Closed)?;
        let done = self.store.commit(txn).await;
        match &done {
            Ok(_) => self.metrics.presence_writes.inc(),
            Err(_) => self.metrics.presence_failures.inc(),
        };
        done
    }

    /// Keeps a lease alive. Returns when it is lost.
    async fn keep(&self, lease: LeaseId) -> StoreError {
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
    async fn release(&self, lease: LeaseId) {
        if let Err(error) = self.store.revoke(lease).await {
            tracing::debug!(error = %ErrorChain(&error), "a lease was not revoked; it ends by itself");
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn new_epoch(&self) -> String {
        format!("{}-{}", self.name, self.epochs.fetch_add(1, Ordering::Relaxed))
    }

    /// Whether an epoch is of this control.
    fn is_own(&self, epoch: &str) -> bool {
        epoch.strip_prefix(&self.name).is_some_and(|rest| rest.starts_with('-'))
    }
}
