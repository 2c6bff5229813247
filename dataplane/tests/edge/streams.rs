//! TCP endpoints: forward-internal to an agent, both half-closes, who hears of whose end.

use ebbgate_model::ErrorCode;
use ebbgate_tunnel::reset_code;
use ebbgate_wire::mux::Code;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::lab::{Lab, TOKEN, exchange, forward};

#[tokio::test]
async fn bytes_go_through_both_ways_from_either_shard() {
    let mut lab = Lab::start();
    lab.tcp_to("tcp://db.clinic1.internal:433");
    let agent = lab.agent(TOKEN).await;
    assert_eq!(agent.bind("tcp://db.clinic1.internal:433").await.url, "tcp://db.clinic1.internal:433");
    let _agent = agent.echo(b"hello\n");
    let question = vec![7; 300_000];
    let expect = [b"hello\n".as_slice(), &question].concat();
    // Enough connections that the kernel gives some to each shard; the session lives on one.
    for _ in 0..16 {
        assert_eq!(exchange(lab.visit().await, &question).await.unwrap(), expect);
    }
    let event = lab.event().await;
    assert_eq!((event.error, event.outcome.as_str()), (None, "closed"));
    assert_eq!(event.forwarded_to, "tcp://db.clinic1.internal:433");
    assert_eq!((event.bytes_in, event.bytes_out), (300_000, 300_006));
}

#[tokio::test]
async fn a_connection_that_the_end_of_the_edge_cuts_has_its_event() {
    let mut lab = Lab::start();
    // It says nothing, so nothing but the end of its shard ends it.
    let mut visitor = tokio::net::TcpStream::connect(lab.tls).await.unwrap();
    while lab.edge.metrics.connections_open.get() == 0 {
        tokio::task::yield_now().await;
    }
    lab.edge.enter(ebbgate_edge::state::edge::Stage::Stopped);
    let event = lab.event().await;
    assert_eq!(event.client, visitor.local_addr().unwrap().to_string());
    assert_eq!(event.outcome, "cut off: the edge stopped");
    assert_eq!(visitor.read(&mut [0]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn the_header_names_the_visitor_and_proxy_protocol_is_put_in_front() {
    let mut lab = Lab::start();
    lab.tcp_to("tcp://db.clinic1.internal:433");
    let mut agent = lab.agent(TOKEN).await;
    let reply = agent.try_bind("tcp://db.clinic1.internal:433", json!({ "ProxyProto": 1 }), json!({})).await;
    let mut visitor = lab.visit().await;
    let (header, mut stream) = agent.accept().await;
    let client = visitor.local_addr().unwrap();
    assert_eq!((header.id, header.client_addr, header.proto), (reply.id, client.to_string(), "tcp".into()));
    visitor.write_all(b"x").await.unwrap();
    let expect = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\nx", client.port(), lab.port);
    let mut got = vec![0; expect.len()];
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(String::from_utf8(got).unwrap(), expect);
}

#[tokio::test]
async fn a_visitor_that_goes_away_resets_the_agents_stream() {
    let mut lab = Lab::start();
    lab.tcp_to("tcp://db.clinic1.internal:433");
    let mut agent = lab.agent(TOKEN).await;
    agent.bind("tcp://db.clinic1.internal:433").await;
    let visitor = lab.visit().await;
    let (_, mut stream) = agent.accept().await;
    socket_abort(visitor);
    let error = stream.read_u8().await.unwrap_err();
    assert_eq!(reset_code(&error), Some(Code::CANCELLED), "{error}");
}

fn socket_abort(visitor: tokio::net::TcpStream) {
    socket2::SockRef::from(&visitor).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(visitor);
}

#[tokio::test]
async fn an_agents_reset_reaches_the_visitor_as_one() {
    let mut lab = Lab::start();
    lab.tcp_to("tcp://db.clinic1.internal:433");
    let mut agent = lab.agent(TOKEN).await;
    agent.bind("tcp://db.clinic1.internal:433").await;
    let mut visitor = lab.visit().await;
    let (_, mut stream) = agent.accept().await;
    stream.write_all(b"half an answer").await.unwrap();
    let mut got = vec![0; 14];
    visitor.read_exact(&mut got).await.unwrap();
    stream.reset(Code::RESET);
    assert_eq!(visitor.read_u8().await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(lab.event().await.error, Some(ErrorCode::AGENT_STREAM));
}

#[tokio::test]
async fn ends_are_explained_in_the_event() {
    let mut lab = Lab::start();
    let end = async |lab: &mut Lab| {
        let mut visitor = lab.visit().await;
        let mut got = Vec::new();
        let _ = visitor.read_to_end(&mut got).await;
        assert_eq!(got, b"");
        let event = lab.event().await;
        (event.error.map(ErrorCode::number), event.outcome)
    };
    assert_eq!(end(&mut lab).await.0, Some(3200));
    lab.tcp_to("tcp://nobody.clinic1.internal:433");
    let (code, outcome) = end(&mut lab).await;
    assert_eq!(code, Some(3200));
    assert!(outcome.contains("tcp://nobody.clinic1.internal:433 is offline"), "{outcome}");
    let url = format!("tcp://tcp.example.com:{}", lab.port);
    lab.cloud(1, &url, json!({ "on_tcp_connect": [{ "actions": [{ "type": "deny" }] }] }));
    assert!(end(&mut lab).await.1.contains("closed by the policy"));
    lab.cloud(1, &url, json!({}));
    assert!(end(&mut lab).await.1.contains("did not end in any action"));
}

#[tokio::test]
async fn loops_of_forward_internal_end() {
    let mut lab = Lab::start();
    lab.tcp_to("tcp://a.internal:1");
    let to = |target: &str| json!({ "on_tcp_connect": [{ "actions": [forward(target)] }] });
    lab.cloud(2, "tcp://a.internal:1", to("tcp://b.internal:1"));
    lab.cloud(3, "tcp://b.internal:1", to("tcp://a.internal:1"));
    let mut visitor = lab.visit().await;
    let _ = visitor.read_u8().await;
    assert_eq!(lab.event().await.error, Some(ErrorCode::TOO_MANY_HOPS));
}

#[tokio::test]
async fn on_error_continue_takes_the_next_action() {
    let mut lab = Lab::start();
    let first = json!({
        "type": "forward-internal",
        "config": { "url": "tcp://nobody.internal:1", "on_error": "continue" }
    });
    let url = format!("tcp://tcp.example.com:{}", lab.port);
    lab.cloud(
        1,
        &url,
        json!({ "on_tcp_connect": [{ "actions": [first, forward("tcp://spare.internal:1")] }] }),
    );
    let agent = lab.agent(TOKEN).await;
    agent.bind("tcp://spare.internal:1").await;
    let _agent = agent.echo(b"");
    assert_eq!(exchange(lab.visit().await, b"x").await.unwrap(), b"x");
}

#[tokio::test]
async fn a_loop_that_goes_on_after_every_failure_ends() {
    const LOOP: &str = "tcp://x.internal:1";
    let on =
        |url: &str| json!({ "type": "forward-internal", "config": { "url": url, "on_error": "continue" } });
    let mut lab = Lab::start();
    // Each hop fails at depth and the one before tries its next: 2 to the power of 8 forwards and more, if nobody counts.
    let actions = json!([on(LOOP), on(LOOP), forward("tcp://nowhere.internal:1")]);
    lab.cloud(2, LOOP, json!({ "on_tcp_connect": [{ "actions": actions }] }));
    lab.tcp_to(LOOP);
    assert_eq!(exchange(lab.visit().await, b"").await.unwrap_or_default(), b"");
    assert_eq!(lab.event().await.error, Some(ErrorCode::TOO_MANY_HOPS));
}

#[tokio::test]
async fn a_relay_that_rests_too_long_ends_with_a_reset() {
    let mut lab = Lab::with_idle(1);
    lab.tcp_to("tcp://db.clinic1.internal:433");
    let agent = lab.agent(TOKEN).await;
    agent.bind("tcp://db.clinic1.internal:433").await;
    let _agent = agent.echo(b"hello");
    let mut visitor = lab.visit().await;
    visitor.read_exact(&mut [0; 5]).await.unwrap();
    let cut = visitor.read_u8().await.unwrap_err();
    assert_eq!(cut.kind(), std::io::ErrorKind::ConnectionReset, "no whole answer ends like this");
}
