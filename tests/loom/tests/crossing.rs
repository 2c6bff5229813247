//! A stream from one shard to another: an end is an end, a death a reset, a refusal a refusal, however the shards meet.

use std::io;

use ebbgate_loom::crossing::{Crossing, crossing};
use ebbgate_tunnel::reset_code;
use ebbgate_wire::mux::Code;
use loom::future::block_on;
use loom::thread;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// What one shard reads while the other does `other` with its end.
fn check(other: fn(Crossing), law: fn(io::Result<Vec<u8>>)) {
    loom::model(move || {
        let (mut near, far) = crossing();
        let doing = thread::spawn(move || other(far));
        let read = block_on(async {
            let mut got = Vec::new();
            near.read_to_end(&mut got).await.map(|_| got)
        });
        law(read);
        doing.join().expect("no panic");
    });
}

#[test]
fn a_finished_direction_is_an_end() {
    let finish = |mut far: Crossing| {
        block_on(async {
            far.write_all(b"x").await.expect("room");
            far.shutdown().await.expect("an end");
        });
    };
    check(finish, |read| assert_eq!(read.expect("an orderly end"), b"x"));
}

#[test]
fn a_dropped_one_is_a_reset() {
    let law = |read: io::Result<Vec<u8>>| {
        let error = read.expect_err("not an end");
        assert!(error.kind() == io::ErrorKind::ConnectionReset && reset_code(&error).is_none(), "{error}");
    };
    check(drop, law);
    check(|mut far| block_on(async { far.write_all(b"x").await.expect("room") }), law);
}

#[test]
fn a_refused_one_says_so() {
    let law = |read: io::Result<Vec<u8>>| {
        assert_eq!(reset_code(&read.expect_err("not an end")), Some(Code::REFUSED));
    };
    check(Crossing::refuse, law);
}

#[test]
fn whoever_writes_to_a_refused_one_hears_it_too() {
    loom::model(|| {
        let (mut near, far) = crossing();
        let refusing = thread::spawn(move || far.refuse());
        let error = block_on(async {
            loop {
                if let Err(error) = near.write_all(b"x").await {
                    return error;
                }
                thread::yield_now();
            }
        });
        assert_eq!(reset_code(&error), Some(Code::REFUSED));
        refusing.join().expect("no panic");
    });
}
