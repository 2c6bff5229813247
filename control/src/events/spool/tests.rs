//! Spools on a real disk, with the files that crashes and bad disks leave.

use super::*;
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

fn event(n: u64) -> Bytes {
    Bytes::from(format!("event {n}"))
}

fn open(dir: &Path) -> Spool {
    Spool::open(dir, MIB).unwrap()
}

/// Everything that waits, taken one by one or many at a time.
fn drain(spool: &mut Spool, events_max: usize) -> Vec<Bytes> {
    let mut all = Vec::new();
    loop {
        let batch = spool.peek(events_max, 1000).unwrap();
        if batch.events.is_empty() {
            return all;
        }
        all.extend(batch.events);
        spool.delivered(batch.upto).unwrap();
    }
}

fn segments(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let all = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<_> = all.filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
    all.sort();
    all
}

#[test]
fn events_come_back_in_order_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path());
    spool.append(&[event(1), event(2), event(3)]).unwrap();
    let batch = spool.peek(2, 1000).unwrap();
    assert_eq!(batch.events, [event(1), event(2)]);
    assert_eq!(spool.peek(2, 1000).unwrap().events, batch.events, "what is not delivered comes again");
    spool.delivered(batch.upto).unwrap();
    drop(spool);
    let mut spool = open(dir.path());
    assert_eq!(spool.waiting(), 1);
    spool.append(&[event(4)]).unwrap();
    assert_eq!(drain(&mut spool, 10), [event(3), event(4)]);
    assert_eq!(spool.waiting(), 0);
    drop(spool);
    assert!(drain(&mut open(dir.path()), 1).is_empty());
}

#[test]
fn a_lost_or_torn_position_means_delivering_again_never_losing() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path());
    spool.append(&[event(1), event(2)]).unwrap();
    let batch = spool.peek(1, 1000).unwrap();
    spool.delivered(batch.upto).unwrap();
    drop(spool);
    fs::write(dir.path().join("position"), "half").unwrap();
    assert_eq!(drain(&mut open(dir.path()), 10), [event(1), event(2)]);
}

#[test]
fn a_torn_end_is_cut_off_and_the_spool_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path());
    spool.append(&[event(1), event(2)]).unwrap();
    drop(spool);
    let path = segments(dir.path(), "seg").remove(0);
    let whole = fs::read(&path).unwrap();
    for keep in HEAD_BYTES + 7..whole.len() {
        fs::write(&path, &whole[..keep]).unwrap();
        let mut spool = open(dir.path());
        assert_eq!((spool.waiting(), spool.damaged(), spool.take_lost()), (1, 0, 0), "{keep}");
        drop(spool);
    }
    let mut spool = open(dir.path());
    spool.append(&[event(3)]).unwrap();
    assert_eq!(drain(&mut spool, 10), [event(1), event(3)]);
}

#[test]
fn a_damaged_segment_is_set_aside_and_counted_and_the_others_are_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let big = |n: u8| Bytes::from(vec![n; 80 << 10]);
    let mut spool = open(dir.path());
    for n in 1..=6 {
        spool.append(&[big(n)]).unwrap();
    }
    drop(spool);
    let all = segments(dir.path(), "seg");
    assert!(all.len() >= 3, "{all:?}");
    let mut bytes = fs::read(&all[1]).unwrap();
    bytes[HEAD_BYTES + 5] ^= 1;
    fs::write(&all[1], &bytes).unwrap();
    let mut spool = open(dir.path());
    assert_eq!(spool.damaged(), 1);
    assert!(spool.take_lost() >= 1);
    assert_eq!(segments(dir.path(), "bad").len(), 1);
    let left = drain(&mut spool, 10);
    assert_eq!((left.first(), left.last()), (Some(&big(1)), Some(&big(6))));
    // Damage that comes while it is open.
    spool.append(&[event(7)]).unwrap();
    let path = segments(dir.path(), "seg").pop().unwrap();
    fs::write(&path, vec![0; usize::try_from(fs::metadata(&path).unwrap().len()).unwrap()]).unwrap();
    assert!(spool.peek(1, 1000).unwrap().events.is_empty());
    assert_eq!((spool.damaged(), spool.take_lost()), (2, 1));
    spool.append(&[event(8)]).unwrap();
    assert_eq!(drain(&mut spool, 10), [event(8)]);
}

#[test]
fn what_is_too_much_goes_from_the_old_end_and_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path());
    let big = |n: u64| Bytes::from(format!("{n:->10000}"));
    for n in 0..300 {
        spool.append(&[big(n)]).unwrap();
        assert!(spool.bytes() <= MIB);
    }
    let lost = spool.take_lost();
    let waiting = spool.waiting();
    assert!(lost > 0 && lost + waiting == 300, "{lost} {waiting}");
    let left = drain(&mut spool, 7);
    assert_eq!(left.first(), Some(&big(lost)));
    assert_eq!(left.last(), Some(&big(299)));
    assert_eq!(spool.take_lost(), 0);
}

#[test]
fn a_batch_that_was_dropped_while_it_was_under_way_moves_nothing_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path());
    let big = |n: u64| Bytes::from(format!("{n:->10000}"));
    spool.append(&[big(0)]).unwrap();
    let under_way = spool.peek(1, 1000).unwrap();
    for n in 1..300 {
        spool.append(&[big(n)]).unwrap();
    }
    let first = spool.peek(1, 1000).unwrap().events;
    spool.delivered(under_way.upto).unwrap();
    assert_eq!(spool.peek(1, 1000).unwrap().events, first);
}

#[test]
fn what_no_destination_could_take_is_counted_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path());
    spool.append(&[Bytes::from(vec![0; EVENT_BYTES_MAX + 1]), Bytes::new(), event(1)]).unwrap();
    assert_eq!((spool.take_lost(), spool.waiting()), (2, 1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever a file holds, the spool opens and goes on.
    #[test]
    fn opens_whatever_is_there(bytes in proptest::collection::vec(any::<u8>(), 0..200), position in proptest::collection::vec(any::<u8>(), 0..40)) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("00000000000000000001.seg"), &bytes).unwrap();
        fs::write(dir.path().join("position"), &position).unwrap();
        let mut spool = open(dir.path());
        drain(&mut spool, 3);
        spool.append(&[event(1)]).unwrap();
        prop_assert_eq!(drain(&mut spool, 3), vec![event(1)]);
    }

    /// Killed after any step: nothing appended is lost, nothing comes out of order.
    #[test]
    fn survives_a_kill_after_any_step(steps in proptest::collection::vec((0u8..3, 1u64..5), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = open(dir.path());
        let (mut next, mut seen) = (0, 0);
        for (what, n) in steps {
            match what {
                0 => {
                    let events: Vec<_> = (next..next + n).map(event).collect();
                    spool.append(&events).unwrap();
                    next += n;
                }
                1 => {
                    let batch = spool.peek(usize::try_from(n).unwrap(), 1000).unwrap();
                    let expect: Vec<_> = (seen..next).take(batch.events.len()).map(event).collect();
                    prop_assert_eq!(&batch.events, &expect);
                    seen += batch.events.len() as u64;
                    spool.delivered(batch.upto).unwrap();
                }
                _ => {
                    drop(spool);
                    spool = open(dir.path());
                }
            }
            prop_assert_eq!(spool.waiting(), next - seen);
        }
    }
}
