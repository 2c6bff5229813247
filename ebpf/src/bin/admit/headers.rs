//! Reads a packet's headers up to the port. Looks into no table and decides nothing.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::programs::XdpContext;
use ebbgate_ebpf as shared;
use shared::Reason;

use crate::address::{V4, V6};

pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd;
pub(crate) const ETHERTYPE_VLAN: u16 = 0x8100;
pub(crate) const ETHERTYPE_QINQ: u16 = 0x88a8;
pub(crate) const IPPROTO_TCP: u8 = 6;
pub(crate) const IPPROTO_UDP: u8 = 17;
pub(crate) const IPPROTO_HOP_BY_HOP: u8 = 0;
pub(crate) const IPPROTO_ROUTING: u8 = 43;
pub(crate) const IPPROTO_FRAGMENT: u8 = 44;
pub(crate) const IPPROTO_AUTHENTICATION: u8 = 51;
pub(crate) const IPPROTO_DESTINATION: u8 = 60;
pub(crate) const IPPROTO_MOBILITY: u8 = 135;
pub(crate) const IPPROTO_HIP: u8 = 139;
pub(crate) const IPPROTO_SHIM6: u8 = 140;
pub(crate) const TCP_SYN: u8 = 0x02;
pub(crate) const TCP_ACK: u8 = 0x10;

/// Of an IPv4 header (RFC 791, section 3.1), what counts here. Addresses as they stand in the packet.
pub(crate) struct Ipv4 {
    pub(crate) version_words: u8,
    pub(crate) fragment: u16,
    pub(crate) protocol: u8,
    pub(crate) source: V4,
    pub(crate) destination: V4,
}

/// Of an IPv6 header (RFC 8200, section 3), what counts here. Addresses as they stand in the packet.
pub(crate) struct Ipv6 {
    pub(crate) version: u8,
    pub(crate) next: u8,
    pub(crate) source: V6,
    pub(crate) destination: V6,
}

/// The bytes between which a packet lies.
#[derive(Clone, Copy)]
pub(crate) struct Packet {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Packet {
    /// What stands at `offset`, if the packet holds it whole.
    ///
    /// `T` has at least two bytes: for a single byte at a variable offset the compiler turns the bounds check into one
    /// that the verifier does not follow.
    #[inline(always)]
    pub(crate) fn at<T: Copy>(self, offset: usize) -> Option<T> {
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
    pub(crate) fn ipv4(self, offset: usize) -> Option<Ipv4> {
        let [first, second, third, source, destination] = self.at(offset)?;
        let [version_words, ..] = u32::to_ne_bytes(first);
        let [_, _, high, low] = u32::to_ne_bytes(second);
        let [_, protocol, ..] = u32::to_ne_bytes(third);
        let fragment = u16::from_be_bytes([high, low]);
        Some(Ipv4 { version_words, fragment, protocol, source: V4(source), destination: V4(destination) })
    }

    #[inline(always)]
    pub(crate) fn ipv6(self, offset: usize) -> Option<Ipv6> {
        let [first, second, s0, s1, s2, s3, d0, d1, d2, d3] = self.at(offset)?;
        let [version, ..] = u32::to_ne_bytes(first);
        let [_, _, next, _] = u32::to_ne_bytes(second);
        Some(Ipv6 { version, next, source: V6([s0, s1, s2, s3]), destination: V6([d0, d1, d2, d3]) })
    }
}

/// Why a packet goes no further in the parser.
pub(crate) enum Stop {
    /// Not for a port: another protocol, or a later fragment, which is nothing without its first.
    Other,
    /// The headers end early or cannot be followed.
    Unclear(Reason),
}

/// Where the transport header is.
pub(crate) struct Transport {
    pub(crate) protocol: u8,
    pub(crate) offset: usize,
}

/// What the transport header says.
pub(crate) struct Segment {
    pub(crate) protocol: u8,
    /// Destination port.
    pub(crate) port: u16,
    /// Of TCP; 0 for a first fragment that ends before them, which opens nothing until its rest arrives.
    pub(crate) flags: u8,
}

pub(crate) const TRUNCATED: Stop = Stop::Unclear(Reason::Truncated);
pub(crate) const UNFOLLOWED: Stop = Stop::Unclear(Reason::Headers);

/// The EtherType behind the tags, and where the network header begins.
#[inline(always)]
pub(crate) fn network(packet: Packet) -> Result<(u16, usize), Reason> {
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
pub(crate) fn ipv4(packet: Packet, offset: usize, header: &Ipv4) -> Result<Segment, Stop> {
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
pub(crate) fn ipv6(ctx: &XdpContext, packet: Packet, offset: usize, header: &Ipv6) -> Result<Segment, Stop> {
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
pub(crate) fn is_extension(protocol: u8) -> bool {
    matches!(protocol, IPPROTO_HOP_BY_HOP | IPPROTO_ROUTING | IPPROTO_FRAGMENT | IPPROTO_DESTINATION)
}

/// Walks the extension headers (RFC 8200, section 4) up to the first that is none.
///
/// A global function, in the kernel's words: the verifier walks it once, for any arguments, and knows nothing of what it
/// returns, so that the many ways through the loop are not each followed to the end of the program.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn walk_extensions(ctx: *mut xdp_md, offset: u32, protocol: u32) -> u64 {
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
pub(crate) const OFFSET_MAX: usize = 22 + 40 + shared::EXTENSION_HEADERS_MAX * 2048;

/// What walking the extension headers came to, in one number: protocol, offset, and above both why it stopped.
pub(crate) struct Walked(u64);

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
pub(crate) fn segment(packet: Packet, mut transport: Transport) -> Result<Segment, Stop> {
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
