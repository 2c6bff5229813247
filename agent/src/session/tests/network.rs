//! Sessions over turmoil's network: restart, partition, an edge that never answers.

use std::net::{IpAddr, Ipv4Addr};

use turmoil::net::{TcpListener, TcpStream};

use super::*;
use crate::links::LINKS_IDLE_MIN;

const PORT: u16 = 443;
/// ALPN tells sessions and links apart on a real edge; here a port of their own does.
const LINK_PORT: u16 = 444;

/// Dials the simulated host `edge`.
struct SimDialer;

impl Dial for SimDialer {
    fn dial(&self) -> Dialling<'_> {
        Box::pin(async {
            let connecting =
                tokio::time::timeout(Duration::from_secs(10), TcpStream::connect(("edge", PORT)));
            match connecting.await {
                Ok(Ok(io)) => Ok(Dialled::alone(io)),
                Ok(Err(source)) => Err(DialError::Tcp { target: self.target(), source }),
                Err(_) => Err(DialError::Timeout { target: self.target(), limit: Duration::from_secs(10) }),
            }
        })
    }

    fn link(&self) -> Dialling<'_, Box<dyn Carrier>> {
        Box::pin(async {
            match TcpStream::connect(("edge", LINK_PORT)).await {
                Ok(io) => Ok(Box::new(io) as Box<dyn Carrier>),
                Err(source) => Err(DialError::Tcp { target: self.target(), source }),
            }
        })
    }

    fn target(&self) -> String {
        "edge".into()
    }
}

async fn listen(edge: Edge) -> turmoil::Result {
    let listener = TcpListener::bind((IpAddr::V4(Ipv4Addr::UNSPECIFIED), PORT)).await?;
    let links = TcpListener::bind((IpAddr::V4(Ipv4Addr::UNSPECIFIED), LINK_PORT)).await?;
    let mut connections = JoinSet::new();
    loop {
        let edge = edge.clone();
        tokio::select! {
            session = listener.accept() => {
                let (io, _) = session?;
                connections.spawn(async move { edge.serve(io).await });
            }
            link = links.accept() => {
                let (io, _) = link?;
                connections.spawn(async move { edge.serve_link(Box::new(io)).await });
            }
        }
    }
}

fn sim() -> turmoil::Sim<'static> {
    turmoil::Builder::new()
        .simulation_duration(Duration::from_mins(10))
        .tick_duration(Duration::from_millis(5))
        .enable_random_order()
        .rng_seed(7)
        .build()
}

/// Waits in simulated time until `done`, at most `limit`.
async fn until(limit: Duration, mut done: impl FnMut() -> bool) -> Duration {
    let begin = Instant::now();
    while !done() {
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(begin.elapsed() < limit, "not within {limit:?}");
    }
    begin.elapsed()
}

#[test]
fn an_edge_that_crashes_and_comes_back_has_its_agent_within_three_seconds() {
    let mut sim = sim();
    let edge = Edge::default();
    let served = edge.clone();
    sim.host("edge", move || listen(served.clone()));
    let (seen, finished) = (edge.clone(), Arc::new(AtomicBool::new(false)));
    let done = finished.clone();
    sim.client("agent", async move {
        let (session, _events) = start(Arc::new(SimDialer));
        let _a = serve(&session, "a", A);
        until(Duration::from_secs(1), || seen.book().served.contains_key(A)).await;
        until(Duration::from_secs(30), || !seen.book().served.contains_key(A)).await;
        // Down for one second (below), then up: three seconds in all.
        until(Duration::from_secs(3), || seen.book().served.contains_key(A)).await;
        done.store(true, Ordering::SeqCst);
        Ok(())
    });
    sim.run_for(Duration::from_secs(5));
    sim.crash("edge");
    edge.book().served.clear();
    sim.run_for(Duration::from_secs(1));
    sim.bounce("edge");
    sim.run().unwrap();
    assert!(finished.load(Ordering::SeqCst));
    let book = edge.book();
    let ids: Vec<_> = book.binds.iter().map(|bind| bind.id.as_str()).collect();
    assert!(matches!(ids[..], ["", again, ..] if !again.is_empty()), "rebound by its id: {ids:?}");
}

trait RunFor {
    fn run_for(&mut self, time: Duration);
}

impl RunFor for turmoil::Sim<'_> {
    fn run_for(&mut self, time: Duration) {
        let end = self.elapsed() + time;
        while self.elapsed() < end {
            self.step().unwrap();
        }
    }
}

#[test]
fn a_partition_is_noticed_and_healed_without_anybody_closing_anything() {
    let mut sim = sim();
    let edge = Edge::default();
    let served = edge.clone();
    sim.host("edge", move || listen(served.clone()));
    let seen = edge.clone();
    sim.client("agent", async move {
        let (session, mut events) = start(Arc::new(SimDialer));
        let mut a = serve(&session, "a", A);
        events.endpoint_online("a").await;
        turmoil::partition("agent", "edge");
        let begin = Instant::now();
        events.wait(|event| matches!(event, Event::SessionOffline { .. }).then_some(())).await;
        assert!(begin.elapsed() <= Duration::from_secs(26), "interval and tolerance: {:?}", begin.elapsed());
        tokio::time::sleep(Duration::from_secs(20)).await;
        turmoil::repair("agent", "edge");
        events.endpoint_online("a").await;
        let mut visitor = seen.visit(A).await;
        visitor.write_all(b"x").await?;
        let mut accepted = a.recv().await.expect("served again");
        assert_eq!(accepted.stream.read_u8().await?, b'x');
        Ok(())
    });
    sim.run().unwrap();
}

#[test]
fn a_slow_edge_is_not_a_dead_one() {
    let mut sim = turmoil::Builder::new()
        .simulation_duration(Duration::from_mins(10))
        .tick_duration(Duration::from_millis(5))
        .min_message_latency(Duration::from_millis(500))
        .max_message_latency(Duration::from_millis(2_500))
        .rng_seed(11)
        .build();
    let edge = Edge::default();
    let served = edge.clone();
    sim.host("edge", move || listen(served.clone()));
    let seen = edge.clone();
    sim.client("agent", async move {
        let (session, mut events) = start(Arc::new(SimDialer));
        let _a = serve(&session, "a", A);
        events.endpoint_online("a").await;
        let lost = events.wait(|event| matches!(event, Event::SessionOffline { .. }).then_some(()));
        let outcome = tokio::time::timeout(Duration::from_mins(4), lost).await;
        assert!(outcome.is_err(), "five seconds of round trip are within the tolerance");
        assert_eq!(seen.book().auths.len(), 1);
        Ok(())
    });
    sim.run().unwrap();
}

#[test]
fn an_edge_that_accepts_and_says_nothing_is_given_up() {
    let mut sim = sim();
    let connections = Arc::new(AtomicU32::new(0));
    let counter = connections.clone();
    sim.host("edge", move || {
        let counter = counter.clone();
        async move {
            let listener = TcpListener::bind((IpAddr::V4(Ipv4Addr::UNSPECIFIED), PORT)).await?;
            let mut kept = Vec::new();
            loop {
                kept.push(listener.accept().await?);
                counter.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    sim.client("agent", async move {
        let (_session, mut events) = start(Arc::new(SimDialer));
        for _ in 0..3 {
            let begin = Instant::now();
            let reason = events.wait(|event| match event {
                Event::SessionOffline { reason, .. } => Some(reason.clone()),
                _ => None,
            });
            assert!(reason.await.contains("no answer to Auth"));
            assert!(begin.elapsed() <= Duration::from_secs(AUTH_SECS_MAX + 1));
        }
        Ok(())
    });
    sim.run().unwrap();
    assert!(connections.load(Ordering::SeqCst) >= 3);
}

#[test]
fn links_are_back_with_the_edge_and_none_is_dialled_in_a_hurry_while_it_is_away() {
    let mut sim = sim();
    let edge = Edge::default();
    edge.offer_links(64);
    let served = edge.clone();
    sim.host("edge", move || listen(served.clone()));
    let seen = edge.clone();
    sim.client("agent", async move {
        let (session, _events) = start(Arc::new(SimDialer));
        let _a = serve(&session, "a", A);
        let ready = |edge: &Edge| edge.book().parked.len() == LINKS_IDLE_MIN;
        until(Duration::from_secs(1), || seen.book().served.contains_key(A) && ready(&seen)).await;
        until(Duration::from_secs(30), || !seen.book().served.contains_key(A)).await;
        until(Duration::from_secs(3), || seen.book().served.contains_key(A) && ready(&seen)).await;
        Ok(())
    });
    sim.run_for(Duration::from_secs(5));
    sim.crash("edge");
    edge.book().served.clear();
    edge.book().parked.clear();
    sim.run_for(Duration::from_secs(1));
    sim.bounce("edge");
    sim.run().unwrap();
    let hellos = edge.book().link_hellos as usize;
    assert!(hellos <= 3 * LINKS_IDLE_MIN, "{hellos}");
}
