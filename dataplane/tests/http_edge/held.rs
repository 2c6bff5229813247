//! Bodies that are held for policies: a budget of the edge, a part of it for each account, and what is told beyond it.

use ebbgate_edge::http::limits::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;

use crate::lab::{HELD_BYTES, Lab, Made, account, http_conn, local, scripted, strict_upstream};

const VERIFYING: &str = r#"{"on_http_request":[{"actions":[
    {"type":"verify-webhook","config":{"provider":"github","secret":"secret","enforce":false}}]}]}"#;
/// A pattern without a longest match: all of the body is held.
const REPLACING: &str = r#"{"on_http_response":[{"actions":[
    {"type":"response-body-find-replace","config":{"replacements":[{"from":"a+","to":"b"}]}}]}]}"#;
const BODY_BYTES: usize = 1_000_000;

/// Sends all of a body but its last byte, and gives the connection.
async fn nearly(lab: &Lab, host: &str) -> (DuplexStream, JoinHandle<()>) {
    let (mut io, serving) = lab.visit(http_conn(), Limits::default());
    let head = format!(
        "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {BODY_BYTES}\r\nConnection: close\r\n\r\n"
    );
    io.write_all(head.as_bytes()).await.unwrap();
    // The edge may answer and close before it has all.
    let _ = io.write_all(&vec![b'x'; BODY_BYTES - 1]).await;
    (io, tokio::task::spawn_local(async move { drop(serving.await) }))
}

async fn answer(mut io: DuplexStream) -> String {
    let mut answer = Vec::new();
    let _ = io.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(start_paused = true)]
async fn an_account_that_holds_its_share_is_told_so_and_others_go_on() {
    local(async {
        let lab = Lab::default();
        for (account, host) in [(1, "http://a.example.com"), (2, "http://b.example.com")] {
            let (_, upstream) = strict_upstream();
            lab.agent(host, Made { account, policy: Some(VERIFYING), ..Made::default() }, upstream);
        }
        let mut held = Vec::new();
        for _ in 0..HELD_BYTES / 2 / BODY_BYTES {
            held.push(nearly(&lab, "a.example.com").await);
        }
        let (io, _serving) = nearly(&lab, "a.example.com").await;
        let told = answer(io).await;
        assert!(told.starts_with("HTTP/1.1 503 "), "{told}");
        assert!(told.contains("\r\nngrok-error-code: ERR_NGROK_3902\r\n"), "{told}");
        let (mut io, _serving) = nearly(&lab, "b.example.com").await;
        io.write_all(b"x").await.unwrap();
        assert!(answer(io).await.starts_with("HTTP/1.1 200 "));
        // Those that are held go on too, and leave their room when they are over.
        for (mut io, serving) in held {
            io.write_all(b"x").await.unwrap();
            assert!(answer(io).await.starts_with("HTTP/1.1 200 "));
            serving.await.unwrap();
        }
        assert_eq!(lab.held_bytes(), 0);
        let (io, serving) = nearly(&lab, "a.example.com").await;
        drop(io);
        serving.await.unwrap();
        assert_eq!(lab.held_bytes(), 0, "a visitor that goes away leaves its room");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_response_that_cannot_be_held_is_refused() {
    local(async {
        let lab = Lab::default();
        let upstream = scripted(|mut io| async move {
            let _ = io.read(&mut [0; 4096]).await;
            let _ = io.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nkaab").await;
            let _ = io.read(&mut [0; 1]).await;
        });
        lab.agent("http://a.example.com", Made { policy: Some(REPLACING), ..Made::default() }, upstream);
        let get = b"GET / HTTP/1.1\r\nHost: a.example.com\r\nConnection: close\r\n\r\n";
        let others = lab.hold(account(1), HELD_BYTES / 2 - 3).unwrap();
        let told = lab.talk(get).await;
        assert!(told.starts_with("HTTP/1.1 503 ") && told.contains("ERR_NGROK_3902"), "{told}");
        drop(others);
        assert!(lab.talk(get).await.ends_with("kbb"));
        assert_eq!(lab.held_bytes(), 0);
    })
    .await;
}
