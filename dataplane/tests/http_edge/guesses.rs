//! `basic-auth`: who guesses passwords waits, and nobody else does.

use std::time::Duration;

use ebbgate_edge::http::limits::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::lab::{Lab, Made, http_conn_from, local};

const POLICY: &str = r#"{"on_http_request":[{"actions":[
    {"type":"basic-auth","config":{"credentials":["ann:hunter2hunter2"]}},
    {"type":"custom-response","config":{"body":"in"}}]}]}"#;
/// `ann:hunter2hunter2`, and `ann:hunter3hunter3`.
const RIGHT: &str = "YW5uOmh1bnRlcjJodW50ZXIy";
const WRONG: &str = "YW5uOmh1bnRlcjNodW50ZXIz";

/// The status line's number, and `retry-after`.
async fn visit(lab: &Lab, client: &str, password: &str) -> (u16, Option<u64>) {
    let (mut io, serving) = lab.visit(http_conn_from(client), Limits::default());
    let request = format!(
        "GET / HTTP/1.1\r\nHost: a.example.com\r\nAuthorization: Basic {password}\r\nConnection: close\r\n\r\n"
    );
    io.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    io.read_to_string(&mut answer).await.unwrap();
    serving.await.unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let wait = answer.lines().find_map(|line| line.strip_prefix("retry-after: ")?.parse().ok());
    (status, wait)
}

#[tokio::test(start_paused = true)]
async fn who_guesses_waits_and_others_do_not() {
    local(async {
        let lab = Lab::default();
        lab.cloud("http://a.example.com", Made { policy: Some(POLICY), ..Made::default() });
        let (guesser, other) = ("192.0.2.7:1", "192.0.2.8:1");
        for n in 0..5 {
            assert_eq!(visit(&lab, guesser, WRONG).await, (401, None), "guess {n}");
        }
        for password in [WRONG, RIGHT] {
            assert_eq!(visit(&lab, guesser, password).await, (429, Some(5)), "right or wrong is not told");
        }
        for _ in 0..20 {
            assert_eq!(visit(&lab, other, RIGHT).await, (200, None));
        }
        assert_eq!(visit(&lab, other, WRONG).await, (401, None));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(visit(&lab, guesser, WRONG).await, (401, None));
        assert_eq!(visit(&lab, guesser, RIGHT).await, (429, Some(10)), "twice as long");
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(visit(&lab, guesser, RIGHT).await, (200, None));
        assert_eq!(visit(&lab, guesser, WRONG).await, (401, None), "and begins anew");
        assert_eq!(visit(&lab, guesser, RIGHT).await, (200, None));
    })
    .await;
}
