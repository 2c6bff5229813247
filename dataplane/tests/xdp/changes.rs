//! A list that changes all the time, and visitors who connect all the time: nobody ever meets a list that is neither the
//! one before nor the one after.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ebbgate_model::feed::Enforcer;
use serde_json::{Value, json};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::lab::{ALLOWED, Lab, REFUSED, isolated};

/// How often the list changes.
const CHANGES: usize = 10_000;
/// Milliseconds a refused visitor waits for an answer.
const REFUSED_MS: u64 = 20;
/// Seconds a visitor who is let in may wait.
const ALLOWED_SECS: u64 = 60;
/// Resets that one visitor may meet. The filter drops in silence, so a reset has passed it. One was seen once; its cause is not
/// known.
const RESETS_MAX: usize = 3;

/// What the visitors saw.
#[derive(Default)]
struct Seen {
    let_in: AtomicU64,
    kept_out: AtomicU64,
}

#[test]
fn ten_thousand_changes_let_nobody_in_and_keep_nobody_out() {
    isolated("changes::ten_thousand_changes_let_nobody_in_and_keep_nobody_out", || {
        let mut lab = Lab::new();
        lab.restrict(&list(0));
        let guard = lab.guard_until_xdp();
        lab.accept();
        let (seen, over) = (Seen::default(), AtomicBool::new(false));
        let port = lab.port;
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| visit(&over, || seen.let_in(port)));
                scope.spawn(|| visit(&over, || seen.keep_out(port)));
            }
            for n in 0..CHANGES {
                lab.restrict(&list(n));
                lab.look(&guard);
                if over.load(Ordering::Relaxed) {
                    break;
                }
            }
            over.store(true, Ordering::Relaxed);
        });
        let report = lab.until(&guard, Enforcer::Xdp, "");
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        assert!(count(&seen.let_in) > 100 && count(&seen.kept_out) > 100, "both kinds came all the time");
        // Every list denies REFUSED by name, so a packet of ALLOWED that met none of the lists would count as unlisted.
        assert_eq!(report.dropped.keys().collect::<Vec<_>>(), ["denied"], "{report:?}");
    });
}

/// The lists that take each other's place. Each lets ALLOWED in and REFUSED not, which share every network up to a /31.
fn list(n: usize) -> Value {
    let kinds = [
        json!({ "allow": [ALLOWED], "deny": [REFUSED] }),
        json!({ "allow": ["127.0.0.0/29"], "deny": [REFUSED] }),
        json!({ "allow": ["127.0.0.0/8", "127.0.0.2/31"], "deny": [REFUSED] }),
        json!({ "allow": ["127.0.0.2/31", "10.0.0.0/8"], "deny": [REFUSED, "10.1.0.0/16"] }),
        json!({ "allow": ["0.0.0.0/0"], "deny": [REFUSED, "127.0.0.4/30"] }),
        json!({ "allow": [ALLOWED, "127.0.0.4/30", "2001:db8::/32"], "deny": [REFUSED] }),
        json!({ "allow": ["127.0.0.0/31", ALLOWED, "127.0.0.8/29"], "deny": ["127.0.0.0/32", REFUSED] }),
    ];
    // Steps of all sizes, so that in time every list follows every other.
    kinds[(n + n / kinds.len()) % kinds.len()].clone()
}

/// One visitor after the other; one that panics ends the test.
fn visit(over: &AtomicBool, one: impl Fn()) {
    struct End<'a>(&'a AtomicBool);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let _end = End(over);
    while !over.load(Ordering::Relaxed) {
        one();
    }
}

impl Seen {
    fn let_in(&self, port: u16) {
        let once = || connect(ALLOWED, port, Duration::from_secs(ALLOWED_SECS));
        let is_reset = |outcome: &std::io::Result<()>| {
            outcome.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
        };
        let outcome = std::iter::repeat_with(once).take(1 + RESETS_MAX).find(|outcome| !is_reset(outcome));
        outcome.expect("resets end").expect("ALLOWED is let in");
        self.let_in.fetch_add(1, Ordering::Relaxed);
    }

    fn keep_out(&self, port: u16) {
        let outcome = connect(REFUSED, port, Duration::from_millis(REFUSED_MS));
        assert!(outcome.is_err(), "REFUSED was let in");
        self.kept_out.fetch_add(1, Ordering::Relaxed);
    }
}

fn connect(source: &str, port: u16, wait: Duration) -> std::io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    // No port is kept for a connection that has ended: there are more connections than ports.
    socket.set_linger(Some(Duration::ZERO))?;
    socket.bind(&SockAddr::from(SocketAddr::new(source.parse().unwrap(), 0)))?;
    socket.connect_timeout(&SockAddr::from(SocketAddr::new("127.0.0.1".parse().unwrap(), port)), wait)
}
