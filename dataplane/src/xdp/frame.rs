//! What the XDP program is to make of a frame, in plain Rust over [`Tables`]: the meaning that the program is held to by
//! tests and fuzzing. Pure; written from the RFCs and not after the program, whose form the verifier decides.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ebbgate_ebpf as shared;
use shared::{
    EXTENSION_HEADERS_MAX, GUARD_ANY_PORT, GUARDING_ADDRESSES, GUARDING_V4, GUARDING_V6, GuardKey,
    POLICY_BLOCKLIST, Reason, VLAN_TAGS_MAX,
};

use super::compile::{Tables, sixteen};

/// The policy and reason that a frame is counted for; none if it passes uncounted. Rates are not looked at.
pub fn judge(tables: &Tables, frame: &[u8]) -> Option<(u32, Reason)> {
    if tables.ports.is_empty() {
        return None;
    }
    match parse(frame) {
        Parsed::Segment { source, destination, port, udp: false } => tables.judge(source, destination, port),
        // Listeners of datagrams have no lists.
        Parsed::Segment { udp: true, .. } | Parsed::Other => None,
        Parsed::Unclear { reason, towards } => {
            is_guarded(tables, &towards).then_some((POLICY_BLOCKLIST, reason))
        }
    }
}

/// Whether a frame passes.
pub fn passes(tables: &Tables, frame: &[u8]) -> bool {
    judge(tables, frame).is_none_or(|(_, reason)| reason.passed())
}

/// What the headers of a frame say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// A TCP segment or UDP datagram whose ports are in the frame.
    Segment {
        /// Source address, as in the packet.
        source: IpAddr,
        /// Destination address, as in the packet.
        destination: IpAddr,
        /// Destination port.
        port: u16,
        /// UDP.
        udp: bool,
    },
    /// Not for a port: another protocol, or a later fragment.
    Other,
    /// Headers that end early or cannot be followed.
    Unclear {
        /// Which of both.
        reason: Reason,
        /// Its destination, as far as it is known.
        towards: Towards,
    },
}

/// The destination of an unclear frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Towards {
    /// Not even the family is known.
    Anyone,
    /// Some IPv4 address.
    V4(Option<Ipv4Addr>),
    /// Some IPv6 address.
    V6(Option<Ipv6Addr>),
}

fn is_guarded(tables: &Tables, towards: &Towards) -> bool {
    let (bit, address) = match *towards {
        Towards::Anyone => return tables.guarding() != 0,
        Towards::V4(address) => (GUARDING_V4, address.map(IpAddr::V4)),
        Towards::V6(address) => (GUARDING_V6, address.map(IpAddr::V6)),
    };
    let key = |address| GuardKey { address: sixteen(address), port: GUARD_ANY_PORT };
    tables.guarding() & bit != 0
        || tables.guarding() & GUARDING_ADDRESSES != 0
            && address.is_none_or(|address| tables.guards.contains_key(&key(address)))
}

/// Reads the headers.
pub fn parse(frame: &[u8]) -> Parsed {
    let unclear = |reason| Parsed::Unclear { reason, towards: Towards::Anyone };
    let Some((_addresses, mut rest)) = frame.split_first_chunk::<12>() else {
        return unclear(Reason::Truncated);
    };
    for tags in 0..=VLAN_TAGS_MAX {
        let Some((ethertype, after)) = rest.split_first_chunk::<2>() else {
            return unclear(Reason::Truncated);
        };
        match u16::from_be_bytes(*ethertype) {
            0x8100 | 0x88a8 if tags == VLAN_TAGS_MAX => break,
            0x8100 | 0x88a8 => match after.split_first_chunk::<2>() {
                Some((_tag, after)) => rest = after,
                None => return unclear(Reason::Truncated),
            },
            0x0800 => return ipv4(after),
            0x86dd => return ipv6(after),
            _ => return Parsed::Other,
        }
    }
    unclear(Reason::Headers)
}

/// RFC 791.
fn ipv4(packet: &[u8]) -> Parsed {
    let unclear = |reason, towards| Parsed::Unclear { reason, towards: Towards::V4(towards) };
    let Some(header) = packet.first_chunk::<20>() else { return unclear(Reason::Truncated, None) };
    let [first, _, _, _, _, _, fragment_high, fragment_low, _, protocol, ..] = *header;
    let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *header;
    let (source, destination) = (Ipv4Addr::new(s0, s1, s2, s3), Ipv4Addr::new(d0, d1, d2, d3));
    let bytes = usize::from(first & 0x0f) * 4;
    if first >> 4 != 4 || bytes < header.len() {
        return unclear(Reason::Headers, Some(destination));
    }
    if u16::from_be_bytes([fragment_high, fragment_low]) & 0x1fff != 0 {
        return Parsed::Other;
    }
    match transport(protocol, packet.get(bytes..).unwrap_or_default()) {
        Ok(Some((udp, port))) => {
            Parsed::Segment { source: source.into(), destination: destination.into(), port, udp }
        }
        Ok(None) => Parsed::Other,
        Err(reason) => unclear(reason, Some(destination)),
    }
}

/// RFC 8200.
fn ipv6(packet: &[u8]) -> Parsed {
    let unclear = |reason, towards| Parsed::Unclear { reason, towards: Towards::V6(towards) };
    let address = |at: usize| packet.get(at..)?.first_chunk::<16>().map(|bytes| Ipv6Addr::from(*bytes));
    let (Some(source), Some(destination)) = (address(8), address(24)) else {
        return unclear(Reason::Truncated, None);
    };
    let Some([first, _, _, _, _, _, next, ..]) = packet.first_chunk::<40>() else {
        return unclear(Reason::Truncated, None);
    };
    if first >> 4 != 6 {
        return unclear(Reason::Headers, Some(destination));
    }
    let (mut next, mut rest) = (*next, packet.get(40..).unwrap_or_default());
    for _ in 0..EXTENSION_HEADERS_MAX {
        if !matches!(next, 0 | 43 | 44 | 60) {
            break;
        }
        let Some([after, length, high, low, ..]) = rest.first_chunk::<8>() else {
            return unclear(Reason::Truncated, Some(destination));
        };
        if next == 44 && u16::from_be_bytes([*high, *low]) & 0xfff8 != 0 {
            return Parsed::Other;
        }
        if next == 44 && *length != 0 {
            return unclear(Reason::Headers, Some(destination));
        }
        next = *after;
        rest = rest.get((usize::from(*length) + 1) * 8..).unwrap_or_default();
    }
    match transport(next, rest) {
        Ok(Some((udp, port))) => {
            Parsed::Segment { source: source.into(), destination: destination.into(), port, udp }
        }
        Ok(None) => Parsed::Other,
        Err(reason) => unclear(reason, Some(destination)),
    }
}

/// UDP or not, and the destination port; none for other protocols. Looks through one authentication header (RFC 4302).
fn transport(mut protocol: u8, mut rest: &[u8]) -> Result<Option<(bool, u16)>, Reason> {
    if protocol == 51 {
        let [next, length, ..] = *rest.first_chunk::<8>().ok_or(Reason::Truncated)?;
        protocol = next;
        rest = rest.get((usize::from(length) + 2) * 4..).unwrap_or_default();
    }
    match protocol {
        6 | 17 => {
            let [_, _, high, low] = *rest.first_chunk::<4>().ok_or(Reason::Truncated)?;
            Ok(Some((protocol == 17, u16::from_be_bytes([high, low]))))
        }
        0 | 43 | 44 | 51 | 60 | 135 | 139 | 140 => Err(Reason::Headers),
        _ => Ok(None),
    }
}
