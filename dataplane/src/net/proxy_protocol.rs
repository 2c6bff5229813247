//! The PROXY protocol header that a load balancer sends before a client's bytes, versions 1 and 2 (the published
//! specification, sections 2.1 and 2.2). A pure function over the bytes received so far.
//!
//! Knows no sockets and no listeners, and does not decide which peers are believed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// First bytes of version 2.
pub const SIGNATURE_V2: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// First bytes of version 1.
const SIGNATURE_V1: &[u8] = b"PROXY ";
/// Most bytes of a version 1 line, with its end (section 2.1).
pub const V1_BYTES_MAX: usize = 107;
/// Bytes of version 2 before the addresses: signature, version and command, family, length.
const V2_FIXED_BYTES: usize = 16;
/// Most bytes of a version 2 header behind its first 16. Addresses take 36; the rest are TLVs, which are skipped.
pub const V2_BLOCK_BYTES_MAX: usize = 2048;
/// Most bytes of any header.
pub const HEADER_BYTES_MAX: usize = V2_FIXED_BYTES + V2_BLOCK_BYTES_MAX;

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The connection is a client's.
    Client {
        /// Where the client connected from.
        client: SocketAddr,
        /// Where the client connected to.
        server: SocketAddr,
    },
    /// The connection is the balancer's own (`LOCAL`), or the balancer does not know the client (`UNKNOWN`, `AF_UNSPEC`).
    Balancer,
}

/// A whole header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What it says.
    pub origin: Origin,
    /// Its bytes; what follows is the client's.
    pub bytes: usize,
}

/// Why the first bytes are no header that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadHeader {
    /// Other bytes.
    #[error("the first bytes are no PROXY header")]
    Missing,
    /// Version 1 without an end.
    #[error("a PROXY v1 header is longer than {V1_BYTES_MAX} bytes")]
    Line,
    /// Version 1 with fields that cannot be read.
    #[error(
        "a PROXY v1 header must be `PROXY TCP4|TCP6 SOURCE DESTINATION PORT PORT` or `PROXY UNKNOWN`, and end in CR LF"
    )]
    Fields,
    /// Version 2 that announces too much.
    #[error("a PROXY v2 header announces {0} bytes; the limit is {V2_BLOCK_BYTES_MAX}")]
    Block(usize),
    /// Version 2 that announces less than its addresses take.
    #[error("a PROXY v2 header announces {0} bytes, which its addresses do not fit in")]
    Short(usize),
    /// Neither LOCAL nor PROXY of version 2.
    #[error("a PROXY v2 header has version and command {0:#04x}; 0x20 and 0x21 are known")]
    Command(u8),
    /// Unix sockets, datagrams, or a number that has no meaning.
    #[error(
        "a PROXY v2 header has address family and transport {0:#04x}; TCP over IPv4 and over IPv6 are served"
    )]
    Family(u8),
}

/// Whether bytes begin with the signature of either version.
pub fn begins(bytes: &[u8]) -> bool {
    bytes.starts_with(SIGNATURE_V1) || bytes.starts_with(&SIGNATURE_V2)
}

/// Looks at everything that was received so far. None: the header may still become whole; more than
/// [`HEADER_BYTES_MAX`] are never asked for.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, BadHeader> {
    let may_be = |signature: &[u8]| bytes.iter().zip(signature).all(|(byte, expect)| byte == expect);
    if may_be(&SIGNATURE_V2) {
        return if bytes.len() < SIGNATURE_V2.len() { Ok(None) } else { binary(bytes) };
    }
    if may_be(SIGNATURE_V1) {
        return if bytes.len() < SIGNATURE_V1.len() { Ok(None) } else { text(bytes) };
    }
    Err(BadHeader::Missing)
}

fn text(bytes: &[u8]) -> Result<Option<Header>, BadHeader> {
    let seen = bytes.get(..V1_BYTES_MAX).unwrap_or(bytes);
    let Some(end) = seen.iter().position(|byte| *byte == b'\n') else {
        return if seen.len() < V1_BYTES_MAX { Ok(None) } else { Err(BadHeader::Line) };
    };
    let line = seen.get(SIGNATURE_V1.len()..end).and_then(|line| line.strip_suffix(b"\r"));
    let line = line.and_then(|line| std::str::from_utf8(line).ok()).ok_or(BadHeader::Fields)?;
    let origin = fields(line).ok_or(BadHeader::Fields)?;
    Ok(Some(Header { origin, bytes: end + 1 }))
}

/// The words behind `PROXY `. What follows `UNKNOWN` is ignored, as the specification demands.
fn fields(line: &str) -> Option<Origin> {
    let mut words = line.split(' ');
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(Origin::Balancer);
    }
    let mut word = || words.next();
    let (source, destination, source_port, destination_port) = (word()?, word()?, word()?, word()?);
    if word().is_some() {
        return None;
    }
    let address = |text: &str| match family {
        "TCP4" => Ipv4Addr::from_str(text).ok().map(IpAddr::V4),
        "TCP6" => Ipv6Addr::from_str(text).ok().map(IpAddr::V6),
        _ => None,
    };
    Some(Origin::Client {
        client: canonical(address(source)?, port(source_port)?),
        server: canonical(address(destination)?, port(destination_port)?),
    })
}

/// A decimal number without a sign and without leading zeros.
fn port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let leads = text.len() > 1 && text.starts_with('0');
    text.parse().ok().filter(|_| digits && !leads)
}

fn binary(bytes: &[u8]) -> Result<Option<Header>, BadHeader> {
    let Some([command, family, high, low]) = bytes.get(SIGNATURE_V2.len()..V2_FIXED_BYTES) else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    let is_local = match command {
        0x20 => true,
        0x21 => false,
        other => return Err(BadHeader::Command(*other)),
    };
    if length > V2_BLOCK_BYTES_MAX {
        return Err(BadHeader::Block(length));
    }
    let needs = match family {
        // A LOCAL header's family and addresses mean nothing, and are skipped.
        _ if is_local => 0,
        0x00 => 0,
        0x11 => 12,
        0x21 => 36,
        other => return Err(BadHeader::Family(*other)),
    };
    if length < needs {
        return Err(BadHeader::Short(length));
    }
    let total = V2_FIXED_BYTES + length;
    let Some(block) = bytes.get(V2_FIXED_BYTES..total) else { return Ok(None) };
    let origin = match needs {
        12 => addresses::<4>(block),
        36 => addresses::<16>(block),
        _ => Some(Origin::Balancer),
    };
    Ok(Some(Header { origin: origin.ok_or(BadHeader::Short(length))?, bytes: total }))
}

/// Source, destination, and their ports; addresses have N bytes.
fn addresses<const N: usize>(block: &[u8]) -> Option<Origin>
where
    IpAddr: From<[u8; N]>,
{
    let (source, rest) = block.split_first_chunk::<N>()?;
    let (destination, rest) = rest.split_first_chunk::<N>()?;
    let (source_port, rest) = rest.split_first_chunk()?;
    let (destination_port, _) = rest.split_first_chunk()?;
    Some(Origin::Client {
        client: canonical(IpAddr::from(*source), u16::from_be_bytes(*source_port)),
        server: canonical(IpAddr::from(*destination), u16::from_be_bytes(*destination_port)),
    })
}

/// IPv4-mapped addresses as IPv4, so that no rule is passed by.
fn canonical(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip.to_canonical(), port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn client(client: &str, server: &str) -> Origin {
        Origin::Client { client: client.parse().unwrap(), server: server.parse().unwrap() }
    }

    fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).unwrap().to_be_bytes();
        [&SIGNATURE_V2[..], &[command, family, length[0], length[1]], block].concat()
    }

    #[test]
    fn version_1_as_specified() {
        let check = |text: &str, origin| {
            let header = Header { origin, bytes: text.len() };
            assert_eq!(parse(format!("{text}GET / HTTP/1.1\r\n").as_bytes()), Ok(Some(header)), "{text:?}");
        };
        check(
            "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            client("255.255.255.255:65535", "255.255.255.255:65535"),
        );
        check("PROXY TCP4 192.0.2.1 198.51.100.7 5 443\r\n", client("192.0.2.1:5", "198.51.100.7:443"));
        let long = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        check(
            &format!("PROXY TCP6 {long} {long} 65535 65535\r\n"),
            client(&format!("[{long}]:65535"), &format!("[{long}]:65535")),
        );
        check("PROXY TCP6 ::ffff:192.0.2.1 ::1 0 1\r\n", client("192.0.2.1:0", "[::1]:1"));
        check("PROXY UNKNOWN\r\n", Origin::Balancer);
        let unknown = format!("PROXY UNKNOWN {long} {long} 65535 65535\r\n");
        assert_eq!(unknown.len(), V1_BYTES_MAX, "the longest of the specification");
        check(&unknown, Origin::Balancer);
    }

    #[test]
    fn version_1_refused() {
        for text in [
            "PROXY TCP4 192.0.2.1 198.51.100.7 5 443\n",
            "PROXY TCP4 192.0.2.1  198.51.100.7 5 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 5 443 \r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 5\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 +5 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 05 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 5 65536\r\n",
            "PROXY TCP4 192.0.2.01 198.51.100.7 5 443\r\n",
            "PROXY TCP4 ::1 ::1 5 443\r\n",
            "PROXY TCP6 192.0.2.1 198.51.100.7 5 443\r\n",
            "PROXY TCP6 fe80::1%eth0 ::1 5 443\r\n",
            "PROXY UDP4 192.0.2.1 198.51.100.7 5 443\r\n",
            "PROXY tcp4 192.0.2.1 198.51.100.7 5 443\r\n",
            "PROXY UNKNOWNX\r\n",
            "PROXY \r\n",
            "PROXY TCP4\t192.0.2.1 198.51.100.7 5 443\r\n",
        ] {
            assert_eq!(parse(text.as_bytes()), Err(BadHeader::Fields), "{text:?}");
        }
        assert_eq!(parse(b"PROXY UNKNOWN \xff\r\n"), Err(BadHeader::Fields));
        let endless = format!("PROXY UNKNOWN {}", "x".repeat(200));
        assert_eq!(parse(&endless.as_bytes()[..V1_BYTES_MAX - 1]), Ok(None));
        assert_eq!(parse(&endless.as_bytes()[..V1_BYTES_MAX]), Err(BadHeader::Line));
        for other in ["GET / HTTP/1.1\r\n", "PROXYTCP4", "\u{16}\u{3}\u{1}", "\r\nx", " PROXY TCP4"] {
            assert_eq!(parse(other.as_bytes()), Err(BadHeader::Missing), "{other:?}");
        }
    }

    #[test]
    fn version_2_as_specified() {
        let four = [192, 0, 2, 1, 198, 51, 100, 7, 1, 2, 1, 187];
        let check = |bytes: Vec<u8>, origin| {
            let header = Header { origin, bytes: bytes.len() };
            assert_eq!(parse(&[bytes.as_slice(), b"rest"].concat()), Ok(Some(header)), "{bytes:?}");
        };
        let found = client("192.0.2.1:258", "198.51.100.7:443");
        check(v2(0x21, 0x11, &four), found);
        // A TLV behind the addresses: PP2_TYPE_AUTHORITY.
        check(v2(0x21, 0x11, &[&four[..], &[2, 0, 1, b'x']].concat()), found);
        check(v2(0x21, 0x11, &[&four[..], &[0; V2_BLOCK_BYTES_MAX - 12]].concat()), found);
        let six = [Ipv6Addr::LOCALHOST.octets(), Ipv6Addr::UNSPECIFIED.octets()].concat();
        check(v2(0x21, 0x21, &[&six[..], &[0, 1, 0, 2]].concat()), client("[::1]:1", "[::]:2"));
        let mapped = "192.0.2.1".parse::<Ipv4Addr>().unwrap().to_ipv6_mapped().octets();
        check(
            v2(0x21, 0x21, &[&mapped[..], &mapped, &[0, 1, 0, 2]].concat()),
            client("192.0.2.1:1", "192.0.2.1:2"),
        );
        check(v2(0x20, 0x00, &[]), Origin::Balancer);
        check(v2(0x20, 0x11, &four), Origin::Balancer);
        check(v2(0x20, 0x31, &[0; 216]), Origin::Balancer);
        check(v2(0x21, 0x00, &[1, 2, 3]), Origin::Balancer);
    }

    #[test]
    fn version_2_refused() {
        let check = |bytes: Vec<u8>, expect| assert_eq!(parse(&bytes), Err(expect), "{bytes:?}");
        for family in [0x12, 0x22, 0x31, 0x32, 0x10, 0x13, 0x41, 0xff] {
            check(v2(0x21, family, &[0; 216]), BadHeader::Family(family));
        }
        for command in [0x11, 0x22, 0x2f, 0x31, 0x00] {
            check(v2(command, 0x11, &[0; 12]), BadHeader::Command(command));
        }
        check(v2(0x21, 0x11, &[0; 11]), BadHeader::Short(11));
        check(v2(0x21, 0x21, &[0; 35]), BadHeader::Short(35));
        // Refused by what it announces, before any of it has come.
        let mut long = v2(0x20, 0, &[]);
        long[14..].copy_from_slice(&2049u16.to_be_bytes());
        check(long, BadHeader::Block(2049));
    }

    #[test]
    fn strangers_headers_are_recognised() {
        assert!(begins(b"PROXY ") && begins(&SIGNATURE_V2));
        assert!(!begins(b"") && !begins(b"PROX") && !begins(b"\r\n\r\n") && !begins(b"POST / HTTP/1.1"));
    }

    proptest! {
        #[test]
        fn is_decided_within_its_bounds_and_stays_so(
            version in 0..3u8,
            mut bytes in prop::collection::vec(any::<u8>(), 0..300),
            more in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let front: &[u8] = match version { 0 => b"PROXY TCP4 ", 1 => &SIGNATURE_V2, _ => &[] };
            bytes.splice(..0, front.iter().copied());
            let first = parse(&bytes);
            if let Ok(Some(header)) = first {
                prop_assert!(header.bytes <= bytes.len().min(HEADER_BYTES_MAX));
            }
            bytes.extend(more);
            if first != Ok(None) {
                prop_assert_eq!(parse(&bytes), first);
            }
            bytes.resize(HEADER_BYTES_MAX, b'x');
            prop_assert_ne!(parse(&bytes), Ok(None));
        }
    }
}
