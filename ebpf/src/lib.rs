//! The bytes that the XDP program `admit` and user space share: map keys, map values, counters, limits.
//!
//! `no_std` and free of any kernel or user-space library, so that one definition serves both sides; every layout is
//! pinned by a size assertion. What the tables mean together is compiled in `ebbgate-edge`.
#![no_std]
#![forbid(unsafe_code)]

use core::mem::{align_of, size_of};

/// Name of the XDP program in the object.
pub const PROGRAM: &str = "admit";
/// Map: family, protocol and destination port ([`port_index`]) -> [`PortEntry`].
pub const PORTS: &str = "PORTS";
/// Map: [`GuardKey`] -> [`PortEntry`], for listeners on one address.
pub const GUARDS: &str = "GUARDS";
/// Map: LPM trie of [`PrefixKeyV4`] -> [`VERDICT_ALLOW`] or [`VERDICT_DENY`].
pub const PREFIXES_V4: &str = "PREFIXES_V4";
/// Map: LPM trie of [`PrefixKeyV6`] -> [`VERDICT_ALLOW`] or [`VERDICT_DENY`].
pub const PREFIXES_V6: &str = "PREFIXES_V6";
/// Map: per-CPU counters, indexed by [`counter_index`].
pub const COUNTERS: &str = "COUNTERS";
/// Map: one [`Config`].
pub const CONFIG: &str = "CONFIG";
/// Map: LRU of source -> [`Bucket`].
pub const BUCKETS: &str = "BUCKETS";
/// Map: ring buffer of [`Drop`] samples.
pub const DROPS: &str = "DROPS";

/// Which IP a packet came by. An IPv4-mapped source in an IPv6 packet is IPv6 here: Linux drops such packets anyway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Ports of one family and protocol.
const PORTS_EACH: u32 = 65_536;
/// Entries of [`PORTS`]: IPv4 TCP and UDP, then IPv6 TCP and UDP.
pub const PORTS_ENTRIES: u32 = 4 * PORTS_EACH;
/// Most listeners on one address each.
pub const GUARDS_MAX: u32 = 16_384;
/// Most prefixes over all policies and the blocklist.
pub const PREFIXES_MAX: u32 = 1_000_000;
/// Entries that either trie takes: the next list goes in before the last goes out.
pub const PREFIXES_ENTRIES: u32 = 2 * PREFIXES_MAX;
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
/// Most new connections per second that [`Config::syn_per_sec`] may say.
pub const SYN_PER_SEC_MAX: u32 = 1_000_000;

/// What stands at a port: [`PORT_FOREIGN`], or flags and a policy number.
pub type PortEntry = u32;
/// Nothing of this edge: every packet passes, whatever the blocklist says.
pub const PORT_FOREIGN: PortEntry = 0;
/// This edge listens here; the policy number is in the low bits, [`POLICY_BLOCKLIST`] for a port without a list.
pub const PORT_OWN: PortEntry = 1 << 31;
/// Single addresses have entries of their own in [`GUARDS`]; the rest of this entry holds for all others.
pub const PORT_BY_ADDRESS: PortEntry = 1 << 30;
/// Prefix table number of the blocklist of the whole edge; as the policy of a port: no list of its own.
pub const POLICY_BLOCKLIST: u32 = 0;

/// The entry of a port of this edge under a policy.
pub const fn port_entry(policy: u32) -> PortEntry {
    PORT_OWN | policy
}

/// The policy of an entry, if this edge listens there.
pub const fn entry_policy(entry: PortEntry) -> Option<u32> {
    if entry & PORT_OWN == 0 { None } else { Some(entry & (POLICIES_MAX - 1)) }
}

/// Index in [`PORTS`] of a TCP or UDP port.
pub const fn port_index(family: Family, udp: bool, port: u16) -> u32 {
    let family = match family {
        Family::V4 => 0,
        Family::V6 => 2 * PORTS_EACH,
    };
    family + (if udp { PORTS_EACH } else { 0 }) + port as u32
}

/// The source may pass.
pub const VERDICT_ALLOW: u32 = 1;
/// The source is refused although a wider prefix allows it.
pub const VERDICT_DENY: u32 = 2;

/// [`GuardKey::port`] that says only that some port of the address has a list: decides on packets without a port.
pub const GUARD_ANY_PORT: u32 = u32::MAX;

/// Destination of a listener on one address.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuardKey {
    /// Destination address; IPv4 as `::ffff:a.b.c.d`.
    pub address: [u8; 16],
    /// Index in [`PORTS`], or [`GUARD_ANY_PORT`].
    pub port: u32,
}

/// What is matched after the prefix length in [`PREFIXES_V4`]. The policy is always matched whole.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PrefixKeyV4 {
    /// Policy number, native endian on both sides.
    pub policy: u32,
    /// Source network, most significant byte first.
    pub address: [u8; 4],
}

/// What is matched after the prefix length in [`PREFIXES_V6`]. The policy is always matched whole.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PrefixKeyV6 {
    /// Policy number, native endian on both sides.
    pub policy: u32,
    /// Source network, most significant byte first.
    pub address: [u8; 16],
}

/// Bits of either key in front of the network.
pub const PREFIX_BITS_POLICY: u32 = 32;
/// Prefix length in bits of a lookup in [`PREFIXES_V4`].
pub const PREFIX_BITS_V4: u32 = PREFIX_BITS_POLICY + 32;
/// Prefix length in bits of a lookup in [`PREFIXES_V6`].
pub const PREFIX_BITS_V6: u32 = PREFIX_BITS_POLICY + 128;

/// Why a packet passed or was dropped.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Source allowed, or nothing but the blocklist to pass: passed.
    Allowed = 0,
    /// Source not in the list: dropped.
    Unlisted = 1,
    /// Source denied: dropped.
    Denied = 2,
    /// Source on the blocklist: dropped.
    Blocked = 3,
    /// Headers that end before the port, for an address with guarded ports: dropped.
    Truncated = 4,
    /// Headers that cannot be followed, for an address with guarded ports: dropped.
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

/// [`Config::guarding`]: a port with a list is guarded for every IPv4 destination.
pub const GUARDING_V4: u32 = 1;
/// [`Config::guarding`]: a port with a list is guarded for every IPv6 destination.
pub const GUARDING_V6: u32 = 2;
/// [`Config::guarding`]: single addresses are guarded; see [`GUARD_ANY_PORT`].
pub const GUARDING_ADDRESSES: u32 = 4;

/// Switches and rates.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// What is guarded: `GUARDING_` bits. Decides on packets whose port cannot be told.
    pub guarding: u32,
    /// Not 0: at least one port is this edge's.
    pub listening: u32,
    /// Not 0: the blocklist has entries.
    pub blocking: u32,
    /// New connections per second and source to guarded ports, up to [`SYN_PER_SEC_MAX`]; 0: no limit.
    pub syn_per_sec: u32,
    /// Connections a source may open at once before the rate counts.
    pub syn_burst: u32,
    /// One drop in this many is sampled; 0: none.
    pub sample_one_in: u32,
}

/// Token bucket of one source: an IPv4 address, or an IPv6 /64.
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
    /// Source address; IPv4 as `::ffff:a.b.c.d`; zero where the packet ended before it.
    pub source: [u8; 16],
    /// Policy number.
    pub policy: u32,
    /// A [`Reason`] as a number.
    pub reason: u32,
    /// Destination port; 0 where the packet has none.
    pub port: u16,
    /// 4 or 6, or 0 where it cannot be told.
    pub family: u8,
    /// 6 for TCP, 17 for UDP, or 0 where it cannot be told.
    pub protocol: u8,
}

/// Changes when any layout or meaning here changes; pinned maps of another value are replaced.
pub const LAYOUT: u32 = 2;

const _: () = {
    assert!(size_of::<GuardKey>() == 20 && align_of::<GuardKey>() == 4);
    assert!(size_of::<PrefixKeyV4>() == 8 && align_of::<PrefixKeyV4>() == 4);
    assert!(size_of::<PrefixKeyV6>() == 20 && align_of::<PrefixKeyV6>() == 4);
    assert!(size_of::<Config>() == 24);
    assert!(size_of::<Bucket>() == 16);
    assert!(size_of::<Drop>() == 28);
    assert!(POLICIES_MAX.is_power_of_two() && POLICIES_MAX <= PORT_BY_ADDRESS);
};
