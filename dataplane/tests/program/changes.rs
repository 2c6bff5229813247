//! Lists that change while packets are judged: nobody ever meets a list that is neither the one before nor the one after.
//! Without sockets, so that every single verdict is seen.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ebbgate_edge::xdp::compile::{Destination, Guarded, compile};
use ebbgate_edge::xdp::lists::SourceList;
use ebbgate_edge::xdp::probe::Runner;
use ebbgate_model::Prefix;

use crate::packet::tcp;
use crate::probe;

/// How often the list changes.
const CHANGES: usize = 1_000;
/// How often at most, where the packets get little of the processors.
const CHANGES_MAX: usize = 100 * CHANGES;
/// Verdicts that must have been seen of each source.
const SEEN_MIN: u64 = 10_000;
const PORT: u16 = 5432;
const ALLOWED: &str = "127.0.0.2/32";
const REFUSED: &str = "127.0.0.3/32";
/// Allow and deny of lists that all let ALLOWED in and REFUSED not; the two share every network up to a /31.
const LISTS: [(&[&str], &[&str]); 7] = [
    (&[ALLOWED], &[]),
    (&["127.0.0.0/29"], &[REFUSED]),
    (&["127.0.0.0/8", "127.0.0.2/31"], &[REFUSED]),
    (&["127.0.0.2/31", "10.0.0.0/8"], &["127.0.0.3/32", "10.1.0.0/16"]),
    (&["0.0.0.0/0"], &["127.0.0.3/32", "127.0.0.4/30"]),
    (&[ALLOWED, "127.0.0.4/30", "2001:db8::/32"], &[]),
    (&["127.0.0.0/31", ALLOWED, "127.0.0.8/29"], &["127.0.0.0/32"]),
];

fn guarded(n: usize) -> Guarded {
    // Steps of all sizes, so that in time every list follows every other.
    let (allow, deny) = LISTS[(n + n / LISTS.len()) % LISTS.len()];
    let prefixes =
        |texts: &[&str]| -> Vec<Prefix> { texts.iter().map(|text| text.parse().unwrap()).collect() };
    let list = SourceList { allow: prefixes(allow), deny: prefixes(deny) };
    Guarded { port: PORT, at: [Destination::AnyV4, Destination::AnyV6].into(), lists: vec![list] }
}

#[test]
fn no_change_of_a_list_shows_another_verdict_for_a_moment() {
    let Some(mut probe) = probe("no_change_of_a_list_shows_another_verdict_for_a_moment") else { return };
    let first = compile(probe.maps.tables(), &[guarded(0)], &[]).unwrap();
    probe.maps.apply(first).unwrap();
    let (maps, runner) = probe.split().unwrap();
    let over = AtomicBool::new(false);
    let watch = |source: &str, expect: bool, seen: &AtomicU64, wrong: &AtomicU64, runner: Runner<'_>| {
        let source: Prefix = source.parse().unwrap();
        let frame = tcp(source.net().addr(), "127.0.0.1".parse().unwrap(), PORT);
        while !over.load(Ordering::Relaxed) {
            let passes = runner.passes(&frame).unwrap();
            seen.fetch_add(1, Ordering::Relaxed);
            wrong.fetch_add(u64::from(passes != expect), Ordering::Relaxed);
        }
    };
    let counts: [AtomicU64; 4] = Default::default();
    let [allowed, shut_out, refused, let_in] = &counts;
    std::thread::scope(|scope| {
        scope.spawn(|| watch(ALLOWED, true, allowed, shut_out, runner));
        scope.spawn(|| watch(REFUSED, false, refused, let_in, runner));
        let too_few = || [allowed, refused].iter().any(|seen| seen.load(Ordering::Relaxed) < SEEN_MIN);
        for n in (1..CHANGES_MAX).take_while(|n| *n <= CHANGES || too_few()) {
            let tables = compile(maps.tables(), &[guarded(n)], &[]).unwrap();
            maps.apply(tables).unwrap();
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!([allowed, refused].iter().all(|seen| seen.load(Ordering::Relaxed) >= SEEN_MIN), "{counts:?}");
    println!("{counts:?}: allowed, of these shut out, refused, of these let in");
    let wrong = [shut_out, let_in].map(|count| count.load(Ordering::Relaxed));
    assert_eq!(wrong, [0, 0], "shut out though allowed, let in though refused");
}
