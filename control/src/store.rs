//! `Store`: what control remembers, with etcd's meaning: revisioned keys, compare-and-swap, watch from a revision, leases.
//! Two engines: SQLite in one file, and etcd for several controls.
//!
//! Knows keys and bytes. What the bytes say is `record`'s business, what follows from them is `plan`'s.

#[cfg(test)]
mod conformance;
mod contract;
mod error;
mod etcd;
mod lock;
mod revision;
mod sqlite;
mod txn;

pub use contract::{
    LEASE_SECS_MAX, LOG_BYTES_MAX, PASSING_PREFIX, REVISIONS_KEPT, Reply, Scan, Store, Watch,
};
pub use error::StoreError;
pub use etcd::{Etcd, Place, Url, UrlError};
pub use lock::DirLock;
pub use revision::{LeaseId, Revision, SCHEMA};
pub use sqlite::{
    Attached, Sqlite, attach, attached, copy_database, detach, is_current, read_database, verify_database,
    write_database,
};
pub use txn::{
    Batch, Change, Compare, Item, KEY_BYTES_MAX, Note, Op, Outcome, Page, Range, TXN_OPS_MAX, Txn, Usage,
    VALUE_BYTES_MAX,
};
