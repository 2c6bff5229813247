//! Checks against real listeners that answer as written here.

use std::time::Duration;

use ebbgate_model::Scheme;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::super::tests::{Authority, draft, upstream};
use super::*;
use crate::config::EndpointDraft;

fn http() -> CheckKind {
    CheckKind::Http(HttpCheck { path: "/healthz".into(), host: None, status: 200..=299, tls: None })
}

fn checked(scheme: Scheme, address: &str, kind: CheckKind) -> EndpointDraft {
    let health_check = HealthCheck {
        kind,
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(30),
        rise: 1,
        fall: 1,
        jitter: Duration::ZERO,
    };
    EndpointDraft { health_check: Some(health_check), ..draft(scheme, address) }
}

/// A server that reads what comes until it has seen `until`, answers, and gives what it read.
async fn server(until: &'static [u8], answer: &'static [u8]) -> (String, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serve = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(until) {
            if stream.read_buf(&mut seen).await.unwrap() == 0 {
                break;
            }
        }
        stream.write_all(answer).await.unwrap();
        seen
    });
    (address, serve)
}

#[tokio::test]
async fn a_connection_is_enough_for_tcp_and_a_closed_port_says_why() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    upstream(checked(Scheme::Tcp, &address, CheckKind::Tcp)).check().await.unwrap();
    drop(listener);
    let reason = upstream(checked(Scheme::Tcp, &address, CheckKind::Tcp)).check().await.unwrap_err();
    assert!(reason.contains(&format!("cannot connect to tcp://{address}")), "{reason}");
    upstream(draft(Scheme::Tcp, &address)).check().await.expect("without a check there is no fault");
}

#[tokio::test]
async fn http_is_judged_by_its_status() {
    static ENDLESS: [u8; 4096] = [b'x'; 4096];
    for (answer, expect) in [
        (&b"HTTP/1.1 204 No Content\r\n\r\n"[..], Ok(())),
        (b"HTTP/1.0 200\r\n\r\n", Ok(())),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", Err("answered 503 to /healthz; 200-299 is expected")),
        (b"HTTP/1.1 302 Found\r\n\r\n", Err("answered 302")),
        (b"HTTP/2 200\r\n\r\n", Err("no HTTP/1 status")),
        (b"SSH-2.0-x\r\n", Err("no HTTP/1 status")),
        (b"HTTP/1.1 2000 OK\r\n", Err("no HTTP/1 status")),
        (b"", Err("no HTTP answer")),
    ] {
        let (address, serve) = server(b"\r\n\r\n", answer).await;
        let found = upstream(checked(Scheme::Https, &address, http())).check().await;
        let asked = String::from_utf8(serve.await.unwrap()).unwrap();
        assert!(asked.starts_with("GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:"), "{asked}");
        match (found, expect) {
            (Ok(()), Ok(())) => {}
            (Err(reason), Err(part)) => assert!(reason.contains(part), "{reason}"),
            (found, expect) => panic!("{answer:?}: {found:?}, not {expect:?}"),
        }
    }
    let (address, _serve) = server(b"\r\n\r\n", &ENDLESS).await;
    assert!(upstream(checked(Scheme::Https, &address, http())).check().await.is_err(), "a line is bounded");
}

#[tokio::test]
async fn an_upstream_that_does_not_answer_fails_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut draft = checked(Scheme::Https, &listener.local_addr().unwrap().to_string(), http());
    if let Some(check) = &mut draft.health_check {
        check.timeout = Duration::from_millis(20);
    }
    let reason = upstream(draft).check().await.unwrap_err();
    assert!(reason.contains("did not answer within 20 ms"), "{reason}");
}

#[tokio::test]
async fn tls_is_a_handshake_and_http_may_ask_inside_it() {
    let authority = Authority::new();
    let within = CheckKind::Http(HttpCheck {
        path: "/".into(),
        host: Some("app.test".into()),
        status: 200..=200,
        tls: Some(true),
    });
    for kind in [CheckKind::Tls, within] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let acceptor = authority.acceptor("127.0.0.1", &["http/1.1"]);
        let asks = kind != CheckKind::Tls;
        let serve = tokio::spawn(async move {
            let mut tls = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
            let mut seen = Vec::new();
            while asks && !seen.ends_with(b"\r\n\r\n") {
                assert!(tls.read_buf(&mut seen).await.unwrap() > 0);
            }
            // A check that only wants the handshake is gone by now.
            let _ = tls.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            String::from_utf8(seen).unwrap()
        });
        upstream(checked(Scheme::Tls, &address, kind)).check().await.unwrap();
        assert_eq!(serve.await.unwrap().contains("Host: app.test\r\n"), asks);
    }
    let (address, _serve) = server(b"", b"no TLS here\r\n").await;
    let reason = upstream(checked(Scheme::Tls, &address, CheckKind::Tls)).check().await.unwrap_err();
    assert!(reason.contains("TLS with"), "{reason}");
}

#[tokio::test]
async fn postgres_is_alive_when_it_asks_for_a_password_or_refuses_the_user() {
    const AUTHENTICATION: &[u8] = b"R\0\0\0\x08\0\0\0\x03";
    const NO_SUCH_USER: &[u8] = b"E\0\0\0\x16SFATAL\0C28000\0Mno\0\0";
    const STARTING: &[u8] = b"E\0\0\0\x1fSFATAL\0C57P03\0Mstarting up\0\0";
    for (answer, expect) in
        [(AUTHENTICATION, true), (NO_SUCH_USER, true), (STARTING, false), (&b"HTTP/1.1 400"[..], false)]
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let serve = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 8];
            stream.read_exact(&mut request).await.unwrap();
            assert_eq!(request, SSL_REQUEST);
            stream.write_all(b"N").await.unwrap();
            let length = stream.read_u32().await.unwrap();
            let mut startup = vec![0; usize::try_from(length).unwrap() - 4];
            stream.read_exact(&mut startup).await.unwrap();
            assert_eq!(&startup[..4], [0, 3, 0, 0]);
            assert!(startup.ends_with(b"postgres\0\0"));
            stream.write_all(answer).await.unwrap();
        });
        let found = upstream(checked(Scheme::Tcp, &address, CheckKind::Postgres)).check().await;
        assert_eq!(found.is_ok(), expect, "{found:?}");
        serve.await.unwrap();
    }
    let (address, _serve) = server(b"\x2f", b"HTTP/1.1 400\r\n").await;
    assert!(upstream(checked(Scheme::Tcp, &address, CheckKind::Postgres)).check().await.is_err());
}

#[tokio::test]
async fn where_visitors_have_a_proxy_header_a_check_says_that_it_is_nobodys() {
    for (version, header) in [("1", OWN_V1), ("2", OWN_V2)] {
        let (address, serve) = server(b"close\r\n\r\n", b"").await;
        let draft =
            EndpointDraft { proxy_protocol: version.into(), ..checked(Scheme::Https, &address, http()) };
        let _ = upstream(draft).check().await;
        assert!(serve.await.unwrap().starts_with(&[header, b"GET /healthz"].concat()));
    }
}
