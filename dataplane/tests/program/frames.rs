//! Crafted frames of every kind: each has the verdict and the counter written beside it, in the kernel and in the plain
//! model, and so has each of its beginnings.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ebbgate_ebpf as shared;
use ebbgate_edge::xdp::compile::{Destination, Guarded, Tables, compile};
use ebbgate_edge::xdp::frame;
use ebbgate_edge::xdp::lists::SourceList;
use ebbgate_edge::xdp::maps::Count;
use ebbgate_edge::xdp::probe::{FRAME_BYTES_MIN, Probe};
use ebbgate_model::Prefix;
use shared::Reason;

use crate::packet::{
    TCP, UDP, authentication, datagram, ethernet, extension, fragment, ipv4, ipv6, syn, tagged, tcp,
};
use crate::probe;

/// Guarded for every destination.
const PORT: u16 = 5432;
/// Guarded on [`HERE`] only.
const PORT_HERE: u16 = 6543;
/// Without a list.
const PORT_OPEN: u16 = 443;
/// Nothing of ours.
const PORT_FOREIGN: u16 = 22;

const V4: [Ipv4Addr; 4] = [
    Ipv4Addr::new(198, 51, 100, 7),
    Ipv4Addr::new(198, 51, 100, 66),
    Ipv4Addr::new(203, 0, 113, 9),
    Ipv4Addr::new(192, 0, 2, 200),
];
const V6: [Ipv6Addr; 4] = [
    Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 7),
    Ipv6Addr::new(0x2001, 0xdb8, 1, 6, 0, 0, 0, 6),
    Ipv6Addr::new(0x2001, 0xdb8, 3, 0, 0, 0, 0, 9),
    Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, 1),
];
const ALLOWED: usize = 0;
const DENIED: usize = 1;
const STRANGER: usize = 2;
const BLOCKED: usize = 3;

const HERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 99);
const HERE_6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 1);

fn prefixes(texts: &[&str]) -> Vec<Prefix> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn lists() -> Vec<SourceList> {
    vec![SourceList {
        allow: prefixes(&["198.51.100.0/24", "192.0.2.200/32", "2001:db8:1::/48", "2001:db8:bad::1/128"]),
        deny: prefixes(&["198.51.100.64/26", "2001:db8:1:6::/64"]),
    }]
}

/// Everything listened on for all destinations, one port for one address.
fn tables() -> Tables {
    let any = BTreeSet::from([Destination::AnyV4, Destination::AnyV6]);
    let here = BTreeSet::from([Destination::Address(HERE.into())]);
    let guarded = [
        Guarded { port: PORT, at: any.clone(), lists: lists() },
        Guarded { port: PORT_HERE, at: here, lists: lists() },
        Guarded { port: PORT_OPEN, at: any, lists: Vec::new() },
    ];
    compile(&Tables::default(), &guarded, &prefixes(&["192.0.2.192/26", "2001:db8:bad::/48"])).unwrap()
}

/// A frame and the reason it is to be counted for: none for one that passes uncounted.
struct Case {
    name: &'static str,
    frame: Vec<u8>,
    expect: Option<Reason>,
}

fn case(name: &'static str, frame: Vec<u8>, expect: impl Into<Option<Reason>>) -> Case {
    Case { name, frame, expect: expect.into() }
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn cases() -> Vec<Case> {
    use Reason::{Allowed, Blocked, Denied, Headers, Truncated, Unlisted};

    let v4 = |from: usize, port| tcp(V4[from].into(), HERE.into(), port);
    let v6 = |from: usize, port| tcp(V6[from].into(), HERE_6.into(), port);
    let eth4 = |packet: Vec<u8>| ethernet(0, 0x0800, &packet);
    let eth6 = |packet: Vec<u8>| ethernet(0, 0x86dd, &packet);
    let refused4 = |protocol, options: &[u8], field, payload: &[u8]| {
        eth4(ipv4(V4[STRANGER], HERE, protocol, options, field, payload))
    };
    let refused6 = |next, payload: &[u8]| eth6(ipv6(V6[STRANGER], HERE_6, next, payload));
    let chain = |length: usize| {
        let kind = |n: usize| if n == 0 { 0 } else { 60 };
        let start = (syn(PORT), TCP);
        let (payload, first) =
            (0..length).rev().fold(start, |(payload, next), n| (extension(next, 8, &payload), kind(n)));
        refused6(first, &payload)
    };
    let mapped = V4[ALLOWED].to_ipv6_mapped();
    let mut wrong_version = v4(STRANGER, PORT);
    wrong_version[14] = 0x65;
    let mut short_header = v4(STRANGER, PORT);
    short_header[14] = 0x44;
    let mut six_says_five = v6(STRANGER, PORT);
    six_says_five[14] = 0x50;
    let mut wrong_length = v4(STRANGER, PORT);
    wrong_length[16..18].copy_from_slice(&[0, 20]);
    let mut too_long = v4(ALLOWED, PORT);
    too_long[16..18].copy_from_slice(&[0xff, 0xff]);
    let mut six_zero = v6(STRANGER, PORT);
    six_zero[18..20].copy_from_slice(&[0, 0]);
    let mut jumbo = v4(STRANGER, PORT);
    jumbo.resize(3000, 0x5a);
    let mut reserved = fragment(TCP, 1, &syn(PORT));
    reserved[1] = 1;
    vec![
        case("v4 allowed", v4(ALLOWED, PORT), Allowed),
        case("v4 denied", v4(DENIED, PORT), Denied),
        case("v4 unlisted", v4(STRANGER, PORT), Unlisted),
        case("v4 blocked, though allowed", v4(BLOCKED, PORT), Blocked),
        case("v4 open port", v4(STRANGER, PORT_OPEN), Allowed),
        case("v4 open port, blocked", v4(BLOCKED, PORT_OPEN), Blocked),
        case("v4 foreign port", v4(STRANGER, PORT_FOREIGN), None),
        case("v4 foreign port, blocked", v4(BLOCKED, PORT_FOREIGN), None),
        case("v6 allowed", v6(ALLOWED, PORT), Allowed),
        case("v6 denied", v6(DENIED, PORT), Denied),
        case("v6 unlisted", v6(STRANGER, PORT), Unlisted),
        case("v6 blocked, though allowed", v6(BLOCKED, PORT), Blocked),
        case("v6 foreign port", v6(BLOCKED, PORT_FOREIGN), None),
        case("at the address, unlisted", v4(STRANGER, PORT_HERE), Unlisted),
        case("at the address, allowed", v4(ALLOWED, PORT_HERE), Allowed),
        case("at another address", tcp(V4[STRANGER].into(), ELSEWHERE.into(), PORT_HERE), None),
        case("the address's port by IPv6", v6(STRANGER, PORT_HERE), None),
        case("udp to a guarded number", refused4(UDP, &[], 0, &datagram(PORT)), None),
        case("icmp", refused4(1, &[], 0, &[8; 16]), None),
        case("arp", ethernet(0, 0x0806, &[1; 28]), None),
        case("802.3 length", ethernet(0, 46, &[0xaa; 46]), None),
        case("one tag", tagged(1, V4[STRANGER].into(), HERE.into(), PORT), Unlisted),
        case("two tags", tagged(2, V4[STRANGER].into(), HERE.into(), PORT), Unlisted),
        case("two tags, allowed", tagged(2, V4[ALLOWED].into(), HERE.into(), PORT), Allowed),
        case("two tags, IPv6", tagged(2, V6[DENIED].into(), HERE_6.into(), PORT), Denied),
        case("three tags", tagged(3, V4[ALLOWED].into(), HERE.into(), PORT), Headers),
        case("options", refused4(TCP, &[1; 8], 0, &syn(PORT)), Unlisted),
        case("all the options", refused4(TCP, &[1; 40], 0, &syn(PORT)), Unlisted),
        case("options that look like ports", refused4(TCP, &[0, 22, 0, 22], 0, &syn(PORT)), Unlisted),
        case("version 6 in an IPv4 frame", wrong_version, Headers),
        case("header of four words", short_header, Headers),
        case("version 5 in an IPv6 frame", six_says_five, Headers),
        case("total length without its segment", wrong_length, Unlisted),
        case("total length beyond the frame", too_long, Allowed),
        case("payload length 0", six_zero, Unlisted),
        case("jumbo", jumbo, Unlisted),
        case("first fragment", refused4(TCP, &[], 0x2000, &syn(PORT)), Unlisted),
        case("first fragment of eight bytes", refused4(TCP, &[], 0x2000, &syn(PORT)[..8]), Unlisted),
        case("first fragment without a port", refused4(TCP, &[], 0x2000, &syn(PORT)[..3]), Truncated),
        case("later fragment", refused4(TCP, &[], 1, &syn(PORT)), None),
        case("last fragment", refused4(TCP, &[], 0x00b9, &syn(PORT)), None),
        case("v6 first fragment", refused6(44, &fragment(TCP, 1, &syn(PORT))), Unlisted),
        case("v6 whole in a fragment", refused6(44, &fragment(TCP, 0, &syn(PORT))), Unlisted),
        case("v6 later fragment", refused6(44, &fragment(TCP, 8, &syn(PORT))), None),
        case("v6 fragment, reserved bits set", refused6(44, &reserved), Headers),
        case("hop by hop", refused6(0, &extension(TCP, 8, &syn(PORT))), Unlisted),
        case("a long destination header", refused6(60, &extension(TCP, 2048, &syn(PORT))), Unlisted),
        case(
            "routing, then fragment",
            refused6(43, &extension(44, 24, &fragment(TCP, 1, &syn(PORT)))),
            Unlisted,
        ),
        case("as many headers as are walked", chain(shared::EXTENSION_HEADERS_MAX), Unlisted),
        case("one header more", chain(shared::EXTENSION_HEADERS_MAX + 1), Headers),
        case("an unknown extension header", refused6(139, &extension(TCP, 8, &syn(PORT))), Headers),
        case("mobility", refused6(135, &extension(59, 8, &[])), Headers),
        case("no next header", refused6(59, &[]), None),
        case("icmp6 behind hop by hop", refused6(0, &extension(58, 8, &[143; 8])), None),
        case("esp", refused6(50, &[9; 40]), None),
        case("authentication", refused4(51, &[], 0, &authentication(TCP, 12, &syn(PORT))), Unlisted),
        case("authentication, IPv6", refused6(51, &authentication(TCP, 12, &syn(PORT))), Unlisted),
        case("authentication, then esp", refused6(51, &authentication(50, 12, &[9; 40])), None),
        case(
            "authentication, then destination options",
            refused6(51, &authentication(60, 12, &extension(TCP, 8, &syn(PORT)))),
            Headers,
        ),
        case("IPv4-mapped source in IPv6", tcp(mapped.into(), HERE_6.into(), PORT), Unlisted),
        case("ip in ip", refused4(4, &[], 0, &ipv4(V4[STRANGER], HERE, TCP, &[], 0, &syn(PORT))), None),
    ]
}

/// Every counter, by policy and reason.
fn counts(probe: &Probe, tables: &Tables) -> Vec<Count> {
    let policies = tables.policies().into_iter().chain([shared::POLICY_BLOCKLIST]);
    probe.maps.counters().unwrap().read(policies.collect::<BTreeSet<_>>()).unwrap()
}

/// What the kernel says of a frame and which counter it moves.
fn run(probe: &mut Probe, tables: &Tables, frame: &[u8]) -> (bool, Option<(u32, Reason)>) {
    let before = counts(probe, tables);
    let passes = probe.passes(frame).unwrap();
    let moved: Vec<_> = counts(probe, tables).into_iter().filter(|count| !before.contains(count)).collect();
    assert!(moved.len() <= 1, "one packet is counted once: {moved:?}");
    (passes, moved.first().map(|count| (count.policy, count.reason)))
}

#[test]
fn every_kind_of_frame_has_its_verdict_and_its_counter() {
    let tables = tables();
    let mut probe = probe("every_kind_of_frame_has_its_verdict_and_its_counter");
    if let Some(probe) = &mut probe {
        probe.maps.apply(tables.clone()).unwrap();
    }
    for Case { name, frame, expect } in cases() {
        let said = frame::judge(&tables, &frame);
        assert_eq!(said.map(|(_, reason)| reason), expect, "model: {name}");
        let Some(probe) = &mut probe else { continue };
        let (passes, counted) = run(probe, &tables, &frame);
        assert_eq!(counted, said, "counter: {name}");
        assert_eq!(passes, expect.is_none_or(Reason::passed), "verdict: {name}");
    }
}

#[test]
fn every_beginning_of_every_frame_is_judged_alike() {
    let Some(mut probe) = probe("every_beginning_of_every_frame_is_judged_alike") else { return };
    let tables = tables();
    probe.maps.apply(tables.clone()).unwrap();
    let mut beginnings = 0;
    for Case { name, frame, .. } in cases() {
        // Beyond the longest chain of headers nothing is read.
        for end in FRAME_BYTES_MIN..frame.len().min(300) {
            let said = frame::judge(&tables, &frame[..end]);
            assert_eq!(run(&mut probe, &tables, &frame[..end]).1, said, "{name}, {end} bytes");
            beginnings += 1;
        }
    }
    println!("{beginnings} beginnings");
}

/// What cannot be told is dropped only where it could be for a guarded port.
#[test]
fn unclear_frames_pass_where_nothing_is_guarded() {
    let Some(mut probe) = probe("unclear_frames_pass_where_nothing_is_guarded") else { return };
    let guarded = |at: &[Destination], lists: Vec<SourceList>| {
        let guarded = Guarded { port: PORT, at: at.iter().copied().collect(), lists };
        compile(&Tables::default(), &[guarded], &prefixes(&["192.0.2.192/26"])).unwrap()
    };
    let here = Destination::Address(HERE.into());
    let cut = |to: Ipv4Addr| ethernet(0, 0x0800, &ipv4(V4[STRANGER], to, TCP, &[], 0, &syn(PORT)[..2]));
    let cut6 = ethernet(0, 0x86dd, &ipv6(V6[STRANGER], HERE_6, 0, &[6]));
    let tags = tagged(3, V4[STRANGER].into(), HERE.into(), PORT);
    let mut check = |tables: Tables, frame: &[u8], passes: bool| {
        assert_eq!(frame::passes(&tables, frame), passes);
        probe.maps.apply(tables).unwrap();
        assert_eq!(probe.passes(frame).unwrap(), passes);
    };
    check(guarded(&[Destination::AnyV4], lists()), &cut(HERE), false);
    check(guarded(&[Destination::AnyV4], lists()), &tags, false);
    check(guarded(&[Destination::AnyV4], lists()), &cut6, true);
    check(guarded(&[Destination::AnyV6], lists()), &cut6, false);
    check(guarded(&[Destination::AnyV6], lists()), &cut(HERE), true);
    check(guarded(&[here], lists()), &cut(HERE), false);
    check(guarded(&[here], lists()), &cut(ELSEWHERE), true);
    check(guarded(&[here], lists()), &cut6, true);
    check(guarded(&[Destination::AnyV4, Destination::AnyV6], Vec::new()), &cut(HERE), true);
    check(guarded(&[Destination::AnyV4], Vec::new()), &tags, true);
    check(Tables::default(), &tags, true);
}

/// What a source may reach does not depend on the packet's disguise.
#[test]
fn no_disguise_gets_a_refused_source_to_a_guarded_port() {
    let Some(mut probe) = probe("no_disguise_gets_a_refused_source_to_a_guarded_port") else { return };
    probe.maps.apply(tables()).unwrap();
    let source: IpAddr = V4[STRANGER].into();
    for tags in 0..=6 {
        assert!(!probe.passes(&tagged(tags, source, HERE.into(), PORT)).unwrap(), "{tags} tags");
    }
    for words in 0..=10 {
        let packet = ipv4(V4[STRANGER], HERE, TCP, &vec![1; words * 4], 0, &syn(PORT));
        assert!(!probe.passes(&ethernet(1, 0x0800, &packet)).unwrap(), "{words} words of options");
    }
    for length in (8..=2048).step_by(8) {
        let packet = ipv6(V6[STRANGER], HERE_6, 60, &extension(TCP, length, &syn(PORT)));
        assert!(!probe.passes(&ethernet(2, 0x86dd, &packet)).unwrap(), "{length} bytes of options");
    }
}
