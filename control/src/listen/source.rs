//! Which network a connection comes from.

use std::net::{IpAddr, Ipv6Addr};

use ebbgate_model::canonical_ip;

/// Connections that one source may have open at a listener.
pub(crate) const SOURCE_CONNECTIONS_MAX: usize = 128;

/// One IPv4 address or one IPv6 /64.
pub(crate) fn source_of(peer: IpAddr) -> IpAddr {
    match canonical_ip(peer) {
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip) >> 64 << 64).into(),
        ip @ IpAddr::V4(_) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_an_address_or_a_network_of_ipv6() {
        let of = |peer: &str| source_of(peer.parse().unwrap()).to_string();
        assert_eq!(of("2001:db8::1"), of("2001:db8::2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:203.0.113.9"), "203.0.113.9");
    }
}
