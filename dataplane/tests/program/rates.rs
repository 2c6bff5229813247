//! What is off by default: the limit on new connections of one source, and the sampled drops.

use ebbgate_edge::xdp::compile::{Destination, Guarded, Tables, compile};
use ebbgate_edge::xdp::lists::SourceList;
use ebbgate_edge::xdp::maps::{Rates, Sample};
use ebbgate_edge::xdp::probe::Probe;
use ebbgate_model::Prefix;
use shared::Reason;

use ebbgate_ebpf as shared;

use crate::packet::{TCP, ethernet, ipv4, tcp};
use crate::probe;

const PORT: u16 = 5432;

fn guard(probe: &mut Probe) {
    let allow: Vec<Prefix> = ["198.51.100.0/24", "2001:db8::/32"].map(|text| text.parse().unwrap()).into();
    let at = [Destination::AnyV4, Destination::AnyV6].into();
    let guarded = Guarded { port: PORT, at, lists: vec![SourceList { allow, deny: Vec::new() }] };
    probe.maps.apply(compile(&Tables::default(), &[guarded], &[]).unwrap()).unwrap();
}

fn syn(source: &str) -> Vec<u8> {
    let source: std::net::IpAddr = source.parse().unwrap();
    let to = if source.is_ipv4() { "192.0.2.1" } else { "2001:db8::1" };
    tcp(source, to.parse().unwrap(), PORT)
}

#[test]
fn a_source_opens_its_burst_and_no_more() {
    let Some(mut probe) = probe("a_source_opens_its_burst_and_no_more") else { return };
    guard(&mut probe);
    // One a second: a test that takes less than that sees the burst alone. One that is stopped for longer may see more.
    probe.maps.set_rates(Rates { syn_per_sec: 1, syn_burst: 5, sample_one_in: 0 }).unwrap();
    let mut opened = |frame: &[u8], times: u32| (0..times).filter(|_| probe.passes(frame).unwrap()).count();
    let of_one = opened(&syn("198.51.100.7"), 50);
    assert!((5..50).contains(&of_one), "{of_one} of 50");
    assert_eq!(opened(&syn("198.51.100.8"), 5), 5, "another source has a burst of its own");
    let mut segment = syn("198.51.100.7");
    *segment.last_mut().unwrap() = 0;
    segment[14 + 20 + 13] = 0x10;
    assert_eq!(opened(&segment, 50), 50, "what is open goes on");
    let of_net = opened(&syn("2001:db8:0:7::1"), 3) + opened(&syn("2001:db8:0:7::2"), 47);
    assert!((5..50).contains(&of_net), "a /64 is one source: {of_net} of 50");
}

#[test]
fn a_bucket_fills_while_its_source_keeps_sending() {
    let Some(mut probe) = probe("a_bucket_fills_while_its_source_keeps_sending") else { return };
    guard(&mut probe);
    probe.maps.set_rates(Rates { syn_per_sec: 1000, syn_burst: 1, sample_one_in: 0 }).unwrap();
    let frame = syn("198.51.100.7");
    // A hundred tokens take a tenth of a second; the sender sends as fast as it can until it has had them.
    let (mut passed, mut sent) = (0, 0u32);
    while passed < 100 {
        passed += u32::from(probe.passes(&frame).unwrap());
        sent += 1;
        assert!(sent < 100_000_000, "the bucket does not fill: {passed} of {sent}");
    }
    assert!(sent > passed, "nothing was refused: {sent}");
}

#[test]
fn drops_are_sampled_when_asked_for() {
    let Some(mut probe) = probe("drops_are_sampled_when_asked_for") else { return };
    guard(&mut probe);
    let mut drops = probe.drops().unwrap();
    let (four, six) = (syn("203.0.113.9"), syn("2001:db9::7"));
    let unclear =
        ethernet(1, 0x0800, &ipv4([203, 0, 113, 9].into(), [192, 0, 2, 1].into(), TCP, &[], 0, &[1]));
    assert!(!probe.passes(&four).unwrap());
    assert_eq!(drops.pop(), None, "off by default");
    probe.maps.set_rates(Rates { sample_one_in: 1, ..Rates::default() }).unwrap();
    for frame in [&four, &six, &unclear, &ethernet(3, 0, &[])] {
        assert!(!probe.passes(frame).unwrap());
    }
    let policy = 1;
    let sample = |source: Option<&str>, policy, reason, port| {
        let source = source.map(|text| text.parse().unwrap());
        Some(Sample { source, policy, reason, port, udp: false })
    };
    assert_eq!(drops.pop(), sample(Some("203.0.113.9"), policy, Reason::Unlisted, PORT));
    assert_eq!(drops.pop(), sample(Some("2001:db9::7"), policy, Reason::Unlisted, PORT));
    assert_eq!(drops.pop(), sample(Some("203.0.113.9"), 0, Reason::Truncated, 0));
    assert_eq!(drops.pop(), sample(None, 0, Reason::Headers, 0));
    assert_eq!(drops.pop(), None);

    // One in a hundred, of ten thousand: no run is that far from it by chance.
    probe.maps.set_rates(Rates { sample_one_in: 100, ..Rates::default() }).unwrap();
    probe.run(&four, 10_000).unwrap();
    let sampled = std::iter::from_fn(|| drops.pop()).count();
    assert!((20..400).contains(&sampled), "{sampled}");

    // A ring that nobody reads takes what it holds and no more; verdicts go on.
    probe.maps.set_rates(Rates { sample_one_in: 1, ..Rates::default() }).unwrap();
    assert!(!probe.run(&four, 50_000).unwrap().0);
    let held = std::iter::from_fn(|| drops.pop()).count();
    assert!(held > 1000 && held <= shared::DROPS_BYTES as usize / 28, "{held}");
}
