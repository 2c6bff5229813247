//! A pool of which one member's upstream is down: its work is done by the others, whatever its body, and it comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::lab::{Agent, Lab, TOKEN, exchange, forward};

const API: &str = "api.example.com";
const HTTP: &str = "https://rest-api.clinic1.internal";
const TCP: &str = "tcp://db.clinic1.internal:433";
/// Bytes of a body that are kept for another member.
const REPLAY_BYTES_MAX: usize = 64 << 10;

/// Answers every request with the number of body bytes that its head announces, once they came; counts requests.
fn counting_service(mut agent: Agent, served: Arc<AtomicUsize>) {
    tokio::spawn(async move {
        loop {
            let (_, mut stream) = agent.accept().await;
            let served = Arc::clone(&served);
            tokio::spawn(async move {
                let mut request = Vec::new();
                while stream.read_buf(&mut request).await.is_ok_and(|n| n > 0) {
                    let Some(body) = body_of(&request) else { continue };
                    served.fetch_add(1, Ordering::SeqCst);
                    let text = body.to_string();
                    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len());
                    stream.write_all(answer.as_bytes()).await.unwrap();
                    request.clear();
                }
            });
        }
    });
}

/// Bytes of the body, if the request is whole.
fn body_of(request: &[u8]) -> Option<usize> {
    let text = String::from_utf8_lossy(request).to_lowercase();
    let (head, body) = text.split_once("\r\n\r\n")?;
    if head.contains("transfer-encoding: chunked") {
        return body.ends_with("0\r\n\r\n").then(|| body.matches('x').count());
    }
    let length = head
        .split("content-length: ")
        .nth(1)
        .map_or(0, |rest| rest.split("\r\n").next().unwrap().parse().unwrap());
    (body.len() == length).then_some(length)
}

async fn ask(lab: &Lab, method: &str, framing: &str, body: &[u8]) -> String {
    let mut config = rustls::ClientConfig::clone(&lab.authority.client(None, false));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut visitor = lab.visit_tls(API, Arc::new(config)).await.unwrap();
    let head = format!("{method} / HTTP/1.1\r\nhost: {API}\r\n{framing}\r\nconnection: close\r\n\r\n");
    visitor.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
    let mut answer = Vec::new();
    let _ = visitor.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

async fn post(lab: &Lab, bytes: usize) -> String {
    ask(lab, "POST", &format!("content-length: {bytes}"), &vec![b'x'; bytes]).await
}

fn http_lab() -> Lab {
    let mut lab = Lab::start();
    lab.cloud(1, &format!("https://{API}"), json!({ "on_http_request": [{ "actions": [forward(HTTP)] }] }));
    lab
}

#[tokio::test]
async fn requests_with_a_body_are_served_while_one_of_two_upstreams_is_down() {
    let lab = http_lab();
    let (down, good) = (lab.agent(TOKEN).await, lab.agent(TOKEN).await);
    down.bind(HTTP).await;
    good.bind(HTTP).await;
    let served = Arc::<AtomicUsize>::default();
    let _down = down.refuse();
    counting_service(good, Arc::clone(&served));
    for (n, bytes) in [2, 1_000, REPLAY_BYTES_MAX, 2, 2, 2].into_iter().enumerate() {
        let answer = post(&lab, bytes).await;
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with(&format!("\r\n{bytes}")),
            "{n}: {answer}"
        );
    }
    let answer = ask(&lab, "POST", "transfer-encoding: chunked", b"2\r\nxx\r\n1\r\nx\r\n0\r\n\r\n").await;
    assert!(answer.ends_with("\r\n3"), "{answer}");
    assert_eq!(served.load(Ordering::SeqCst), 7, "each request was served once");
    assert_eq!(lab.edge.metrics.endpoints_aside.get(), 1);
}

#[tokio::test]
async fn a_post_whose_bytes_went_out_is_never_sent_twice() {
    let lab = http_lab();
    let (mut dies, good) = (lab.agent(TOKEN).await, lab.agent(TOKEN).await);
    dies.bind(HTTP).await;
    good.bind(HTTP).await;
    let served = Arc::<AtomicUsize>::default();
    counting_service(good, Arc::clone(&served));
    // Two requests, and members take turns: one of them is the dying agent's.
    let asked = async {
        let (one, two) = tokio::join!(post(&lab, 2), post(&lab, 2));
        [one, two]
    };
    let death = async {
        let (_, mut stream) = dies.accept().await;
        let mut request = Vec::new();
        while body_of(&request).is_none() {
            stream.read_buf(&mut request).await.unwrap();
        }
        stream.reset(ebbgate_wire::mux::Code::NONE);
    };
    let (answers, ()) = tokio::join!(asked, death);
    assert_eq!(answers.iter().filter(|answer| answer.starts_with("HTTP/1.1 502")).count(), 1, "{answers:?}");
    assert_eq!(served.load(Ordering::SeqCst), 1);
    assert_eq!(lab.edge.metrics.endpoints_aside.get(), 0, "it did not say that its upstream is down");
}

#[tokio::test]
async fn a_member_set_aside_serves_connections_again_when_its_upstream_is_back() {
    let mut lab = Lab::start();
    lab.tcp_to(TCP);
    let (mut back, good) = (lab.agent(TOKEN).await, lab.agent(TOKEN).await);
    back.bind(TCP).await;
    good.bind(TCP).await;
    let _good = good.echo(b"good");
    let question = vec![b'x'; REPLAY_BYTES_MAX - 1];
    let visits = async {
        for _ in 0..2 {
            assert_eq!(exchange(lab.visit().await, &question).await.unwrap().len(), question.len() + 4);
        }
    };
    let refuses_once = async {
        let (_, mut stream) = back.accept().await;
        stream.reset(ebbgate_wire::mux::Code::REFUSED);
        back.echo(b"back")
    };
    let ((), _back) = tokio::join!(visits, refuses_once);
    assert_eq!(lab.edge.metrics.retries.get(), 1);
    // It is tried again after a while, and then takes turns as before.
    while lab.edge.metrics.endpoints_aside.get() > 0 {
        assert_eq!(exchange(lab.visit().await, b"").await.unwrap().len(), 4);
    }
    let answers =
        [exchange(lab.visit().await, b"").await.unwrap(), exchange(lab.visit().await, b"").await.unwrap()];
    assert!(answers.contains(&b"back".to_vec()) && answers.contains(&b"good".to_vec()), "{answers:?}");
    assert_eq!(lab.edge.metrics.retries.get(), 1, "nobody was sent there in vain");
}
