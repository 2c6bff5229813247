//! Both sides over a real channel with real listeners; either ends at every step. Knows no edge.

use std::net::{TcpListener, TcpStream};
use std::thread;

use super::*;
use crate::hand_over::handed::Handed;
use crate::hand_over::take::take;

/// An edge with one listener and, since the hand-over began, one port more.
struct Fake {
    http: TcpListener,
    late: TcpListener,
    calls: Vec<&'static str>,
}

impl Fake {
    fn new() -> Self {
        let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
        Self { http: listen(), late: listen(), calls: Vec::new() }
    }
}

impl Host for Fake {
    fn freeze(&mut self) -> io::Result<Frozen> {
        self.calls.push("freeze");
        let given = vec![(Item::named("http"), self.http.try_clone()?.into())];
        Ok(Frozen { given, generation: 7, quic_generation: 3, incarnation: Some("first".into()) })
    }

    fn stop(&mut self, takes_filter: bool) -> io::Result<Stopped> {
        self.calls.push(if takes_filter { "stop" } else { "stop as before" });
        let item = Item { port: Some(9), ..Item::named("tcp") };
        Ok(Stopped { given: vec![(item, self.late.try_clone()?.into())], closed: vec![8] })
    }

    fn resume(&mut self) {
        self.calls.push("resume");
    }
}

/// Gives to a process that does this.
fn give_to(newer: impl FnOnce(Channel) + Send + 'static) -> (Fake, Result<u32, HandOverError>) {
    let (channel, other) = Channel::pair().unwrap();
    let newer = thread::spawn(move || newer(other));
    let mut fake = Fake::new();
    let given = give(&channel, &mut fake);
    if given.is_ok() {
        done(&channel);
    }
    newer.join().unwrap();
    (fake, given)
}

#[test]
fn a_process_that_takes_over_has_every_socket_and_what_waits_in_it() {
    let (fake, given) = give_to(|channel| {
        let mut prepared = take(channel).unwrap();
        assert_eq!((prepared.generation, prepared.quic_generation), (7, 3));
        assert_eq!(prepared.incarnation.as_deref(), Some("first"));
        let (sockets, lock) = prepared.handed.listener("http").unwrap();
        assert!(sockets.len() == 1 && lock.is_none() && prepared.handed.listener("http").is_none());
        let _waiting = TcpStream::connect(sockets[0].local_addr().unwrap()).unwrap();
        let mut taken = prepared.hand.ready().unwrap();
        sockets[0].accept().unwrap();
        let ports = taken.late.ports();
        assert!(taken.closed == [8] && ports.len() == 1 && ports[0].0 == 9 && ports[0].1.sockets.len() == 1);
        taken.serving().unwrap();
    });
    assert_eq!((given.unwrap(), &fake.calls[..]), (std::process::id(), &["freeze", "stop"][..]));
}

#[test]
fn a_process_that_ends_at_any_step_changes_nothing() {
    type Newer = fn(Channel);
    let steps: [(Newer, &[&str]); 6] = [
        (drop, &["resume"]),
        (|channel| channel.send(&"gibberish", &[], wait()).unwrap(), &["resume"]),
        (
            |channel| {
                let hello =
                    FromNewer::Hello { format: 99, version: "9.0".into(), pid: 1, takes_filter: true };
                channel.send(&hello, &[], wait()).unwrap();
                let refused = channel.receive::<FromOlder>(wait()).unwrap().unwrap().0;
                assert!(matches!(refused, FromOlder::Refused { reason } if reason.contains("format 99")));
            },
            &["resume"],
        ),
        (|channel| drop(take(channel).unwrap()), &["freeze", "resume"]),
        (
            |channel| {
                let report = channel.try_clone().unwrap();
                let _prepared = take(channel).unwrap();
                crate::hand_over::failed(&report, "the rules do not compile");
            },
            &["freeze", "resume"],
        ),
        (|channel| drop(take(channel).unwrap().hand.ready().unwrap()), &["freeze", "stop", "resume"]),
    ];
    for (newer, calls) in steps {
        let (fake, given) = give_to(newer);
        assert!(given.is_err());
        assert_eq!(fake.calls, calls);
        let _visitor = TcpStream::connect(fake.http.local_addr().unwrap()).unwrap();
        fake.http.accept().unwrap();
    }
}

#[test]
fn when_the_older_process_ends_at_any_step_the_newer_one_serves_only_if_it_was_told_to() {
    let hello = |channel: &Channel| drop(channel.receive::<FromNewer>(wait()).unwrap().unwrap());
    let prepare = FromOlder::Prepare { generation: 1, quic_generation: 1, incarnation: None };
    let (channel, other) = Channel::pair().unwrap();
    drop(channel);
    assert!(take(other).is_err());
    let (channel, other) = Channel::pair().unwrap();
    let older = thread::spawn(move || hello(&channel));
    assert!(take(other).is_err());
    older.join().unwrap();
    for (go, serves) in [(false, false), (true, true)] {
        let (channel, other) = Channel::pair().unwrap();
        let prepare = prepare.clone();
        let older = thread::spawn(move || {
            hello(&channel);
            channel.send(&prepare, &[], wait()).unwrap();
            hello(&channel);
            if go {
                channel.send(&FromOlder::Go { closed: Vec::new() }, &[], wait()).unwrap();
            }
        });
        let taken = take(other).unwrap().hand.ready();
        assert_eq!(taken.is_ok(), serves);
        // Without an older process that hears it, it serves all the same.
        if let Ok(taken) = taken {
            taken.serving().unwrap();
        }
        older.join().unwrap();
    }
}

#[test]
fn names_that_nobody_asks_for_are_told() {
    let mut handed = Handed::default();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    handed.keep([(Item::named("peers"), socket.into())].into_iter());
    assert!(handed.listener("http").is_none() && handed.ports().is_empty());
    assert_eq!(handed.names(), ["peers"]);
}

#[test]
fn the_filter_stays_where_it_is_with_a_process_that_does_not_say_that_it_takes_it() {
    let (fake, given) = give_to(|channel| {
        let say = |message: &serde_json::Value| channel.send(message, &[], wait()).unwrap();
        say(&serde_json::json!({ "type": "hello", "format": 1, "version": "0.1.0", "pid": 1 }));
        let (_, descriptors) = channel.receive::<FromOlder>(wait()).unwrap().unwrap();
        say(&serde_json::json!({ "type": "received", "descriptors": descriptors.len() }));
        let (prepare, _) = channel.receive::<FromOlder>(wait()).unwrap().unwrap();
        assert!(matches!(prepare, FromOlder::Prepare { .. }));
        say(&serde_json::json!({ "type": "ready" }));
    });
    assert!(given.is_err());
    assert_eq!(fake.calls, ["freeze", "stop as before", "resume"]);
}

#[test]
fn a_process_that_serves_too_late_ends() {
    let (channel, other) = Channel::pair().unwrap();
    let older = thread::spawn(move || {
        let hear = || drop(channel.receive::<FromNewer>(wait()).unwrap().unwrap());
        let say = |message: &FromOlder| channel.send(message, &[], wait()).unwrap();
        hear();
        say(&FromOlder::Prepare { generation: 1, quic_generation: 1, incarnation: None });
        hear();
        say(&FromOlder::Go { closed: Vec::new() });
        hear();
        say(&FromOlder::Refused { reason: "it was to serve in time".into() });
    });
    let late = take(other).unwrap().hand.ready().unwrap().serving().unwrap_err().to_string();
    assert!(late.contains("goes on: it was to serve in time"), "{late}");
    older.join().unwrap();
}
