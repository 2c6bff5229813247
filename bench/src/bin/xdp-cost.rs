//! What the XDP program takes for a packet, by the kernel's own clock (`BPF_PROG_TEST_RUN`), as JSON on stdout. Root only.
//!
//! Started by `cargo xtask bench xdp`, which makes a table of it. Nothing of user space is in the times, so the profile it
//! is built with does not matter.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ebbgate_edge::xdp::compile::{Destination, Guarded, Tables, compile};
use ebbgate_edge::xdp::lists::SourceList;
use ebbgate_edge::xdp::probe::Probe;
use ebbgate_model::Prefix;
use serde_json::{Value, json};

/// Entries of the allowlist.
const SIZES: [u32; 3] = [10, 10_000, 1_000_000];
/// Networks on the blocklist, where there is one; of the entries of the allowlist so many are then left out.
const BLOCKED: u32 = 5;
/// Times that everything is measured.
const ROUNDS: u32 = 9;
/// Runs of one packet, whose tables are then in the caches.
const HOT_RUNS: u32 = 300_000;
/// Packets of one run each, every one of another source.
const RANDOM_RUNS: u64 = 1_500;
/// Guarded, and not ours.
const PORTS: (u16, u16) = (5432, 22);
/// Odd, so that multiples of it are all different and odd ones stay odd; spreads sources over the whole space.
const SPREAD: u32 = 0x9e37_79b1;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Listed sources are the even multiples, the others are not listed.
#[derive(Clone, Copy)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    fn source(self, number: u32) -> IpAddr {
        let spread = number.wrapping_mul(SPREAD);
        match self {
            Self::V4 => Ipv4Addr::from_bits(spread).into(),
            Self::V6 => {
                let high = u128::from(spread);
                Ipv6Addr::from_bits(0x2001 << 112 | high << 64 | u128::from(number)).into()
            }
        }
    }

    fn prefix(self, number: u32) -> Result<Prefix> {
        let length = match self {
            Self::V4 => 32,
            Self::V6 => 64,
        };
        Ok(format!("{}/{length}", self.network(number)).parse()?)
    }

    fn network(self, number: u32) -> IpAddr {
        match self.source(number) {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
            address @ IpAddr::V4(_) => address,
        }
    }
}

fn main() -> Result<()> {
    let mut rows = Vec::new();
    for entries in SIZES {
        for family in [Family::V4, Family::V6] {
            let mut probe = Probe::open()?;
            rows.push(idle(&mut probe, family, entries)?);
            for blocking in [false, true] {
                fill(&mut probe, family, entries, blocking)?;
                rows.extend(rows_of(&mut probe, family, entries, blocking)?);
            }
        }
    }
    println!("{}", Value::from(rows));
    Ok(())
}

/// Without anything to guard: what running any program costs, and reading one entry of an array.
fn idle(probe: &mut Probe, family: Family, entries: u32) -> Result<Value> {
    let bytes = frame(false, family.source(0), PORTS.0);
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        times.push(probe.run(&bytes, HOT_RUNS)?.1.as_nanos());
    }
    Ok(row(&format!("{} nothing guarded", family.name()), entries, "hot", &times))
}

fn fill(probe: &mut Probe, family: Family, entries: u32, blocking: bool) -> Result<()> {
    let blocked = if blocking { BLOCKED } else { 0 };
    let numbers = |from: u32, to: u32| (from..to).map(|n| family.prefix(2 * n)).collect::<Result<Vec<_>>>();
    let allow = numbers(0, entries - blocked)?;
    let blocklist = numbers(entries - blocked, entries)?;
    let lists = vec![SourceList { allow, deny: Vec::new() }];
    let guarded = Guarded { port: PORTS.0, at: [Destination::AnyV4, Destination::AnyV6].into(), lists };
    let tables = compile(&Tables::default(), &[guarded], &blocklist)?;
    probe.maps.apply(tables)?;
    Ok(())
}

fn rows_of(probe: &mut Probe, family: Family, entries: u32, blocking: bool) -> Result<Vec<Value>> {
    let name = family.name();
    let listed = entries - BLOCKED;
    let frame = |tagged, number, port| frame(tagged, family.source(number), port);
    let (one, other) = (2 * (listed / 2), 2 * (listed / 2) + 1);
    let mut rows = Vec::new();
    let mut hot = |what: &str, bytes: Vec<u8>, passes: bool| -> Result<()> {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let (passed, time) = probe.run(&bytes, HOT_RUNS)?;
            assert_eq!(passed, passes, "{name} {what}");
            times.push(time.as_nanos());
        }
        rows.push(row(&format!("{name} {what}"), entries, "hot", &times));
        Ok(())
    };
    if blocking {
        hot("pass, blocklist on", frame(false, one, PORTS.0), true)?;
        hot("drop, on the blocklist", frame(false, 2 * (entries - 1), PORTS.0), false)?;
        return Ok(rows);
    }
    hot("pass", frame(false, one, PORTS.0), true)?;
    hot("pass, VLAN tag", frame(true, one, PORTS.0), true)?;
    hot("drop", frame(false, other, PORTS.0), false)?;
    hot("port not ours", frame(false, one, PORTS.1), true)?;
    for (what, odd) in [("pass", 0), ("drop", 1)] {
        let mut medians = Vec::new();
        for round in 0..u64::from(ROUNDS) {
            let mut times = Vec::new();
            for run in 0..RANDOM_RUNS {
                let number = (round * RANDOM_RUNS + run).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
                let number = u32::try_from(number % u64::from(entries))?;
                let (passed, time) = probe.run(&frame(false, 2 * number + odd, PORTS.0), 1)?;
                assert_eq!(passed, odd == 0, "{name} {what} {number}");
                times.push(time.as_nanos());
            }
            times.sort_unstable();
            medians.extend(times.get(times.len() / 2));
        }
        rows.push(row(&format!("{name} {what}"), entries, "random", &medians));
    }
    Ok(rows)
}

fn row(what: &str, entries: u32, source: &str, times: &[u128]) -> Value {
    let times: Vec<u64> = times.iter().filter_map(|time| u64::try_from(*time).ok()).collect();
    json!({"what": what, "entries": entries, "source": source, "ns": times})
}

/// A frame that opens a TCP connection.
fn frame(tagged: bool, source: IpAddr, port: u16) -> Vec<u8> {
    let mut frame = vec![2; 12];
    if tagged {
        frame.extend([0x81, 0, 0, 7]);
    }
    match source {
        IpAddr::V4(source) => {
            frame.extend([8, 0, 0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0]);
            frame.extend(source.octets());
            frame.extend([192, 0, 2, 1]);
        }
        IpAddr::V6(source) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64]);
            frame.extend(source.octets());
            frame.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        }
    }
    let [high, low] = port.to_be_bytes();
    frame.extend([0x9c, 0x40, high, low, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
    frame
}
