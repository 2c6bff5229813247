//! XDP `admit`: drops packets of sources that a listener's allowlist refuses, before the kernel makes anything of them.
//!
//! An accelerator, never the authority: the edge checks every accepted connection again. So where this program cannot
//! tell, it passes packets for hosts that guard nothing and drops them where a guarded port could be meant. It knows no
//! endpoints and no accounts, only numbers in maps.
//!
//! Written for the verifier too: what differs between the ways through the headers (tags, options, extension headers)
//! is dead before the tables are looked into, so that it walks the second half once, not once for each way.
#![no_std]
#![no_main]
#![expect(
    unsafe_code,
    reason = "packets and map values are reached by address; the verifier checks each one"
)]

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_ktime_get_ns};
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::programs::XdpContext;
use ebbgate_ebpf as shared;
use shared::{Bucket, Config, Drop, Family, GuardKey, POLICY_BLOCKLIST, PrefixKeyV4, PrefixKeyV6, Reason};

#[map]
static PORTS: Array<u32> = Array::with_max_entries(shared::PORTS_ENTRIES, 0);
#[map]
static GUARDS: HashMap<GuardKey, u32> = HashMap::with_max_entries(shared::GUARDS_MAX, 0);
#[map]
static PREFIXES_V4: LpmTrie<PrefixKeyV4, u32> = LpmTrie::with_max_entries(shared::PREFIXES_ENTRIES, 0);
#[map]
static PREFIXES_V6: LpmTrie<PrefixKeyV6, u32> = LpmTrie::with_max_entries(shared::PREFIXES_ENTRIES, 0);
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
const IPPROTO_HOP_BY_HOP: u8 = 0;
const IPPROTO_ROUTING: u8 = 43;
const IPPROTO_FRAGMENT: u8 = 44;
const IPPROTO_AUTHENTICATION: u8 = 51;
const IPPROTO_DESTINATION: u8 = 60;
const IPPROTO_MOBILITY: u8 = 135;
const IPPROTO_HIP: u8 = 139;
const IPPROTO_SHIM6: u8 = 140;
const TCP_SYN: u8 = 0x02;
const TCP_ACK: u8 = 0x10;
const NS_PER_SEC: u64 = 1_000_000_000;

/// Of an IPv4 header (RFC 791, section 3.1), what counts here. Addresses as they stand in the packet.
struct Ipv4 {
    version_words: u8,
    fragment: u16,
    protocol: u8,
    source: V4,
    destination: V4,
}

/// Of an IPv6 header (RFC 8200, section 3), what counts here. Addresses as they stand in the packet.
struct Ipv6 {
    version: u8,
    next: u8,
    source: V6,
    destination: V6,
}

/// The bytes between which a packet lies.
#[derive(Clone, Copy)]
struct Packet {
    start: usize,
    end: usize,
}

impl Packet {
    /// What stands at `offset`, if the packet holds it whole.
    ///
    /// `T` has at least two bytes: for a single byte at a variable offset the compiler turns the bounds check into one
    /// that the verifier does not follow.
    #[inline(always)]
    fn at<T: Copy>(self, offset: usize) -> Option<T> {
        let from = self.start + offset;
        if from + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: the bytes are in the packet, as just checked, and every T here takes any bytes.
        Some(unsafe { core::ptr::read_unaligned(from as *const T) })
    }
}

impl Packet {
    #[inline(always)]
    fn ipv4(self, offset: usize) -> Option<Ipv4> {
        let [first, second, third, source, destination] = self.at(offset)?;
        let [version_words, ..] = u32::to_ne_bytes(first);
        let [_, _, high, low] = u32::to_ne_bytes(second);
        let [_, protocol, ..] = u32::to_ne_bytes(third);
        let fragment = u16::from_be_bytes([high, low]);
        Some(Ipv4 { version_words, fragment, protocol, source: V4(source), destination: V4(destination) })
    }

    #[inline(always)]
    fn ipv6(self, offset: usize) -> Option<Ipv6> {
        let [first, second, s0, s1, s2, s3, d0, d1, d2, d3] = self.at(offset)?;
        let [version, ..] = u32::to_ne_bytes(first);
        let [_, _, next, _] = u32::to_ne_bytes(second);
        Some(Ipv6 { version, next, source: V6([s0, s1, s2, s3]), destination: V6([d0, d1, d2, d3]) })
    }
}

/// Why a packet goes no further in the parser.
enum Stop {
    /// Not for a port: another protocol, or a later fragment, which is nothing without its first.
    Other,
    /// The headers end early or cannot be followed.
    Unclear(Reason),
}

/// Where the transport header is.
struct Transport {
    protocol: u8,
    offset: usize,
}

/// What the transport header says.
struct Segment {
    protocol: u8,
    /// Destination port.
    port: u16,
    /// Of TCP; 0 for a first fragment that ends before them, which opens nothing until its rest arrives.
    flags: u8,
}

/// What becomes of a packet.
enum Outcome {
    /// Passes uncounted: nothing of this edge's.
    Foreign,
    /// Passes or drops by the reason, counted for the policy.
    Judged { policy: u32, reason: Reason, port: u16, protocol: u8 },
}

/// A source or destination, in the form in which tables are looked into.
trait Address: Copy {
    const FAMILY: Family;
    /// The bit of `Config::guarding` that stands for every destination of the family.
    const GUARDING: u32;
    const VERSION: u8;

    /// The verdict of the longest prefix that covers it, or 0.
    fn verdict(self, policy: u32) -> u32;
    /// As user space writes it.
    fn sixteen(self) -> [u8; 16];
    /// What a rate is counted for.
    fn bucket(self) -> [u8; 16];
}

/// A key on the stack, where the verifier wants every store aligned, and the compiler stores eight bytes at a time.
#[repr(C, align(8))]
struct Aligned<T>(T);

#[derive(Clone, Copy)]
struct V4(u32);

impl Address for V4 {
    const FAMILY: Family = Family::V4;
    const GUARDING: u32 = shared::GUARDING_V4;
    const VERSION: u8 = 4;

    #[inline(always)]
    fn verdict(self, policy: u32) -> u32 {
        let key = PrefixKeyV4 { policy, address: self.0.to_ne_bytes() };
        let key = Aligned(Key::new(shared::PREFIX_BITS_V4, key));
        PREFIXES_V4.get(&key.0).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn sixteen(self) -> [u8; 16] {
        sixteen([0, 0, u32::from_ne_bytes([0, 0, 0xff, 0xff]), self.0])
    }

    #[inline(always)]
    fn bucket(self) -> [u8; 16] {
        self.sixteen()
    }
}

#[derive(Clone, Copy)]
struct V6([u32; 4]);

impl Address for V6 {
    const FAMILY: Family = Family::V6;
    const GUARDING: u32 = shared::GUARDING_V6;
    const VERSION: u8 = 6;

    #[inline(always)]
    fn verdict(self, policy: u32) -> u32 {
        let key = PrefixKeyV6 { policy, address: self.sixteen() };
        let key = Aligned(Key::new(shared::PREFIX_BITS_V6, key));
        PREFIXES_V6.get(&key.0).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn sixteen(self) -> [u8; 16] {
        sixteen(self.0)
    }

    /// The /64: one host has as many addresses in it as it likes.
    #[inline(always)]
    fn bucket(self) -> [u8; 16] {
        sixteen([self.0[0], self.0[1], 0, 0])
    }
}

#[inline(always)]
fn sixteen(words: [u32; 4]) -> [u8; 16] {
    // SAFETY: both are sixteen bytes without padding, and any bytes make either.
    unsafe { core::mem::transmute(words) }
}

/// The program. `frags`: interfaces with jumbo frames take it in their drivers; the headers are in the first buffer.
#[xdp(frags)]
fn admit(ctx: XdpContext) -> u32 {
    let Some(config) = CONFIG.get(0) else { return XDP_PASS };
    if config.listening == 0 {
        return XDP_PASS;
    }
    let packet = Packet { start: ctx.data(), end: ctx.data_end() };
    let (ethertype, offset) = match network(packet) {
        Ok(found) => found,
        Err(reason) => return unclear_frame(&ctx, config, reason),
    };
    match ethertype {
        ETHERTYPE_IPV4 => {
            let header = packet.ipv4(offset);
            let segment = header.as_ref().ok_or(TRUNCATED).and_then(|header| ipv4(packet, offset, header));
            let addresses = header.map(|header| (header.source, header.destination));
            finish(&ctx, config, Origin::v4(offset + 12), addresses, segment)
        }
        ETHERTYPE_IPV6 => {
            let header = packet.ipv6(offset);
            let segment =
                header.as_ref().ok_or(TRUNCATED).and_then(|header| ipv6(&ctx, packet, offset, header));
            let addresses = header.map(|header| (header.source, header.destination));
            finish(&ctx, config, Origin::v6(offset + 8), addresses, segment)
        }
        _ => XDP_PASS,
    }
}

const TRUNCATED: Stop = Stop::Unclear(Reason::Truncated);
const UNFOLLOWED: Stop = Stop::Unclear(Reason::Headers);

/// The EtherType behind the tags, and where the network header begins.
#[inline(always)]
fn network(packet: Packet) -> Result<(u16, usize), Reason> {
    let at = |offset| packet.at(offset).map(u16::from_be_bytes).ok_or(Reason::Truncated);
    let is_tag = |ethertype| ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_QINQ;
    let first = at(12)?;
    if !is_tag(first) {
        return Ok((first, 14));
    }
    let second = at(16)?;
    if !is_tag(second) {
        return Ok((second, 18));
    }
    let third = at(20)?;
    if is_tag(third) { Err(Reason::Headers) } else { Ok((third, 22)) }
}

#[inline(always)]
fn ipv4(packet: Packet, offset: usize, header: &Ipv4) -> Result<Segment, Stop> {
    let bytes = usize::from(header.version_words & 0x0f) * 4;
    if header.version_words >> 4 != 4 || bytes < 20 {
        return Err(UNFOLLOWED);
    }
    if header.fragment & 0x1fff != 0 {
        return Err(Stop::Other);
    }
    segment(packet, Transport { protocol: header.protocol, offset: offset + bytes })
}

#[inline(always)]
fn ipv6(ctx: &XdpContext, packet: Packet, offset: usize, header: &Ipv6) -> Result<Segment, Stop> {
    if header.version >> 4 != 6 {
        return Err(UNFOLLOWED);
    }
    let mut transport = Transport { protocol: header.next, offset: offset + 40 };
    if is_extension(transport.protocol) {
        transport =
            Walked(walk_extensions(ctx.ctx, transport.offset as u32, transport.protocol.into())).read()?;
    }
    segment(packet, transport)
}

#[inline(always)]
fn is_extension(protocol: u8) -> bool {
    matches!(protocol, IPPROTO_HOP_BY_HOP | IPPROTO_ROUTING | IPPROTO_FRAGMENT | IPPROTO_DESTINATION)
}

/// Walks the extension headers (RFC 8200, section 4) up to the first that is none.
///
/// A global function, in the kernel's words: the verifier walks it once, for any arguments, and knows nothing of what it
/// returns, so that the many ways through the loop are not each followed to the end of the program.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn walk_extensions(ctx: *mut xdp_md, offset: u32, protocol: u32) -> u64 {
    let ctx = XdpContext::new(ctx);
    let packet = Packet { start: ctx.data(), end: ctx.data_end() };
    let mut transport = Transport { protocol: protocol as u8, offset: offset as usize };
    if transport.offset > OFFSET_MAX {
        return Walked::stop(UNFOLLOWED).0;
    }
    for _ in 0..shared::EXTENSION_HEADERS_MAX {
        if !is_extension(transport.protocol) {
            break;
        }
        let Some(extension) = packet.at::<[u8; 8]>(transport.offset) else {
            return Walked::stop(TRUNCATED).0;
        };
        if transport.protocol == IPPROTO_FRAGMENT {
            if u16::from_be_bytes([extension[2], extension[3]]) & 0xfff8 != 0 {
                return Walked::stop(Stop::Other).0;
            }
            // Reserved, and zero from every sender (section 4.5); in the other headers this byte is the length.
            if extension[1] != 0 {
                return Walked::stop(UNFOLLOWED).0;
            }
        }
        transport.protocol = extension[0];
        transport.offset += (usize::from(extension[1]) + 1) * 8;
    }
    Walked((transport.offset as u64) << 8 | u64::from(transport.protocol)).0
}

/// Most bytes in front of a transport header: tags, IPv6, extension headers.
const OFFSET_MAX: usize = 22 + 40 + shared::EXTENSION_HEADERS_MAX * 2048;

/// What walking the extension headers came to, in one number: protocol, offset, and above both why it stopped.
struct Walked(u64);

impl Walked {
    #[inline(always)]
    fn stop(stop: Stop) -> Self {
        Self(match stop {
            Stop::Other => 1 << 32,
            Stop::Unclear(Reason::Truncated) => 2 << 32,
            Stop::Unclear(_) => 3 << 32,
        })
    }

    #[inline(always)]
    fn read(self) -> Result<Transport, Stop> {
        let offset = (self.0 as u32 >> 8) as usize;
        match self.0 >> 32 {
            0 if offset <= OFFSET_MAX => Ok(Transport { protocol: self.0 as u8, offset }),
            1 => Err(Stop::Other),
            2 => Err(TRUNCATED),
            _ => Err(UNFOLLOWED),
        }
    }
}

/// The TCP or UDP header, through one authentication header (RFC 4302) if there is one.
#[inline(always)]
fn segment(packet: Packet, mut transport: Transport) -> Result<Segment, Stop> {
    if transport.protocol == IPPROTO_AUTHENTICATION {
        let header: [u8; 8] = packet.at(transport.offset).ok_or(TRUNCATED)?;
        transport.protocol = header[0];
        transport.offset += (usize::from(header[1]) + 2) * 4;
    }
    match transport.protocol {
        IPPROTO_TCP | IPPROTO_UDP => {}
        // Extension headers behind the last one that is walked, behind authentication, or of kinds that are not walked.
        IPPROTO_HOP_BY_HOP
        | IPPROTO_ROUTING
        | IPPROTO_FRAGMENT
        | IPPROTO_AUTHENTICATION
        | IPPROTO_DESTINATION
        | IPPROTO_MOBILITY
        | IPPROTO_HIP
        | IPPROTO_SHIM6 => return Err(UNFOLLOWED),
        _ => return Err(Stop::Other),
    }
    let (high, low, flags) = match packet.at::<[u8; 14]>(transport.offset) {
        Some([_, _, high, low, _, _, _, _, _, _, _, _, _, flags]) => (high, low, flags),
        None => {
            let [_, _, high, low]: [u8; 4] = packet.at(transport.offset).ok_or(TRUNCATED)?;
            (high, low, 0)
        }
    };
    Ok(Segment { protocol: transport.protocol, port: u16::from_be_bytes([high, low]), flags })
}

/// Decides, counts, samples.
#[inline(always)]
fn finish<A: Address>(
    ctx: &XdpContext,
    config: &Config,
    origin: Origin,
    addresses: Option<(A, A)>,
    segment: Result<Segment, Stop>,
) -> u32 {
    let outcome = match (addresses, segment) {
        (Some((source, destination)), Ok(segment)) => decide(config, source, destination, &segment),
        (_, Err(Stop::Unclear(reason))) => unclear(config, addresses, reason),
        _ => Outcome::Foreign,
    };
    let Outcome::Judged { policy, reason, port, protocol } = outcome else { return XDP_PASS };
    count(policy, reason);
    if reason.passed() {
        return XDP_PASS;
    }
    if config.sample_one_in != 0 {
        let what = origin.0 << 24 | u32::from(protocol) << 16 | u32::from(port);
        sample_drop(ctx.ctx, config.sample_one_in, policy, reason as u32, what);
    }
    XDP_DROP
}

/// A segment or datagram whose headers are clear.
#[inline(always)]
fn decide<A: Address>(config: &Config, source: A, destination: A, segment: &Segment) -> Outcome {
    let Segment { protocol, port, .. } = *segment;
    let index = shared::port_index(A::FAMILY, protocol == IPPROTO_UDP, port);
    let mut entry = PORTS.get(index).copied().unwrap_or(shared::PORT_FOREIGN);
    if entry & shared::PORT_BY_ADDRESS != 0 {
        let key = Aligned(GuardKey { address: destination.sixteen(), port: index });
        // SAFETY: the value is four bytes that user space replaces whole.
        if let Some(single) = unsafe { GUARDS.get(&key.0) } {
            entry = *single;
        }
    }
    let Some(policy) = shared::entry_policy(entry) else { return Outcome::Foreign };
    if config.blocking != 0 && source.verdict(POLICY_BLOCKLIST) == shared::VERDICT_DENY {
        return Outcome::Judged { policy: POLICY_BLOCKLIST, reason: Reason::Blocked, port, protocol };
    }
    let reason = if policy == POLICY_BLOCKLIST {
        Reason::Allowed
    } else {
        match source.verdict(policy) {
            shared::VERDICT_ALLOW if is_over_rate(config, source, segment) => Reason::Rate,
            shared::VERDICT_ALLOW => Reason::Allowed,
            shared::VERDICT_DENY => Reason::Denied,
            _ => Reason::Unlisted,
        }
    };
    Outcome::Judged { policy, reason, port, protocol }
}

#[inline(always)]
fn is_over_rate<A: Address>(config: &Config, source: A, segment: &Segment) -> bool {
    config.syn_per_sec != 0
        && segment.protocol == IPPROTO_TCP
        && segment.flags & (TCP_SYN | TCP_ACK) == TCP_SYN
        && !take_token(config, source.bucket())
}

/// A frame whose network header is not reached.
#[inline(always)]
fn unclear_frame(ctx: &XdpContext, config: &Config, reason: Reason) -> u32 {
    if config.guarding == 0 {
        return XDP_PASS;
    }
    count(POLICY_BLOCKLIST, reason);
    if config.sample_one_in != 0 {
        sample_drop(ctx.ctx, config.sample_one_in, POLICY_BLOCKLIST, reason as u32, 0);
    }
    XDP_DROP
}

/// A packet whose port is not reached: dropped where it could be a guarded one.
#[inline(always)]
fn unclear<A: Address>(config: &Config, addresses: Option<(A, A)>, reason: Reason) -> Outcome {
    let is_guarded = config.guarding & A::GUARDING != 0
        || config.guarding & shared::GUARDING_ADDRESSES != 0
            && addresses.is_none_or(|(_, destination)| {
                let key = GuardKey { address: destination.sixteen(), port: shared::GUARD_ANY_PORT };
                let key = Aligned(key);
                // SAFETY: only whether it is there counts.
                unsafe { GUARDS.get(&key.0) }.is_some()
            });
    if !is_guarded {
        return Outcome::Foreign;
    }
    Outcome::Judged { policy: POLICY_BLOCKLIST, reason, port: 0, protocol: 0 }
}

/// Where a packet's source address stands, in seven bits, and in the lowest whether it is IPv6. 0: nowhere.
#[derive(Clone, Copy)]
struct Origin(u32);

impl Origin {
    #[inline(always)]
    fn v4(offset: usize) -> Self {
        Self((offset as u32) << 1)
    }

    #[inline(always)]
    fn v6(offset: usize) -> Self {
        Self((offset as u32) << 1 | 1)
    }

    /// The family's number and the address.
    #[inline(always)]
    fn read(self, packet: Packet) -> Option<(u8, [u8; 16])> {
        let offset = (self.0 >> 1 & 0x7f) as usize;
        if self.0 == 0 {
            None
        } else if self.0 & 1 == 0 {
            Some((V4::VERSION, V4(packet.at(offset)?).sixteen()))
        } else {
            Some((V6::VERSION, V6(packet.at(offset)?).sixteen()))
        }
    }
}

/// Puts one drop in so many into the ring, if it has room. `what`: [`Origin`], protocol, port, from the top.
///
/// A global function like [`walk_extensions`], so that it is verified once and not for every way to a drop.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sample_drop(ctx: *mut xdp_md, one_in: u32, policy: u32, reason: u32, what: u32) -> u32 {
    // SAFETY: the helper takes nothing and returns a number.
    let random = unsafe { bpf_get_prandom_u32() };
    if random.checked_rem(one_in) != Some(0) {
        return 0;
    }
    let ctx = XdpContext::new(ctx);
    let packet = Packet { start: ctx.data(), end: ctx.data_end() };
    let (family, source) = Origin(what >> 24).read(packet).unwrap_or_default();
    let Some(mut entry) = DROPS.reserve::<Drop>(0) else { return 0 };
    entry.write(Drop { source, policy, reason, port: what as u16, family, protocol: (what >> 16) as u8 });
    entry.submit(0);
    1
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
fn take_token(config: &Config, source: [u8; 16]) -> bool {
    let source = Aligned(source);
    // SAFETY: the helper takes nothing and returns a number.
    let now = unsafe { bpf_ktime_get_ns() };
    let full = u64::from(config.syn_burst.max(1)) * 1000;
    // SAFETY: the value is plain old data; a torn read only bends the rate.
    let bucket =
        unsafe { BUCKETS.get(&source.0) }.copied().unwrap_or(Bucket { filled_ns: now, millitokens: full });
    // A minute at most, times a million in a second: fits.
    let elapsed = now.wrapping_sub(bucket.filled_ns).min(60 * NS_PER_SEC);
    let filled = bucket.millitokens + elapsed * u64::from(config.syn_per_sec) / (NS_PER_SEC / 1000);
    let millitokens = filled.min(full);
    if millitokens < 1000 {
        // Left as it is: written with the time of now, a fast sender's bucket would never fill again, for what flows in
        // between two of its packets rounds to nothing.
        return false;
    }
    let _ = BUCKETS.insert(&source.0, &Bucket { filled_ns: now, millitokens: millitokens - 1000 }, 0);
    true
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
