//! The kernel's maps at their limits: a million prefixes, one more, and maps that are full.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use ebbgate_ebpf as shared;
use ebbgate_edge::xdp::compile::{CompileError, Destination, Guarded, Tables, compile};
use ebbgate_edge::xdp::lists::SourceList;
use ebbgate_edge::xdp::maps::MapsError;
use ebbgate_model::Prefix;
use ipnet::IpNet;

use crate::equality::Random;
use crate::packet::tcp;
use crate::{probe, probe_with};

const PORT: u16 = 5432;
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

fn guarded(allow: Vec<Prefix>) -> Guarded {
    let lists = vec![SourceList { allow, deny: Vec::new() }];
    Guarded { port: PORT, at: [Destination::AnyV4, Destination::AnyV6].into(), lists }
}

fn prefix(address: impl Into<IpAddr>, length: u8) -> Prefix {
    IpNet::new(address.into(), length).unwrap().into()
}

/// So many different networks: of four, three are IPv4.
fn networks(count: u32) -> Vec<Prefix> {
    let one = |n: u32| {
        // Odd, so that every number goes to another.
        let spread = n.wrapping_mul(0x9e37_79b1);
        if n.is_multiple_of(4) {
            prefix(Ipv6Addr::from_bits(0x2001_u128 << 112 | u128::from(spread) << 64), 64)
        } else {
            prefix(Ipv4Addr::from_bits(spread), 32)
        }
    };
    (0..count).map(one).collect()
}

#[test]
fn a_million_prefixes_are_written_and_read_back() {
    let Some(mut probe) = probe("a_million_prefixes_are_written_and_read_back") else { return };
    let networks = networks(shared::PREFIXES_MAX);
    let mut begun = Instant::now();
    let mut lap = |what: &str| {
        println!("{what}: {} ms", begun.elapsed().as_millis());
        begun = Instant::now();
    };
    let tables = compile(&Tables::default(), &[guarded(networks.clone())], &[]).unwrap();
    assert_eq!(tables.prefixes.len(), 1_000_000);
    lap("compiled");
    probe.maps.apply(tables.clone()).unwrap();
    lap("written");
    assert!(probe.maps.read().unwrap() == tables, "what was read is not what was written");
    lap("read");

    let mut random = Random(7);
    for _ in 0..2_000 {
        let listed = networks[usize::try_from(random.below(1_000_000)).unwrap()].net().addr();
        let to = if listed.is_ipv4() { HERE } else { "2001:db8::1".parse().unwrap() };
        assert!(probe.passes(&tcp(listed, to, PORT)).unwrap(), "{listed}");
    }
    assert!(!probe.passes(&tcp("240.0.0.1".parse().unwrap(), HERE, PORT)).unwrap());

    // One more is refused with the number; what is in the kernel stays.
    let more: Vec<_> = networks.iter().copied().chain([prefix(HERE, 24)]).collect();
    let refused = compile(probe.maps.tables(), &[guarded(more)], &[]).unwrap_err();
    assert_eq!(refused, CompileError::Prefixes { found: 1_000_001 });
    assert!(refused.to_string().contains("1000001") && refused.to_string().contains("1000000"), "{refused}");
    lap("asked");

    // Another million: both are in the kernel for a moment, and then the other alone.
    let other = (0..1_000_000).map(|n: u32| prefix(Ipv4Addr::from_bits(n * 2 + 1), 32)).collect();
    let other = compile(probe.maps.tables(), &[guarded(other)], &[]).unwrap();
    probe.maps.apply(other).unwrap();
    lap("replaced");
    assert!(probe.passes(&tcp(Ipv4Addr::from_bits(3).into(), HERE, PORT)).unwrap());
    assert!(!probe.passes(&tcp(Ipv4Addr::from_bits(4).into(), HERE, PORT)).unwrap());
    probe.maps.apply(Tables::default()).unwrap();
    lap("emptied");
    assert!(probe.maps.read().unwrap() == Tables::default());
}

#[test]
fn a_full_map_is_told_and_the_old_list_stays_in_force() {
    let test = "a_full_map_is_told_and_the_old_list_stays_in_force";
    let Some(mut probe) = probe_with(test, 1000) else { return };
    let sources =
        |from: u32, count: u32| (from..from + count).map(|n| prefix(Ipv4Addr::from_bits(n << 8), 24));
    let before = compile(&Tables::default(), &[guarded(sources(1, 700).collect())], &[]).unwrap();
    probe.maps.apply(before.clone()).unwrap();
    let wanted = compile(&before, &[guarded(sources(701, 700).collect())], &[]).unwrap();
    let full = probe.maps.apply(wanted.clone()).unwrap_err();
    assert!(matches!(full, MapsError::Full { map: shared::PREFIXES_V4, .. }), "{full:?}");
    // All of the old list is there, and of the new one what went in.
    let mut check = |n: u32, passes: bool| {
        let source = Ipv4Addr::from_bits(n << 8 | 9).into();
        assert_eq!(probe.passes(&tcp(source, HERE, PORT)).unwrap(), passes, "{source}");
    };
    check(1, true);
    check(700, true);
    check(2000, false);
    let held = probe.maps.read().unwrap();
    assert!(&held == probe.maps.tables(), "the tables say what the maps hold");
    assert_eq!(held.prefixes.len(), 1000);
    assert!(before.prefixes.keys().all(|key| held.prefixes.contains_key(key)));

    // The next one that fits goes in from there.
    let fits = compile(&held, &[guarded(sources(701, 200).collect())], &[]).unwrap();
    probe.maps.apply(fits.clone()).unwrap();
    assert!(probe.maps.read().unwrap() == fits);
}

/// A number that another port gets later counts from nothing.
#[test]
fn a_new_policy_counts_from_nothing() {
    let Some(mut probe) = probe("a_new_policy_counts_from_nothing") else { return };
    let counted = |probe: &ebbgate_edge::xdp::probe::Probe| {
        let counts = probe.maps.counters().unwrap().read([1]).unwrap();
        counts.iter().map(|count| count.packets).sum::<u64>()
    };
    let one = guarded(vec![prefix(HERE, 24)]);
    let tables = compile(&Tables::default(), std::slice::from_ref(&one), &[]).unwrap();
    probe.maps.apply(tables.clone()).unwrap();
    probe.run(&tcp(HERE, HERE, PORT), 10).unwrap();
    assert_eq!(counted(&probe), 10);
    probe.maps.apply(tables).unwrap();
    assert_eq!(counted(&probe), 10, "the same list goes on counting");
    probe.maps.apply(Tables::default()).unwrap();
    assert_eq!(counted(&probe), 10, "what was counted can still be read");
    probe.maps.apply(compile(&Tables::default(), &[Guarded { port: 9, ..one }], &[]).unwrap()).unwrap();
    assert_eq!(counted(&probe), 0);
}
