//! `Record`: what stands in the files of a `ProgramLog`, and the files' names. Knows nothing of when they are written, nor of
//! how what they say fits together.

use std::io;

use ebbgate_model::{Changes, ProgramDigest};
use serde::{Deserialize, Serialize};

use super::frames::frame;

/// One record of a file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Record {
    /// Objects of a snapshot.
    Objects(Box<Changes>),
    /// The last record of a snapshot.
    End {
        /// Generation of the snapshot.
        generation: u64,
        /// Number of the last change in it.
        last: u64,
        /// Digests of the buckets of its objects, in order.
        digests: Vec<ProgramDigest>,
    },
    /// One change.
    Change {
        /// One more than that of the change before.
        number: u64,
        /// Generation it leads to.
        generation: u64,
        /// The objects.
        changes: Box<Changes>,
    },
}

impl Record {
    /// The record as it stands in a file.
    pub(super) fn framed(&self) -> io::Result<Vec<u8>> {
        let text = serde_json::to_vec(self)?;
        frame(&text).ok_or_else(|| io::Error::other("a change is longer than a record may be"))
    }
}

/// Name of the file of a snapshot.
pub(super) fn snapshot_name(number: u64) -> String {
    format!("snapshot-{number:016}")
}

/// Name of the file of the changes since that snapshot.
pub(super) fn changes_name(number: u64) -> String {
    format!("changes-{number:016}")
}
