//! Members of a pool that their agents call unhealthy, and members that answer errors: who gets the work, and what is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use ebbgate_edge::tunnel::health::OutlierLimits;
use ebbgate_model::feed::{FromEdge, HealthReport, HealthState};
use ebbgate_tunnel::driver;
use ebbgate_tunnel::rpc_io::call;
use ebbgate_wire::rpc::{EndpointHealth, Outcome, StreamKind};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Duration;

use crate::lab::{Agent, Lab, TOKEN, forward};
use crate::links::soon;

const API: &str = "api.example.com";
const HTTP: &str = "https://rest-api.clinic1.internal";

/// The status of an answer that comes late.
const LATE: u16 = 299;
/// What is slow, and how late a late answer comes.
const SLOW: Duration = Duration::from_millis(500);
const LATE_BY: Duration = Duration::from_millis(700);

/// Answers every request with its name, and with a status that the test may change.
fn service(mut agent: Agent, name: &'static str) -> Arc<AtomicU16> {
    let status = Arc::new(AtomicU16::new(200));
    let answers = Arc::clone(&status);
    tokio::spawn(async move {
        loop {
            let (_, mut stream) = agent.accept().await;
            let answers = Arc::clone(&answers);
            tokio::spawn(async move {
                let mut request = Vec::new();
                while stream.read_buf(&mut request).await.is_ok_and(|n| n > 0) {
                    if request.ends_with(b"\r\n\r\n") {
                        request.clear();
                        let status = answers.load(Ordering::SeqCst);
                        if status == LATE {
                            tokio::time::sleep(LATE_BY).await;
                        }
                        let length = name.len();
                        let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: {length}\r\n\r\n{name}");
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                }
            });
        }
    });
    status
}

/// Who answered.
async fn get(lab: &Lab) -> String {
    let mut config = rustls::ClientConfig::clone(&lab.authority.client(None, false));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut visitor = lab.visit_tls(API, Arc::new(config)).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nhost: {API}\r\nconnection: close\r\n\r\n");
    visitor.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = visitor.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    answer.rsplit("\r\n\r\n").next().unwrap().to_owned()
}

/// Requests that each of `a` and `b` answered.
async fn shares(lab: &Lab, requests: usize) -> [usize; 2] {
    let mut counts = [0; 2];
    for _ in 0..requests {
        match get(lab).await.as_str() {
            "a" => counts[0] += 1,
            "b" => counts[1] += 1,
            other => panic!("{other:?}"),
        }
    }
    counts
}

/// The edge's answer to what an agent says of a check.
pub(crate) async fn say(session: &driver::Session, id: &str, healthy: bool, reason: &str) -> String {
    let said = EndpointHealth { id: id.into(), healthy, check: "http".into(), reason: reason.into() };
    let stream = session.open(StreamKind::EndpointHealth).await.unwrap();
    Outcome::decode(call(stream, &said).await.unwrap()).unwrap().error
}

/// What control hears of every endpoint.
fn told(lab: &Lab) -> Vec<HealthReport> {
    let FromEdge::Sessions { sessions } = lab.edge.reports.snapshot() else { panic!("no snapshot") };
    sessions.into_values().flat_map(|session| session.endpoints.into_values()).map(|e| e.health).collect()
}

fn forwarding(mut lab: Lab) -> Lab {
    lab.cloud(1, &format!("https://{API}"), json!({ "on_http_request": [{ "actions": [forward(HTTP)] }] }));
    lab
}

#[tokio::test]
async fn a_member_that_its_agent_calls_unhealthy_gets_no_work_while_another_is_healthy() {
    let lab = forwarding(Lab::start());
    let (a, b) = (lab.agent(TOKEN).await, lab.agent(TOKEN).await);
    let (bind_a, bind_b) = (a.bind(HTTP).await.id, b.bind(HTTP).await.id);
    let (says_a, says_b) = (a.session(), b.session());
    let _services = (service(a, "a"), service(b, "b"));
    assert_eq!(shares(&lab, 8).await, [4, 4]);
    assert_eq!(say(&says_a, &bind_a, false, "answered 503").await, "");
    assert_eq!(shares(&lab, 6).await, [0, 6]);
    assert_eq!(lab.edge.metrics.endpoints_unhealthy.get(), 1);
    let unhealthy = told(&lab).into_iter().find(|health| health.state == HealthState::Unhealthy).unwrap();
    assert_eq!((unhealthy.reason.as_str(), unhealthy.check.as_str()), ("answered 503", "http"));
    // Where none is healthy, each is tried.
    assert_eq!(say(&says_b, &bind_b, false, "closed").await, "");
    assert_eq!(shares(&lab, 8).await, [4, 4]);
    assert_eq!(say(&says_b, &bind_b, true, "").await, "");
    assert_eq!(shares(&lab, 6).await, [0, 6]);
    // Only of its own binds; a word longer than is kept is cut.
    assert!(say(&says_b, &bind_a, true, "").await.contains("no endpoint is bound as"));
    assert_eq!(say(&says_a, &bind_a, false, &"é".repeat(4_000)).await, "");
    assert!(told(&lab).iter().all(|health| health.reason.len() <= 256));
    assert_eq!(say(&says_a, &bind_a, true, "").await, "");
    assert_eq!(shares(&lab, 8).await, [4, 4]);
    assert_eq!(lab.edge.metrics.endpoints_unhealthy.get(), 0);
    assert!(told(&lab).iter().all(|health| health.state == HealthState::Healthy));
}

#[tokio::test]
async fn a_member_that_answers_errors_in_a_row_is_ejected_for_a_while_and_never_all_are() {
    let limits =
        OutlierLimits { consecutive_5xx: 3, ejection: Duration::from_secs(2), ..OutlierLimits::default() };
    let lab = forwarding(Lab::ejecting(limits));
    let (a, b) = (lab.agent(TOKEN).await, lab.agent(TOKEN).await);
    a.bind(HTTP).await;
    b.bind(HTTP).await;
    let (a, b) = (service(a, "a"), service(b, "b"));
    a.store(500, Ordering::SeqCst);
    assert_eq!(shares(&lab, 6).await, [3, 3], "three errors in a row, and not one of the other's");
    assert_eq!(lab.edge.metrics.ejections.get(), 1);
    let ejected = told(&lab).into_iter().find(|health| health.state == HealthState::Ejected).unwrap();
    assert!(ejected.reason.contains("3 requests in a row"), "{}", ejected.reason);
    // The last one left stays, whatever it answers.
    b.store(503, Ordering::SeqCst);
    while lab.edge.metrics.endpoints_ejected.get() == 1 && lab.edge.metrics.ejections_held.get() == 0 {
        get(&lab).await;
    }
    a.store(200, Ordering::SeqCst);
    b.store(200, Ordering::SeqCst);
    soon("the return", || lab.edge.metrics.endpoints_ejected.get() == 0).await;
    let [of_a, of_b] = shares(&lab, 8).await;
    assert!(of_a > 0 && of_b > 0, "{of_a} {of_b}");
}

#[tokio::test]
async fn a_member_that_answers_late_in_a_row_is_ejected() {
    let limits = OutlierLimits { consecutive_slow: 2, slow: SLOW, ..OutlierLimits::default() };
    let lab = forwarding(Lab::ejecting(limits));
    let (a, b) = (lab.agent(TOKEN).await, lab.agent(TOKEN).await);
    a.bind(HTTP).await;
    b.bind(HTTP).await;
    let (a, _b) = (service(a, "a"), service(b, "b"));
    a.store(LATE, Ordering::SeqCst);
    while lab.edge.metrics.ejections.get() == 0 {
        get(&lab).await;
    }
    let ejected = told(&lab).into_iter().find(|health| health.state == HealthState::Ejected).unwrap();
    assert_eq!(ejected.reason, "2 answers in a row took more than 500 ms");
}
