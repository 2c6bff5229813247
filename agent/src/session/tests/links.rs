//! Visitors over links beside the session: used again, missed, refused, outliving every change of carrier.

use std::time::Duration;

use ebbgate_tunnel::link::LinkStream;
use ebbgate_wire::link::DELIVERED;

use super::*;
use crate::Stream;
use crate::links::{LINK_DIALS_MAX, LINKS_IDLE_MIN};

/// A session with one endpoint and every link it wants.
async fn linked(
    edge: &Edge,
    links_max: u16,
) -> (Arc<MemoryDialer>, Session, Events, mpsc::Receiver<Accepted>) {
    edge.offer_links(links_max);
    let dialer = MemoryDialer::new(edge);
    let (session, mut events) = start(dialer.clone());
    let accepted = serve(&session, "a", A);
    events.endpoint_online("a").await;
    parked(edge, LINKS_IDLE_MIN.min(links_max.into())).await;
    (dialer, session, events, accepted)
}

/// Waits until so many links wait for visitors at the edge.
async fn parked(edge: &Edge, links: usize) {
    while edge.book().parked.len() != links {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A visitor's byte and the program's echo of it.
async fn echo(visitor: &mut impl Carrier, program: &mut Stream) {
    visitor.write_u8(7).await.unwrap();
    visitor.flush().await.unwrap();
    assert_eq!(program.read_u8().await.unwrap(), 7);
    program.write_u8(8).await.unwrap();
    program.flush().await.unwrap();
    assert_eq!(visitor.read_u8().await.unwrap(), 8);
}

/// Both directions end in order.
async fn part(mut visitor: LinkStream<Box<dyn Carrier>>, mut program: Stream, edge: &Edge) {
    visitor.shutdown().await.unwrap();
    assert_eq!(program.read(&mut [0]).await.unwrap(), 0);
    program.shutdown().await.unwrap();
    drop(program);
    assert_eq!(visitor.read(&mut [0]).await.unwrap(), 0);
    edge.park_again(visitor).await;
}

#[tokio::test(start_paused = true)]
async fn visitors_one_after_the_other_share_a_link() {
    let edge = Edge::default();
    let (dialer, _session, _events, mut accepted) = linked(&edge, 64).await;
    for _ in 0..50 {
        let mut visitor = edge.visit_link(A);
        visitor.flush().await.unwrap();
        let mut connection = accepted.recv().await.unwrap();
        assert_eq!(connection.client, Some("203.0.113.7:4711".parse().unwrap()));
        echo(&mut visitor, &mut connection.stream).await;
        part(visitor, connection.stream, &edge).await;
    }
    let dials = dialer.link_dials.load(Ordering::SeqCst) as usize;
    assert!(dials <= LINKS_IDLE_MIN + 1, "{dials} dials for fifty visitors");
}

#[tokio::test(start_paused = true)]
async fn visitors_who_find_no_link_come_by_the_session_and_more_links_follow() {
    let edge = Edge::default();
    let (_dialer, _session, _events, mut accepted) = linked(&edge, 20).await;
    let mut visits = Vec::new();
    for _ in 0..12 {
        let mut visitor = edge.visit(A).await;
        let mut connection = accepted.recv().await.unwrap();
        echo(&mut visitor, &mut connection.stream).await;
        visits.push((visitor, connection));
    }
    parked(&edge, LINKS_IDLE_MIN + 12).await;
    for _ in 0..100 {
        let visitor = edge.visit(A).await;
        visits.push((visitor, accepted.recv().await.unwrap()));
    }
    parked(&edge, 20).await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(edge.book().parked.len(), 20, "never more than offered");
}

#[tokio::test(start_paused = true)]
async fn an_edge_that_refuses_links_is_served_by_the_session_and_rarely_asked_again() {
    let edge = Edge::default();
    edge.offer_links(64);
    edge.book().refuse_links = Some(Code::REFUSED);
    let (session, mut events) = start(MemoryDialer::new(&edge));
    let mut accepted = serve(&session, "a", A);
    events.endpoint_online("a").await;
    for _ in 0..20 {
        let mut visitor = edge.visit(A).await;
        echo(&mut visitor, &mut accepted.recv().await.unwrap().stream).await;
    }
    tokio::time::sleep(Duration::from_mins(10)).await;
    let hellos = edge.book().link_hellos as usize;
    assert!((1..=21 * LINK_DIALS_MAX).contains(&hellos), "{hellos} in ten minutes");
    // The edge changes its mind.
    edge.book().refuse_links = None;
    while edge.book().parked.is_empty() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_edge_that_ends_every_link_at_once_is_not_stormed() {
    let edge = Edge::default();
    edge.offer_links(64);
    let dialer = MemoryDialer::new(&edge);
    let (_session, mut events) = start(dialer.clone());
    events.session_online().await;
    for _ in 0..6_000 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        edge.book().parked.clear();
    }
    let dials = dialer.link_dials.load(Ordering::SeqCst);
    assert!(dials <= 200, "{dials} dials in a minute");
}

#[tokio::test(start_paused = true)]
async fn no_change_of_carrier_drops_a_stream_in_flight() {
    let edge = Edge::default();
    let (_dialer, _session, mut events, mut accepted) = linked(&edge, 64).await;
    let mut on_link = edge.visit_link(A);
    on_link.flush().await.unwrap();
    let mut by_link = accepted.recv().await.unwrap().stream;
    let mut on_mux = edge.visit(A).await;
    let mut by_mux = accepted.recv().await.unwrap().stream;
    // Links go away and come no more: new visitors come by the session, those under way stay where they are.
    edge.book().refuse_links = Some(Code::REFUSED);
    edge.book().parked.clear();
    for _ in 0..10 {
        echo(&mut on_link, &mut by_link).await;
        echo(&mut on_mux, &mut by_mux).await;
        let mut newcomer = edge.visit(A).await;
        echo(&mut newcomer, &mut accepted.recv().await.unwrap().stream).await;
        tokio::time::sleep(Duration::from_secs(20)).await;
    }
    // And back.
    edge.book().refuse_links = None;
    while edge.book().parked.is_empty() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let mut newcomer = edge.visit_link(A);
    newcomer.flush().await.unwrap();
    echo(&mut newcomer, &mut accepted.recv().await.unwrap().stream).await;
    echo(&mut on_link, &mut by_link).await;
    echo(&mut on_mux, &mut by_mux).await;
    let lost = events.wait(|event| matches!(event, Event::SessionOffline { .. }).then_some(()));
    assert!(tokio::time::timeout(Duration::from_secs(1), lost).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_visitor_on_a_link_outlives_the_session_that_brought_it() {
    let edge = Edge::default();
    let (dialer, _session, mut events, mut accepted) = linked(&edge, 64).await;
    let mut visitor = edge.visit_link(A);
    visitor.flush().await.unwrap();
    let mut program = accepted.recv().await.unwrap().stream;
    // Held aside, so that it is the agent who lets go of it.
    let mut idle = edge.book().parked.pop().unwrap();
    dialer.cut(false);
    events.endpoint_online("a").await;
    echo(&mut visitor, &mut program).await;
    assert!(!idle.is_quiet(), "idle links end with their session");
    parked(&edge, LINKS_IDLE_MIN).await;
}

#[tokio::test(start_paused = true)]
async fn closing_waits_for_visitors_on_links_and_ends_the_rest() {
    let edge = Edge::default();
    let (dialer, session, _events, mut accepted) = linked(&edge, 64).await;
    let mut visitor = edge.visit_link(A);
    visitor.flush().await.unwrap();
    let program = accepted.recv().await.unwrap().stream;
    let mut idle = edge.book().parked.pop().unwrap();
    session.close().await;
    assert!(!idle.is_quiet());
    let dials = dialer.link_dials.load(Ordering::SeqCst);
    drop(program);
    assert!(visitor.read_u8().await.is_err());
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert_eq!(dialer.link_dials.load(Ordering::SeqCst), dials, "a closed session dials no links");
}

#[tokio::test(start_paused = true)]
async fn an_aborted_visitor_costs_his_link_only() {
    let edge = Edge::default();
    let (_dialer, _session, _events, mut accepted) = linked(&edge, 64).await;
    for _ in 0..20 {
        let mut visitor = edge.visit_link(A);
        visitor.flush().await.unwrap();
        let mut program = accepted.recv().await.unwrap().stream;
        drop(visitor);
        assert_eq!(reset_code(&program.read_u8().await.unwrap_err()), Some(Code::CANCELLED));
        while edge.book().parked.len() < LINKS_IDLE_MIN {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_visitor_who_comes_by_two_ways_is_delivered_once() {
    let edge = Edge::default();
    let (_dialer, _session, _events, mut accepted) = linked(&edge, 64).await;
    // The claim is read first.
    let mut visitor = edge.claim_link(A, 1);
    visitor.flush().await.unwrap();
    let mut program = accepted.recv().await.unwrap().stream;
    let mut late = edge.visit_instead(A, 1).await;
    assert_eq!(reset_code(&late.read_u8().await.unwrap_err()), Some(Code::CANCELLED));
    echo(&mut visitor, &mut program).await;
    // The other way is read first.
    let mut visitor = edge.visit_instead(A, 2).await;
    let mut program = accepted.recv().await.unwrap().stream;
    assert_eq!(visitor.read_u8().await.unwrap(), DELIVERED);
    echo(&mut visitor, &mut program).await;
    let mut late = edge.claim_link(A, 2);
    late.flush().await.unwrap();
    assert_eq!(reset_code(&late.read_u8().await.unwrap_err()), Some(Code::CANCELLED));
    assert!(accepted.try_recv().is_err(), "nobody was delivered twice");
}

#[tokio::test(start_paused = true)]
async fn idle_links_shrink_by_themselves_after_a_crowd() {
    let edge = Edge::default();
    let (dialer, _session, _events, mut accepted) = linked(&edge, 64).await;
    let mut visits = Vec::new();
    for _ in 0..20 {
        visits.push((edge.visit(A).await, accepted.recv().await.unwrap()));
    }
    parked(&edge, LINKS_IDLE_MIN + 20).await;
    let dials = dialer.link_dials.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_mins(3)).await;
    edge.book().parked.retain_mut(ebbgate_tunnel::link::Parked::is_quiet);
    assert_eq!(edge.book().parked.len(), LINKS_IDLE_MIN);
    assert_eq!(dialer.link_dials.load(Ordering::SeqCst), dials, "none is hung up to be dialled again");
}

/// Time zones, leap seconds and people turn the wall clock; nothing the agent waits for may follow it.
#[test]
fn no_wall_clock_is_read() {
    let mut folders = vec![std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")];
    let wall_clock = ["SystemTime", "::now"].concat();
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files += 1;
                let text = std::fs::read_to_string(&path).unwrap();
                assert!(!text.contains(&wall_clock), "{} reads the wall clock", path.display());
            }
        }
    }
    assert!(files > 40, "the agent's own sources were read");
}
