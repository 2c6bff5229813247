//! Random lists and random packets: the kernel's verdict is that of user space, a million times.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{SystemTime, UNIX_EPOCH};

use ebbgate_edge::xdp::compile::{Destination, Guarded, Tables, compile};
use ebbgate_edge::xdp::frame;
use ebbgate_edge::xdp::lists::SourceList;
use ebbgate_model::Prefix;
use ipnet::IpNet;

use crate::packet::{TCP, ethernet, extension, fragment, ipv4, ipv6, syn, tagged};
use crate::probe;

/// Sets of lists; each follows from the one before by the writes that an edge would make.
const ROUNDS: u64 = 400;
/// Packets for each.
const PACKETS: u64 = 2_600;
const PORTS: [u16; 4] = [443, 5432, 5433, 22];

/// `SplitMix64`: small, and the same everywhere for one seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn word(&mut self) -> u32 {
        u32::try_from(self.next() >> 32).unwrap()
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }

    /// Of a small world, so that networks nest and sources fall into them; now and then of the whole one.
    fn v4(&mut self) -> Ipv4Addr {
        let bits = self.word();
        Ipv4Addr::from_bits(if self.below(4) == 0 { bits } else { 0x0a00_0000 | bits & 0x0001_03ff })
    }

    fn v6(&mut self) -> Ipv6Addr {
        let (high, low) = (u128::from(self.next()), u128::from(self.next()));
        let small = 0x2001_0db8_u128 << 96 | (high & 3) << 64 | low & 0x1f;
        let mapped = Ipv4Addr::from_bits(0x0a00_0000 | self.word() & 0x3ff).to_ipv6_mapped().to_bits();
        Ipv6Addr::from_bits(match self.below(8) {
            0 => high << 64 | low,
            1 => mapped,
            _ => small,
        })
    }

    fn prefix(&mut self) -> Prefix {
        let short = self.below(6) == 0;
        if self.below(2) == 0 {
            let length = if short { self.below(24) } else { 20 + self.below(13) };
            IpNet::new(self.v4().into(), u8::try_from(length).unwrap()).unwrap().into()
        } else {
            let length = if short { self.below(60) } else { 60 + self.below(69) };
            IpNet::new(self.v6().into(), u8::try_from(length).unwrap()).unwrap().into()
        }
    }

    fn prefixes(&mut self, limit: u64) -> Vec<Prefix> {
        (0..self.below(limit)).map(|_| self.prefix()).collect()
    }

    fn list(&mut self) -> SourceList {
        SourceList { allow: self.prefixes(12), deny: self.prefixes(6) }
    }
}

const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];
const ADDRESSES_6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2)];

/// One or two listeners on each port but the last.
fn listeners(random: &mut Random) -> Vec<Guarded> {
    let single = [Destination::Address(ADDRESSES[0].into()), Destination::Address(ADDRESSES_6[0].into())];
    let wild = [Destination::AnyV4, Destination::AnyV6];
    let mut listeners = Vec::new();
    for port in &PORTS[..3] {
        for places in [wild, single] {
            let at: BTreeSet<_> = places.into_iter().filter(|_| random.below(3) > 0).collect();
            let lists = (0..random.below(3)).map(|_| random.list()).collect();
            if !at.is_empty() {
                listeners.push(Guarded { port: *port, at, lists });
            }
        }
    }
    listeners
}

/// A packet that opens a connection, plain or in disguise.
fn packet(random: &mut Random) -> (IpAddr, IpAddr, u16, Vec<u8>) {
    let port = random.pick(&PORTS);
    let tags = usize::try_from(random.below(3)).unwrap();
    if random.below(2) == 0 {
        let (source, to) = (random.v4(), random.pick(&ADDRESSES));
        let options = vec![1; usize::try_from(random.below(11) * 4).unwrap()];
        let packet = ethernet(tags, 0x0800, &ipv4(source, to, TCP, &options, 0x4000, &syn(port)));
        return (source.into(), to.into(), port, packet);
    }
    let (source, to) = (random.v6(), random.pick(&ADDRESSES_6));
    let packet = match random.below(4) {
        0 => ipv6(source, to, 0, &extension(60, 16, &extension(TCP, 8, &syn(port)))),
        1 => ipv6(source, to, 44, &fragment(TCP, 1, &syn(port))),
        _ => return (source.into(), to.into(), port, tagged(tags, source.into(), to.into(), port)),
    };
    (source.into(), to.into(), port, ethernet(tags, 0x86dd, &packet))
}

/// What the lists say, with the words of user space; none where an IPv4-mapped source in an IPv6 packet makes the
/// question meaningless: user space takes it for IPv4, Linux lets no such packet in.
fn by_lists(
    listeners: &[Guarded],
    blocklist: &[Prefix],
    source: IpAddr,
    to: IpAddr,
    port: u16,
) -> Option<bool> {
    if source.is_ipv6() && source.to_canonical().is_ipv4() {
        return None;
    }
    let stands = |at| listeners.iter().find(|l| l.port == port && l.at.contains(&at));
    let wild = if to.is_ipv4() { Destination::AnyV4 } else { Destination::AnyV6 };
    let Some(listener) = stands(Destination::Address(to)).or_else(|| stands(wild)) else { return Some(true) };
    let is_blocked = blocklist.iter().any(|prefix| prefix.contains(source));
    Some(!is_blocked && listener.lists.iter().all(|list| list.admits(source)))
}

#[test]
fn a_million_verdicts_of_the_kernel_are_those_of_user_space() {
    let Some(mut probe) = probe("a_million_verdicts_of_the_kernel_are_those_of_user_space") else { return };
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    println!("seed {seed}");
    let mut random = Random(seed);
    let (mut pairs, mut passed, mut mapped) = (0u64, 0u64, 0u64);
    for round in 0..ROUNDS {
        let listeners = listeners(&mut random);
        let blocklist = if random.below(2) == 0 { Vec::new() } else { random.prefixes(8) };
        let tables: Tables = compile(probe.maps.tables(), &listeners, &blocklist).unwrap();
        probe.maps.apply(tables.clone()).unwrap();
        for _ in 0..PACKETS {
            let (source, to, port, frame) = packet(&mut random);
            let kernel = probe.passes(&frame).unwrap();
            let told = || format!("seed {seed}, round {round}: {source} to {to} port {port}, {frame:02x?}");
            assert_eq!(kernel, frame::passes(&tables, &frame), "the tables: {}", told());
            match by_lists(&listeners, &blocklist, source, to, port) {
                Some(expect) => assert_eq!(kernel, expect, "the lists: {}", told()),
                None => mapped += 1,
            }
            pairs += 1;
            passed += u64::from(kernel);
        }
        if round % 16 == 0 {
            assert_eq!(probe.maps.read().unwrap(), tables, "seed {seed}, round {round}: what the maps hold");
        }
    }
    println!("{pairs} pairs, {passed} passed, {mapped} with an IPv4-mapped source");
    assert!(pairs >= 1_000_000 + mapped / 2 && passed > pairs / 10 && passed < pairs * 9 / 10);
}
