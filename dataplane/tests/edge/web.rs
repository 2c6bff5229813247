//! HTTPS through the whole edge: handshake, policies, a stream that may have to cross shards, and what a name without
//! endpoint answers.

use std::sync::Arc;

use ebbgate_model::feed::FromEdge;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::lab::{Agent, Lab, TOKEN, forward};

const API: &str = "api.example.com";
const TARGET: &str = "https://rest-api.clinic1.internal";

/// Answers every request of every connection.
fn rest_service(mut agent: Agent) {
    tokio::spawn(async move {
        loop {
            let (_, mut stream) = agent.accept().await;
            tokio::spawn(async move {
                let mut request = Vec::new();
                while stream.read_buf(&mut request).await.is_ok_and(|n| n > 0) {
                    if request.ends_with(b"\r\n\r\n") {
                        request.clear();
                        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\npatients";
                        stream.write_all(answer).await.unwrap();
                    }
                }
            });
        }
    });
}

async fn get(lab: &Lab, name: &str) -> String {
    let mut config = rustls::ClientConfig::clone(&lab.authority.client(None, false));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut visitor = lab.visit_tls(name, Arc::new(config)).await.unwrap();
    let request = format!("GET /patients?token=secret HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n");
    visitor.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = visitor.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_request_whose_client_closes_without_close_notify_is_answered() {
    let mut lab = Lab::start();
    lab.cloud(1, "https://api.example.com", json!({ "on_http_request": [{ "actions": [forward(TARGET)] }] }));
    let mut agent = lab.agent(TOKEN).await;
    agent.bind(TARGET).await;
    let mut visitor = lab.visit_tls(API, lab.authority.client(None, false)).await.unwrap();
    let request = b"POST /patients HTTP/1.1\r\nhost: api.example.com\r\ncontent-length: 5\r\n\r\nhello";
    visitor.write_all(request).await.unwrap();
    visitor.flush().await.unwrap();
    // Ends the sending half of TCP alone.
    visitor.get_mut().0.shutdown().await.unwrap();
    let (_, mut stream) = agent.accept().await;
    let mut got = Vec::new();
    while !got.ends_with(b"hello") {
        assert_ne!(stream.read_buf(&mut got).await.unwrap(), 0, "{}", String::from_utf8_lossy(&got));
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nkept").await.unwrap();
    let mut answer = Vec::new();
    visitor.read_to_end(&mut answer).await.unwrap();
    assert!(answer.ends_with(b"kept"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn a_request_cut_off_without_close_notify_is_not_taken_for_a_whole_one() {
    let mut lab = Lab::start();
    lab.cloud(1, "https://api.example.com", json!({ "on_http_request": [{ "actions": [forward(TARGET)] }] }));
    let mut agent = lab.agent(TOKEN).await;
    agent.bind(TARGET).await;
    let mut visitor = lab.visit_tls(API, lab.authority.client(None, false)).await.unwrap();
    let request = b"POST /patients HTTP/1.1\r\nhost: api.example.com\r\ncontent-length: 50\r\n\r\nhello";
    visitor.write_all(request).await.unwrap();
    visitor.flush().await.unwrap();
    // The request is on its way before its end is seen.
    let (_, mut stream) = agent.accept().await;
    let mut got = Vec::new();
    while !got.ends_with(b"hello") {
        assert_ne!(stream.read_buf(&mut got).await.unwrap(), 0, "{}", String::from_utf8_lossy(&got));
    }
    drop(visitor);
    assert!(stream.read_to_end(&mut Vec::new()).await.is_err(), "the upstream sees an abort");
}

#[tokio::test]
async fn requests_reach_the_agent_from_either_shard() {
    let mut lab = Lab::start();
    lab.cloud(1, "https://api.example.com", json!({ "on_http_request": [{ "actions": [forward(TARGET)] }] }));
    let agent = lab.agent(TOKEN).await;
    agent.bind(TARGET).await;
    rest_service(agent);
    for _ in 0..16 {
        let answer = get(&lab, API).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("patients"), "{answer}");
    }
    let page = lab.edge.metrics.text();
    let count = |name: &str| {
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix(&format!("ebbgate_edge_upstream_connections_{name} ")));
        line.unwrap().parse::<usize>().unwrap()
    };
    let (opened, reused) = (count("opened_total"), count("reused_total"));
    assert!(
        opened <= 2 && opened + reused == 16,
        "visitors of a shard share: {opened} opened, {reused} reused"
    );
    let (mut requests, mut connections) = (0, 0);
    while requests < 16 || connections < 16 {
        match lab.events.recv().await.unwrap() {
            FromEdge::Request(event) => {
                assert_eq!((event.status, event.path.as_str()), (200, "/patients"), "no query in events");
                requests += 1;
            }
            FromEdge::Connection(event) => {
                assert_eq!((event.server_name.as_str(), event.tls_version.as_str()), (API, "1.3"));
                connections += 1;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn an_upstream_that_is_down_is_told_by_its_code_from_either_shard() {
    let mut lab = Lab::start();
    lab.cloud(1, "https://api.example.com", json!({ "on_http_request": [{ "actions": [forward(TARGET)] }] }));
    let agent = lab.agent(TOKEN).await;
    agent.bind(TARGET).await;
    let _agent = agent.refuse();
    for _ in 0..8 {
        let answer = get(&lab, API).await;
        assert!(answer.starts_with("HTTP/1.1 502") && answer.contains("ERR_NGROK_8012"), "{answer}");
    }
    let other = lab.agent(TOKEN).await;
    other.bind(TARGET).await;
    rest_service(other);
    for _ in 0..8 {
        let answer = get(&lab, API).await;
        assert!(answer.ends_with("patients"), "another member of the pool: {answer}");
    }
}

#[tokio::test]
async fn connections_without_a_request_do_not_hold_up_the_end_of_the_edge() {
    let mut lab = Lab::start();
    lab.cloud(1, "https://api.example.com", json!({ "on_http_request": [{ "actions": [forward(TARGET)] }] }));
    let mut agent = lab.agent(TOKEN).await;
    agent.bind(TARGET).await;
    let mut config = rustls::ClientConfig::clone(&lab.authority.client(None, false));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let config = Arc::new(config);
    let mut socket = lab.visit_tls(API, Arc::clone(&config)).await.unwrap();
    let upgrade = format!(
        "GET / HTTP/1.1\r\nhost: {API}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    socket.write_all(upgrade.as_bytes()).await.unwrap();
    let (_, mut stream) = agent.accept().await;
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        stream.read_buf(&mut request).await.unwrap();
    }
    let switched =
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nword";
    stream.write_all(switched).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"word") {
        assert!(socket.read_buf(&mut answer).await.unwrap() > 0, "the tunnel ended");
    }
    let resting = lab.visit_tls(API, config).await.unwrap();
    while lab.edge.metrics.http_connections_open.get() < 2 {
        tokio::task::yield_now().await;
    }
    // No test waits for so long: the end comes because nothing is waited for.
    ebbgate_edge::drain::drain(&lab.edge, &lab.agents, std::time::Duration::from_hours(1)).await;
    drop((socket, resting));
}

#[tokio::test]
async fn a_reserved_name_without_endpoint_explains_itself() {
    let lab = Lab::start();
    let answer = get(&lab, "nobody.example.com").await;
    assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("ERR_NGROK_3200"), "{answer}");
}

#[tokio::test]
async fn min_version_and_client_certificates_hold_for_https() {
    let mut lab = Lab::start();
    let doctors = crate::lab::Authority::new("doctors");
    let terminate = json!({ "type": "terminate-tls", "config": {
        "min_version": "1.3",
        "mutual_tls_certificate_authorities": [doctors.pem()]
    } });
    let respond = json!({ "type": "custom-response", "config": { "status_code": 200, "body": "in" } });
    lab.cloud(
        1,
        "https://api.example.com",
        json!({
            "on_tcp_connect": [{ "actions": [terminate] }],
            "on_http_request": [{ "actions": [respond] }]
        }),
    );
    let doctor = doctors.leaf(&["doctor"]);
    let ask = async |certificate, tls12_only| {
        let mut visitor = lab.visit_tls(API, lab.authority.client(certificate, tls12_only)).await.ok()?;
        let request = b"GET / HTTP/1.1\r\nhost: api.example.com\r\nconnection: close\r\n\r\n";
        visitor.write_all(request).await.ok()?;
        let mut answer = Vec::new();
        let _ = visitor.read_to_end(&mut answer).await;
        Some(answer).filter(|answer| answer.starts_with(b"HTTP/1.1 200"))
    };
    assert!(ask(Some(&doctor), false).await.is_some());
    assert!(ask(None, false).await.is_none());
    assert!(ask(Some(&doctor), true).await.is_none());
}
