//! A set of networks that answers "which contains this address" without looking at each: sorted by length, then by bits.

use std::net::IpAddr;

use ebbgate_model::{Prefix, canonical_ip};

/// Networks of both families. Built once, then only read.
#[derive(Debug, Clone, Default)]
pub(crate) struct PrefixSet {
    v4: Vec<Level>,
    v6: Vec<Level>,
}

/// Networks of one length.
#[derive(Debug, Clone)]
struct Level {
    length: u8,
    mask: u128,
    /// Sorted; networks as left-aligned bits, and the prefix as parsed.
    networks: Vec<(u128, Prefix)>,
}

impl FromIterator<Prefix> for PrefixSet {
    fn from_iter<I: IntoIterator<Item = Prefix>>(prefixes: I) -> Self {
        let mut set = Self::default();
        for prefix in prefixes {
            let net = prefix.net();
            let levels = if net.addr().is_ipv4() { &mut set.v4 } else { &mut set.v6 };
            let length = net.prefix_len();
            let at = levels.partition_point(|level| level.length > length);
            if levels.get(at).is_none_or(|level| level.length != length) {
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                levels.insert(at, Level { length, mask, networks: Vec::new() });
            }
            if let Some(level) = levels.get_mut(at) {
                level.networks.push((bits(net.addr()), prefix));
            }
        }
        for level in set.v4.iter_mut().chain(&mut set.v6) {
            level.networks.sort_unstable();
            level.networks.dedup();
        }
        set
    }
}

/// An address as left-aligned bits, so that both families share the arithmetic.
fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)) << 96,
        IpAddr::V6(ip) => u128::from(ip),
    }
}

impl PrefixSet {
    /// Whether it holds no network.
    pub(crate) fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// The longest network that contains the address; IPv4-mapped addresses are their IPv4 selves.
    pub(crate) fn find(&self, ip: IpAddr) -> Option<Prefix> {
        let ip = canonical_ip(ip);
        let levels = if ip.is_ipv4() { &self.v4 } else { &self.v6 };
        let bits = bits(ip);
        levels.iter().find_map(|level| {
            let at =
                level.networks.binary_search_by_key(&(bits & level.mask), |(network, _)| *network).ok()?;
            level.networks.get(at).map(|(_, prefix)| *prefix)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn set(prefixes: &[&str]) -> PrefixSet {
        prefixes.iter().map(|text| Prefix::parse_lenient(text).unwrap()).collect()
    }

    #[test]
    fn longest_match_of_the_right_family() {
        let set = set(&["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "2001:db8::/32", "::/0"]);
        let check = |ip: &str, expect: Option<&str>| {
            assert_eq!(set.find(ip.parse().unwrap()).map(|p| p.to_string()).as_deref(), expect, "{ip}");
        };
        check("10.1.2.3", Some("10.1.2.3/32"));
        check("::ffff:10.1.2.3", Some("10.1.2.3/32"));
        check("10.1.2.4", Some("10.1.0.0/16"));
        check("10.2.0.1", Some("10.0.0.0/8"));
        check("11.0.0.1", None);
        check("2001:db8::1", Some("2001:db8::/32"));
        check("fe80::1", Some("::/0"));
        check("::ffff:11.0.0.1", None);
    }

    #[test]
    fn all_of_ipv4() {
        assert!(set(&["0.0.0.0/0"]).find("255.255.255.255".parse().unwrap()).is_some());
        assert!(set(&[]).find("255.255.255.255".parse().unwrap()).is_none());
    }

    proptest! {
        #[test]
        fn agrees_with_a_linear_scan(
            nets in proptest::collection::vec((any::<bool>(), any::<u128>(), 0u8..=128), 0..200),
            ip in any::<(bool, u128)>(),
        ) {
            let address = |v4: bool, bits: u128| -> IpAddr {
                // A small universe, so that matches occur.
                let low = u8::try_from(bits % 64).unwrap();
                if v4 { Ipv4Addr::new(10, 0, low, 1).into() } else { Ipv6Addr::new(0x2001, 0xdb8, u16::from(low), 0, 0, 0, 0, 1).into() }
            };
            let prefixes: Vec<Prefix> = nets
                .iter()
                .map(|(v4, bits, length)| {
                    let length = if *v4 { length % 33 } else { *length };
                    Prefix::parse_lenient(&format!("{}/{length}", address(*v4, *bits))).unwrap()
                })
                .collect();
            let set: PrefixSet = prefixes.iter().copied().collect();
            let ip = address(ip.0, ip.1);
            let expect = prefixes.iter().filter(|p| p.contains(ip)).map(|p| p.net().prefix_len()).max();
            prop_assert_eq!(set.find(ip).map(|p| p.net().prefix_len()), expect);
        }
    }
}
