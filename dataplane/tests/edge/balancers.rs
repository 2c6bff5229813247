//! Load balancers before the edge: which address counts, and for what.

use std::net::SocketAddr;
use std::sync::Arc;

use ebbgate_edge::state::blocklist::Blocklist;
use ebbgate_edge::state::metrics::ReasonLabel;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::lab::{Agent, Lab, Previous, TOKEN, exchange, forward, handshake};
use crate::links::soon;

/// Every connection from the loopback's first address is a balancer's.
const ALL: [&str; 4] = ["http=127.0.0.1", "https=127.0.0.1", "connect=127.0.0.1", "tcp=127.0.0.1"];
const TARGET: &str = "tcp://ops.clinic1.internal:433";

fn refused(lab: &Lab, reason: &'static str) -> u64 {
    lab.edge.metrics.proxy_headers_refused.get_or_create(&ReasonLabel { reason }).get()
}

/// Sends a header and a word, and reads to the end.
async fn through(to: SocketAddr, header: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let _ = stream.write_all(&[header, b"hello"].concat()).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    // A connection that is refused may be reset.
    let _ = stream.read_to_end(&mut answer).await;
    answer
}

fn line(client: &str) -> Vec<u8> {
    format!("PROXY TCP4 {client} 203.0.113.1 5000 443\r\n").into_bytes()
}

/// The reserved TCP port forwards to an agent that echoes, and lets one network in.
async fn echo_for(lab: &mut Lab, allow: &str) -> SocketAddr {
    let restrict: Value = json!({ "type": "restrict-ips", "config": { "allow": [allow] } });
    let url = format!("tcp://tcp.example.com:{}", lab.port);
    lab.cloud(1, &url, json!({ "on_tcp_connect": [{ "actions": [restrict, forward(TARGET)] }] }));
    // The agent's own way: a balancer must introduce it, too.
    let mut stream = TcpStream::connect(lab.connect).await.unwrap();
    stream.write_all(&line("192.0.2.200")).await.unwrap();
    let tls = handshake(stream, "localhost", lab.authority.client(None, false)).await.unwrap();
    let agent = Agent::over(tls, TOKEN, &Previous::default(), &[]).await.unwrap_or_else(|e| panic!("{e:?}"));
    agent.bind(TARGET).await;
    let _agent = agent.echo(b"");
    ([127, 0, 0, 1], lab.port).into()
}

#[tokio::test]
async fn a_balancers_visitors_are_judged_by_their_own_addresses() {
    let mut lab = Lab::behind(&ALL, 5000);
    let port = echo_for(&mut lab, "192.0.2.0/25").await;
    assert_eq!(through(port, &line("192.0.2.7")).await, b"hello");
    let event = lab.event().await;
    assert_eq!((event.client.as_str(), event.server.as_str()), ("192.0.2.7:5000", "203.0.113.1:443"));
    // Version 2, with a TLV that is skipped.
    let mut binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10".to_vec();
    binary.extend([192, 0, 2, 8, 203, 0, 113, 1, 1, 2, 1, 187, 4, 0, 1, 0]);
    assert_eq!(through(port, &binary).await, b"hello");
    assert_eq!(lab.event().await.client, "192.0.2.8:258");
    // The policy refuses one, the blocklist another.
    assert_eq!(through(port, &line("192.0.2.130")).await, b"");
    assert_eq!(lab.event().await.client, "192.0.2.130:5000");
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("list");
    std::fs::write(&list, "192.0.2.7\n127.0.0.1\n").unwrap();
    lab.edge.blocklist.store(Arc::new(Blocklist::read(&list).unwrap()));
    assert_eq!(through(port, &line("192.0.2.7")).await, b"");
    assert_eq!(lab.edge.metrics.connections_blocked.get(), 1);
    assert_eq!(through(port, &line("192.0.2.9")).await, b"hello", "the balancer itself is not looked up");
    assert_eq!(lab.edge.metrics.proxy_headers.get(), 6, "the agent's too");
    assert_eq!(refused(&lab, "missing") + refused(&lab, "malformed"), 0);
}

#[tokio::test]
async fn a_balancer_must_say_whose_connection_it_is() {
    let mut lab = Lab::behind(&ALL, 5000);
    let port = echo_for(&mut lab, "0.0.0.0/0").await;
    for to in [port, lab.tls, lab.connect] {
        let (missing, malformed) = (refused(&lab, "missing"), refused(&lab, "malformed"));
        assert_eq!(through(to, b"").await, b"", "not a byte for who is not introduced");
        assert_eq!(through(to, b"PROXY TCP4 me you 1 2\r\n").await, b"");
        soon("the counts", || {
            (refused(&lab, "missing"), refused(&lab, "malformed")) == (missing + 1, malformed + 1)
        })
        .await;
    }
    // What is the balancer's own is served by the balancer's address: version 1 calls it UNKNOWN, version 2 LOCAL.
    for own in [&b"PROXY UNKNOWN\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"] {
        assert_eq!(through(port, own).await, b"hello");
        assert!(lab.event().await.client.starts_with("127.0.0.1:"));
    }
}

#[tokio::test]
async fn a_strangers_header_is_refused() {
    let balancers = ["https=127.0.0.9", "connect=127.0.0.9", "tcp=127.0.0.9"];
    let mut lab = Lab::behind(&balancers, 5000);
    lab.tcp_to(TARGET);
    let respond = json!({ "type": "custom-response", "config": { "status_code": 203, "body": "web" } });
    lab.cloud(2, "https://web.example.com", json!({ "on_http_request": [{ "actions": [respond] }] }));
    // On a port that passes any bytes on, only balancers are served.
    assert_eq!(through(([127, 0, 0, 1], lab.port).into(), &line("192.0.2.7")).await, b"");
    assert_eq!(refused(&lab, "stranger"), 1);
    let binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x08\xcb\0\x71\x01\x01\x02\x01\xbb";
    for (to, header) in
        [(lab.tls, line("192.0.2.7")), (lab.tls, binary.to_vec()), (lab.connect, line("192.0.2.7"))]
    {
        let before = refused(&lab, "stranger");
        assert_eq!(through(to, &header).await, b"");
        soon("the count", || refused(&lab, "stranger") == before + 1).await;
    }
    // A visitor who says nothing of the kind is served as itself.
    let mut visitor = lab.visit_tls("web.example.com", lab.authority.client(None, false)).await.unwrap();
    visitor.write_all(b"GET / HTTP/1.1\r\nhost: web.example.com\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    visitor.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 203"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn each_visitor_behind_a_balancer_has_his_own_share() {
    let mut lab = Lab::behind(&ALL, 1);
    let port = echo_for(&mut lab, "0.0.0.0/0").await;
    let hold = async |client: &str| {
        let mut stream = TcpStream::connect(port).await.unwrap();
        stream.write_all(&[line(client).as_slice(), b"x"].concat()).await.unwrap();
        let answered = matches!(stream.read(&mut [0]).await, Ok(1));
        (stream, answered)
    };
    let (first, served) = hold("192.0.2.1").await;
    assert!(served);
    let (_second, served) = hold("192.0.2.2").await;
    assert!(served, "the balancer's address has no share of its own");
    assert!(!hold("192.0.2.1").await.1, "a visitor has one connection");
    assert_eq!(lab.edge.metrics.connections_refused.get(), 1);
    drop(first);
    let again = async { while !hold("192.0.2.1").await.1 {} };
    tokio::time::timeout(tokio::time::Duration::from_secs(30), again).await.expect("the share is free again");
}

#[tokio::test]
async fn agents_and_visitors_share_one_address_behind_a_balancer() {
    let mut lab = Lab::behind(&["https=127.0.0.9"], 5000);
    lab.share();
    let terminate = json!({ "type": "terminate-tls" });
    let actions = json!([terminate, forward("tls://db.clinic1.internal")]);
    lab.cloud(1, "tls://db.example.com", json!({ "on_tcp_connect": [{ "actions": actions }] }));
    let balancer = balancer(lab.tls).await;
    (lab.tls, lab.connect) = (balancer, balancer);
    let agent = lab.agent(TOKEN).await;
    agent.bind("tls://db.clinic1.internal").await;
    let _agent = agent.echo(b"");
    let visitor = lab.visit_tls("db.example.com", lab.authority.client(None, false)).await.unwrap();
    assert_eq!(exchange(visitor, b"x").await.unwrap(), b"x");
    assert_eq!(lab.event().await.client, "192.0.2.2:5000", "the second through the balancer");
}

/// A balancer on 127.0.0.9; its n-th client comes from 192.0.2.n.
async fn balancer(edge: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for n in 1.. {
            let (mut client, _) = listener.accept().await.unwrap();
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(([127, 0, 0, 9], 0).into()).unwrap();
            let mut server = socket.connect(edge).await.unwrap();
            server.write_all(&line(&format!("192.0.2.{n}"))).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
        }
    });
    address
}
