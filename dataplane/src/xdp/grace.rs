//! Where, among the writes from one content of the maps to the next, to wait for the packets that are being judged.
//!
//! The program reads one entry after the other: the port, the blocklist from its widest network to its narrowest, the list
//! likewise. A packet that is judged while several writes happen may meet the entry that one of them took away and miss
//! the one that another put in. So there is a wait between two writes that such a packet could mix. Pure.

use std::collections::{BTreeSet, HashSet};

use ebbgate_ebpf::POLICY_BLOCKLIST;
use ebbgate_model::Prefix;
use ipnet::IpNet;

use super::write::Write;

/// The writes, with a [`Write::GracePeriod`] wherever one is needed.
pub(super) fn with_grace_periods(writes: impl Iterator<Item = Write>) -> Vec<Write> {
    let mut ordered = Vec::new();
    let mut unordered = Unordered::default();
    for write in writes {
        if unordered.mixes_with(&write) {
            ordered.push(Write::GracePeriod);
            unordered = Unordered::default();
        }
        unordered.note(&write);
        ordered.push(write);
    }
    ordered
}

/// What was written since the last wait.
#[derive(Default)]
struct Unordered {
    has_port: bool,
    has_guard: bool,
    has_blocked: bool,
    prefixes: HashSet<(u32, Prefix)>,
    lengths: BTreeSet<u8>,
}

impl Unordered {
    fn mixes_with(&self, write: &Write) -> bool {
        match write {
            // Seen without the network that is blocked now, and with the list that lets more in.
            Write::Put { policy: POLICY_BLOCKLIST, .. } | Write::GracePeriod => false,
            Write::Put { .. } | Write::Port { .. } | Write::Guard { .. } => self.has_blocked,
            // The port still points at addresses, and the address is gone.
            Write::Unguard { .. } => self.has_blocked || self.has_port,
            // The listener still points at the list; or the wider network came too late, and this one is gone.
            Write::Remove { policy, prefix } => {
                self.has_port || self.has_guard || self.has_blocked || self.covers(*policy, *prefix)
            }
        }
    }

    fn covers(&self, policy: u32, prefix: Prefix) -> bool {
        let net = prefix.net();
        self.lengths.range(..net.prefix_len()).any(|length| {
            let wider = IpNet::new(net.network(), *length).map(|wider| Prefix::from(wider.trunc()));
            wider.is_ok_and(|wider| self.prefixes.contains(&(policy, wider)))
        })
    }

    fn note(&mut self, write: &Write) {
        match write {
            Write::Port { .. } => self.has_port = true,
            Write::Guard { .. } | Write::Unguard { .. } => self.has_guard = true,
            Write::Put { policy, prefix, .. } | Write::Remove { policy, prefix } => {
                self.has_blocked |= *policy == POLICY_BLOCKLIST && matches!(write, Write::Put { .. });
                self.lengths.insert(prefix.net().prefix_len());
                self.prefixes.insert((*policy, *prefix));
            }
            Write::GracePeriod => {}
        }
    }
}
