//! What the log stores beside its entries, and under which keys.

use serde::{Deserialize, Serialize};

use super::chain::{Hash, Tip, hex, unhex};
use crate::clock::UnixSecs;

/// Everything of the audit log.
pub const AUDIT_PREFIX: &str = "audit/";
/// Entries that are not in the chain yet.
pub(super) const NEW_PREFIX: &str = "audit/new/";
/// Pages of the chain, by the number of their first entry.
pub(super) const LOG_PREFIX: &str = "audit/log/";
/// How far the chain goes: a [`Head`].
pub(super) const HEAD_KEY: &str = "audit/head";
/// Where what is kept of the chain begins: a [`Head`]; absent while nothing was removed.
pub(super) const PRUNED_KEY: &str = "audit/pruned";
/// The key that heads are signed with.
pub(super) const KEY_KEY: &str = "audit/key";

/// How far the chain goes, or how much of it was removed for age or size.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Entries from the beginning.
    pub count: u64,
    /// Hash of the last of them, in hexadecimal.
    pub hash: String,
    /// Number of the last entry that was given to the destinations of events.
    #[serde(default)]
    pub delivered: u64,
    /// When it was signed.
    pub at: UnixSecs,
    /// The signed checkpoint (C2SP tlog-checkpoint) over count and hash.
    pub note: String,
}

impl Head {
    /// The same as numbers. None: the hash is none.
    pub(super) fn tip(&self) -> Option<Tip> {
        let hash: Hash = if self.count == 0 { Hash::default() } else { unhex(&self.hash)? };
        Some(Tip { count: self.count, hash })
    }

    /// A head without its signature.
    pub(super) fn of(tip: Tip, at: UnixSecs) -> Self {
        Self { count: tip.count, hash: hex(&tip.hash), delivered: 0, at, note: String::new() }
    }
}

/// Key of the page that begins with this entry.
pub(super) fn page_key(first: u64) -> String {
    format!("{LOG_PREFIX}{first:020}")
}

/// Number of the first entry of a page, from its key.
pub(super) fn sequence_of(key: &str) -> Option<u64> {
    key.strip_prefix(LOG_PREFIX)?.parse().ok()
}
