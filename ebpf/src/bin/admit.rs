//! XDP `admit`: drops packets of sources that a listener's allowlist refuses, before the kernel makes anything of them.
//!
//! An accelerator, never the authority: the edge checks every accepted connection again. So where this program cannot
//! tell, it passes packets for hosts that guard nothing and drops them where a guarded port could be meant. It knows no
//! endpoints and no accounts, only numbers in maps.
#![no_std]
#![no_main]

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_ktime_get_ns};
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::programs::XdpContext;
use ebbgate_ebpf as shared;
use shared::{Bucket, Config, Drop, GuardKey, PrefixKey, Reason};

#[map]
static PORTS: Array<u32> = Array::with_max_entries(shared::PORTS_ENTRIES, 0);
#[map]
static GUARDS: HashMap<GuardKey, u32> = HashMap::with_max_entries(shared::GUARDS_MAX, 0);
/// `BPF_F_NO_PREALLOC` is the only way the kernel offers this map.
#[map]
static PREFIXES: LpmTrie<PrefixKey, u32> = LpmTrie::with_max_entries(shared::PREFIXES_MAX, 1);
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(shared::COUNTERS_ENTRIES, 0);
#[map]
static CONFIG: Array<Config> = Array::with_max_entries(1, 0);
#[map]
static BUCKETS: LruHashMap<[u8; 16], Bucket> = LruHashMap::with_max_entries(shared::BUCKETS_MAX, 0);
#[map]
static DROPS: RingBuf = RingBuf::with_byte_size(shared::DROPS_BYTES, 0);

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
const NS_PER_SEC: u64 = 1_000_000_000;

/// What the headers say about a packet.
enum Parsed {
    /// A TCP segment or UDP datagram whose ports are in the packet.
    Segment(Segment),
    /// Not for a port: another protocol, or a later fragment, which is nothing without its first.
    Other,
    /// The headers end early or cannot be followed.
    Unclear(Reason),
}

struct Segment {
    source: [u8; 16],
    destination: [u8; 16],
    udp: bool,
    port: u16,
    opens: bool,
}

/// The program.
#[xdp]
fn admit(ctx: XdpContext) -> u32 {
    let Some(config) = CONFIG.get(0) else { return XDP_PASS };
    if config.guarding == 0 && config.blocking == 0 {
        return XDP_PASS;
    }
    match parse(&ctx) {
        Parsed::Segment(segment) => decide(config, &segment),
        Parsed::Other => XDP_PASS,
        Parsed::Unclear(reason) => {
            count(0, reason);
            if config.guarding == 0 { XDP_PASS } else { XDP_DROP }
        }
    }
}

#[inline(always)]
fn decide(config: &Config, segment: &Segment) -> u32 {
    if config.blocking != 0 && lookup(shared::POLICY_BLOCKLIST, &segment.source) == shared::VERDICT_DENY {
        return refuse(config, segment, shared::POLICY_BLOCKLIST, Reason::Blocked);
    }
    let index = shared::port_index(segment.udp, segment.port);
    let policy = match PORTS.get(index) {
        None => return XDP_PASS,
        Some(&shared::PORT_OPEN) => return XDP_PASS,
        Some(&shared::PORT_BY_ADDRESS) => {
            let key = GuardKey { address: segment.destination, port: index };
            // SAFETY: the value is four bytes that user space replaces whole.
            match unsafe { GUARDS.get(&key) } {
                None => return XDP_PASS,
                Some(policy) => *policy,
            }
        }
        Some(policy) => *policy,
    };
    match lookup(policy, &segment.source) {
        shared::VERDICT_ALLOW => {}
        shared::VERDICT_DENY => return refuse(config, segment, policy, Reason::Denied),
        _ => return refuse(config, segment, policy, Reason::Unlisted),
    }
    if segment.opens && config.syn_per_sec != 0 && !take_token(config, &segment.source) {
        return refuse(config, segment, policy, Reason::Rate);
    }
    count(policy, Reason::Allowed);
    XDP_PASS
}

/// The verdict of the longest prefix that covers `source`, or 0.
#[inline(always)]
fn lookup(policy: u32, source: &[u8; 16]) -> u32 {
    /// Aligned by hand: the library's key is packed, and a packed key is written byte by byte.
    #[repr(C, align(8))]
    struct Aligned {
        key: Key<PrefixKey>,
    }
    let aligned = Aligned { key: Key::new(shared::PREFIX_BITS_MAX, PrefixKey { policy, address: *source }) };
    PREFIXES.get(&aligned.key).copied().unwrap_or(0)
}

#[inline(always)]
fn refuse(config: &Config, segment: &Segment, policy: u32, reason: Reason) -> u32 {
    count(policy, reason);
    if config.sample_one_in != 0 {
        // SAFETY: the helper takes nothing and returns a number.
        let random = unsafe { bpf_get_prandom_u32() };
        if random.is_multiple_of(config.sample_one_in) {
            let sample =
                Drop { source: segment.source, policy, reason: reason as u32, port: u32::from(segment.port) };
            if let Some(mut entry) = DROPS.reserve::<Drop>(0) {
                entry.write(sample);
                entry.submit(0);
            }
        }
    }
    XDP_DROP
}

#[inline(always)]
fn count(policy: u32, reason: Reason) {
    if let Some(counter) = COUNTERS.get_ptr_mut(shared::counter_index(policy, reason)) {
        // SAFETY: the pointer is into this CPU's copy, which nothing else writes while the program runs.
        unsafe { *counter += 1 };
    }
}

/// Takes one token of the source's bucket. Two CPUs may race for one source; the bucket is a brake, not an account.
#[inline(always)]
fn take_token(config: &Config, source: &[u8; 16]) -> bool {
    // SAFETY: the helper takes nothing and returns a number.
    let now = unsafe { bpf_ktime_get_ns() };
    let full = u64::from(config.syn_burst) * 1000;
    // SAFETY: the value is plain old data; a torn read only bends the rate.
    let bucket =
        unsafe { BUCKETS.get(source) }.copied().unwrap_or(Bucket { filled_ns: now, millitokens: full });
    let elapsed = now.wrapping_sub(bucket.filled_ns).min(60 * NS_PER_SEC);
    let filled = bucket.millitokens + elapsed * u64::from(config.syn_per_sec) / (NS_PER_SEC / 1000);
    let millitokens = if filled > full { full } else { filled };
    let granted = millitokens >= 1000;
    let left = if granted { millitokens - 1000 } else { millitokens };
    let _ = BUCKETS.insert(source, &Bucket { filled_ns: now, millitokens: left }, 0);
    granted
}

/// Bytes at `offset`, if the packet holds them. At least two are asked for, always: for a single byte at a variable
/// offset the compiler turns the bounds check into one the verifier does not follow.
#[inline(always)]
fn bytes<const N: usize>(ctx: &XdpContext, offset: usize) -> Result<[u8; N], Reason> {
    let start = ctx.data() + offset;
    if start + N > ctx.data_end() {
        return Err(Reason::Truncated);
    }
    // SAFETY: the N bytes are in the packet, as just checked; an array of bytes has no alignment.
    Ok(unsafe { *(start as *const [u8; N]) })
}

/// Where the transport header is, once the network header is read.
struct Transport {
    source: [u8; 16],
    destination: [u8; 16],
    protocol: u8,
    offset: usize,
}

#[inline(always)]
fn parse(ctx: &XdpContext) -> Parsed {
    match parse_network(ctx) {
        Ok(Some(transport)) => parse_ports(ctx, &transport),
        Ok(None) => Parsed::Other,
        Err(reason) => Parsed::Unclear(reason),
    }
}

#[inline(always)]
fn parse_network(ctx: &XdpContext) -> Result<Option<Transport>, Reason> {
    let mut offset = 12;
    for _ in 0..=shared::VLAN_TAGS_MAX {
        match u16::from_be_bytes(bytes(ctx, offset)?) {
            ETHERTYPE_IPV4 => return parse_ipv4(ctx, offset + 2),
            ETHERTYPE_IPV6 => return parse_ipv6(ctx, offset + 2),
            ETHERTYPE_VLAN | ETHERTYPE_QINQ => offset += 4,
            _ => return Ok(None),
        }
    }
    Err(Reason::Headers)
}

#[inline(always)]
fn parse_ipv4(ctx: &XdpContext, offset: usize) -> Result<Option<Transport>, Reason> {
    let header: [u8; 20] = bytes(ctx, offset)?;
    let header_bytes = usize::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || header_bytes < 20 {
        return Err(Reason::Headers);
    }
    let protocol = header[9];
    let later_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0;
    if later_fragment || (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP) {
        return Ok(None);
    }
    let mapped = |a: u8, b: u8, c: u8, d: u8| [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d];
    Ok(Some(Transport {
        source: mapped(header[12], header[13], header[14], header[15]),
        destination: mapped(header[16], header[17], header[18], header[19]),
        protocol,
        offset: offset + header_bytes,
    }))
}

#[inline(always)]
fn parse_ipv6(ctx: &XdpContext, offset: usize) -> Result<Option<Transport>, Reason> {
    let header: [u8; 40] = bytes(ctx, offset)?;
    if header[0] >> 4 != 6 {
        return Err(Reason::Headers);
    }
    let mut protocol = header[6];
    let mut offset = offset + 40;
    let mut extensions = 0;
    loop {
        match protocol {
            IPPROTO_TCP | IPPROTO_UDP => break,
            // Hop-by-hop, routing, fragment, authentication, destination options, mobility, HIP, shim6 (RFC 7045).
            0 | 43 | 44 | 51 | 60 | 135 | 139 | 140 => {}
            _ => return Ok(None),
        }
        if extensions == shared::EXTENSION_HEADERS_MAX {
            return Err(Reason::Headers);
        }
        extensions += 1;
        let extension: [u8; 8] = bytes(ctx, offset)?;
        if protocol == 44 && u16::from_be_bytes([extension[2], extension[3]]) & 0xfff8 != 0 {
            return Ok(None);
        }
        offset += match protocol {
            44 => 8,
            51 => (usize::from(extension[1]) + 2) * 4,
            _ => (usize::from(extension[1]) + 1) * 8,
        };
        protocol = extension[0];
    }
    let mut source = [0; 16];
    let mut destination = [0; 16];
    source.copy_from_slice(&header[8..24]);
    destination.copy_from_slice(&header[24..40]);
    Ok(Some(Transport { source, destination, protocol, offset }))
}

#[inline(always)]
fn parse_ports(ctx: &XdpContext, transport: &Transport) -> Parsed {
    let Ok(ports) = bytes::<4>(ctx, transport.offset) else { return Parsed::Unclear(Reason::Truncated) };
    let udp = transport.protocol == IPPROTO_UDP;
    // A first fragment may end before the flags; it then opens nothing until its rest arrives.
    let opens = !udp && bytes::<14>(ctx, transport.offset).is_ok_and(|tcp| tcp[13] & 0x12 == 0x02);
    Parsed::Segment(Segment {
        source: transport.source,
        destination: transport.destination,
        udp,
        port: u16::from_be_bytes([ports[2], ports[3]]),
        opens,
    })
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
