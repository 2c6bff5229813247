//! A session that ends on one shard while others open streams on it and attach transports to it.

use std::sync::Arc;

use ebbgate_loom::session_liveness::{Ended, SessionLiveness};
use loom::thread;

/// Transports, by number.
type Transports = SessionLiveness<u8>;

#[test]
fn a_transport_attached_while_the_session_ends_is_refused_or_ended_with_it() {
    loom::model(|| {
        let life = Arc::new(Transports::new(1));
        let (attaching, ending) = (Arc::clone(&life), Arc::clone(&life));
        let attaching = thread::spawn(move || attaching.attach(Arc::new(1)));
        let ending = thread::spawn(move || ending.end());
        let (attached, ended) = (attaching.join().expect("no panic"), ending.join().expect("no panic"));
        match attached {
            Ok(before) => assert_eq!((before, ended.as_deref()), (None, Some(&1)), "ended with the session"),
            Err(Ended) => assert_eq!(ended, None),
        }
        assert_eq!(life.transport(), None, "nothing is left in use");
        assert!(!life.is_alive());
    });
}

#[test]
fn of_two_transports_attached_at_once_one_is_in_use_and_the_other_hears_of_it() {
    loom::model(|| {
        let life = Arc::new(Transports::new(1));
        let attach = |transport| {
            let life = Arc::clone(&life);
            thread::spawn(move || life.attach(Arc::new(transport)))
        };
        let attached = [attach(1), attach(2)].map(|thread| thread.join().expect("no panic"));
        let before: Vec<u8> = attached
            .into_iter()
            .filter_map(|transport| transport.expect("alive"))
            .map(|transport| *transport)
            .collect();
        let now = life.transport().map(|transport| *transport);
        assert!(matches!((now, before.as_slice()), (Some(1), [2]) | (Some(2), [1])), "{now:?} {before:?}");
    });
}

#[test]
fn a_transport_that_leaves_takes_no_other_with_it() {
    loom::model(|| {
        let life = Arc::new(Transports::new(1));
        let (first, second) = (Arc::new(1), Arc::new(2));
        assert_eq!(life.attach(Arc::clone(&first)), Ok(None));
        let (leaving, coming) = (Arc::clone(&life), Arc::clone(&life));
        let leaving = thread::spawn(move || leaving.detach(&first));
        let coming = thread::spawn(move || coming.attach(second));
        leaving.join().expect("no panic");
        coming.join().expect("no panic").expect("alive");
        assert_eq!(life.transport().as_deref(), Some(&2));
    });
}

#[test]
fn two_shards_share_the_last_room_and_an_end_leaves_none() {
    loom::model(|| {
        let life = Arc::new(Transports::new(1));
        let take = || {
            let life = Arc::clone(&life);
            thread::spawn(move || life.take_room())
        };
        let [one, other] = [take(), take()].map(|thread| thread.join().expect("no panic"));
        assert!(one != other, "one of both");
        assert!(!life.has_room());
        life.give_room();
        assert!(life.has_room());
        assert_eq!(life.in_flight(), 0);
        assert_eq!(life.end(), None);
        assert!(!life.take_room(), "the dead take nobody");
    });
}
