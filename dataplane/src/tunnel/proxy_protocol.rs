//! The PROXY protocol header the edge writes for agents that ask for one, versions 1 and 2 (the published
//! specification, sections 2.1 and 2.2).

use std::net::{IpAddr, SocketAddr};

use crate::net::proxy_protocol::SIGNATURE_V2;
use crate::tunnel::session::ProxyProtocol;

/// Version 2, command PROXY.
const VERSION_PROXY: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

/// The header for one connection. Addresses of mixed families are both written as IPv6.
pub(super) fn header(version: ProxyProtocol, client: SocketAddr, server: SocketAddr) -> Vec<u8> {
    let (client, server) = same_family(client, server);
    match version {
        ProxyProtocol::V1 => text(client, server).into_bytes(),
        ProxyProtocol::V2 => binary(client, server),
    }
}

fn same_family(client: SocketAddr, server: SocketAddr) -> (SocketAddr, SocketAddr) {
    let (c, s) = (client.ip().to_canonical(), server.ip().to_canonical());
    let widen = |ip: IpAddr| match ip {
        IpAddr::V4(ip) if c.is_ipv4() != s.is_ipv4() => IpAddr::V6(ip.to_ipv6_mapped()),
        ip => ip,
    };
    (SocketAddr::new(widen(c), client.port()), SocketAddr::new(widen(s), server.port()))
}

fn text(client: SocketAddr, server: SocketAddr) -> String {
    let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
    format!("PROXY {family} {} {} {} {}\r\n", client.ip(), server.ip(), client.port(), server.port())
}

fn binary(client: SocketAddr, server: SocketAddr) -> Vec<u8> {
    let mut addresses = Vec::with_capacity(36);
    for address in [client, server] {
        match address.ip() {
            IpAddr::V4(ip) => addresses.extend(ip.octets()),
            IpAddr::V6(ip) => addresses.extend(ip.octets()),
        }
    }
    addresses.extend(client.port().to_be_bytes());
    addresses.extend(server.port().to_be_bytes());
    let family = if client.is_ipv4() { TCP_OVER_IPV4 } else { TCP_OVER_IPV6 };
    let length = u16::try_from(addresses.len()).expect("two addresses and ports are 12 or 36 bytes");
    let mut out = SIGNATURE_V2.to_vec();
    out.extend([VERSION_PROXY, family]);
    out.extend(length.to_be_bytes());
    out.extend(addresses);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::proxy_protocol::{Header, Origin, parse};
    use proptest::prelude::*;

    fn make(version: ProxyProtocol, client: &str, server: &str) -> Vec<u8> {
        header(version, client.parse().unwrap(), server.parse().unwrap())
    }

    #[test]
    fn text_form() {
        let check = |client, server, expect: &str| {
            assert_eq!(String::from_utf8(make(ProxyProtocol::V1, client, server)).unwrap(), expect);
        };
        check("192.0.2.1:5", "198.51.100.7:443", "PROXY TCP4 192.0.2.1 198.51.100.7 5 443\r\n");
        check("[2001:db8::1]:5", "[::1]:443", "PROXY TCP6 2001:db8::1 ::1 5 443\r\n");
        check("[::ffff:192.0.2.1]:5", "127.0.0.1:1", "PROXY TCP4 192.0.2.1 127.0.0.1 5 1\r\n");
        check("192.0.2.1:5", "[::1]:443", "PROXY TCP6 ::ffff:192.0.2.1 ::1 5 443\r\n");
    }

    #[test]
    fn binary_form() {
        let v4 = make(ProxyProtocol::V2, "192.0.2.1:258", "127.0.0.1:443");
        assert_eq!(v4[12..], [0x21, 0x11, 0, 12, 192, 0, 2, 1, 127, 0, 0, 1, 1, 2, 1, 187]);
        let v6 = make(ProxyProtocol::V2, "[2001:db8::1]:1", "[::1]:2");
        assert_eq!((v6.len(), &v6[12..16]), (52, [0x21, 0x21, 0, 36].as_slice()));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(client: SocketAddr, server: SocketAddr, text: bool) {
            let version = if text { ProxyProtocol::V1 } else { ProxyProtocol::V2 };
            let bytes = header(version, client, server);
            let canonical = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
            let origin = Origin::Client { client: canonical(client), server: canonical(server) };
            prop_assert_eq!(parse(&bytes), Ok(Some(Header { origin, bytes: bytes.len() })));
        }
    }
}
