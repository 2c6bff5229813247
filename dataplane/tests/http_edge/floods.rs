//! HTTP/2 floods: the attacker is cut off after a bounded number of frames, while a good visitor on the same shard is
//! answered.
//!
//! What is measured here is work, not time: how many frames an attacker gets in, and what the edge did for them.

use ebbgate_edge::http::limits::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frames, HEADERS, PING, PRIORITY, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, block, frame, request_block,
};
use crate::lab::{Lab, Made, http_conn, https_conn, local, read_until, strict_upstream};

/// Frames an attacker tries to send.
const TRIES: usize = 50_000;
/// Frames it may get in before it is cut off: its budget, and what the pipe holds.
const FRAMES_MAX: usize = 20_000;

struct Attack {
    what: &'static str,
    first: Vec<u8>,
    again: Box<dyn Fn(usize) -> Vec<u8>>,
}

fn attack(what: &'static str, first: Vec<u8>, again: impl Fn(usize) -> Vec<u8> + 'static) -> Attack {
    Attack { what, first, again: Box::new(again) }
}

fn stream(n: usize) -> u32 {
    u32::try_from(2 * n + 1).unwrap()
}

fn attacks() -> Vec<Attack> {
    let post = || frame(HEADERS, END_HEADERS, 1, &request_block("POST", "/", &[]));
    let get = |n| frame(HEADERS, END_HEADERS | END_STREAM, stream(n), &request_block("GET", "/", &[]));
    vec![
        attack("rapid reset", vec![], move |n| {
            [get(n), frame(RST_STREAM, 0, stream(n), &[0, 0, 0, 8])].concat()
        }),
        attack("PING", vec![], |_| frame(PING, 0, 0, &[0; 8])),
        attack("SETTINGS", vec![], |_| frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100])),
        attack("empty DATA", post(), |_| frame(DATA, 0, 1, &[])),
        attack("CONTINUATION", frame(HEADERS, 0, 1, &request_block("GET", "/", &[])), |_| {
            frame(CONTINUATION, 0, 1, &block(&[(b"x-flood", b"y")]))
        }),
        attack("empty CONTINUATION", frame(HEADERS, 0, 1, &request_block("GET", "/", &[])), |_| {
            frame(CONTINUATION, 0, 1, &[])
        }),
        attack("PRIORITY", vec![], |_| frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 7])),
        attack("WINDOW_UPDATE", post(), |_| frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])),
        attack("unknown frames", vec![], |_| frame(0xfa, 0, 0, &[1, 2, 3])),
        // Streams that we have to reset, as many as it likes (CVE-2025-8671).
        attack("made-you-reset", vec![], move |n| {
            [
                frame(HEADERS, END_HEADERS, stream(n), &request_block("POST", "/", &[])),
                frame(WINDOW_UPDATE, 0, stream(n), &[0; 4]),
            ]
            .concat()
        }),
        attack("HPACK bomb", vec![], |n| {
            // One large entry in the dynamic table (index 62), then referred to until the list is a megabyte.
            let mut bomb = request_block("GET", "/", &[]);
            bomb.extend([0x40, 6]);
            bomb.extend(b"x-bomb");
            bomb.extend([0x7f, 0x81, 0x1e]);
            bomb.extend(vec![b'a'; 3_968]);
            bomb.extend(vec![0xbe; 8_000]);
            frame(HEADERS, END_HEADERS | END_STREAM, stream(n), &bomb)
        }),
    ]
}

#[tokio::test(start_paused = true)]
async fn floods_are_cut_off_and_good_visitors_are_served() {
    local(async {
        for attack in attacks() {
            let lab = Lab::default();
            let (seen, upstream) = strict_upstream();
            let first = lab.agent("https://a.example.com", Made::default(), upstream.clone());
            lab.agent("http://a.example.com", Made::default(), upstream);
            let (io, serving) = lab.visit(https_conn(&first, true), Limits::default());
            let (mut good, _good_serving) = lab.visit(http_conn(), Limits::default());
            let mut attacker = Frames::open(io).await;
            attacker.send(&attack.first).await;
            let (mut read, mut write) = tokio::io::split(attacker.io);
            let reading = tokio::task::spawn_local(async move {
                let _ = read.read_to_end(&mut Vec::new()).await;
            });
            let mut frames = 0;
            while frames < TRIES && write.write_all(&(attack.again)(frames)).await.is_ok() {
                frames += 1;
                if frames % 500 == 1 {
                    good.write_all(b"GET /good HTTP/1.1\r\nHost: a.example.com\r\n\r\n").await.unwrap();
                    assert!(
                        read_until(&mut good, "hello").await.starts_with("HTTP/1.1 200 "),
                        "{}",
                        attack.what
                    );
                }
            }
            let outcome = serving.await.unwrap();
            reading.await.unwrap();
            assert!(frames < FRAMES_MAX, "{}: {frames} frames got in", attack.what);
            assert!(outcome.requests <= 300, "{}: {outcome:?}", attack.what);
            assert_ne!(outcome.outcome, "closed", "{}", attack.what);
            let seen = seen.borrow();
            let for_attacker =
                seen.requests.iter().filter(|request| !request.line.starts_with("GET /good ")).count();
            assert!(for_attacker <= 250, "{}: {for_attacker} requests reached the upstream", attack.what);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_busy_good_visitor_is_not_taken_for_a_flood() {
    local(async {
        let lab = Lab::default();
        let (seen, upstream) = strict_upstream();
        let first = lab.agent("https://a.example.com", Made::default(), upstream);
        let (io, serving) = lab.visit(https_conn(&first, true), Limits::default());
        let (sender, connection) = h2::client::handshake(io).await.unwrap();
        let driver = tokio::task::spawn_local(connection);
        for round in 0..50 {
            let mut answers = Vec::new();
            for _ in 0..80 {
                let mut sender = sender.clone().ready().await.unwrap();
                let request = http::Request::get("https://a.example.com/").body(()).unwrap();
                answers.push(sender.send_request(request, true).unwrap().0);
            }
            for answer in answers {
                let answer = answer.await.unwrap_or_else(|e| panic!("round {round}: {e}"));
                assert_eq!(answer.status(), 200);
                let mut body = answer.into_body();
                while let Some(data) = body.data().await {
                    let n = data.unwrap().len();
                    body.flow_control().release_capacity(n).unwrap();
                }
            }
        }
        drop(sender);
        let _ = driver.await;
        assert_eq!(serving.await.unwrap().requests, 4_000);
        assert_eq!(seen.borrow().requests.len(), 4_000);
    })
    .await;
}
