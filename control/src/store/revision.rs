//! What counts the store's transactions, what counts its schemas, and what ties keys to a client that comes back.

/// Counts committed transactions that changed something; grows by one with each.
pub type Revision = u64;

/// The schema of this release's records, whatever the engine: an older release refuses a newer one.
pub const SCHEMA: u32 = 3;

/// A promise to come back; keys tied to it go when it is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);
