//! Why the audit log cannot be extended, read or trusted.

use std::io;
use std::path::PathBuf;

use super::checkpoint::CheckpointError;
use super::verify::{Defect, Verified};
use crate::dir::DirError;
use crate::engine::EngineError;
use crate::record::RecordError;
use crate::secret::OpenError;
use crate::store::StoreError;

/// Why the log cannot be extended, read or trusted.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record of the log.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The data directory.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// Where the records are.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The sealed key.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The signing key is damaged.
    #[error("the key of the audit log cannot be used: put a backup in place with `ebbgate-control restore`")]
    Key,
    /// The log has no key yet.
    #[error("this installation has no audit log yet: start `ebbgate-control serve` once")]
    NoLog,
    /// The head is damaged.
    #[error("the head of the audit log cannot be read: `ebbgate-control audit verify` says what is left")]
    Head,
    /// The second place of heads.
    #[error("the signed head cannot be written to {}: {source}", path.display())]
    Heads {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of remembered heads cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Remembered {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A remembered head is none.
    #[error("{}: {source}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: CheckpointError,
    },
    /// The log is not what was written.
    #[error("the audit log is not what was written: {}", .defects.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Defects {
        /// What was found all the same.
        verified: Verified,
        /// What is wrong.
        defects: Vec<Defect>,
    },
    /// `--since` is no time.
    #[error("`{0}` is not a time like 2026-01-31T12:00:00Z")]
    Time(String),
    /// The output.
    #[error("the export cannot be written")]
    Output(#[source] io::Error),
}
