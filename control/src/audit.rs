//! The audit log: who changed what, from where, written in the transaction of the change itself.
//!
//! [`Recorded`] stands in front of the store: a transaction that changes an object gets an entry, whatever made it. Entries
//! first lie under `audit/new/`, so that writers of any account share no key. The [`Appender`] moves them into one hash
//! chain within [`APPEND_MS`] milliseconds and signs its head: a chain that writers extend themselves would let one change
//! happen at a time in the installation. Between the two an entry is as durable as its change and not yet in the chain.
//!
//! The log's keys do not begin with `/`: what reads records reads nothing of it. Knows no HTTP and no destinations.

mod actor;
mod appender;
mod chain;
mod checkpoint;
mod command;
mod entry;
mod error;
mod key;
mod link;
mod mask;
mod operation;
mod page;
mod read;
mod record;
mod recorded;
mod subject;
mod verify;

pub use actor::{Actor, acting, sync_acting};
pub use appender::{APPEND_MS, Appender, Deliver, Retention};
pub use checkpoint::{Checkpoint, CheckpointError};
pub use command::{Exported, Wanted, export, public_key, verify};
pub use error::AuditError;
pub use key::SigningKey;
pub use link::Link;
pub use mask::masked;
pub use operation::{Doing, OPERATIONS_PATH, Operation, OperationEnd, Unrecorded};
pub use read::{ENTRIES_SHOWN_MAX, Entries, Entry, Sought, entries};
pub use record::{AUDIT_PREFIX, Head};
pub use recorded::Recorded;
pub use verify::{Defect, Verified};

#[cfg(test)]
mod tests;
