//! Fifteen ways to keep a connection open without using it: each is closed within its documented setting.

use std::time::Duration;

use ebbgate_edge::dispatch::gateway::HttpConn;
use ebbgate_edge::http::limits::{
    HEAD_SECS_MAX, IDLE_SECS_MAX, KEEP_ALIVE_SECS_MAX, LINGER_SECS_MAX, Limits, PACE_SECS, WRITE_PACE_SECS,
};
use ebbgate_edge::net::listen::ConnLimits;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::time::{Instant, sleep};

use crate::frames::{
    ACK, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PREFACE, SETTINGS, frame, request_block,
};
use crate::lab::{
    Lab, Made, http_conn, https_conn, local, read_strictly, read_until, scripted, strict_upstream,
};

/// Seconds past a setting that are still in time: the last answer and the linger after it.
const SLACK_SECS: u64 = LINGER_SECS_MAX + 2;

/// An upstream that answers every request with more than any buffer on the way holds.
fn big_answers(lab: &Lab, url: &str) -> std::sync::Arc<ebbgate_edge::state::endpoint::Endpoint> {
    let serve = scripted(|mut io| async move {
        let mut input = Vec::new();
        while let Ok(Some(_)) = read_strictly(&mut io, &mut input).await {
            let _ = io.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n").await;
            for _ in 0..10_000 {
                if io.write_all(&[b'a'; 1_000]).await.is_err() {
                    return;
                }
            }
        }
    });
    lab.agent(url, Made::default(), serve)
}

/// What a stalled visitor does; it is over when the edge closes.
enum Stall {
    /// Sends this and then nothing, reading all the while.
    Silence(Vec<u8>),
    /// Sends this and then the second again every second.
    Drip(Vec<u8>, Vec<u8>),
    /// Sends this and never reads.
    NoReading(Vec<u8>),
    /// Sends this and reads one byte a second.
    SlowReading(Vec<u8>),
    /// Sends this, ends its side and waits.
    HalfClosed(Vec<u8>),
}

async fn closed_after(conn: HttpConn, lab: &Lab, stall: Stall, limits: Limits) -> u64 {
    let (io, serving) = lab.visit(conn, limits);
    let started = Instant::now();
    let (read, write) = tokio::io::split(io);
    let visitor = tokio::task::spawn_local(act(read, write, stall));
    serving.await.unwrap();
    visitor.abort();
    started.elapsed().as_secs()
}

async fn act(mut read: ReadHalf<DuplexStream>, mut write: WriteHalf<DuplexStream>, stall: Stall) {
    let second = Duration::from_secs(1);
    match stall {
        Stall::Silence(first) => {
            let _ = write.write_all(&first).await;
            let _ = read.read_to_end(&mut Vec::new()).await;
        }
        Stall::Drip(first, drop) => {
            let _ = write.write_all(&first).await;
            tokio::task::spawn_local(async move {
                let _ = read.read_to_end(&mut Vec::new()).await;
            });
            while write.write_all(&drop).await.is_ok() {
                sleep(second).await;
            }
        }
        Stall::NoReading(first) => {
            let _ = write.write_all(&first).await;
            std::future::pending::<()>().await;
            drop(read);
        }
        Stall::SlowReading(first) => {
            let _ = write.write_all(&first).await;
            while read.read(&mut [0; 1]).await.is_ok_and(|n| n > 0) {
                sleep(second).await;
            }
        }
        Stall::HalfClosed(first) => {
            let _ = write.write_all(&first).await;
            let _ = write.shutdown().await;
            let _ = read.read_to_end(&mut Vec::new()).await;
        }
    }
}

fn http1(text: &str) -> Vec<u8> {
    text.replace('|', "\r\n").into_bytes()
}

fn http2(frames: &[Vec<u8>]) -> Vec<u8> {
    let settings = frame(SETTINGS, 0, 0, &[]);
    [PREFACE, &settings, &frame(SETTINGS, ACK, 0, &[]), &frames.concat()].concat()
}

/// A source that has as many slow visitors as it may.
fn crowded() -> Limits {
    Limits { slow: ConnLimits::new(16, 0), ..Limits::default() }
}

/// Every kind of stall: whether it speaks HTTP/2, the setting that ends it alone, and the one that ends it in a crowd.
fn stalls() -> Vec<(&'static str, bool, u64, u64, Stall)> {
    use Stall::{Drip, HalfClosed, NoReading, Silence, SlowReading};
    const HEAD: u64 = HEAD_SECS_MAX;
    const KEPT: u64 = KEEP_ALIVE_SECS_MAX;
    // A second less: the visitor is told before the exchange rests too long.
    const IDLE: u64 = IDLE_SECS_MAX - 1;
    let get = "GET / HTTP/1.1|Host: a.example.com||";
    let post = |length| format!("POST / HTTP/1.1|Host: a.example.com|{length}||");
    let head = |over| frame(HEADERS, END_HEADERS | over, 1, &request_block("POST", "/", &[]));
    let big_get = frame(HEADERS, END_HEADERS | END_STREAM, 1, &request_block("GET", "/", &[]));
    let ping = || frame(PING, 0, 0, &[0; 8]);
    let half_block = frame(HEADERS, 0, 1, &request_block("GET", "/", &[]));
    let half_frame = frame(DATA, 0, 1, &[0; 50])[..20].to_vec();
    let nobody = http1("OPTIONS * HTTP/1.1|Host: nobody.example.com||");
    let half_body = http1(&format!("{}half", post("Content-Length: 100000")));
    let endless = http1(&format!("{}ffff|half", post("Transfer-Encoding: chunked")));
    let long = || http1(&post("Content-Length: 100000"));
    let chunked = http1(&post("Transfer-Encoding: chunked"));
    vec![
        ("nothing at all", false, HEAD, HEAD, Silence(vec![])),
        ("half a head", false, HEAD, HEAD, Silence(http1("GET / HTTP/1.1|Host: a"))),
        ("a head byte by byte", false, HEAD, HEAD, Drip(http1("GET / HTTP/1.1|X: "), b"a".to_vec())),
        ("no further request", false, KEPT, KEPT, Silence(nobody)),
        ("half a body", false, IDLE, PACE_SECS, Silence(half_body)),
        ("a body byte by byte", false, IDLE, PACE_SECS, Drip(long(), b"a".to_vec())),
        ("a chunk that never ends", false, IDLE, PACE_SECS, Silence(endless)),
        ("tiny chunks", false, IDLE, PACE_SECS, Drip(chunked, http1("1|a|"))),
        ("an answer never read", false, IDLE, WRITE_PACE_SECS, NoReading(http1(get))),
        ("an answer read byte by byte", false, IDLE, WRITE_PACE_SECS, SlowReading(http1(get))),
        ("half-closed before a request", false, 0, 0, HalfClosed(http1("GET / HT"))),
        ("HTTP/2 without its preface", true, HEAD, HEAD, Silence(PREFACE[..10].to_vec())),
        ("HTTP/2 with nothing but PING", true, KEPT, KEPT, Drip(http2(&[]), ping())),
        ("HTTP/2 with half a header block", true, HEAD, HEAD, Silence(http2(&[half_block]))),
        ("HTTP/2 with half a frame", true, HEAD, HEAD, Silence(http2(&[head(0), half_frame]))),
        // Streams end first, by their own setting; the connection follows when it rests.
        ("HTTP/2 with half a body", true, IDLE + KEPT, PACE_SECS + KEPT, Drip(http2(&[head(0)]), ping())),
        (
            "HTTP/2 with an answer never read",
            true,
            IDLE + KEPT,
            WRITE_PACE_SECS + KEPT,
            Drip(http2(&[big_get]), ping()),
        ),
    ]
}

#[tokio::test(start_paused = true)]
async fn fifteen_stalled_visitors_are_closed() {
    assert!(stalls().len() >= 15);
    local(async {
        for in_a_crowd in [false, true] {
            for (what, h2, alone, crowd, stall) in stalls() {
                let lab = Lab::default();
                big_answers(&lab, "http://a.example.com");
                let first = big_answers(&lab, "https://a.example.com");
                let conn = if h2 { https_conn(&first, true) } else { http_conn() };
                let (limits, setting) =
                    if in_a_crowd { (crowded(), crowd) } else { (Limits::default(), alone) };
                let after = closed_after(conn, &lab, stall, limits).await;
                let range = setting..=setting + SLACK_SECS;
                assert!(range.contains(&after), "{what}: closed after {after} s, expected {range:?}");
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_upload_and_a_reader_that_pauses_are_served_whole() {
    local(async {
        let lab = Lab::default();
        let (seen, upstream) = strict_upstream();
        lab.agent("http://a.example.com", Made::default(), upstream);
        let (mut io, _serving) = lab.visit_http();
        io.write_all(&http1("POST / HTTP/1.1|Host: a.example.com|Transfer-Encoding: chunked||"))
            .await
            .unwrap();
        for _ in 0..100 {
            sleep(Duration::from_secs(2)).await;
            io.write_all(&http1("14|beat of number 00001|")).await.unwrap();
        }
        io.write_all(&http1("0||")).await.unwrap();
        assert!(read_until(&mut io, "hello").await.starts_with("HTTP/1.1 200 "));
        assert_eq!(seen.borrow().requests[0].body.len(), 2_000);

        let lab = Lab::default();
        big_answers(&lab, "http://a.example.com");
        let (mut io, _serving) = lab.visit_http();
        io.write_all(&http1("GET / HTTP/1.1|Host: a.example.com||")).await.unwrap();
        let mut read = 0;
        for _ in 0..4 {
            sleep(Duration::from_secs(IDLE_SECS_MAX - 10)).await;
            let mut part = vec![0; 2_500_000];
            read += io.read_exact(&mut part).await.unwrap();
        }
        assert_eq!(read, 10_000_000);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_source_may_have_a_few_slow_bodies_and_the_next_is_closed() {
    local(async {
        let lab = Lab::default();
        big_answers(&lab, "http://a.example.com");
        let limits = Limits { slow: ConnLimits::new(16, 2), ..Limits::default() };
        let mut ends = Vec::new();
        for _ in 0..5 {
            let (mut io, serving) = lab.visit(http_conn(), limits.clone());
            io.write_all(&http1("POST / HTTP/1.1|Host: a.example.com|Content-Length: 9||half"))
                .await
                .unwrap();
            ends.push((io, serving));
        }
        sleep(Duration::from_secs(PACE_SECS + SLACK_SECS)).await;
        assert_eq!(ends.iter().filter(|(_, serving)| serving.is_finished()).count(), 3);
        sleep(Duration::from_secs(IDLE_SECS_MAX)).await;
        assert!(ends.iter().all(|(_, serving)| serving.is_finished()));
        assert_eq!(lab.events().iter().filter(|event| event.status == 408).count(), 5);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_upstream_never_makes_a_visitor_look_slow() {
    local(async {
        let lab = Lab::default();
        let slow = scripted(|mut io| async move {
            sleep(Duration::from_secs(IDLE_SECS_MAX - 10)).await;
            let mut input = Vec::new();
            let request = read_strictly(&mut io, &mut input).await.unwrap().unwrap();
            sleep(Duration::from_secs(IDLE_SECS_MAX - 10)).await;
            let _ = io
                .write_all(
                    format!("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{:07}", request.body.len())
                        .as_bytes(),
                )
                .await;
            let _ = io.read(&mut [0; 1]).await;
        });
        lab.agent("http://a.example.com", Made::default(), slow);
        let body = "a".repeat(1_000_000);
        let request =
            format!("POST / HTTP/1.1\r\nHost: a.example.com\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let (mut io, _serving) = lab.visit(http_conn(), Limits::default());
        io.write_all(request.as_bytes()).await.unwrap();
        let read = read_until(&mut io, "1000000").await;
        assert!(read.starts_with("HTTP/1.1 200 ") && read.ends_with("1000000"), "{read}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_stalled_body_is_told_so() {
    local(async {
        let lab = Lab::default();
        big_answers(&lab, "http://a.example.com");
        let (mut io, _serving) = lab.visit(http_conn(), Limits::default());
        io.write_all(&http1("POST / HTTP/1.1|Host: a.example.com|Content-Length: 9||half")).await.unwrap();
        let read = read_until(&mut io, "no end").await;
        assert!(read.starts_with("HTTP/1.1 408 ") && read.contains("connection: close"), "{read}");
        assert_eq!(lab.events()[0].status, 408);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_half_closed_visitor_is_served_as_long_as_something_comes() {
    local(async {
        for (pause, whole) in [(50, true), (70, false)] {
            let lab = Lab::default();
            let steady = scripted(move |mut io| async move {
                let _ = read_strictly(&mut io, &mut Vec::new()).await;
                let _ = io.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").await;
                for letter in ["h", "e", "l", "l", "o"] {
                    sleep(Duration::from_secs(pause)).await;
                    let _ = io.write_all(letter.as_bytes()).await;
                }
                let _ = io.read(&mut [0; 1]).await;
            });
            lab.agent("http://a.example.com", Made::default(), steady);
            let read = lab.talk(&http1("GET / HTTP/1.1|Host: a.example.com||")).await;
            assert_eq!(read.ends_with("hello"), whole, "a byte every {pause} s: {read}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_visitor_that_does_not_read_its_refusal_is_not_waited_for() {
    local(async {
        // Less room than the refusal takes.
        let (mut visitor, io) = tokio::io::duplex(64);
        let lab = Lab::default();
        let serving = lab.serve(io, http_conn(), Limits::default());
        let serving = tokio::task::spawn_local(serving);
        visitor.write_all(b"GET / HTTP/9\r\n\r\n").await.unwrap();
        let started = Instant::now();
        tokio::time::timeout(Duration::from_mins(10), serving).await.unwrap().unwrap();
        assert!(started.elapsed().as_secs() <= 2 * LINGER_SECS_MAX, "{:?}", started.elapsed());
    })
    .await;
}
