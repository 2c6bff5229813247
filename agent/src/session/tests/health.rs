//! What checks of upstreams come to reaches the edge: once for each change, in order, and again after a reconnection.

use ebbgate_wire::rpc::EndpointHealth;

use super::*;
use crate::health::{Board, Health};

fn verdict(healthy: bool, reason: &str) -> Health {
    Health { healthy, check: "http", reason: reason.to_owned() }
}

/// What the edge heard, as soon as it is so many words.
async fn heard(edge: &Edge, words: usize) -> Vec<(bool, String)> {
    let waiting = async {
        loop {
            let heard = edge.book().health.clone();
            if heard.len() >= words {
                return heard;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let heard = tokio::time::timeout(Duration::from_mins(2), waiting).await.expect("the edge hears of it");
    assert_eq!(heard.len(), words, "{heard:?}");
    heard.into_iter().map(|EndpointHealth { healthy, reason, .. }| (healthy, reason)).collect()
}

fn started(edge: &Edge) -> (Session, Events, Board, Arc<MemoryDialer>) {
    let dialer = MemoryDialer::new(edge);
    let (mut settings, events) = settings(dialer.clone());
    let board = Board::default();
    settings.health = board.clone();
    (Session::start(settings), events, board, dialer)
}

#[tokio::test(start_paused = true)]
async fn changes_reach_the_edge_in_order_and_again_on_the_next_connection() {
    let edge = Edge::default();
    let (session, mut events, board, dialer) = started(&edge);
    board.write("a", verdict(false, "HTTP status 503"));
    let _a = serve(&session, "a", A);
    let _b = serve(&session, "b", B);
    events.endpoint_online("a").await;
    assert_eq!(heard(&edge, 1).await, [(false, "HTTP status 503".to_owned())]);
    let first = edge.book().health[0].clone();
    assert_eq!((first.check.as_str(), Some(&first.id)), ("http", edge.book().served.get(A)));
    board.write("a", verdict(true, ""));
    board.write("c", verdict(false, "nobody's"));
    assert_eq!(heard(&edge, 2).await[1], (true, String::new()));
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(heard(&edge, 2).await.len(), 2, "nothing new, nothing said");
    dialer.cut(false);
    assert_eq!(heard(&edge, 3).await[2], (true, String::new()), "the next connection is told what holds");
}

#[tokio::test(start_paused = true)]
async fn an_edge_that_does_not_take_it_is_told_again_and_the_session_stays() {
    let edge = Edge::default();
    edge.book().refuse_health = 2;
    let (session, mut events, board, dialer) = started(&edge);
    let _a = serve(&session, "a", A);
    events.endpoint_online("a").await;
    let begun = Instant::now();
    board.write("a", verdict(false, "closed"));
    assert_eq!(heard(&edge, 3).await[2], (false, "closed".to_owned()));
    assert!(begun.elapsed() >= Duration::from_secs(20), "it is not told in a row");
    assert_eq!(dialer.dials.load(Ordering::SeqCst), 1);
}
