//! What every engine of the store does.

use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

use super::error::StoreError;
use super::revision::{LeaseId, Revision};
use super::txn::{Batch, Item, Outcome, Page, Range, Txn, Usage};

/// Revisions kept for watchers; what is older is compacted away.
pub const REVISIONS_KEPT: u64 = 10_000;

/// Bytes of values in the revisions kept; beyond, the older half is compacted away before [`REVISIONS_KEPT`].
pub const LOG_BYTES_MAX: u64 = 64 << 20;

/// What keys begin with that are of running processes alone: they stand in no backup and no export.
pub const PASSING_PREFIX: &str = "presence/";

/// Longest life of a lease that is not kept alive, in seconds.
pub const LEASE_SECS_MAX: u64 = 3600;

/// Changes from a revision on, without gaps; ends after an error.
pub type Watch = BoxStream<'static, Result<Batch, StoreError>>;

/// Pages of one revision; ends after an error.
pub type Scan = BoxStream<'static, Result<Page, StoreError>>;

/// A future of one answer of the store.
pub type Reply<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// Durable, ordered, watched keys.
///
/// Laws, checked by the conformance suite: a committed transaction is durable before it is answered; revisions grow by
/// one with each transaction that changes something; reads see every committed transaction; a watch sees every change
/// once, in order.
pub trait Store: Send + Sync + 'static {
    /// One key.
    fn get<'a>(&'a self, key: &'a str) -> Reply<'a, Option<Item>>;
    /// The newest revision that was answered. Costs nothing; what is read later is never older.
    fn revision(&self) -> Revision;
    /// How much is stored below a prefix; reads no values.
    fn usage(&self, prefix: String) -> Reply<'_, Usage>;
    /// Many keys, as of one revision.
    fn range(&self, range: Range) -> Reply<'_, Page>;
    /// Everything below a prefix as of one revision, in pages of so many keys, the least keys first. There is at least one
    /// page; what is written meanwhile is in none.
    fn scan(&self, prefix: String, page: usize) -> Scan;
    /// All or nothing.
    fn commit(&self, txn: Txn) -> Reply<'_, Outcome>;
    /// Every change below the prefix after the revision.
    fn watch(&self, prefix: String, after: Revision) -> Watch;
    /// Damage of the database that was found since it was opened. The store refuses writes then.
    fn damage(&self) -> Option<StoreError> {
        None
    }
    /// A new lease. It ends `ttl` after it was granted, last kept alive, or the store was restarted.
    fn grant(&self, ttl: Duration) -> Reply<'_, LeaseId>;
    /// Begins the lease's time anew.
    fn keep_alive(&self, lease: LeaseId) -> Reply<'_, ()>;
    /// Ends the lease now; its keys go with it.
    fn revoke(&self, lease: LeaseId) -> Reply<'_, ()>;
    /// Forgets changes up to and including the revision; current values stay.
    fn compact(&self, revision: Revision) -> Reply<'_, ()>;
}
