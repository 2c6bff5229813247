//! A host that changes its addresses and routes under a session, with a paused clock.

use std::net::{IpAddr, SocketAddr};

use tokio::sync::Notify;

use super::*;
use crate::network::{Changing, Ends, Network};

/// What the host's network is like now.
#[derive(Default)]
struct Host {
    changed: Notify,
    source: Mutex<Option<IpAddr>>,
    gone: AtomicBool,
}

impl Host {
    fn change(&self, source: Option<&str>, gone: bool) {
        *self.source.lock().unwrap() = source.map(|text| text.parse().unwrap());
        self.gone.store(gone, Ordering::SeqCst);
        self.changed.notify_one();
    }
}

struct Seen(Arc<Host>);

impl Network for Seen {
    fn changed(&mut self) -> Changing<'_> {
        Box::pin(self.0.changed.notified())
    }

    fn source(&self, _: SocketAddr) -> Option<IpAddr> {
        *self.0.source.lock().unwrap()
    }

    fn owns(&self, _: IpAddr) -> bool {
        !self.0.gone.load(Ordering::SeqCst)
    }
}

/// A memory dialler on a host with addresses; a dial may hang as on a way that is gone.
struct Moving {
    memory: Arc<MemoryDialer>,
    host: Arc<Host>,
    hangs: AtomicBool,
}

impl Moving {
    fn new(edge: &Edge) -> Arc<Self> {
        let host = Arc::new(Host::default());
        *host.source.lock().unwrap() = Some("192.0.2.1".parse().unwrap());
        Arc::new(Self { memory: MemoryDialer::new(edge), host, hangs: AtomicBool::new(false) })
    }
}

impl Dial for Moving {
    fn dial(&self) -> Dialling<'_> {
        Box::pin(async {
            if self.hangs.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            let dialled = self.memory.dial().await?;
            let (local, peer) = ("192.0.2.1:4711".parse().unwrap(), "198.51.100.1:443".parse().unwrap());
            Ok(Dialled { ends: Some(Ends { local, peer }), ..dialled })
        })
    }

    fn network(&self) -> Box<dyn Network> {
        Box::new(Seen(Arc::clone(&self.host)))
    }

    fn target(&self) -> String {
        "memory".into()
    }
}

/// Lets the edge be away until the agent waits long between tries.
async fn long_away(dialer: &Moving, events: &mut Events) {
    events.session_online().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    dialer.memory.cut(true);
    let long = |event: &Event| match event {
        Event::SessionOffline { retry_in, .. } if *retry_in > Duration::from_secs(2) => Some(()),
        _ => None,
    };
    events.wait(long).await;
}

#[tokio::test(start_paused = true)]
async fn a_new_route_to_the_edge_is_tried_at_once() {
    let edge = Edge::default();
    let dialer = Moving::new(&edge);
    let (_session, mut events) = start(dialer.clone());
    long_away(&dialer, &mut events).await;
    dialer.memory.up();
    let begin = Instant::now();
    dialer.host.change(Some("192.0.2.2"), false);
    events.session_online().await;
    assert!(begin.elapsed() < Duration::from_millis(100), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_change_elsewhere_brings_no_try_forward() {
    let edge = Edge::default();
    let dialer = Moving::new(&edge);
    let (_session, mut events) = start(dialer.clone());
    long_away(&dialer, &mut events).await;
    let before = dialer.memory.dials.load(Ordering::SeqCst);
    for _ in 0..10 {
        dialer.host.change(Some("192.0.2.1"), false);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(dialer.memory.dials.load(Ordering::SeqCst), before);
}

#[tokio::test(start_paused = true)]
async fn a_dial_that_hangs_on_the_old_way_begins_anew_on_the_new_one() {
    let edge = Edge::default();
    let dialer = Moving::new(&edge);
    let (_session, mut events) = start(dialer.clone());
    events.session_online().await;
    dialer.hangs.store(true, Ordering::SeqCst);
    dialer.memory.cut(false);
    tokio::time::sleep(Duration::from_secs(1)).await;
    dialer.hangs.store(false, Ordering::SeqCst);
    dialer.host.change(Some("192.0.2.2"), false);
    let begin = Instant::now();
    events.session_online().await;
    assert!(begin.elapsed() < Duration::from_millis(100), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_address_is_gone_is_back_within_three_seconds() {
    let edge = Edge::default();
    let dialer = Moving::new(&edge);
    let (_session, mut events) = start(dialer.clone());
    events.session_online().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let begin = Instant::now();
    dialer.host.change(Some("192.0.2.2"), true);
    events.session_online().await;
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_address_that_comes_back_within_a_second_costs_no_session() {
    let edge = Edge::default();
    let dialer = Moving::new(&edge);
    let (_session, mut events) = start(dialer.clone());
    events.session_online().await;
    dialer.host.change(None, true);
    tokio::time::sleep(Duration::from_millis(500)).await;
    dialer.host.change(Some("192.0.2.1"), false);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(dialer.memory.dials.load(Ordering::SeqCst), 1);
}
