//! How many links a session has, on which shard the next one waits, and the key of its raw links.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ebbgate_model::CredentialSpec;
use ebbgate_wire::link::raw::{KEY_BYTES, RawKey};
use ebbgate_wire::rpc::Auth;

use super::allowance::{Counter, Permit};

/// Links of one session, idle or in use.
pub const LINKS_PER_SESSION_MAX: u16 = 512;

/// One link's place among its session's.
pub(super) struct LinkCount {
    _taken: Permit,
}

/// The links of one session.
pub(super) struct SessionLinks {
    open: Arc<Counter>,
    /// Links let in so far: they take turns on the shards. Raw ones have turns of their own.
    turns: [AtomicUsize; 2],
    raw_key: Option<RawKey>,
}

impl SessionLinks {
    /// None open yet; raw ones if there is a key for them.
    pub(super) fn new(raw_key: Option<RawKey>) -> Self {
        Self {
            open: Counter::new(LINKS_PER_SESSION_MAX.into()),
            turns: [AtomicUsize::new(0), AtomicUsize::new(0)],
            raw_key,
        }
    }

    /// Counts one link in. None: the session has as many as it may.
    pub(super) fn take(&self) -> Option<LinkCount> {
        Some(LinkCount { _taken: self.open.take(1)? })
    }

    /// The key of raw links.
    pub(super) fn raw_key(&self) -> Option<&RawKey> {
        self.raw_key.as_ref()
    }

    /// Whether there is a key for raw links: a session without one never has any.
    pub(super) fn has_raw_key(&self) -> bool {
        self.raw_key.is_some()
    }

    /// The shard that the next link waits on.
    pub(super) fn turn(&self, raw: bool, shards: usize) -> usize {
        let [links, raws] = &self.turns;
        (if raw { raws } else { links }).fetch_add(1, Ordering::Relaxed) % shards.max(1)
    }
}

/// Whether the credential's account lets a visitor's own TLS travel without a second encryption.
pub(super) fn may_pass_through(credential: &CredentialSpec) -> bool {
    credential.passthrough_links
}

/// The key of a session's raw links, if its agent asked for them and its account allows them.
pub(super) fn raw_key(
    auth: &Auth,
    credential: Option<&CredentialSpec>,
    entropy: [u8; KEY_BYTES],
) -> Option<RawKey> {
    let asked = auth.extra.carriers.iter().any(|carrier| carrier == "raw");
    (asked && credential.is_some_and(may_pass_through)).then(|| RawKey::new(entropy))
}
