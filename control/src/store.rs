//! `Store`: what control remembers, with etcd's meaning: revisioned keys, compare-and-swap, watch from a revision, leases.
//!
//! Knows keys and bytes. What the bytes say is `record`'s business, what follows from them is `plan`'s.

#[cfg(test)]
mod conformance;
mod lock;
mod sqlite;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

pub use lock::DirLock;
pub use sqlite::{Attached, Sqlite, attach, attached, copy_database, detach, read_database, verify_database};

/// Longest key in bytes.
pub const KEY_BYTES_MAX: usize = 1024;
/// Longest value in bytes.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Most compares, and most operations, of one transaction.
pub const TXN_OPS_MAX: usize = 128;
/// Revisions kept for watchers; what is older is compacted away.
pub const REVISIONS_KEPT: u64 = 10_000;
/// Bytes of values in the revisions kept; beyond, the older half is compacted away before [`REVISIONS_KEPT`].
pub const LOG_BYTES_MAX: u64 = 64 << 20;
/// Longest life of a lease that nobody keeps alive, in seconds.
pub const LEASE_SECS_MAX: u64 = 3600;

/// Counts committed transactions that changed something; grows by one with each.
pub type Revision = u64;

/// A key with its value as of some revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The key.
    pub key: String,
    /// The bytes stored.
    pub value: Bytes,
    /// Revision that created the key.
    pub created: Revision,
    /// Revision that last wrote it. Compare against this.
    pub modified: Revision,
    /// The lease that takes the key along when it ends.
    pub lease: Option<LeaseId>,
    /// Whether it is not what was written: its checksum does not fit, and the value is empty.
    pub damaged: bool,
}

/// Which keys to read, in key order.
#[derive(Debug, Clone, Default)]
pub struct Range {
    /// Only keys that begin with this.
    pub prefix: String,
    /// Only keys that sort before this one.
    pub before: Option<String>,
    /// Most items wanted; None: all of them.
    pub limit: Option<usize>,
    /// Greatest key first.
    pub reverse: bool,
}

impl Range {
    /// All keys below a prefix, least first.
    pub fn all(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into(), ..Self::default() }
    }
}

/// What a range read found, all as of one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The items.
    pub items: Vec<Item>,
    /// Whether the limit cut something off.
    pub more: bool,
    /// Revision of the whole store at the moment of reading.
    pub revision: Revision,
}

/// How much is stored below a prefix.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Keys.
    pub keys: usize,
    /// Bytes of their values.
    pub bytes: usize,
}

/// What must hold for a transaction to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The key does not exist.
    Absent(String),
    /// The key exists and was last written by this revision.
    Unchanged(String, Revision),
    /// No key below the prefix was written after the revision. Deletions do not count, as in etcd.
    NoneNewer(String, Revision),
}

/// One change of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Creates or replaces a key.
    Put {
        /// The key.
        key: String,
        /// Its new value.
        value: Bytes,
        /// The lease it belongs to from now on.
        lease: Option<LeaseId>,
    },
    /// Removes a key; a key that is not there is no error.
    Delete(String),
}

impl Op {
    /// The key concerned.
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete(key) => key,
        }
    }
}

/// Compares and changes that happen all at once or not at all. No key may be changed twice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold.
    pub compares: Vec<Compare>,
    /// What is then done.
    pub ops: Vec<Op>,
}

impl Txn {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only if the key does not exist.
    #[must_use]
    pub fn if_absent(mut self, key: impl Into<String>) -> Self {
        self.compares.push(Compare::Absent(key.into()));
        self
    }

    /// Only if the key was last written by this revision.
    #[must_use]
    pub fn if_unchanged(mut self, key: impl Into<String>, modified: Revision) -> Self {
        self.compares.push(Compare::Unchanged(key.into(), modified));
        self
    }

    /// Only if nothing below the prefix was written after the revision at which it was read.
    #[must_use]
    pub fn if_none_newer(mut self, prefix: impl Into<String>, revision: Revision) -> Self {
        self.compares.push(Compare::NoneNewer(prefix.into(), revision));
        self
    }

    /// Writes a key.
    #[must_use]
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.ops.push(Op::Put { key: key.into(), value: value.into(), lease: None });
        self
    }

    /// Writes a key that goes when the lease ends.
    #[must_use]
    pub fn put_leased(mut self, key: impl Into<String>, value: impl Into<Bytes>, lease: LeaseId) -> Self {
        self.ops.push(Op::Put { key: key.into(), value: value.into(), lease: Some(lease) });
        self
    }

    /// Removes a key.
    #[must_use]
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.ops.push(Op::Delete(key.into()));
        self
    }

    /// Refuses what no store would take.
    pub fn check(&self) -> Result<(), StoreError> {
        if self.ops.len() > TXN_OPS_MAX || self.compares.len() > TXN_OPS_MAX {
            return Err(StoreError::TooLarge("a transaction has at most 128 compares and 128 changes"));
        }
        let mut keys = std::collections::BTreeSet::new();
        for op in &self.ops {
            if op.key().is_empty() || op.key().len() > KEY_BYTES_MAX {
                return Err(StoreError::TooLarge("a key has 1 to 1024 bytes"));
            }
            if matches!(op, Op::Put { value, .. } if value.len() > VALUE_BYTES_MAX) {
                return Err(StoreError::TooLarge("a value has at most 1 MiB"));
            }
            if !keys.insert(op.key()) {
                return Err(StoreError::DuplicateKey(op.key().to_owned()));
            }
        }
        Ok(())
    }
}

/// What became of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// It happened and is durable. Carries the store's revision after it.
    Committed(Revision),
    /// A compare did not hold; nothing was changed. Carries its key or prefix.
    Conflict(String),
}

/// One change as a watcher sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A key was written.
    Put(Item),
    /// A key was removed, or its lease ended.
    Delete {
        /// The key.
        key: String,
        /// By which revision.
        modified: Revision,
    },
}

/// Changes in the order they happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The changes under the watched prefix since the batch before.
    pub changes: Vec<Change>,
    /// All changes up to and including this revision have now been seen.
    pub revision: Revision,
}

/// A promise to come back; keys tied to it go when it is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

/// Changes from a revision on, without gaps; ends after an error.
pub type Watch = BoxStream<'static, Result<Batch, StoreError>>;

/// A future of one answer of the store.
pub type Reply<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// Why the store did not do what was asked. Nothing was changed, unless a variant says otherwise.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The revision is older than what is kept.
    #[error("revision {asked} is compacted away, the oldest kept is {oldest}: read everything again")]
    Compacted {
        /// Where the watch should have begun.
        asked: Revision,
        /// The oldest revision a watch can follow.
        oldest: Revision,
    },
    /// The lease has ended or never was.
    #[error("lease {} has ended: ask for a new one", .0.0)]
    LeaseUnknown(LeaseId),
    /// Over one of the limits of this module.
    #[error("{0}")]
    TooLarge(&'static str),
    /// A transaction changes a key twice.
    #[error("the transaction changes the key {0} twice")]
    DuplicateKey(String),
    /// No room on the disk.
    #[error("the disk that holds {} is full; nothing was changed. Free space, then repeat", path.display())]
    Full {
        /// The database.
        path: PathBuf,
    },
    /// The disk or file may not be written.
    #[error("{} cannot be written: the file or its disk is read-only. Mount it for writing, then repeat", path.display())]
    ReadOnly {
        /// The database.
        path: PathBuf,
    },
    /// The database is damaged.
    #[error("{} is damaged ({detail}). Put a backup in its place with `ebbgate-control restore`", path.display())]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// Written by a newer release.
    #[error("{} has schema {found}, this release knows {known}: start the newer ebbgate-control, or put a backup of before the upgrade in its place with `ebbgate-control restore`", path.display())]
    TooNew {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// Another process has it.
    #[error("{} is in use by another ebbgate-control (pid {holder}): stop that one first", path.display())]
    InUse {
        /// The lock file.
        path: PathBuf,
        /// What the lock file says.
        holder: String,
    },
    /// There is no database.
    #[error("{} does not exist: run `ebbgate-control init` first, or `ebbgate-control restore` if it was lost", path.display())]
    Missing {
        /// The database.
        path: PathBuf,
    },
    /// Too many writes are waiting for the disk.
    #[error("too many writes wait for the disk; repeat in a moment")]
    Busy,
    /// The store is shutting down.
    #[error("the store is shutting down")]
    Closed,
    /// Anything else the engine says. Whether a write happened is unknown only if the engine died with it.
    #[error("{} failed", path.display())]
    Engine {
        /// The database.
        path: PathBuf,
        /// What the engine said.
        source: Arc<dyn Error + Send + Sync>,
    },
}

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
    /// All or nothing.
    fn commit(&self, txn: Txn) -> Reply<'_, Outcome>;
    /// Every change below the prefix after the revision.
    fn watch(&self, prefix: String, after: Revision) -> Watch;
    /// A new lease. It ends `ttl` after it was granted, last kept alive, or the store was restarted.
    fn grant(&self, ttl: Duration) -> Reply<'_, LeaseId>;
    /// Begins the lease's time anew.
    fn keep_alive(&self, lease: LeaseId) -> Reply<'_, ()>;
    /// Ends the lease now; its keys go with it.
    fn revoke(&self, lease: LeaseId) -> Reply<'_, ()>;
    /// Forgets changes up to and including the revision; current values stay.
    fn compact(&self, revision: Revision) -> Reply<'_, ()>;
}

/// What an error of the file system means to an operator.
fn file_error(path: &Path, error: std::io::Error) -> StoreError {
    let path = path.to_owned();
    match error.kind() {
        std::io::ErrorKind::StorageFull => StoreError::Full { path },
        std::io::ErrorKind::ReadOnlyFilesystem => StoreError::ReadOnly { path },
        _ => StoreError::Engine { path, source: Arc::new(error) },
    }
}
