//! TLS endpoints: pass-through, termination by policy, client certificates, names nobody answers to, PostgreSQL.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::lab::{Authority, Lab, TOKEN, exchange, exchange_tls, forward, handshake};

const DB: &str = "db.example.com";
const TARGET: &str = "tls://db.clinic1.internal";
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

fn terminating(settings: &Value) -> Value {
    let terminate = json!({ "type": "terminate-tls", "config": settings });
    json!({ "on_tcp_connect": [{ "actions": [terminate, forward(TARGET)] }] })
}

async fn terminated(settings: Value) -> (Lab, crate::lab::Killed) {
    let mut lab = Lab::start();
    lab.cloud(1, "tls://db.example.com", terminating(&settings));
    let agent = lab.agent(TOKEN).await;
    agent.bind(TARGET).await;
    let agent = agent.echo(b"");
    (lab, agent)
}

#[tokio::test]
async fn pass_through_shows_the_agents_certificate() {
    let mut lab = Lab::start();
    lab.cloud(1, "tls://db.example.com", json!({ "on_tcp_connect": [{ "actions": [forward(TARGET)] }] }));
    let mut agent = lab.agent(TOKEN).await;
    agent.bind(TARGET).await;
    let site = Authority::new("site");
    let acceptor = site.server(&[DB]);
    let serve = tokio::spawn(async move {
        let (header, stream) = agent.accept().await;
        let tls = acceptor.accept(stream).await.unwrap();
        (header.passthrough_tls, exchange_tls(tls, b"from the agent").await.unwrap())
    });
    let visitor = lab.visit_tls(DB, site.client(None, false)).await.unwrap();
    assert_eq!(exchange(visitor, b"from the visitor").await.unwrap(), b"from the agent");
    assert_eq!(serve.await.unwrap(), (true, b"from the visitor".to_vec()));
    assert_eq!(lab.event().await.server_name, DB);
}

#[tokio::test]
async fn a_tls_client_that_closes_without_close_notify_loses_nothing() {
    const BYTES: usize = 3 << 20;
    let mut lab = Lab::start();
    lab.cloud(1, "tls://db.example.com", terminating(&json!({})));
    let mut agent = lab.agent(TOKEN).await;
    agent.bind(TARGET).await;
    for tls12_only in [false, true] {
        let mut visitor = lab.visit_tls(DB, lab.authority.client(None, tls12_only)).await.unwrap();
        let sent: Vec<u8> = (0..BYTES).map(|n| n.to_le_bytes()[usize::from(n % 2 == 0)]).collect();
        let expected = sent.clone();
        let visit = async move {
            visitor.write_all(&sent).await.unwrap();
            visitor.flush().await.unwrap();
            // Closes TCP alone.
            drop(visitor);
        };
        let receive = async {
            let (_, mut stream) = agent.accept().await;
            let mut got = Vec::new();
            stream.read_to_end(&mut got).await.unwrap();
            stream.shutdown().await.unwrap();
            got
        };
        let ((), got) = tokio::join!(visit, receive);
        assert!(got == expected, "{} of {BYTES} bytes", got.len());
        assert_eq!(lab.event().await.outcome, "closed");
    }
}

#[tokio::test]
async fn a_tls_client_that_resets_has_not_ended() {
    let mut lab = Lab::start();
    lab.cloud(1, "tls://db.example.com", terminating(&json!({})));
    let mut agent = lab.agent(TOKEN).await;
    agent.bind(TARGET).await;
    let mut visitor = lab.visit_tls(DB, lab.authority.client(None, false)).await.unwrap();
    visitor.write_all(b"half").await.unwrap();
    let (_, mut stream) = agent.accept().await;
    let mut half = [0; 4];
    stream.read_exact(&mut half).await.unwrap();
    visitor.get_ref().0.set_zero_linger().unwrap();
    drop(visitor);
    assert!(stream.read_u8().await.is_err_and(|error| error.kind() != std::io::ErrorKind::UnexpectedEof));
    assert!(lab.event().await.outcome.starts_with("the client went away"));
}

#[tokio::test]
async fn min_version_refuses_older_clients() {
    let (mut lab, _agent) = terminated(json!({ "min_version": "1.3" })).await;
    let old = lab.visit_tls(DB, lab.authority.client(None, true)).await;
    assert!(old.is_err());
    assert!(lab.event().await.outcome.contains("handshake failed"));
    let visitor = lab.visit_tls(DB, lab.authority.client(None, false)).await.unwrap();
    assert_eq!(exchange(visitor, b"x").await.unwrap(), b"x");
    assert_eq!(lab.event().await.tls_version, "1.3");
}

#[tokio::test]
async fn client_certificates_by_strategy() {
    let (good, evil) = (Authority::new("good"), Authority::new("evil"));
    let (good_leaf, evil_leaf) = (good.leaf(&["doctor"]), evil.leaf(&["mallory"]));
    for (strategy, none_ok, good_ok, evil_ok) in [
        ("require-and-verify", false, true, false),
        ("require-any", false, true, true),
        ("request", true, true, true),
    ] {
        let settings = json!({
            "mutual_tls_certificate_authorities": [good.pem()],
            "mutual_tls_verification_strategy": strategy
        });
        let (lab, _agent) = terminated(settings).await;
        for (certificate, ok) in [(None, none_ok), (Some(&good_leaf), good_ok), (Some(&evil_leaf), evil_ok)] {
            let config = lab.authority.client(certificate, false);
            let answer = match lab.visit_tls(DB, config).await {
                Ok(visitor) => exchange(visitor, b"x").await,
                Err(error) => Err(error),
            };
            assert_eq!(answer.is_ok_and(|a| a == b"x"), ok, "{strategy} {}", certificate.is_some());
        }
    }
}

#[tokio::test]
async fn names_nobody_answers_to_get_an_alert_and_no_certificate() {
    let (lab, _agent) = terminated(json!({})).await;
    for name in ["db.elsewhere.test", "127.0.0.1"] {
        let error = lab.visit_tls(name, lab.authority.client(None, false)).await.unwrap_err();
        assert!(error.to_string().contains("UnrecognisedName"), "{name}: {error}");
    }
}

#[tokio::test]
async fn postgres_asks_in_its_own_words_when_tls_ends_here() {
    let (lab, _agent) = terminated(json!({})).await;
    let mut visitor = TcpStream::connect(lab.tls).await.unwrap();
    visitor.write_all(&SSL_REQUEST).await.unwrap();
    assert_eq!(visitor.read_u8().await.unwrap(), b'S');
    let visitor = handshake(visitor, DB, lab.authority.client(None, false)).await.unwrap();
    assert_eq!(exchange(visitor, b"startup").await.unwrap(), b"startup", "the agent gets plain bytes");
}

#[tokio::test]
async fn postgres_passes_through_in_its_own_words_or_without() {
    let mut lab = Lab::start();
    lab.cloud(1, "tls://db.example.com", json!({ "on_tcp_connect": [{ "actions": [forward(TARGET)] }] }));
    let mut agent = lab.agent(TOKEN).await;
    agent.bind(TARGET).await;
    let site = Authority::new("site");
    for speaks_postgres in [true, false] {
        let mut visitor = TcpStream::connect(lab.tls).await.unwrap();
        visitor.write_all(&SSL_REQUEST).await.unwrap();
        assert_eq!(visitor.read_u8().await.unwrap(), b'S');
        let client = site.client(None, false);
        let visit = tokio::spawn(async move {
            let visitor = handshake(visitor, DB, client).await.unwrap();
            exchange(visitor, b"question").await.unwrap()
        });
        let (_, mut stream) = agent.accept().await;
        let mut request = [0; 8];
        stream.read_exact(&mut request).await.unwrap();
        assert_eq!(request, SSL_REQUEST);
        if speaks_postgres {
            stream.write_all(b"S").await.unwrap();
        } else {
            stream.write_all(&[21, 3, 3, 0, 2, 2, 10]).await.unwrap();
            stream = agent.accept().await.1;
        }
        let tls = site.server(&[DB]).accept(stream).await.unwrap();
        assert_eq!(exchange_tls(tls, b"answer").await.unwrap(), b"question");
        assert_eq!(visit.await.unwrap(), b"answer");
    }
}

#[tokio::test]
async fn an_agents_own_certificate_ends_tls_at_the_edge() {
    use base64::Engine as _;
    let lab = Lab::start();
    let agent = lab.agent(TOKEN).await;
    let site = Authority::new("site");
    let (cert, key) = site.leaf(&["own.example.com"]);
    let encode = |pem: String| base64::engine::general_purpose::STANDARD.encode(pem);
    let opts = json!({ "TLSTermination": { "cert": encode(cert), "key": encode(key) } });
    let reply = agent.try_bind("tls://own.example.com", opts, json!({})).await;
    assert_eq!(reply.error, "");
    let _agent = agent.echo(b"");
    let visitor = lab.visit_tls("own.example.com", site.client(None, false)).await.unwrap();
    assert_eq!(exchange(visitor, b"x").await.unwrap(), b"x");
}

#[tokio::test]
async fn https_and_tls_share_a_name() {
    let (mut lab, _agent) = terminated(json!({})).await;
    let respond = json!({ "type": "custom-response", "config": { "status_code": 203, "body": "web" } });
    lab.cloud(2, "https://db.example.com", json!({ "on_http_request": [{ "actions": [respond] }] }));
    let mut web = rustls::ClientConfig::clone(&lab.authority.client(None, false));
    web.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut visitor = lab.visit_tls(DB, std::sync::Arc::new(web)).await.unwrap();
    visitor.write_all(b"GET / HTTP/1.1\r\nhost: db.example.com\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = visitor.read_to_end(&mut answer).await;
    assert!(answer.starts_with(b"HTTP/1.1 203"), "{}", String::from_utf8_lossy(&answer));
    let raw = lab.visit_tls(DB, lab.authority.client(None, false)).await.unwrap();
    assert_eq!(exchange(raw, b"raw").await.unwrap(), b"raw");
}

#[tokio::test]
async fn an_endpoint_that_demands_more_than_the_handshake_gave_is_not_reached() {
    const VAULT: &str = "tls://vault.clinic1.internal";
    let good = Authority::new("good");
    let leaf = good.leaf(&["doctor"]);
    let mutual = json!({ "type": "terminate-tls",
        "config": { "mutual_tls_certificate_authorities": [good.pem()] } });
    let newer = json!({ "type": "terminate-tls", "config": { "min_version": "1.3" } });
    let plain = json!({ "type": "terminate-tls" });
    let policy = |first: &Value, to: &str| json!({ "on_tcp_connect": [{ "actions": [first, forward(to)] }] });
    for (public, inner, tls12_only, ok) in [
        (&plain, &mutual, false, false),
        (&mutual, &mutual, false, true),
        (&mutual, &plain, false, true),
        (&plain, &newer, true, false),
        (&plain, &newer, false, true),
    ] {
        let (mut lab, _agent) = terminated(json!({})).await;
        lab.cloud(1, "tls://db.example.com", policy(public, VAULT));
        lab.cloud(2, VAULT, policy(inner, TARGET));
        let visitor = lab.visit_tls(DB, lab.authority.client(Some(&leaf), tls12_only)).await.unwrap();
        let answer = exchange(visitor, b"x").await;
        assert_eq!(answer.is_ok_and(|a| a == b"x"), ok, "{public} {inner}");
        let outcome = lab.event().await.outcome;
        assert_eq!(outcome.contains("demand more of the client"), !ok, "{outcome}");
    }
}
