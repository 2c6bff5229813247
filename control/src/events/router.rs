//! The router: one task that knows all subscriptions and hands each event to the destinations that want it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ebbgate_model::{AccountId, EventDestinationId, EventId};
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::destination::{Means, Running, SharedSpool};
use super::envelope::Event;
use super::hub::Routed;
use super::routes::Routes;
use super::spool::Spool;
use super::traffic::Traffic;
use crate::App;
use crate::error_chain::ErrorChain;
use crate::record::events::{EventDestination, EventSubscription};
use crate::record::{self, RecordError, index};
use crate::store::{Change, Range, Revision, StoreError};

/// Traffic events routed before others get their turn.
const TRAFFIC_BATCH_MAX: usize = 256;
/// Seconds that events may take to a spool's disk before the router goes on without waiting.
const SETTLE_SECS_MAX: u64 = 5;
/// Seconds until the store is asked again after it failed.
const RETRY_SECS: u64 = 1;

/// See the module.
pub(super) struct Router {
    pub(super) app: App,
    pub(super) means: Means,
    /// Where spools are.
    pub(super) dir: PathBuf,
    /// Bytes of one spool.
    pub(super) spool_bytes: u64,
    pub(super) routes: Routes,
    pub(super) running: BTreeMap<EventDestinationId, At>,
}

/// A destination at work.
pub(super) struct At {
    account: AccountId,
    modified: Revision,
    spool: SharedSpool,
    running: Running,
}

impl Router {
    /// Routes for ever. A store that fails keeps what is known in force.
    pub(super) async fn run(
        mut self,
        mut traffic: mpsc::Receiver<Traffic>,
        mut other: mpsc::Receiver<Routed>,
    ) {
        loop {
            let Err(error) = self.follow(&mut traffic, &mut other).await;
            if !matches!(error, RecordError::Store(StoreError::Compacted { .. })) {
                tracing::error!(error = %ErrorChain(&error), "subscriptions cannot be followed; trying again");
                sleep(Duration::from_secs(RETRY_SECS)).await;
            }
        }
    }

    async fn follow(
        &mut self,
        traffic: &mut mpsc::Receiver<Traffic>,
        other: &mut mpsc::Receiver<Routed>,
    ) -> Result<std::convert::Infallible, RecordError> {
        let store = self.app.store.clone();
        let all = store.range(Range::all(index::EVENTS_PREFIX)).await?;
        let accounts = all.items.iter().filter_map(|item| index::event_account(&item.key));
        let known = self.running.values().map(|at| at.account);
        let accounts: BTreeSet<AccountId> = accounts.chain(known).collect();
        for account in accounts {
            self.load(account).await?;
        }
        self.remove_strays();
        let mut watch = store.watch(index::EVENTS_PREFIX.into(), all.revision);
        loop {
            let mut batch = Vec::new();
            tokio::select! {
                biased;
                batch = watch.next() => {
                    let seen = batch.ok_or(RecordError::Store(StoreError::Closed))??;
                    let key = |change: &Change| match change {
                        Change::Put(item) => index::event_account(&item.key),
                        Change::Delete { key, .. } => index::event_account(key),
                    };
                    let accounts: BTreeSet<AccountId> = seen.changes.iter().filter_map(key).collect();
                    for account in accounts {
                        self.load(account).await?;
                    }
                }
                routed = other.recv() => {
                    let Some((events, done)) = routed else { return Err(StoreError::Closed.into()) };
                    self.route(&events).await;
                    let _ = done.send(());
                }
                _ = traffic.recv_many(&mut batch, TRAFFIC_BATCH_MAX) => self.route_traffic(&batch),
            }
        }
    }

    /// Reads an account's subscriptions and destinations anew.
    async fn load(&mut self, account: AccountId) -> Result<(), RecordError> {
        let store = &*self.app.store;
        let subscriptions = record::list::<EventSubscription>(store, account, None, None).await?;
        let destinations = record::list::<EventDestination>(store, account, None, None).await?;
        let subscriptions: Vec<_> = subscriptions.items.into_iter().map(|stored| stored.record).collect();
        self.routes.set(account, &subscriptions);
        self.app.events.want_traffic(self.routes.want_traffic());
        let wanted: BTreeSet<_> = destinations.items.iter().map(|stored| stored.record.id).collect();
        let gone = |(id, at): (&EventDestinationId, &At)| {
            (at.account == account && !wanted.contains(id)).then_some(*id)
        };
        let gone: Vec<_> = self.running.iter().filter_map(gone).collect();
        for id in gone {
            self.remove(id);
        }
        for stored in destinations.items {
            let same = |at: &At| at.modified == stored.modified;
            if !self.running.get(&stored.record.id).is_some_and(same) {
                self.start(stored.record, stored.modified);
            }
        }
        Ok(())
    }

    fn start(&mut self, record: EventDestination, modified: Revision) {
        let (id, account) = (record.id, record.account);
        let spool = match self.running.remove(&id) {
            Some(at) => at.spool,
            None => match Spool::open(&self.dir.join(id.to_string()), self.spool_bytes) {
                Ok(spool) => Arc::new(Mutex::new(spool)),
                Err(error) => {
                    tracing::error!(destination = %id, %error, "events of a destination cannot be kept; it gets none");
                    self.means.stats.change(id, account, |stats| {
                        stats.failing_since = Some(self.means.clock.unix_secs());
                        stats.reason = format!("its spool cannot be opened: {error}");
                    });
                    return;
                }
            },
        };
        let secrets = match super::secrets::open(&record, &self.app.vault) {
            Ok(secrets) => secrets,
            Err(error) => {
                tracing::error!(destination = %id, %error, "a destination cannot be used");
                BTreeMap::new()
            }
        };
        let running = Running::start(record, secrets, spool.clone(), self.means.clone());
        self.running.insert(id, At { account, modified, spool, running });
    }

    /// Ends a destination that was deleted, and what waits for it.
    fn remove(&mut self, id: EventDestinationId) {
        self.running.remove(&id);
        self.means.stats.forget(id);
        remove_dir(&self.dir.join(id.to_string()));
    }

    /// Removes spools of destinations that were deleted while control did not run.
    fn remove_strays(&self) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let id = entry.file_name().to_str().and_then(|name| name.parse::<EventDestinationId>().ok());
            if id.is_some_and(|id| !self.running.contains_key(&id)) {
                remove_dir(&entry.path());
            }
        }
    }

    async fn route(&self, events: &[Event]) {
        let mut settling = Vec::new();
        for event in events {
            for id in self.routes.of(event) {
                let at = self.running.get(&id);
                settling.extend(at.and_then(|at| at.running.push(event.body.clone(), true)));
            }
        }
        let all = futures_util::future::join_all(settling);
        // What takes longer is on its way: only a kill in that time would lose it.
        let _ = timeout(Duration::from_secs(SETTLE_SECS_MAX), all).await;
    }

    fn route_traffic(&self, batch: &[Traffic]) {
        let now = self.means.clock.unix_secs();
        for traffic in batch {
            let id = || EventId::new(self.app.ksuid());
            for (body, destinations) in self.routes.of_traffic(traffic, id, now) {
                for destination in destinations {
                    if let Some(at) = self.running.get(&destination) {
                        let _ = at.running.push(body.clone(), false);
                    }
                }
            }
        }
    }
}

fn remove_dir(path: &std::path::Path) {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(%error, path = %path.display(), "a spool cannot be removed");
        }
        _ => {}
    }
}

/// The collections in which changes are followed.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Record;

    #[test]
    fn index_keys_name_their_account() {
        assert!(EventDestination::COLLECTION.starts_with("event_"));
        let account = AccountId::new(ebbgate_model::Ksuid::new(1_700_000_000, [1; 16]));
        for collection in [EventDestination::COLLECTION, EventSubscription::COLLECTION] {
            let key = index::event_object(collection, account, "x");
            assert_eq!(index::event_account(&key), Some(account), "{key}");
        }
    }
}
