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

/// What an error of the file system means to an operator.
pub(super) fn file_error(path: &Path, error: std::io::Error) -> StoreError {
    let path = path.to_owned();
    match error.kind() {
        std::io::ErrorKind::StorageFull => StoreError::Full { path },
        std::io::ErrorKind::ReadOnlyFilesystem => StoreError::ReadOnly { path },
        _ => StoreError::Engine { path, source: Arc::new(error) },
    }
}
