//! Pools: even spread, and a member's death that costs no new connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ebbgate_model::EndpointId;
use serde_json::json;
use tokio::io::AsyncReadExt as _;

use crate::lab::{Lab, TOKEN, exchange, forward, ksuid};

const TARGET: &str = "tcp://db.clinic1.internal:433";

#[tokio::test]
async fn members_take_turns() {
    let mut lab = Lab::start();
    lab.tcp_to(TARGET);
    let (one, two) = (lab.agent(TOKEN).await, lab.agent(TOKEN).await);
    one.bind(TARGET).await;
    two.bind(TARGET).await;
    let _agents = (one.echo(b"1"), two.echo(b"2"));
    let mut counts = [0; 2];
    for _ in 0..20 {
        let answer = exchange(lab.visit().await, b"").await.unwrap();
        counts[usize::from(answer[0] - b'1')] += 1;
    }
    assert_eq!(counts, [10, 10]);
}

#[tokio::test]
async fn a_killed_member_costs_no_new_connection() {
    let mut lab = Lab::start();
    lab.tcp_to(TARGET);
    let (one, two) = (lab.agent(TOKEN).await, lab.agent(TOKEN).await);
    one.bind(TARGET).await;
    two.bind(TARGET).await;
    let (one, _two) = (one.echo(b""), two.echo(b""));
    let killed = Arc::new(AtomicBool::new(false));
    let port = lab.port;
    let visit = |killed: Arc<AtomicBool>| async move {
        let (mut done, mut failed) = (0, 0);
        while done < 200 {
            let is_new = killed.load(Ordering::SeqCst);
            let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let ok = exchange(stream, b"question").await.is_ok_and(|answer| answer == b"question");
            failed += usize::from(is_new && !ok);
            done += usize::from(is_new);
        }
        failed
    };
    let visitors: Vec<_> = (0..8).map(|_| tokio::spawn(visit(Arc::clone(&killed)))).collect();
    for _ in 0..20 {
        exchange(lab.visit().await, b"x").await.unwrap();
    }
    one.kill();
    killed.store(true, Ordering::SeqCst);
    for visitor in visitors {
        assert_eq!(visitor.await.unwrap(), 0);
    }
}

#[tokio::test]
async fn a_member_that_dies_before_it_answered_is_replaced() {
    let mut lab = Lab::start();
    lab.tcp_to(TARGET);
    let (mut mute, good) = (lab.agent(TOKEN).await, lab.agent(TOKEN).await);
    mute.bind(TARGET).await;
    good.bind(TARGET).await;
    let _good = good.echo(b"");
    // Two connections, and members take turns: one of them is the mute agent's.
    let visitors = [lab.visit().await, lab.visit().await];
    let visitors = visitors.map(|visitor| tokio::spawn(exchange(visitor, b"question")));
    let (_, mut stream) = mute.accept().await;
    let mut question = [0; 8];
    stream.read_exact(&mut question).await.unwrap();
    assert_eq!(&question, b"question");
    mute.echo(b"").kill();
    for visitor in visitors {
        assert_eq!(visitor.await.unwrap().unwrap(), b"question");
    }
    assert_eq!(lab.edge.metrics.retries.get(), 1);
}

#[tokio::test]
async fn a_member_whose_upstream_is_down_costs_no_connection() {
    let mut lab = Lab::start();
    lab.tcp_to(TARGET);
    let (down, good) = (lab.agent(TOKEN).await, lab.agent(TOKEN).await);
    down.bind(TARGET).await;
    good.bind(TARGET).await;
    let _agents = (down.refuse(), good.echo(b""));
    for _ in 0..2 {
        assert_eq!(exchange(lab.visit().await, b"question").await.unwrap(), b"question");
    }
    assert_eq!(lab.edge.metrics.retries.get(), 1, "it is set aside at once");
}

#[tokio::test]
async fn cloud_and_agent_share_a_url_and_pooling_takes_two() {
    let mut lab = Lab::start();
    lab.tcp_to(TARGET);
    let agent = lab.agent(TOKEN).await;
    agent.bind(TARGET).await;
    let alone = agent.try_bind(TARGET, json!({}), json!({ "PoolingEnabled": false })).await;
    assert!(alone.error.contains("ERR_NGROK_334"), "{}", alone.error);
    agent.bind("tcp://spare.internal:1").await;
    lab.cloud(2, TARGET, json!({ "on_tcp_connect": [{ "actions": [forward("tcp://spare.internal:1")] }] }));
    lab.change(|p| p.endpoints.get_mut(&EndpointId::new(ksuid(2))).unwrap().pooling_enabled = true);
    let _agent = agent.echo(b"");
    for _ in 0..4 {
        assert_eq!(exchange(lab.visit().await, b"x").await.unwrap(), b"x");
    }
    let forwarded = async {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..4 {
            seen.insert(lab.event().await.forwarded_to);
        }
        seen
    };
    assert_eq!(forwarded.await.len(), 2, "one of the members forwards further");
}
