//! What policies are told of the ends of bodies: `req.trailers`, `req.ts.body_received` and `res.trailers`.

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::spawn_local;

use ebbgate_edge::http::limits::Limits;

use crate::lab::{Lab, Made, https_conn, local, scripted};

/// Trailers are unknown until an action has read the body; the second rule tells which.
const ASKING: &str = r#"{"on_http_request":[
    {"expressions":["has(req.trailers) && has(req.ts.body_received)"],"actions":[{"type":"deny"}]},
    {"actions":[{"type":"verify-webhook","config":{"provider":"github","secret":"secret","enforce":false}}]},
    {"expressions":["has(req.ts.body_received)"],"actions":[{"type":"custom-response","config":{
        "body":"${req.trailers['x-sum'][0]} at ${req.ts.body_received}"}}]}]}"#;
/// What the response's phase knows, and what only the log does.
const TELLING: &str = r#"{"on_http_request":[{"actions":[{"type":"log","config":{"metadata":{"sum":"${req.trailers['x-sum'][0]}"}}}]}],
    "on_http_response":[
    {"expressions":["'x-sum' in req.trailers"],"actions":[{"type":"add-headers","config":{"headers":{"x-known":"${req.trailers['x-sum'][0]}"}}}]},
    {"expressions":["has(res.trailers)"],"actions":[{"type":"add-headers","config":{"headers":{"x-early":"yes"}}}]},
    {"actions":[{"type":"log","config":{"metadata":{"status":"${res.trailers['grpc-status'][0]}"}}}]}]}"#;
/// An inspection reads the whole of a short response.
const INSPECTING: &str = r#"{"on_http_response":[
    {"actions":[{"type":"owasp-crs-response","config":{"on_error":"halt","process_body":true}}]},
    {"expressions":["res.trailers['x-sum'][0] == '7'"],"actions":[{"type":"add-headers","config":{"headers":{"x-known":"yes"}}}]}]}"#;

fn posted(more: &str) -> String {
    format!(
        "POST / HTTP/1.1\r\nHost: a.example.com\r\nConnection: close\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n{more}"
    )
}

/// An upstream of HTTP/1.1 that reads up to this text and answers with trailers.
fn answering_after(end: &'static str) -> impl Fn(tokio::io::DuplexStream) + 'static {
    scripted(move |mut io| async move {
        let mut read = Vec::new();
        while !String::from_utf8_lossy(&read).contains(end) {
            if !matches!(io.read_buf(&mut read).await, Ok(1..)) {
                return;
            }
        }
        let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\nGrpc-Status: 5\r\n\r\n";
        let _ = io.write_all(answer.as_bytes()).await;
        let _ = io.read_to_end(&mut read).await;
    })
}

#[tokio::test(start_paused = true)]
async fn a_request_s_trailers_are_known_behind_what_reads_its_body() {
    local(async {
        let lab = Lab::default();
        lab.cloud("http://a.example.com", Made { policy: Some(ASKING), ..Made::default() });
        let told = lab.talk(b"GET / HTTP/1.1\r\nHost: a.example.com\r\nConnection: close\r\n\r\n").await;
        assert!(told.starts_with("HTTP/1.1 403 "), "the end of no body is known at once: {told}");
        let told = lab.talk(posted("0\r\nX-Sum: 7\r\nX-Other: a\r\n\r\n").as_bytes()).await;
        assert!(told.ends_with("7 at 2023-11-14T22:13:20Z"), "{told}");
        let told = lab.talk(posted("0\r\n\r\n").as_bytes()).await;
        assert!(told.starts_with("HTTP/1.1 500 "), "there is no key `x-sum`: {told}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_response_s_phase_knows_what_has_come_and_the_log_knows_all() {
    local(async {
        let lab = Lab::default();
        // The upstream's answer comes before the end of the request's body, or behind it.
        for (host, end) in [("http://a.example.com", "0\r\n"), ("http://b.example.com", "hello")] {
            lab.agent(host, Made { policy: Some(TELLING), ..Made::default() }, answering_after(end));
        }
        let told = lab.talk(posted("0\r\nX-Sum: 7\r\n\r\n").as_bytes()).await;
        assert!(told.contains("\r\nx-known: 7\r\n") && !told.contains("x-early"), "{told}");
        let (mut io, serving) = lab.visit_http();
        io.write_all(posted("").replace("a.example", "b.example").as_bytes()).await.unwrap();
        let mut told = Vec::new();
        while !String::from_utf8_lossy(&told).contains("\r\nok\r\n") {
            assert!(io.read_buf(&mut told).await.unwrap() > 0);
        }
        let _ = io.write_all(b"0\r\nX-Sum: 8\r\n\r\n").await;
        io.read_to_end(&mut told).await.unwrap();
        drop(io);
        serving.await.unwrap();
        let told = String::from_utf8_lossy(&told);
        assert!(told.starts_with("HTTP/1.1 200 ") && !told.contains("x-known"), "{told}");
        let events = lab.events();
        assert_eq!(events[0].policy_logs, [json!({"sum": "7"}), json!({"status": "5"})]);
        assert_eq!(events[1].policy_logs.len(), 2);
        assert_eq!(events[1].policy_logs[1], json!({"status": "5"}));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn trailers_of_http2_are_known_too() {
    local(async {
        let lab = Lab::default();
        let upstream = scripted(|io| async move {
            let mut connection = h2::server::handshake(io).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                spawn_local(async move {
                    let mut body = request.into_body();
                    while let Some(Ok(data)) = body.data().await {
                        let _ = body.flow_control().release_capacity(data.len());
                    }
                    let sum = body.trailers().await.unwrap().unwrap()["x-sum"].clone();
                    let head = Response::builder().header("x-upstream-saw", sum).body(()).unwrap();
                    let mut send = respond.send_response(head, false).unwrap();
                    let _ = send.send_data(Bytes::from_static(b"ok"), false);
                    let _ = send.send_trailers(
                        [("grpc-status".parse().unwrap(), "5".parse().unwrap())].into_iter().collect(),
                    );
                });
            }
        });
        let made = Made { policy: Some(TELLING), http2: true, ..Made::default() };
        let first = lab.agent("https://a.example.com", made, upstream);
        let (io, _serving) = lab.visit(https_conn(&first, true), Limits::default());
        let (sender, connection) = h2::client::handshake(io).await.unwrap();
        spawn_local(connection);
        let request = Request::post("https://a.example.com/").header("te", "trailers").body(()).unwrap();
        let (answer, mut send) = sender.ready().await.unwrap().send_request(request, false).unwrap();
        send.send_data(Bytes::from_static(b"hello"), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "7".parse().unwrap());
        send.send_trailers(trailers).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(
            (&answer.headers()["x-upstream-saw"], &answer.headers()["x-known"]),
            (&"7".parse().unwrap(), &"7".parse().unwrap())
        );
        let mut body = answer.into_body();
        while let Some(data) = body.data().await {
            body.flow_control().release_capacity(data.unwrap().len()).unwrap();
        }
        assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "5");
        while lab.events().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(lab.events()[0].policy_logs, [json!({"sum": "7"}), json!({"status": "5"})]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_response_s_trailers_are_known_behind_what_reads_its_body() {
    local(async {
        let lab = Lab::default();
        lab.inspect_with(|_, _| 0);
        lab.agent(
            "http://a.example.com",
            Made { policy: Some(INSPECTING), ..Made::default() },
            answering_after("\r\n\r\n"),
        );
        let told = lab
            .talk(b"GET / HTTP/1.1\r\nHost: a.example.com\r\nTE: trailers\r\nConnection: close\r\n\r\n")
            .await;
        assert!(
            told.contains("\r\nx-known: yes\r\n") && told.to_lowercase().contains("\r\nx-sum: 7\r\n"),
            "{told}"
        );
    })
    .await;
}
