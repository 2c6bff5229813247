//! Why the store did not do what was asked.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::revision::{LeaseId, Revision};

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
    /// No member of an etcd answers.
    #[error(
        "{store} does not answer ({reason}); nothing was changed. See whether a majority of its members runs and can be reached"
    )]
    Unreachable {
        /// The etcd.
        store: String,
        /// What was seen last.
        reason: String,
    },
    /// A write has no answer. It may have happened, or may yet.
    #[error(
        "{store} gave no answer ({reason}): the change may have been made or not. Read it before you repeat it"
    )]
    Unknown {
        /// The etcd.
        store: String,
        /// What was seen last.
        reason: String,
    },
    /// An etcd refuses.
    #[error("{store} refuses: {reason}")]
    Refused {
        /// The etcd.
        store: String,
        /// In its words.
        reason: String,
    },
    /// The address, or a file it needs.
    #[error("{store} cannot be used: {reason}")]
    Address {
        /// The etcd.
        store: String,
        /// What is wrong.
        reason: String,
    },
    /// An etcd's database is as large as its quota allows.
    #[error(
        "the database of {store} has reached its quota; nothing was changed. Compact and defragment it, or raise --quota-backend-bytes, then `etcdctl alarm disarm` (docs/reliability.md)"
    )]
    Quota {
        /// The etcd.
        store: String,
    },
    /// Nothing is below the prefix of an etcd.
    #[error(
        "{store} holds no installation: run `ebbgate-control init --store` first, or `ebbgate-control restore --store`, or look at the prefix"
    )]
    MissingAt {
        /// The etcd.
        store: String,
    },
    /// Something is there already.
    #[error(
        "{store} holds an installation already: choose another prefix (?prefix=/NAME/), or remove that one with etcdctl"
    )]
    InUseAt {
        /// The etcd.
        store: String,
    },
    /// A restore has not come to its end.
    #[error("{store} is half restored: run `ebbgate-control restore` or `import` again, it begins anew")]
    Unfinished {
        /// The etcd.
        store: String,
    },
    /// Too many writes are waiting for the disk.
    #[error("too many writes wait to be stored; repeat in a moment")]
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

/// What an error of the file system means to an operator.
pub(super) fn file_error(path: &Path, error: std::io::Error) -> StoreError {
    let path = path.to_owned();
    match error.kind() {
        std::io::ErrorKind::StorageFull => StoreError::Full { path },
        std::io::ErrorKind::ReadOnlyFilesystem => StoreError::ReadOnly { path },
        _ => StoreError::Engine { path, source: Arc::new(error) },
    }
}
