//! What counts the store's transactions, and what ties keys to a client that comes back.

/// Counts committed transactions that changed something; grows by one with each.
pub type Revision = u64;

/// A promise to come back; keys tied to it go when it is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);
