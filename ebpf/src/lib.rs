//! The bytes that the XDP program `admit` and user space share: map keys, map values, counters, limits.
//!
//! `no_std` and free of any kernel or user-space library, so that one definition serves both sides; every layout is
//! pinned by a size assertion. What the tables mean together is compiled in `ebbgate-edge`.
#![no_std]
#![forbid(unsafe_code)]

use core::mem::{align_of, size_of};

/// Name of the XDP program in the object.
pub const PROGRAM: &str = "admit";
/// Map: protocol and destination port -> [`PortEntry`].
pub const PORTS: &str = "PORTS";
/// Map: [`GuardKey`] -> policy, for ports that several listener addresses share.
pub const GUARDS: &str = "GUARDS";
/// Map: LPM trie of [`PrefixKey`] -> [`VERDICT_ALLOW`] or [`VERDICT_DENY`].
pub const PREFIXES: &str = "PREFIXES";
/// Map: per-CPU counters, indexed by [`counter_index`].
pub const COUNTERS: &str = "COUNTERS";
/// Map: one [`Config`].
pub const CONFIG: &str = "CONFIG";
/// Map: LRU of source address -> [`Bucket`].
pub const BUCKETS: &str = "BUCKETS";
/// Map: ring buffer of [`Drop`] samples.
pub const DROPS: &str = "DROPS";

/// Entries of [`PORTS`]: TCP ports, then UDP ports.
pub const PORTS_ENTRIES: u32 = 2 * 65_536;
/// Most (address, port) pairs on shared ports.
pub const GUARDS_MAX: u32 = 16_384;
/// Most prefixes over all policies and the blocklist.
pub const PREFIXES_MAX: u32 = 1_000_000;
/// Policy numbers run from 1 to below this; 0 is the blocklist.
pub const POLICIES_MAX: u32 = 8_192;
/// Counters of one policy; a power of two that [`Reason`] fits in.
pub const COUNTERS_PER_POLICY: u32 = 8;
/// Entries of [`COUNTERS`].
pub const COUNTERS_ENTRIES: u32 = POLICIES_MAX * COUNTERS_PER_POLICY;
/// Most sources under rate limit at a time; the least recently seen is forgotten.
pub const BUCKETS_MAX: u32 = 65_536;
/// Bytes of the drop sample ring.
pub const DROPS_BYTES: u32 = 1 << 18;
/// Most VLAN tags in front of the IP header.
pub const VLAN_TAGS_MAX: usize = 2;
/// Most IPv6 extension headers that are walked.
pub const EXTENSION_HEADERS_MAX: usize = 6;

/// [`PortEntry`] of a port that no policy guards.
pub const PORT_OPEN: u32 = 0;
/// [`PortEntry`] of a port whose policy depends on the destination address: look in [`GUARDS`].
pub const PORT_BY_ADDRESS: u32 = u32::MAX;
/// Prefix table number of the blocklist of the whole edge.
pub const POLICY_BLOCKLIST: u32 = 0;

/// The source may pass.
pub const VERDICT_ALLOW: u32 = 1;
/// The source is refused although a wider prefix allows it.
pub const VERDICT_DENY: u32 = 2;

/// A policy number from 1, or [`PORT_OPEN`], or [`PORT_BY_ADDRESS`].
pub type PortEntry = u32;

/// Destination of a guarded listener.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GuardKey {
    /// Destination address; IPv4 as `::ffff:a.b.c.d`.
    pub address: [u8; 16],
    /// Index in [`PORTS`].
    pub port: u32,
}

/// What is matched after the prefix length in the LPM trie. The policy is always matched whole.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PrefixKey {
    /// Policy number, native endian on both sides.
    pub policy: u32,
    /// Source network, most significant byte first; IPv4 as `::ffff:a.b.c.d`.
    pub address: [u8; 16],
}

/// Prefix length in bits of a lookup: policy and whole address.
pub const PREFIX_BITS_MAX: u32 = 160;
/// Bits of the key in front of an IPv6 prefix.
pub const PREFIX_BITS_V6: u32 = 32;
/// Bits of the key in front of an IPv4 prefix.
pub const PREFIX_BITS_V4: u32 = 32 + 96;

/// Why a packet passed or was dropped.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Source allowed: passed.
    Allowed = 0,
    /// Source not in the list: dropped.
    Unlisted = 1,
    /// Source denied: dropped.
    Denied = 2,
    /// Source on the blocklist: dropped.
    Blocked = 3,
    /// First fragment without whole ports, for an address with guarded ports: dropped.
    Truncated = 4,
    /// IPv6 headers that cannot be followed, for an address with guarded ports: dropped.
    Headers = 5,
    /// New connections of a source above its rate: dropped.
    Rate = 6,
}

impl Reason {
    /// Every reason, for reading counters out.
    pub const ALL: [Self; 7] = [
        Self::Allowed,
        Self::Unlisted,
        Self::Denied,
        Self::Blocked,
        Self::Truncated,
        Self::Headers,
        Self::Rate,
    ];

    /// The label of the metric.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Unlisted => "unlisted",
            Self::Denied => "denied",
            Self::Blocked => "blocked",
            Self::Truncated => "truncated",
            Self::Headers => "headers",
            Self::Rate => "rate",
        }
    }

    /// Whether the packet was passed on.
    pub const fn passed(self) -> bool {
        matches!(self, Self::Allowed)
    }
}

/// Where the events of a policy and reason are counted.
pub const fn counter_index(policy: u32, reason: Reason) -> u32 {
    policy * COUNTERS_PER_POLICY + reason as u32
}

/// Index in [`PORTS`] of a TCP or UDP port.
pub const fn port_index(udp: bool, port: u16) -> u32 {
    (if udp { 65_536 } else { 0 }) + port as u32
}

/// Switches and rates.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Not 0: at least one port is guarded.
    pub guarding: u32,
    /// Not 0: the blocklist has entries.
    pub blocking: u32,
    /// New connections per second and source to guarded ports; 0: no limit.
    pub syn_per_sec: u32,
    /// Connections a source may open at once before the rate counts.
    pub syn_burst: u32,
    /// One drop in this many is sampled; 0: none.
    pub sample_one_in: u32,
    /// Keeps the size a multiple of 8.
    pub reserved: u32,
}

/// Token bucket of one source.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Nanoseconds of the monotonic clock when last filled.
    pub filled_ns: u64,
    /// Tokens left, in thousandths.
    pub millitokens: u64,
}

/// A sampled drop.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drop {
    /// Source address; IPv4 as `::ffff:a.b.c.d`.
    pub source: [u8; 16],
    /// Policy number.
    pub policy: u32,
    /// A [`Reason`] as a number.
    pub reason: u32,
    /// Destination port.
    pub port: u32,
}

/// Changes when any layout or meaning here changes; pinned maps of another value are replaced.
pub const LAYOUT: u32 = 1;

const _: () = {
    assert!(size_of::<GuardKey>() == 20 && align_of::<GuardKey>() == 4);
    assert!(size_of::<PrefixKey>() == 20 && align_of::<PrefixKey>() == 4);
    assert!(size_of::<Config>() == 24);
    assert!(size_of::<Bucket>() == 16);
    assert!(size_of::<Drop>() == 28);
};
