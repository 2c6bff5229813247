//! Raw frames, judged by the plain model of the XDP program and, where this process may load it, by the program.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr};

use ebbgate_edge::xdp::compile::{Destination, Guarded, Tables, compile};
use ebbgate_edge::xdp::frame::{judge, passes};
use ebbgate_edge::xdp::lists::SourceList;
use ebbgate_edge::xdp::maps::MapsError;
use ebbgate_edge::xdp::probe::{FRAME_BYTES_MIN, Probe, ProbeError};
use ebbgate_model::Prefix;

/// Bytes of the longest frame that the kernel keeps in one piece; of a longer one the program sees the beginning.
const FRAME_BYTES_MAX: usize = 2048;
/// Entries that the maps of the program take here.
const ENTRIES: u32 = 1000;
/// The only address guarded in the second tables.
const HERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// Tables, and the program over them.
struct Bench {
    tables: Tables,
    probe: Option<Probe>,
}

thread_local! {
    static BENCHES: RefCell<[Bench; 2]> = RefCell::new([everywhere(), here()].map(bench));
}

/// The first byte says under which tables; the rest is the frame.
///
/// The program says what the model says. Nothing is dropped by an edge that guards nothing. And where a port is guarded for
/// every destination, no beginning of a dropped frame passes: nobody gets in by sending less.
pub fn frame(data: &[u8]) {
    let Some((which, frame)) = data.split_first() else { return };
    assert_eq!(judge(&Tables::default(), frame), None);
    BENCHES.with_borrow_mut(|[everywhere, here]| {
        let bench = if which & 1 == 0 { everywhere } else { here };
        let verdict = passes(&bench.tables, frame);
        if which & 1 == 0 && !verdict {
            for end in (0..frame.len()).step_by(1 + frame.len() / 64) {
                let beginning = frame.get(..end).unwrap_or(frame);
                assert!(!passes(&bench.tables, beginning), "the frame is dropped, {end} bytes of it pass");
            }
        }
        if let Some(probe) = &mut bench.probe
            && (FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&frame.len())
        {
            assert_eq!(
                probe.passes(frame).expect("the kernel runs it"),
                verdict,
                "the program and the model"
            );
        }
    });
}

fn bench(tables: Tables) -> Bench {
    let probe = match Probe::with_entries(ENTRIES) {
        Ok(mut probe) => {
            probe.maps.apply(tables.clone()).expect("small tables fit");
            Some(probe)
        }
        Err(ProbeError::Maps(MapsError::Load(error))) => {
            eprintln!("SKIPPED fuzz frame: the program itself, the model only: {error}");
            None
        }
        Err(error) => panic!("{error:?}"),
    };
    Bench { tables, probe }
}

/// Port 5432 guarded for every destination, 443 open, and a blocklist.
fn everywhere() -> Tables {
    let at = [Destination::AnyV4, Destination::AnyV6];
    let open = Guarded { port: 443, at: at.into(), lists: Vec::new() };
    tables(&[Guarded { port: 5432, at: at.into(), lists: lists() }, open])
}

/// Port 5432 guarded on one address.
fn here() -> Tables {
    let at = [Destination::Address(IpAddr::V4(HERE))].into();
    tables(&[Guarded { port: 5432, at, lists: lists() }])
}

fn tables(guarded: &[Guarded]) -> Tables {
    let blocklist = prefixes(&["192.0.2.192/26", "2001:db8:bad::/48"]);
    compile(&Tables::default(), guarded, &blocklist).expect("small tables compile")
}

fn lists() -> Vec<SourceList> {
    let allow = prefixes(&["198.51.100.0/24", "2001:db8:1::/48"]);
    vec![SourceList { allow, deny: prefixes(&["198.51.100.64/26", "2001:db8:1:6::/64"]) }]
}

fn prefixes(texts: &[&str]) -> Vec<Prefix> {
    texts.iter().map(|text| text.parse().expect("a prefix")).collect()
}
