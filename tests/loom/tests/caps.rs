//! The table of open connections, which all shards count in.

use std::net::IpAddr;
use std::sync::Arc;

use ebbgate_loom::limits::{ConnLimits, PeerKind, Refused};
use loom::thread;

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 7));

/// Two shards, each admitting from its source and letting go again; the caps afterwards are as new.
fn check(total_max: usize, source_max: usize, sources: [IpAddr; 2], law: fn([bool; 2])) {
    loom::model(move || {
        let caps = ConnLimits::new(total_max, source_max);
        let admit = |source| {
            let caps = Arc::clone(&caps);
            thread::spawn(move || caps.admit(source, PeerKind::Agent))
        };
        let taken = sources.map(admit).map(|thread| thread.join().expect("no panic"));
        law([taken[0].is_ok(), taken[1].is_ok()]);
        let open = taken.iter().flatten().count();
        assert_eq!(caps.total(), open, "whoever was refused counts no more");
        drop(taken);
        assert_eq!(caps.total(), 0);
        for source in sources {
            assert!(caps.admit(source, PeerKind::Agent).is_ok(), "nothing is kept of those who left");
        }
    });
}

#[test]
fn two_shards_share_one_place() {
    check(1, 9, [HERE, THERE], |[a, b]| assert!(a != b, "one of both"));
}

#[test]
fn one_source_has_what_it_may_on_all_shards_together() {
    check(9, 1, [HERE, HERE], |[a, b]| assert!(a != b, "one of both"));
}

#[test]
fn sources_do_not_take_from_each_other() {
    check(9, 1, [HERE, THERE], |[a, b]| assert!(a && b, "both"));
}

#[test]
fn whoever_leaves_makes_room() {
    loom::model(|| {
        let caps = ConnLimits::new(1, 1);
        let first = caps.admit(HERE, PeerKind::Agent).expect("the first");
        let (leaves, comes) = (Arc::clone(&caps), Arc::clone(&caps));
        let leaving = thread::spawn(move || {
            drop(first);
            leaves.total()
        });
        let coming = thread::spawn(move || comes.admit(HERE, PeerKind::Agent));
        leaving.join().expect("no panic");
        match coming.join().expect("no panic") {
            Ok(second) => {
                assert_eq!(caps.total(), 1);
                drop(second);
            }
            Err(Refused::Total | Refused::Source) => {}
        }
        assert_eq!(caps.total(), 0);
        assert!(caps.admit(HERE, PeerKind::Agent).is_ok());
    });
}
