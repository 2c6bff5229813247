//! Messages that the Core Rule Set judges: what it is shown of them, and that they pass unchanged.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use ebbgate_waf::protocol::{BODY_BYTES_MAX, Question};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::LocalSet;

use crate::lab::{Lab, Made, scripted};

const REQUESTS: &str = r#"{"on_http_request":[{"actions":[
    {"type":"owasp-crs-request","config":{"on_error":"halt","process_body":true,"exclude_rule_ids":[942100]}}]}]}"#;
const RESPONSES: &str = r#"{"on_http_response":[{"actions":[
    {"type":"owasp-crs-response","config":{"on_error":"halt","process_body":true}}]}]}"#;
const HEADS: &str =
    r#"{"on_http_request":[{"actions":[{"type":"owasp-crs-request","config":{"on_error":"halt"}}]}]}"#;

type Seen = Rc<RefCell<Vec<(Question, Bytes)>>>;

/// A lab with an upstream that answers `answer` and keeps what it got. Messages with `attack` in them are refused.
fn lab(policy: &'static str, answer: &'static [u8]) -> (Lab, Seen, Rc<RefCell<Vec<u8>>>) {
    let lab = Lab::default();
    let got: Rc<RefCell<Vec<u8>>> = Rc::default();
    let kept = Rc::clone(&got);
    lab.agent(
        "http://api.example.com",
        Made { policy: Some(policy), ..Made::default() },
        scripted(move |mut io| {
            let kept = Rc::clone(&kept);
            async move {
                let mut bytes = vec![0; 64 << 10];
                while let Ok(read @ 1..) = io.read(&mut bytes).await {
                    kept.borrow_mut().extend_from_slice(&bytes[..read]);
                    let whole = kept.borrow().ends_with(b"0\r\n\r\n")
                        || kept.borrow().ends_with(b"END")
                        || kept.borrow().starts_with(b"GET");
                    if whole {
                        break;
                    }
                }
                let _ = io.write_all(answer).await;
            }
        }),
    );
    let seen = Seen::default();
    let noted = Rc::clone(&seen);
    lab.inspect_with(move |question, body| {
        noted.borrow_mut().push((question.clone(), body.clone()));
        let text = String::from_utf8_lossy(body);
        if text.contains("attack") || question.target.contains("attack") { 5 } else { 4 }
    });
    (lab, seen, got)
}

async fn talk(lab: &Lab, request: Vec<u8>) -> String {
    lab.talk(&request).await.replace("\r\n", "\n")
}

fn posted(body: &str) -> Vec<u8> {
    let length = body.len();
    format!("POST /form?a=1 HTTP/1.1\r\nHost: api.example.com\r\nContent-Type: text/plain\r\nX-Two: 1\r\nX-Two: 2\r\n\
        Content-Length: {length}\r\nConnection: close\r\n\r\n{body}")
    .into_bytes()
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\nX-Up: 1\r\n\r\nhello";

#[tokio::test(start_paused = true)]
async fn a_request_is_judged_by_its_head_and_the_start_of_its_body() {
    LocalSet::new()
        .run_until(async {
            let (lab, seen, got) = lab(REQUESTS, OK);
            let body = format!("{}END", "x".repeat(3 * BODY_BYTES_MAX));
            let answer = talk(&lab, posted(&body)).await;
            assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"), "{answer}");
            {
                let seen = seen.borrow();
                let [(question, start)] = seen.as_slice() else { panic!("{seen:?}") };
                assert_eq!((question.method.as_str(), question.target.as_str()), ("POST", "/form?a=1"));
                assert_eq!((question.version.as_str(), &question.exclude), ("HTTP/1.1", &vec![942_100]));
                let twice: Vec<_> = question.headers.iter().filter(|(name, _)| name == "x-two").collect();
                assert_eq!(twice.len(), 2);
                assert!(question.headers.contains(&("content-length".into(), body.len().to_string())));
                assert_eq!(question.client.to_string(), "192.0.2.7:40000");
                assert_eq!(start, &body.as_bytes()[..BODY_BYTES_MAX]);
                assert!(question.response.is_none());
            }
            assert!(got.borrow().ends_with(body.as_bytes()), "the upstream gets all of it");
            // Beyond the start nothing is judged; in it everything is.
            let late = format!("{}attackEND", "x".repeat(BODY_BYTES_MAX));
            assert!(talk(&lab, posted(&late)).await.starts_with("HTTP/1.1 200"));
            let before = lab.opened();
            let refused = talk(&lab, posted("attackEND")).await;
            assert!(refused.starts_with("HTTP/1.1 403") && refused.contains("ERR_NGROK_3700"), "{refused}");
            assert_eq!(lab.opened(), before, "nothing of it reached the upstream");
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn chunked_bodies_and_trailers_pass_a_judgement() {
    LocalSet::new()
        .run_until(async {
            let (lab, seen, got) = lab(REQUESTS, OK);
            let chunked = |data: &str| {
                let size = data.len();
                format!(
                    "POST / HTTP/1.1\r\nHost: api.example.com\r\nContent-Type: text/plain\r\n\
                    Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n{size:x}\r\n{data}\r\n0\r\n\r\n"
                )
                .into_bytes()
            };
            assert!(talk(&lab, chunked("helloEND")).await.starts_with("HTTP/1.1 200"));
            assert_eq!(seen.borrow()[0].1, Bytes::from("helloEND"));
            assert!(seen.borrow()[0].0.headers.contains(&("transfer-encoding".into(), "chunked".into())));
            assert!(got.borrow().windows(8).any(|window| window == b"helloEND"));
            assert!(talk(&lab, chunked("attack")).await.starts_with("HTTP/1.1 403"));
            // A body that breaks off in its start is no shorter body.
            let broken = b"POST / HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 99\r\n\r\nhel";
            let before = lab.opened();
            talk(&lab, broken.to_vec()).await;
            assert_eq!((lab.opened(), seen.borrow().len()), (before, 2), "neither judged nor sent");
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn the_body_is_not_looked_at_unless_the_policy_says_so() {
    LocalSet::new()
        .run_until(async {
            let (lab, seen, _) = lab(HEADS, OK);
            assert!(talk(&lab, posted("attackEND")).await.starts_with("HTTP/1.1 200"));
            assert_eq!(seen.borrow()[0].1, Bytes::new());
            let get =
                b"GET /?q=attack HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n\r\n".to_vec();
            assert!(talk(&lab, get).await.contains("ERR_NGROK_3700"));
        })
        .await;
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn a_response_is_judged_by_its_head_and_the_start_of_its_body() {
    LocalSet::new()
        .run_until(async {
            let (lab, seen, _) = lab(RESPONSES, OK);
            let answer = talk(&lab, GET.to_vec()).await;
            assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"), "{answer}");
            assert!(answer.contains("content-length: 5"), "{answer}");
            let (question, start) = seen.borrow()[0].clone();
            let response = question.response.unwrap();
            assert_eq!((response.status, start), (200, Bytes::from("hello")));
            assert!(response.headers.contains(&("x-up".into(), "1".into())));
        })
        .await;
    let long: &'static [u8] =
        [b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".as_slice(), &[b'x'; 9_000]].concat().leak();
    LocalSet::new()
        .run_until(async {
            let (lab, seen, _) = lab(RESPONSES, long);
            let answer = talk(&lab, GET.to_vec()).await;
            assert_eq!(
                answer.matches('x').count() - answer.split("\n\n").next().unwrap().matches('x').count(),
                9_000
            );
            assert_eq!(seen.borrow()[0].1.len(), BODY_BYTES_MAX);
        })
        .await;
    LocalSet::new()
        .run_until(async {
            let refused = b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\nX-Up: 1\r\n\r\nsome attack";
            let (lab, _, _) = lab(RESPONSES, refused);
            let answer = talk(&lab, GET.to_vec()).await;
            assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("ERR_NGROK_3702"), "{answer}");
            assert!(!answer.contains("some attack") && !answer.contains("x-up"), "{answer}");
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn codings_are_taken_off_for_the_judgement_alone() {
    LocalSet::new()
        .run_until(async {
            // `printf attack | gzip --no-name`
            const GZIP: &[u8] = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x4b\x2c\x29\x49\x4c\xce\x06\x00\x3b\x2d\xc0\x47\x06\x00\x00\x00";
            let (lab, seen, _) = lab(REQUESTS, OK);
            let coded = |coding: &str, body: &[u8]| {
                let head = format!(
                    "POST / HTTP/1.1\r\nHost: api.example.com\r\nContent-Encoding: {coding}\r\nContent-Length: {}\r\n\
                    Connection: close\r\n\r\n",
                    body.len()
                );
                [head.as_bytes(), body].concat()
            };
            assert!(talk(&lab, coded("gzip", GZIP)).await.contains("ERR_NGROK_3700"));
            assert_eq!(seen.borrow()[0].1, Bytes::from("attack"));
            for (coding, body) in [("gzip", b"no gzip".as_slice()), ("rot13", b"nggnpx"), ("gzip,gzip,gzip,gzip,gzip", GZIP)] {
                let failed = talk(&lab, coded(coding, body)).await;
                assert!(failed.starts_with("HTTP/1.1 500") && failed.contains("ERR_NGROK_3701"), "{coding}: {failed}");
            }
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn an_event_stream_is_not_waited_for() {
    LocalSet::new()
        .run_until(async {
            let lab = Lab::default();
            lab.agent(
                "http://api.example.com",
                Made { policy: Some(RESPONSES), ..Made::default() },
                scripted(|mut io| async move {
                    let _ = io.read(&mut [0; 4096]).await;
                    let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n";
                    let _ = io.write_all(head).await;
                    std::future::pending::<()>().await;
                }),
            );
            lab.inspect_with(|_, body| if body.is_empty() { 0 } else { 9 });
            let (mut io, _serving) = lab.visit_http();
            io.write_all(GET).await.unwrap();
            let mut text = Vec::new();
            while !String::from_utf8_lossy(&text).contains("data: 1") {
                assert_ne!(io.read_buf(&mut text).await.unwrap(), 0, "{}", text.escape_ascii());
            }
        })
        .await;
}
