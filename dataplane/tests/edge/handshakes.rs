//! More agents at once than an edge lets in: some wait, the others are told when to come again, and other sources have turns.

use ebbgate_edge::net::handshakes::Handshakes;
use ebbgate_wire::retry;
use rustls::AlertDescription;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Duration, timeout};

use crate::lab::{Lab, TOKEN, handshake};

/// Handshakes a second of the edge here.
const PER_SEC: u32 = 10;
/// Agents that come at once.
const AGENTS: usize = 60;
/// Seconds a test waits for a state.
const WAIT_SECS_MAX: u64 = 30;

/// What the edge asks for with the alert that ended a handshake.
fn asked(error: &std::io::Error) -> Option<Duration> {
    match error.get_ref()?.downcast_ref()? {
        rustls::Error::AlertReceived(AlertDescription::Unknown(alert)) => retry::retry_after(*alert),
        _ => None,
    }
}

#[tokio::test]
async fn a_storm_of_one_source_is_told_when_to_come_again_and_leaves_turns_to_others() {
    let lab = Lab::letting_in(Handshakes::new(PER_SEC));
    let client = lab.authority.client(None, false);
    let mut storm = JoinSet::new();
    for _ in 0..AGENTS {
        let (client, connect) = (client.clone(), lab.connect);
        storm.spawn(async move {
            let stream = TcpStream::connect(connect).await.unwrap();
            handshake(stream, "localhost", client).await
        });
    }
    let waiting = async {
        while lab.edge.metrics.agent_handshakes_refused.get() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(WAIT_SECS_MAX), waiting).await.expect("some are refused");
    // The storm has a part of those that wait: another source has its turn behind them.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let stream = socket.connect(lab.connect).await.unwrap();
    handshake(stream, "localhost", client).await.expect("another source has its turn");
    let (mut let_in, mut told) = (0, 0);
    while let Some(outcome) = storm.join_next().await {
        match outcome.unwrap() {
            Ok(_) => let_in += 1,
            Err(error) => {
                let after = asked(&error).unwrap_or_else(|| panic!("{error}"));
                assert!((1..=10).contains(&after.as_secs()), "{after:?}");
                told += 1;
            }
        }
    }
    assert!(let_in > 0 && told > 0, "{let_in} let in, {told} told");
    let metrics = &lab.edge.metrics;
    assert_eq!(metrics.agent_handshakes.get(), let_in + 1);
    assert_eq!(metrics.agent_handshakes_refused.get(), told);
    assert_eq!(metrics.agent_handshakes_waiting.get(), 0);
    assert_eq!(metrics.handshakes_failed.get(), 0, "nothing was computed for them");
    timeout(Duration::from_secs(WAIT_SECS_MAX), lab.agent(TOKEN)).await.expect("an agent is let in");
}
