//! What the handle and the thread give each other.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use ebbgate_ebpf as shared;
use ebbgate_model::EndpointId;
use ebbgate_model::feed::EnforcementReport;

use super::maps::{Count, Counters};
use super::offload::Listening;
use super::settings::Mode;
use crate::state::blocklist::Blocklist;
use crate::state::changes::Changes;
use crate::state::tables::Tables;

/// What is to be enforced.
#[derive(Clone)]
pub struct Wanted {
    /// The Tables in force.
    pub tables: Arc<Tables>,
    /// Where the edge listens, and which endpoint owns each port.
    pub listening: Listening,
}

/// By endpoint, how its allowlist is enforced here.
pub type Enforcement = BTreeMap<EndpointId, EnforcementReport>;

/// Gives what is to be enforced now; None: no Program is in force yet.
pub(super) type Source = Box<dyn Fn() -> Option<Wanted> + Send>;

/// Which process keeps the filter in the kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Duty {
    /// This process.
    #[default]
    Own,
    /// The process before it, until this one serves.
    Follow,
    /// Nobody, while another process is about to take over from this one.
    Rest,
    /// The process that has taken over.
    Left,
}

/// Which process keeps the filter, and the lock of its pins on its way.
#[derive(Default)]
pub(super) struct Turn {
    pub(super) duty: Duty,
    /// To the thread with [`Duty::Own`], from it with [`Duty::Rest`].
    pub(super) lock: Option<File>,
}

/// What the handle and the thread share.
pub(super) struct Exchange {
    pub(super) source: Mutex<Option<Source>>,
    pub(super) changes: Arc<Changes>,
    /// The handle is gone.
    pub(super) over: AtomicBool,
    pub(super) turn: Mutex<Turn>,
    pub(super) reload: AtomicBool,
    pub(super) blocklist: Arc<ArcSwap<Blocklist>>,
    pub(super) seen: Mutex<Seen>,
}

/// What the thread leaves for metrics.
#[derive(Default)]
pub(super) struct Seen {
    /// The kernel's counters, while there is a filter.
    pub(super) counters: Option<Counters>,
    /// Guarded TCP port of each policy number.
    pub(super) ports: BTreeMap<u32, u16>,
    /// Interfaces that are to be guarded, and how they are.
    pub(super) interfaces: BTreeMap<String, Option<Mode>>,
    /// Prefixes in the kernel.
    pub(super) prefixes: u64,
    /// Networks of the blocklist in force.
    pub(super) blocklist: u64,
}

impl Seen {
    /// Counters of all policies in force; none when they cannot be read.
    pub(super) fn counts(&self) -> Vec<Count> {
        let policies = std::iter::once(shared::POLICY_BLOCKLIST).chain(self.ports.keys().copied());
        self.counters.as_ref().and_then(|counters| counters.read(policies).ok()).unwrap_or_default()
    }

    /// The label of a count.
    pub(super) fn policy(&self, count: &Count) -> String {
        match self.ports.get(&count.policy) {
            Some(port) => format!("tcp:{port}"),
            None if count.reason == shared::Reason::Blocked => "blocklist".into(),
            None => "none".into(),
        }
    }
}
