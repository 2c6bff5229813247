//! One address for visitors and agents: sessions, links and raw links beside TLS and HTTPS visitors.

use std::sync::Arc;

use ebbgate_tunnel::link::say_hello;
use ebbgate_wire::link::raw::MAGIC;
use ebbgate_wire::link::{ALPN_LINK, Version};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::lab::{Agent, Lab, Previous, TOKEN, exchange, forward};
use crate::links::soon;

const DB: &str = "db.example.com";
const TARGET: &str = "tls://db.clinic1.internal";

#[tokio::test]
async fn agents_and_visitors_share_one_address_and_are_told_apart() {
    let mut lab = Lab::start();
    lab.share();
    let terminate = json!({ "type": "terminate-tls" });
    lab.cloud(
        1,
        "tls://db.example.com",
        json!({ "on_tcp_connect": [{ "actions": [terminate, forward(TARGET)] }] }),
    );
    let respond = json!({ "type": "custom-response", "config": { "status_code": 203, "body": "web" } });
    lab.cloud(2, "https://web.example.com", json!({ "on_http_request": [{ "actions": [respond] }] }));
    // A session, by the name agents connect to.
    let agent = Agent::connect_for(&lab, TOKEN, "localhost", &Previous::default(), &["link"]).await;
    let agent = agent.unwrap_or_else(|reply| panic!("{reply:?}"));
    agent.bind(TARGET).await;
    let ticket = agent.reply.extra.carriers.as_ref().unwrap().ticket.clone();
    let _agent = agent.echo(b"");
    // Visitors beside it: of raw bytes, and of HTTP.
    let visitor = lab.visit_tls(DB, lab.authority.client(None, false)).await.unwrap();
    assert_eq!(exchange(visitor, b"x").await.unwrap(), b"x");
    let mut web = rustls::ClientConfig::clone(&lab.authority.client(None, false));
    web.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut visitor = lab.visit_tls("web.example.com", Arc::new(web.clone())).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: web.example.com\r\nconnection: close\r\n\r\n";
    visitor.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    visitor.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 203"), "{}", String::from_utf8_lossy(&answer));
    // A link, by its protocol.
    let mut link = rustls::ClientConfig::clone(&lab.authority.client(None, false));
    link.alpn_protocols = vec![ALPN_LINK.to_vec()];
    let mut link = lab.visit_tls("localhost", Arc::new(link)).await.unwrap();
    say_hello(&mut link, &ticket, Version::Two).await.unwrap();
    soon("the link", || lab.edge.metrics.links.get() == 1).await;
    // HTTP by the agents' name is no session, and a name nobody serves gets no certificate.
    assert!(lab.visit_tls("localhost", Arc::new(web)).await.is_err());
    assert!(lab.visit_tls("db.elsewhere.test", lab.authority.client(None, false)).await.is_err());
    // What begins like a raw link is an agent's too: it is closed without a word, as on the agents' own address.
    let mut raw = TcpStream::connect(lab.tls).await.unwrap();
    raw.write_all(&[MAGIC.as_slice(), &[b'x'; 64]].concat()).await.unwrap();
    let mut heard = Vec::new();
    let _ = raw.read_to_end(&mut heard).await;
    assert_eq!(heard.len(), 0);
    soon("the refusal", || lab.edge.metrics.links_refused.get() == 1).await;
}
