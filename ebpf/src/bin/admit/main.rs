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

mod address;
mod headers;
mod maps;
mod sample;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use ebbgate_ebpf as shared;
use shared::{Bucket, Config, GuardKey, POLICY_BLOCKLIST, Reason};

use address::{Address, Aligned};
use headers::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPPROTO_TCP, IPPROTO_UDP, Packet, Segment, Stop, TCP_ACK, TCP_SYN,
    TRUNCATED, ipv4, ipv6, network,
};
use maps::{BUCKETS, CONFIG, COUNTERS, GUARDS, PORTS};
use sample::{Origin, sample_drop};

const NS_PER_SEC: u64 = 1_000_000_000;

/// What becomes of a packet.
enum Outcome {
    /// Passes uncounted: nothing of this edge's.
    Foreign,
    /// Passes or drops by the reason, counted for the policy.
    Judged { policy: u32, reason: Reason, port: u16, protocol: u8 },
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
