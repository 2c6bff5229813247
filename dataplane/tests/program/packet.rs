//! Frames by the byte. Nothing here is checked against anything: tests want wrong ones too.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
const VLAN: u16 = 0x8100;
const QINQ: u16 = 0x88a8;

/// Ethernet with so many tags, the outer ones of the provider's kind.
pub(crate) fn ethernet(tags: usize, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2; 12];
    for tag in 0..tags {
        let kind = if tag + 1 < tags { QINQ } else { VLAN };
        frame.extend(kind.to_be_bytes());
        frame.extend([0, 7]);
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// An IPv4 packet; `fragment` is the field with flags and offset.
pub(crate) fn ipv4(
    source: Ipv4Addr,
    to: Ipv4Addr,
    protocol: u8,
    options: &[u8],
    fragment: u16,
    payload: &[u8],
) -> Vec<u8> {
    let words = 5 + options.len() / 4;
    let length = u16::try_from(words * 4 + payload.len()).unwrap();
    let mut packet = vec![0x40 | u8::try_from(words).unwrap(), 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 1]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(source.octets());
    packet.extend(to.octets());
    packet.extend(options);
    packet.extend(payload);
    packet
}

/// An IPv6 packet; the payload begins with whatever `next` says.
pub(crate) fn ipv6(source: Ipv6Addr, to: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    packet.extend([next, 64]);
    packet.extend(source.octets());
    packet.extend(to.octets());
    packet.extend(payload);
    packet
}

/// An extension header of so many bytes, a multiple of eight, in front of a payload.
pub(crate) fn extension(next: u8, bytes: usize, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0; bytes];
    header[0] = next;
    header[1] = u8::try_from(bytes / 8 - 1).unwrap();
    [header.as_slice(), payload].concat()
}

/// A fragment header; `field` is offset and flag.
pub(crate) fn fragment(next: u8, field: u16, payload: &[u8]) -> Vec<u8> {
    let [high, low] = field.to_be_bytes();
    [&[next, 0, high, low, 0, 0, 0, 9], payload].concat()
}

/// An authentication header of twelve bytes and a value of so many.
pub(crate) fn authentication(next: u8, value: usize, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 12 + value];
    header[0] = next;
    header[1] = u8::try_from((12 + value) / 4 - 2).unwrap();
    [header.as_slice(), payload].concat()
}

/// A segment that opens a connection.
pub(crate) fn syn(port: u16) -> Vec<u8> {
    let mut header = vec![0; 20];
    header[..2].copy_from_slice(&40_000u16.to_be_bytes());
    header[2..4].copy_from_slice(&port.to_be_bytes());
    (header[12], header[13]) = (0x50, 0x02);
    header
}

/// A datagram without data.
pub(crate) fn datagram(port: u16) -> Vec<u8> {
    [40_000u16.to_be_bytes(), port.to_be_bytes(), [0, 8], [0, 0]].concat()
}

/// An ordinary frame that opens a connection.
pub(crate) fn tcp(source: IpAddr, to: IpAddr, port: u16) -> Vec<u8> {
    tagged(0, source, to, port)
}

/// The same with tags.
pub(crate) fn tagged(tags: usize, source: IpAddr, to: IpAddr, port: u16) -> Vec<u8> {
    match (source, to) {
        (IpAddr::V4(source), IpAddr::V4(to)) => {
            ethernet(tags, 0x0800, &ipv4(source, to, TCP, &[], 0, &syn(port)))
        }
        (IpAddr::V6(source), IpAddr::V6(to)) => ethernet(tags, 0x86dd, &ipv6(source, to, TCP, &syn(port))),
        _ => panic!("{source} and {to} are of two families"),
    }
}
