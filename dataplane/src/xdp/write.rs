//! One write to the kernel's maps.

use ebbgate_ebpf::{GuardKey, PortEntry};
use ebbgate_model::Prefix;

/// One write to a kernel map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// Set a port's entry; [`PORT_FOREIGN`](ebbgate_ebpf::PORT_FOREIGN) takes it away.
    Port {
        /// Index in the map.
        index: u32,
        /// Its entry.
        entry: PortEntry,
    },
    /// Set the entry of a listener on one address.
    Guard {
        /// Which listener.
        key: GuardKey,
        /// Its entry.
        entry: PortEntry,
    },
    /// Remove the entry of a listener on one address.
    Unguard {
        /// Which listener.
        key: GuardKey,
    },
    /// Set a prefix's verdict.
    Put {
        /// Policy number.
        policy: u32,
        /// Network.
        prefix: Prefix,
        /// Its verdict.
        verdict: u32,
    },
    /// Remove a prefix.
    Remove {
        /// Policy number.
        policy: u32,
        /// Network.
        prefix: Prefix,
    },
    /// Wait until every packet that is being judged has its verdict.
    GracePeriod,
}
