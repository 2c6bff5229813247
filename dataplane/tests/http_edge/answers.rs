//! One answer for one request: an early answer, a refusal and what an upstream says before it, each alone.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;

use bytes::Bytes;
use ebbgate_edge::http::limits::{KEPT_UPSTREAM_SECS_MAX, LINGER_SECS_MAX, Limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::spawn_local;
use tokio::time::{Duration, Instant, sleep};

use crate::lab::{
    Lab, Made, http_conn, https_conn, local, read_strictly, read_until, scripted, strict_upstream,
};

/// An upstream that answers as soon as it has the head, with the first bytes of a longer body, and reads on.
fn early_and_unfinished(lab: &Lab) {
    let upstream = scripted(|mut io| async move {
        let _ = io.read(&mut [0; 1024]).await;
        let _ = io.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\npart").await;
        while matches!(io.read(&mut [0; 1024]).await, Ok(1..)) {}
    });
    lab.agent("http://a.example.com", Made::default(), upstream);
}

#[tokio::test(start_paused = true)]
async fn a_bad_chunk_after_the_answer_began_ends_the_connection_and_writes_nothing_into_it() {
    local(async {
        for bad in ["zz\r\n", "5\nhello\n", "3\r\nabcd\r\n", "0\r\nContent-Length: 1\r\n\r\n", "1;a=\"\r\n"] {
            let lab = Lab::default();
            early_and_unfinished(&lab);
            let (mut io, serving) = lab.visit_http();
            let head =
                "POST / HTTP/1.1\r\nHost: a.example.com\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
            io.write_all(head.as_bytes()).await.unwrap();
            let answer = read_until(&mut io, "part").await;
            assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("part"), "{answer}");
            io.write_all(bad.as_bytes()).await.unwrap();
            assert_eq!(read_until(&mut io, "no end").await, "", "{bad:?}");
            serving.await.unwrap();
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_bad_body_is_refused_once() {
    local(async {
        for bad in ["zz\r\n", "5\nhello\n", "3\r\nabcd\r\n"] {
            let lab = Lab::default();
            let silent = scripted(|mut io| async move {
                let _ = io.read_to_end(&mut Vec::new()).await;
            });
            lab.agent("http://a.example.com", Made::default(), silent);
            let request = format!(
                "POST / HTTP/1.1\r\nHost: a.example.com\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n{bad}"
            );
            let read = lab.talk(request.as_bytes()).await;
            assert_eq!((read.matches("HTTP/1.1 ").count(), read.matches("HTTP/1.1 400 ").count()), (1, 1), "{read}");
        }
    })
    .await;
}

/// Seconds the edge gives an upstream to close after it.
const UPSTREAM_CLOSES_SECS: u64 = 5;
/// Bytes of an upload that is answered before its end.
const UPLOAD_BYTES: usize = 4 * 1024 * 1024;

/// An upstream that answers 413 after the head and reads on.
fn refusing() -> impl Fn(DuplexStream) + 'static {
    scripted(|mut io| async move {
        let _ = io.read(&mut [0; 1024]).await;
        let _ = io
            .write_all(
                b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 9\r\nConnection: close\r\n\r\ntoo large",
            )
            .await;
        while matches!(io.read(&mut [0; 1024]).await, Ok(1..)) {}
    })
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_is_answered_early_is_read_on() {
    local(async {
        let lab = Lab::default();
        lab.agent("http://a.example.com", Made::default(), refusing());
        let deny = r#"{"on_http_request":[{"actions":[{"type":"deny","config":{"status_code":413}}]}]}"#;
        lab.cloud("http://deny.example.com", Made { policy: Some(deny), ..Made::default() });
        for host in ["a.example.com", "deny.example.com"] {
            let (mut io, serving) = lab.visit_http();
            let head = format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {UPLOAD_BYTES}\r\n\r\n");
            io.write_all(head.as_bytes()).await.unwrap();
            io.write_all(&vec![b'x'; UPLOAD_BYTES]).await.unwrap();
            let answer = read_until(&mut io, "no end").await;
            assert!(
                answer.starts_with("HTTP/1.1 413 ") && answer.contains("connection: close\r\n"),
                "{answer}"
            );
            serving.await.unwrap();
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_is_answered_early_and_drips_on_is_not_waited_for() {
    local(async {
        let lab = Lab::default();
        lab.agent("http://a.example.com", Made::default(), refusing());
        let (io, serving) = lab.visit_http();
        let (mut read, mut write) = tokio::io::split(io);
        let head = "POST / HTTP/1.1\r\nHost: a.example.com\r\nContent-Length: 1000000\r\n\r\n";
        write.write_all(head.as_bytes()).await.unwrap();
        let started = Instant::now();
        let drip = spawn_local(async move {
            while write.write_all(b"x").await.is_ok() {
                sleep(Duration::from_millis(100)).await;
            }
        });
        let mut answer = Vec::new();
        let _ = read.read_to_end(&mut answer).await;
        serving.await.unwrap();
        drip.await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 413 "));
        // The upstream is given the rest as long as its connection is kept, and while it closes.
        let wait = KEPT_UPSTREAM_SECS_MAX + UPSTREAM_CLOSES_SECS + LINGER_SECS_MAX + 1;
        assert!(started.elapsed().as_secs() <= wait, "{:?}", started.elapsed());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_upload_over_http2_that_is_answered_early_is_not_reset() {
    local(async {
        let lab = Lab::default();
        let first = lab.agent("https://a.example.com", Made::default(), refusing());
        let (io, _serving) = lab.visit(https_conn(&first, true), Limits::default());
        let (sender, connection) = h2::client::handshake(io).await.unwrap();
        spawn_local(connection);
        let request = http::Request::post("https://a.example.com/").body(()).unwrap();
        let (answer, mut upload) = sender.ready().await.unwrap().send_request(request, false).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), 413);
        let mut body = answer.into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "too large");
        assert!(body.data().await.is_none() && body.is_end_stream());
        let mut left = UPLOAD_BYTES;
        while left > 0 {
            upload.reserve_capacity(left.min(16 * 1024));
            let room = poll_fn(|cx| upload.poll_capacity(cx)).await;
            let room = room.expect("the stream takes the rest of the upload").unwrap().min(left);
            upload.send_data(Bytes::from(vec![b'x'; room]), room == left).unwrap();
            left -= room;
        }
    })
    .await;
}

/// An upstream that goes on with an upload when it is asked to, unless the path is `/secret`.
fn expecting(asked: &Rc<Cell<usize>>) -> impl Fn(DuplexStream) + 'static {
    let asked = asked.clone();
    scripted(move |mut io| {
        let asked = asked.clone();
        async move {
            let head = read_until(&mut io, "\r\n\r\n").await;
            asked.set(asked.get() + usize::from(head.contains("expect: 100-continue\r\n")));
            if head.contains("/secret") {
                let _ = io.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 4\r\n\r\nwho?").await;
                let _ = io.read(&mut [0; 1]).await;
                return;
            }
            sleep(Duration::from_secs(100)).await;
            let _ = io.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await;
            let body = read_until(&mut io, "abc").await;
            let _ =
                io.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{body}").as_bytes()).await;
            let _ = io.read(&mut [0; 1]).await;
        }
    })
}

#[tokio::test(start_paused = true)]
async fn an_expectation_is_answered_by_the_upstream_and_by_nobody_else() {
    local(async {
        let lab = Lab::default();
        let asked = Rc::default();
        lab.agent("http://a.example.com", Made::default(), expecting(&asked));
        let head = |path: &str| {
            format!("PUT {path} HTTP/1.1\r\nHost: a.example.com\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        };
        let (mut io, _serving) = lab.visit_http();
        let started = Instant::now();
        io.write_all(head("/open").as_bytes()).await.unwrap();
        assert_eq!(read_until(&mut io, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
        assert_eq!(started.elapsed().as_secs(), 100, "a visitor that waits for it does not stall");
        io.write_all(b"abc").await.unwrap();
        assert!(read_until(&mut io, "abc").await.starts_with("HTTP/1.1 200 "));

        let (mut io, _serving) = lab.visit_http();
        io.write_all(head("/secret").as_bytes()).await.unwrap();
        let read = read_until(&mut io, "who?").await;
        assert!(read.starts_with("HTTP/1.1 401 ") && !read.contains("100 Continue"), "{read}");
        assert_eq!(asked.get(), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_expectation_over_http2_is_answered_by_the_upstream_and_by_nobody_else() {
    local(async {
        let lab = Lab::default();
        let asked = Rc::default();
        let first = lab.agent("https://a.example.com", Made::default(), expecting(&asked));
        let (io, _serving) = lab.visit(https_conn(&first, true), Limits::default());
        let (sender, connection) = h2::client::handshake(io).await.unwrap();
        spawn_local(connection);
        let put = |path| {
            http::Request::put(path)
                .header("expect", "100-continue")
                .header("content-length", "3")
                .body(())
                .unwrap()
        };
        let (mut answer, mut upload) = sender
            .clone()
            .ready()
            .await
            .unwrap()
            .send_request(put("https://a.example.com/open"), false)
            .unwrap();
        let interim = poll_fn(|cx| answer.poll_informational(cx)).await.unwrap().unwrap();
        assert_eq!(interim.status(), 100);
        upload.send_data(Bytes::from("abc"), true).unwrap();
        assert_eq!(answer.await.unwrap().status(), 200);

        let (answer, _upload) =
            sender.ready().await.unwrap().send_request(put("https://a.example.com/secret"), false).unwrap();
        assert_eq!(answer.await.unwrap().status(), 401);
        assert_eq!(asked.get(), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn early_hints_reach_the_visitor_before_the_answer_and_are_bounded() {
    const HINT: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\n";
    let hints = |n: usize| {
        scripted(move |mut io| async move {
            let _ = read_strictly(&mut io, &mut Vec::new()).await;
            let _ = io.write_all(HINT.repeat(n).as_bytes()).await;
            sleep(Duration::from_secs(10)).await;
            let _ = io.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npage").await;
            let _ = io.read(&mut [0; 1]).await;
        })
    };
    local(async {
        let lab = Lab::default();
        lab.agent("http://a.example.com", Made::default(), hints(2));
        lab.agent("http://many.example.com", Made::default(), hints(17));
        let first = lab.agent("https://a.example.com", Made::default(), hints(1));
        let (mut io, _serving) = lab.visit_http();
        let started = Instant::now();
        io.write_all(b"GET / HTTP/1.1\r\nHost: a.example.com\r\n\r\n").await.unwrap();
        let hint = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n";
        assert_eq!(read_until(&mut io, &hint.repeat(2)).await, hint.repeat(2));
        assert_eq!(started.elapsed().as_secs(), 0, "a hint is not held back");
        assert!(read_until(&mut io, "page").await.starts_with("HTTP/1.1 200 "));

        let read = lab.talk(b"GET / HTTP/1.0\r\nHost: a.example.com\r\n\r\n").await;
        assert!(!read.contains("103") && read.ends_with("page"), "HTTP/1.0 knows none: {read}");
        let read = lab.talk(b"GET / HTTP/1.1\r\nHost: many.example.com\r\n\r\n").await;
        assert!(read.contains("HTTP/1.1 502 "), "{read}");

        let (io, _serving) = lab.visit(https_conn(&first, true), Limits::default());
        let (sender, connection) = h2::client::handshake(io).await.unwrap();
        spawn_local(connection);
        let request = http::Request::get("https://a.example.com/").body(()).unwrap();
        let (mut answer, _) = sender.ready().await.unwrap().send_request(request, true).unwrap();
        let hint = poll_fn(|cx| answer.poll_informational(cx)).await.unwrap().unwrap();
        assert_eq!((hint.status().as_u16(), hint.headers().len()), (103, 1));
        assert_eq!(answer.await.unwrap().status(), 200);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn http_1_0_with_a_host_is_served_without_chunks() {
    local(async {
        let lab = Lab::default();
        let (_, upstream) = strict_upstream();
        lab.agent("http://a.example.com", Made::default(), upstream);
        let chunked = scripted(|mut io| async move {
            let _ = read_strictly(&mut io, &mut Vec::new()).await;
            let _ = io
                .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
                .await;
            let _ = io.read(&mut [0; 1]).await;
        });
        lab.agent("http://chunked.example.com", Made::default(), chunked);
        for host in ["a.example.com", "chunked.example.com"] {
            let (mut io, serving) = lab.visit_http();
            io.write_all(format!("GET / HTTP/1.0\r\nHost: {host}\r\n\r\n").as_bytes()).await.unwrap();
            let read = read_until(&mut io, "no end").await;
            assert!(read.starts_with("HTTP/1.0 200 ") && read.ends_with("\r\n\r\nhello"), "{read}");
            assert!(!read.contains("transfer-encoding"), "{read}");
            serving.await.unwrap();
        }
        let (mut io, _serving) = lab.visit_http();
        for _ in 0..2 {
            io.write_all(b"GET / HTTP/1.0\r\nHost: a.example.com\r\nConnection: keep-alive\r\n\r\n")
                .await
                .unwrap();
            assert!(read_until(&mut io, "hello").await.starts_with("HTTP/1.0 200 "));
        }
        assert_eq!(lab.events()[0].version, "HTTP/1.0");
        let read = lab.talk(b"GET / HTTP/1.0\r\n\r\n").await;
        assert!(read.starts_with("HTTP/1.1 400 "), "without Host it names no endpoint: {read}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_broken_answer_that_ends_with_its_connection_is_told_from_a_whole_one() {
    local(async {
        for (answer, broken) in [
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", true),
        ] {
            let lab = Lab::default();
            let upstream = scripted(move |mut io| async move {
                let _ = read_strictly(&mut io, &mut Vec::new()).await;
                let _ = io.write_all(answer.as_bytes()).await;
                sleep(Duration::from_secs(1)).await;
            });
            lab.agent("http://a.example.com", Made::default(), upstream);
            let (mut io, serving) = lab.visit(http_conn(), Limits::default());
            io.write_all(b"GET / HTTP/1.0\r\nHost: a.example.com\r\n\r\n").await.unwrap();
            read_until(&mut io, "no end").await;
            assert_eq!(serving.await.unwrap().broken, broken, "{answer:?}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn targets_reach_the_upstream_as_they_were_written() {
    local(async {
        let lab = Lab::default();
        let (seen, upstream) = strict_upstream();
        lab.agent("http://a.example.com", Made::default(), upstream);
        let long = format!("/q?filter={}", "a".repeat(60 * 1024));
        let targets = [
            "/q?path=C:\\Users\\x",
            "/q?f=`id`",
            "/q?f={a|b}^[]",
            "/q?filter={\"a\":\"b\"}",
            "/q?f=<x>",
            "/a%2Fb//c/./d/../e;v=1/%20?%22",
            long.as_str(),
        ];
        let (mut io, _serving) = lab.visit_http();
        for target in targets {
            let body = if target.contains('"') { "Content-Length: 3\r\n\r\nabc" } else { "\r\n" };
            io.write_all(format!("POST {target} HTTP/1.1\r\nHost: a.example.com\r\n{body}").as_bytes())
                .await
                .unwrap();
            let read = read_until(&mut io, "hello").await;
            assert!(read.starts_with("HTTP/1.1 200 "), "{target}: {read}");
            assert_eq!(seen.borrow().requests.last().unwrap().line, format!("POST {target} HTTP/1.1"));
        }
        assert_eq!(seen.borrow().dirty, Vec::<String>::new());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_with_many_fields_is_served() {
    local(async {
        let lab = Lab::default();
        let many = scripted(|mut io| async move {
            let _ = read_strictly(&mut io, &mut Vec::new()).await;
            let fields = "Link: </icon.png>\r\n".repeat(900);
            let _ = io
                .write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n{fields}\r\nmany").as_bytes())
                .await;
            let _ = io.read(&mut [0; 1]).await;
        });
        lab.agent("http://a.example.com", Made::default(), many);
        let read = lab.talk(b"GET / HTTP/1.1\r\nHost: a.example.com\r\n\r\n").await;
        assert_eq!((read.matches("link: ").count(), read.ends_with("many")), (900, true));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_upload_goes_on_while_its_answer_is_not_read() {
    local(async {
        let lab = Lab::default();
        let received = Rc::<Cell<usize>>::default();
        let count = received.clone();
        let at_once = scripted(move |io| {
            let count = count.clone();
            async move {
                let (mut read, mut write) = tokio::io::split(io);
                let first = read.read(&mut [0; 1024]).await.unwrap_or_default();
                count.set(first);
                // More than every buffer on the way holds.
                let answer = spawn_local(async move {
                    let _ = write.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4000000\r\n\r\n").await;
                    let _ = write.write_all(&vec![b'a'; 4_000_000]).await;
                });
                let mut bytes = vec![0; 64 * 1024];
                while let Ok(n @ 1..) = read.read(&mut bytes).await {
                    count.set(count.get() + n);
                }
                let _ = answer.await;
            }
        });
        lab.agent("http://a.example.com", Made::default(), at_once);
        let (mut io, _serving) = lab.visit_http();
        let head =
            format!("POST / HTTP/1.1\r\nHost: a.example.com\r\nContent-Length: {UPLOAD_BYTES}\r\n\r\n");
        io.write_all(head.as_bytes()).await.unwrap();
        io.write_all(&vec![b'x'; UPLOAD_BYTES]).await.unwrap();
        let mut answer = vec![0; 4_000_000];
        io.read_exact(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200 "));
        assert!(received.get() > UPLOAD_BYTES, "{} with the head", received.get());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_answer_of_an_upstream_that_takes_no_more_is_heard() {
    local(async {
        let lab = Lab::default();
        let hasty = scripted(|mut io| async move {
            let _ = io.read(&mut [0; 1024]).await;
            let _ =
                io.write_all(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 9\r\n\r\ntoo large").await;
        });
        lab.agent("http://a.example.com", Made::default(), hasty);
        let (mut io, serving) = lab.visit_http();
        let head =
            format!("POST / HTTP/1.1\r\nHost: a.example.com\r\nContent-Length: {UPLOAD_BYTES}\r\n\r\n");
        io.write_all(head.as_bytes()).await.unwrap();
        io.write_all(&vec![b'x'; UPLOAD_BYTES]).await.unwrap();
        let answer = read_until(&mut io, "no end").await;
        assert!(answer.starts_with("HTTP/1.1 413 ") && answer.ends_with("too large"), "{answer}");
        serving.await.unwrap();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_small_body_that_nothing_reads_does_not_end_the_connection() {
    local(async {
        let lab = Lab::default();
        let deny = r#"{"on_http_request":[{"actions":[{"type":"deny","config":{"status_code":401}}]}]}"#;
        lab.cloud("http://a.example.com", Made { policy: Some(deny), ..Made::default() });
        let (mut io, _serving) = lab.visit_http();
        for body in
            ["Content-Length: 3\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"]
        {
            io.write_all(format!("POST / HTTP/1.1\r\nHost: a.example.com\r\n{body}").as_bytes())
                .await
                .unwrap();
            let answer = read_until(&mut io, "request.\n").await;
            assert!(answer.starts_with("HTTP/1.1 401 ") && !answer.contains("connection"), "{answer}");
        }
        // One that has not all arrived does, and what follows it is not taken for a request.
        io.write_all(b"POST / HTTP/1.1\r\nHost: a.example.com\r\nContent-Length: 60\r\n\r\n").await.unwrap();
        let answer = read_until(&mut io, "request.\n").await;
        assert!(answer.contains("connection: close\r\n"), "{answer}");
        io.write_all(b"GET / HTTP/1.1\r\nHost: a.example.com\r\n\r\n").await.unwrap();
        io.shutdown().await.unwrap();
        assert_eq!(read_until(&mut io, "no end").await, "");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn trailers_reach_a_visitor_that_takes_them() {
    local(async {
        let lab = Lab::default();
        let summed = scripted(|mut io| async move {
            let _ = read_strictly(&mut io, &mut Vec::new()).await;
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            let _ = io.write_all(format!("{head}5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n").as_bytes()).await;
            let _ = io.read(&mut [0; 1]).await;
        });
        lab.agent("http://a.example.com", Made::default(), summed);
        let asks = |te: &str| format!("GET / HTTP/1.1\r\nHost: a.example.com\r\n{te}\r\n");
        let read = lab.talk(asks("TE: trailers\r\nConnection: te\r\n").as_bytes()).await;
        assert!(read.ends_with("5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n"), "{read}");
        let read = lab.talk(asks("").as_bytes()).await;
        assert!(read.ends_with("5\r\nhello\r\n0\r\n\r\n"), "{read}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_chunked_body_reaches_the_upstream_whatever_the_method() {
    local(async {
        let lab = Lab::default();
        let (seen, upstream) = strict_upstream();
        lab.agent("http://a.example.com", Made::default(), upstream);
        for method in ["GET", "DELETE", "POST"] {
            let body = "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
            lab.talk(format!("{method} / HTTP/1.1\r\nHost: a.example.com\r\n{body}").as_bytes()).await;
            assert_eq!(seen.borrow().requests.last().unwrap().body, b"hello", "{method}");
        }
        assert_eq!(seen.borrow().dirty, Vec::<String>::new());
    })
    .await;
}
