//! Keys of the maps, to bytes and back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ebbgate_ebpf as shared;
use ebbgate_model::Prefix;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use shared::{GuardKey, PREFIX_BITS_POLICY};

use crate::xdp::write::Write;

/// Bytes of a key: prefix length, policy, IPv4 network.
pub(super) const KEY_V4: usize = 12;
/// Bytes of a key: prefix length, policy, IPv6 network.
pub(super) const KEY_V6: usize = 24;
type KeyV4 = [u8; KEY_V4];
type KeyV6 = [u8; KEY_V6];

fn of(write: &Write) -> Option<(u32, Prefix)> {
    match write {
        Write::Put { policy, prefix, .. } | Write::Remove { policy, prefix } => Some((*policy, *prefix)),
        _ => None,
    }
}

/// The keys of writes of IPv4 prefixes.
pub(super) fn v4(writes: &[Write]) -> Vec<KeyV4> {
    let key = |(policy, prefix): (u32, Prefix)| match prefix.net().network() {
        IpAddr::V4(v4) => Some(key(policy, prefix, v4.octets())),
        IpAddr::V6(_) => None,
    };
    writes.iter().filter_map(of).filter_map(key).collect()
}

/// The keys of writes of IPv6 prefixes.
pub(super) fn v6(writes: &[Write]) -> Vec<KeyV6> {
    let key = |(policy, prefix): (u32, Prefix)| match prefix.net().network() {
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => Some(key(policy, prefix, v6.octets())),
    };
    writes.iter().filter_map(of).filter_map(key).collect()
}

fn key<const ADDRESS: usize, const KEY: usize>(
    policy: u32,
    prefix: Prefix,
    address: [u8; ADDRESS],
) -> [u8; KEY] {
    let bits = PREFIX_BITS_POLICY + u32::from(prefix.net().prefix_len());
    let mut key = [0; KEY];
    let parts = bits.to_ne_bytes().into_iter().chain(policy.to_ne_bytes()).chain(address);
    key.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
    key
}

/// The policy and prefix of a key, if this program wrote it.
pub(super) fn read_v4(key: &KeyV4) -> Option<(u32, Prefix)> {
    let (bits, policy, address) = read(key)?;
    let net = Ipv4Net::new(Ipv4Addr::from(*address.first_chunk::<4>()?), bits).ok()?;
    Some((policy, Prefix::from(IpNet::V4(net))))
}

/// The policy and prefix of a key, if this program wrote it.
pub(super) fn read_v6(key: &KeyV6) -> Option<(u32, Prefix)> {
    let (bits, policy, address) = read(key)?;
    let net = Ipv6Net::new(Ipv6Addr::from(*address.first_chunk::<16>()?), bits).ok()?;
    Some((policy, Prefix::from(IpNet::V6(net))))
}

fn read(key: &[u8]) -> Option<(u8, u32, &[u8])> {
    let (bits, rest) = key.split_first_chunk::<4>()?;
    let (policy, address) = rest.split_first_chunk::<4>()?;
    let bits = u32::from_ne_bytes(*bits).checked_sub(PREFIX_BITS_POLICY)?;
    Some((bits.try_into().ok()?, u32::from_ne_bytes(*policy), address))
}

/// The bytes of a listener's key.
pub(super) fn guard(key: &GuardKey) -> [u8; 20] {
    let mut bytes = [0; 20];
    let parts = key.address.into_iter().chain(key.port.to_ne_bytes());
    bytes.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
    bytes
}

/// A listener's key from its bytes.
pub(super) fn read_guard(bytes: &[u8; 20]) -> GuardKey {
    let address = bytes.first_chunk::<16>().copied().unwrap_or_default();
    let port = bytes.last_chunk::<4>().copied().unwrap_or_default();
    GuardKey { address, port: u32::from_ne_bytes(port) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_back() {
        for text in ["203.0.113.0/24", "0.0.0.0/0", "1.2.3.4/32", "2001:db8::/32", "::/0", "::1/128"] {
            let prefix: Prefix = text.parse().unwrap();
            let write = [Write::Remove { policy: 7, prefix }];
            let read: Vec<_> = v4(&write).iter().filter_map(read_v4).collect();
            let read = [read, v6(&write).iter().filter_map(read_v6).collect()].concat();
            assert_eq!(read, [(7, prefix)], "{text}");
        }
        let guarded = GuardKey { address: *b"0123456789abcdef", port: 70_000 };
        assert_eq!(read_guard(&guard(&guarded)), guarded);
        let [one] = v4(&[Write::Remove { policy: 1, prefix: "10.0.0.0/8".parse().unwrap() }])[..] else {
            panic!()
        };
        assert_eq!(one[..4], 40u32.to_ne_bytes());
    }
}
