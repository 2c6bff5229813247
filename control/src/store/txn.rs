//! Keys, their values, and transactions over them: plain data.

use bytes::Bytes;

use super::error::StoreError;
use super::revision::{LeaseId, Revision};

/// Longest key in bytes.
pub const KEY_BYTES_MAX: usize = 1024;

/// Longest value in bytes.
pub const VALUE_BYTES_MAX: usize = 1 << 20;

/// Most compares, and most operations, of one transaction. etcd takes 128 of each; two are for the engine's own.
pub const TXN_OPS_MAX: usize = 126;

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
    /// How changed objects are to be told, for a store that keeps a record of changes (`audit`). Engines do not look.
    pub notes: Vec<Note>,
}

/// What a change of a key looks like to people: JSON, without secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The key that the transaction changes.
    pub key: String,
    /// The object before; None: it is new.
    pub before: Option<serde_json::Value>,
    /// The object after; None: it is removed.
    pub after: Option<serde_json::Value>,
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

    /// Says how the change of a key is to be told.
    #[must_use]
    pub fn note(
        mut self,
        key: impl Into<String>,
        before: Option<serde_json::Value>,
        after: Option<serde_json::Value>,
    ) -> Self {
        self.notes.push(Note { key: key.into(), before, after });
        self
    }

    /// Refuses what no store would take.
    pub fn check(&self) -> Result<(), StoreError> {
        if self.ops.len() > TXN_OPS_MAX || self.compares.len() > TXN_OPS_MAX {
            return Err(StoreError::TooLarge("a transaction has at most 126 compares and 126 changes"));
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
