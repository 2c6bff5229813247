//! The store on etcd: several controls on one database, and a database on several machines.
//!
//! etcd has the store's meaning already; this module adds what a client must: it asks the next member when one is silent,
//! makes a write that had no answer happen exactly once (`session`), watches without gaps (`follow`), pages through what is
//! too large for one answer, knows sizes (`index`), and tells what was written from what was not (`envelope`).
//!
//! Everything lies below one prefix: `meta` (schema, and where revisions began), `k` with the store's keys, `w/` with
//! markers of writes. Several installations can use one etcd; then revisions may grow by more than one.

mod address;
mod cluster;
mod envelope;
mod follow;
mod index;
mod keys;
mod lease;
mod meta;
mod read;
mod session;
mod txn;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures_util::{FutureExt, StreamExt, stream};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tonic::Code;

use address::Address;
pub use address::{Place, Url, UrlError};
use cluster::{Cluster, Failure};
use follow::{Compacted, Follower};
use index::Index;
use keys::Keys;
use meta::Meta;
use read::Span;
use session::{Session, Slot};
use wire::{
    CompactionRequest, CompactionResponse, RangeRequest, RangeResponse, TxnRequest, TxnResponse, path,
};

use super::{
    Batch, Change, Item, LEASE_SECS_MAX, LeaseId, Op, Outcome, PASSING_PREFIX, Page, Range, Reply, Revision,
    Scan, Store, StoreError, Txn, Usage, Watch,
};
use crate::error_chain::ErrorChain;

/// Times a write is sent again because its session was lost before it could happen.
const SESSIONS_MAX: usize = 5;
/// Seconds that are waited for the index to have this process's own writes; it takes milliseconds once it is filled.
const INDEX_SECS_MAX: u64 = 1;
/// Seconds until the index is filled again after an error.
const INDEX_RETRY_SECS: u64 = 1;
/// Revisions over those that are kept that are let pile up before the oldest are compacted away.
const COMPACT_STEP: u64 = 1_000;

/// The store on etcd. Dropping it stops what it runs beside; its lease then ends by itself.
#[derive(Debug)]
pub struct Etcd {
    inner: Arc<Inner>,
    tasks: Vec<AbortHandle>,
}

#[derive(Debug)]
struct Inner {
    cluster: Arc<Cluster>,
    keys: Keys,
    session: Session,
    index: Index,
    /// etcd's revision of this process's newest write.
    written: AtomicI64,
}

impl Etcd {
    /// Makes a new store at a place where none is.
    pub async fn create(place: &Place) -> Result<Self, StoreError> {
        let address = Address::read(place)?;
        let cluster = Cluster::new(&address)?;
        meta::create(&cluster, &address.prefix).await?;
        Self::open(place).await
    }

    /// Opens an existing store, after a look at its schema.
    pub async fn open(place: &Place) -> Result<Self, StoreError> {
        let address = Address::read(place)?;
        let cluster = Arc::new(Cluster::new(&address)?);
        let Meta { offset } = meta::read(&cluster, &address.prefix).await?;
        let inner = Arc::new(Inner {
            cluster,
            keys: Keys::new(&address.prefix, offset),
            session: Session::default(),
            index: Index::default(),
            written: AtomicI64::new(0),
        });
        let (keeper, indexer) = (Arc::clone(&inner), Arc::clone(&inner));
        let keep = tokio::spawn(async move { keeper.session.keep(&keeper.cluster).await });
        let index = tokio::spawn(async move { indexer.keep_index().await });
        Ok(Self { inner, tasks: vec![keep.abort_handle(), index.abort_handle()] })
    }

    /// Makes a new store with these values. Its revisions go on after `revision`. Where an earlier attempt did not
    /// finish, it begins anew.
    pub async fn fill(
        place: &Place,
        items: impl IntoIterator<Item = (String, bytes::Bytes)>,
        revision: Revision,
    ) -> Result<(), StoreError> {
        let address = Address::read(place)?;
        let cluster = Cluster::new(&address)?;
        meta::fill(&cluster, &address.prefix, items, revision).await
    }

    /// Everything that is kept, as of one revision.
    pub async fn read_all(place: &Place) -> Result<Page, StoreError> {
        let address = Address::read(place)?;
        let cluster = Cluster::new(&address)?;
        let Meta { offset } = meta::read(&cluster, &address.prefix).await?;
        let keys = Keys::new(&address.prefix, offset);
        let mut page = read::range(&cluster, &keys, &Range::all(""), None).await?;
        page.items.retain(|item| !item.key.starts_with(PASSING_PREFIX));
        Ok(page)
    }

    /// Whether a place has no store, or one that is half filled.
    pub async fn is_free(place: &Place) -> Result<bool, StoreError> {
        let address = Address::read(place)?;
        meta::is_free(&Cluster::new(&address)?, &address.prefix).await
    }

    /// Compacts revisions that no watcher needs: all but the newest `kept`, once there are 1,000 more than that. For one control
    /// at a time; harmless if two do it.
    pub async fn compact_old(store: &dyn Store, kept: u64) -> Result<(), StoreError> {
        let now = store.revision();
        match now.checked_sub(kept + COMPACT_STEP) {
            Some(_) => store.compact(now - kept).await,
            None => Ok(()),
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Inner {
    /// Compares alone. Ok(Ok): they hold; gives the revision, and which of the wanted keys there are.
    async fn look(&self, txn: &Txn, wanted: &[&str]) -> Result<Result<(i64, Vec<bool>), String>, StoreError> {
        let request = txn::read(&self.keys, &txn.compares, wanted);
        let (answer, _) = self.cluster.call::<TxnRequest, TxnResponse>(path::TXN, &request).await;
        let answer = answer.map_err(|failure| self.cluster.error(failure, false))?;
        let mut found = txn::found(&answer.responses);
        if answer.succeeded {
            let revision = answer.header.as_ref().map_or(0, |header| header.revision);
            return Ok(Ok((revision, found.map(|kv| kv.is_some()).collect())));
        }
        let conflict = txn::conflict(&self.keys, &txn.compares, &mut found);
        Ok(Err(conflict.unwrap_or_default()))
    }

    async fn commit(&self, txn: Txn) -> Result<Outcome, StoreError> {
        txn.check()?;
        txn::check_size(&txn)?;
        if txn.ops.iter().any(|op| matches!(op, Op::Put { .. })) {
            return self.write(&txn, None).await;
        }
        // What changes nothing must have no revision: so somebody else's key decides whether it changes anything.
        let wanted: Vec<&str> = txn.ops.iter().map(Op::key).collect();
        loop {
            let (revision, there) = match self.look(&txn, &wanted).await? {
                Ok(found) => found,
                Err(conflict) => return Ok(Outcome::Conflict(conflict)),
            };
            let Some((key, _)) = wanted.iter().zip(&there).find(|(_, there)| **there) else {
                return Ok(Outcome::Committed(self.keys.revision(revision)));
            };
            match self.write(&txn, Some(key)).await? {
                Outcome::Conflict(conflict) if conflict.is_empty() => {}
                outcome => return Ok(outcome),
            }
        }
    }

    /// Writes exactly once. A conflict without a name: the key that must exist does not.
    async fn write(&self, txn: &Txn, exists: Option<&str>) -> Result<Outcome, StoreError> {
        let number = self.session.number();
        for _ in 0..SESSIONS_MAX {
            let (slot, _room) = self.session.slot(&self.cluster).await?;
            if let Some(outcome) = self.write_in(txn, exists, slot, &number).await? {
                return Ok(outcome);
            }
        }
        Err(StoreError::Unreachable {
            store: self.cluster.name().to_string(),
            reason: "the leases of its writes end at once".into(),
        })
    }

    /// Writes in a slot. None: the slot's session was lost, and nothing happened.
    async fn write_in(
        &self,
        txn: &Txn,
        exists: Option<&str>,
        mut slot: Slot,
        number: &str,
    ) -> Result<Option<Outcome>, StoreError> {
        let request = txn::write(&self.keys, txn, &slot, number, exists);
        let (answer, tried) = self.cluster.call::<TxnRequest, TxnResponse>(path::TXN, &request).await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(Failure::Refused(status)) if is_lease_unknown(&status) => {
                return self.lease_unknown(txn, slot, tried).await;
            }
            Err(failure) => {
                // A late try may still happen: the slot's next use finds out by its own compare.
                let error = self.cluster.error(failure, true);
                self.session.give_back(slot);
                return Err(error);
            }
        };
        if answer.succeeded {
            slot.known = answer.header.as_ref().map_or(0, |header| header.revision);
            return Ok(Some(self.committed(slot)));
        }
        let mut found = txn::found(&answer.responses);
        let marker = found.next().flatten();
        if let Some(marker) = marker.filter(|marker| marker.value == number.as_bytes()) {
            // The earlier try, which had no answer, has happened.
            slot.known = marker.mod_revision;
            return Ok(Some(self.committed(slot)));
        }
        let now = marker.map_or(0, |marker| marker.mod_revision);
        if now == slot.known {
            let conflict = txn::conflict(&self.keys, &txn.compares, found);
            self.session.give_back(slot);
            return Ok(Some(Outcome::Conflict(conflict.unwrap_or_default())));
        }
        if marker.is_some() {
            // A late try of the slot's write before, which was given up, has happened after all. This one has not.
            slot.known = now;
            self.session.give_back(slot);
            return Ok(None);
        }
        self.session.lose(&slot.held).await;
        if tried { Err(self.unknown()) } else { Ok(None) }
    }

    fn committed(&self, slot: Slot) -> Outcome {
        let revision = slot.known;
        self.session.give_back(slot);
        self.written.fetch_max(revision, Ordering::SeqCst);
        Outcome::Committed(self.keys.revision(revision))
    }

    /// Whose lease it was that a write was refused for: the caller's, or the session's.
    async fn lease_unknown(&self, txn: &Txn, slot: Slot, tried: bool) -> Result<Option<Outcome>, StoreError> {
        if !self.session.is_alive(&self.cluster, &slot.held).await {
            self.session.lose(&slot.held).await;
            return if tried { Err(self.unknown()) } else { Ok(None) };
        }
        self.session.give_back(slot);
        let of = |op: &Op| match op {
            Op::Put { lease, .. } => *lease,
            Op::Delete(_) => None,
        };
        for lease in txn.ops.iter().filter_map(of) {
            let id = i64::try_from(lease.0).unwrap_or(i64::MAX);
            if matches!(lease::keep_alive(&self.cluster, id).await, Err(Failure::Refused(_))) {
                return Err(StoreError::LeaseUnknown(lease));
            }
        }
        Ok(None)
    }

    fn unknown(&self) -> StoreError {
        StoreError::Unknown {
            store: self.cluster.name().to_string(),
            reason: "the lease of the write's marker ended while no answer came".into(),
        }
    }

    /// How much there is below a prefix: by the index if it has what this process wrote, else by reading all of it.
    async fn usage(&self, prefix: &str) -> Result<Usage, StoreError> {
        let caught_up = self.index.caught_up(self.written.load(Ordering::SeqCst));
        if timeout(Duration::from_secs(INDEX_SECS_MAX), caught_up).await.is_ok() {
            return Ok(self.index.usage(prefix));
        }
        let mut usage = Usage::default();
        let mut count = |item: Item| {
            usage.keys += 1;
            usage.bytes += item.value.len();
        };
        let span = Span::of(&self.keys, &Range::all(prefix));
        read::pages(&self.cluster, &self.keys, span, &mut count).await?;
        Ok(usage)
    }

    /// Fills the index and follows all changes, for ever. After a gap it reads everything anew.
    async fn keep_index(&self) {
        loop {
            let mut sizes = BTreeMap::new();
            let mut take = |item: Item| {
                sizes.insert(item.key.into_boxed_str(), u32::try_from(item.value.len()).unwrap_or(u32::MAX));
            };
            let read =
                read::pages(&self.cluster, &self.keys, Span::of(&self.keys, &Range::all("")), &mut take)
                    .await;
            let revision = match read {
                Ok((_, revision)) => revision,
                Err(error) => {
                    tracing::warn!(error = %ErrorChain(&error), "the sizes of records cannot be read");
                    sleep(Duration::from_secs(INDEX_RETRY_SECS)).await;
                    continue;
                }
            };
            self.index.fill(sizes, revision);
            let mut follower = Follower::new(Arc::clone(&self.cluster), self.keys.of(""), revision);
            while let Ok(events) = follower.next().await {
                let newest =
                    events.last().and_then(|event| event.kv.as_ref()).map_or(0, |kv| kv.mod_revision);
                let changes = events.iter().filter_map(|event| self.keys.change(event));
                let sizes = changes.map(|change| match change {
                    Change::Put(item) => (item.key, Some(item.value.len())),
                    Change::Delete { key, .. } => (key, None),
                });
                self.index.follow(sizes, newest);
            }
        }
    }
}

fn is_lease_unknown(status: &tonic::Status) -> bool {
    status.code() == Code::NotFound && status.message().contains("lease not found")
}

impl Store for Etcd {
    fn get<'a>(&'a self, key: &'a str) -> Reply<'a, Option<Item>> {
        async move {
            let inner = &*self.inner;
            let request = RangeRequest { key: inner.keys.of(key), ..RangeRequest::default() };
            let (answer, _) = inner.cluster.call::<_, RangeResponse>(path::RANGE, &request).await;
            let answer = answer.map_err(|failure| inner.cluster.error(failure, false))?;
            Ok(answer.kvs.first().map(|kv| inner.keys.item(kv)))
        }
        .boxed()
    }

    fn revision(&self) -> Revision {
        let inner = &self.inner;
        let newest = inner.written.load(Ordering::SeqCst).max(inner.index.revision().unwrap_or(0));
        inner.keys.revision(newest)
    }

    fn usage(&self, prefix: String) -> Reply<'_, Usage> {
        async move { self.inner.usage(&prefix).await }.boxed()
    }

    fn range(&self, range: Range) -> Reply<'_, Page> {
        async move {
            let inner = &*self.inner;
            read::range(&inner.cluster, &inner.keys, &range, Some(&inner.index)).await
        }
        .boxed()
    }

    fn scan(&self, prefix: String, page: usize) -> Scan {
        let (cluster, keys) = (Arc::clone(&self.inner.cluster), self.inner.keys.clone());
        let scanning = read::Scanning::new(cluster, keys, &prefix, page);
        stream::unfold(Some(scanning), |scanning| async { Some(scanning?.next().await) }).boxed()
    }

    fn commit(&self, txn: Txn) -> Reply<'_, Outcome> {
        let inner = Arc::clone(&self.inner);
        // Goes on when nobody waits any more: a slot is given back once it is known what became of its write.
        async move {
            let write = tokio::spawn(async move { inner.commit(txn).await });
            write.await.unwrap_or(Err(StoreError::Closed))
        }
        .boxed()
    }

    fn watch(&self, prefix: String, after: Revision) -> Watch {
        let inner = Arc::clone(&self.inner);
        let follower =
            Follower::new(Arc::clone(&inner.cluster), inner.keys.of(&prefix), inner.keys.etcd(after));
        stream::unfold(Some((follower, inner, after)), |state| async {
            let (mut follower, inner, asked) = state?;
            match follower.next().await {
                Ok(events) => {
                    let newest =
                        events.last().and_then(|event| event.kv.as_ref()).map_or(0, |kv| kv.mod_revision);
                    let changes = events.iter().filter_map(|event| inner.keys.change(event)).collect();
                    let revision = inner.keys.revision(newest);
                    Some((Ok(Batch { changes, revision }), Some((follower, inner, revision))))
                }
                Err(Compacted(oldest)) => {
                    let oldest = inner.keys.revision(oldest);
                    Some((Err(StoreError::Compacted { asked, oldest }), None))
                }
            }
        })
        .boxed()
    }

    fn grant(&self, ttl: Duration) -> Reply<'_, LeaseId> {
        async move {
            if ttl.as_secs() > LEASE_SECS_MAX {
                return Err(StoreError::TooLarge("a lease lasts at most an hour"));
            }
            let secs = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
            let id = lease::grant(&self.inner.cluster, secs.max(1)).await?;
            Ok(LeaseId(u64::try_from(id).unwrap_or_default()))
        }
        .boxed()
    }

    fn keep_alive(&self, lease: LeaseId) -> Reply<'_, ()> {
        async move {
            let id = i64::try_from(lease.0).unwrap_or(i64::MAX);
            match lease::keep_alive(&self.inner.cluster, id).await {
                Ok(()) => Ok(()),
                Err(Failure::Refused(status)) if status.code() == Code::NotFound => {
                    Err(StoreError::LeaseUnknown(lease))
                }
                Err(failure) => Err(self.inner.cluster.error(failure, false)),
            }
        }
        .boxed()
    }

    fn revoke(&self, lease: LeaseId) -> Reply<'_, ()> {
        async move {
            let id = i64::try_from(lease.0).unwrap_or(i64::MAX);
            let was_there = lease::revoke(&self.inner.cluster, id).await?;
            if was_there { Ok(()) } else { Err(StoreError::LeaseUnknown(lease)) }
        }
        .boxed()
    }

    fn compact(&self, revision: Revision) -> Reply<'_, ()> {
        async move {
            let inner = &*self.inner;
            let now = read::revision(&inner.cluster, &inner.keys).await?;
            // etcd keeps the revision it is asked to compact at; the newest cannot be forgotten.
            let at = inner.keys.etcd(revision).saturating_add(1).min(now);
            let request = CompactionRequest { revision: at };
            let (done, _) = inner.cluster.call::<_, CompactionResponse>(path::COMPACT, &request).await;
            match done {
                Ok(_) => Ok(()),
                // It is, up to there or further.
                Err(Failure::Refused(status)) if status.message().contains("has been compacted") => Ok(()),
                Err(failure) => Err(inner.cluster.error(failure, false)),
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests;
