//! HTTP/2 end to end: visitors over HTTP/2, upstreams that want HTTP/2 with prior knowledge, trailers, and what crosses
//! between the versions.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use ebbgate_edge::http::limits::{IDLE_SECS_MAX, Limits};
use ebbgate_model::ErrorCode;
use h2::client::SendRequest;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::spawn_local;

use crate::lab::{KEPT_UPSTREAM, Lab, Made, https_conn, local, read_strictly, scripted, strict_upstream};

/// An upstream over h2c that echoes bodies message by message and ends with trailers.
fn echo() -> impl Fn(DuplexStream) + 'static {
    scripted(|io| async move {
        let Ok(mut connection) = h2::server::handshake(io).await else { return };
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            spawn_local(async move {
                let host = request.uri().authority().map(ToString::to_string).unwrap_or_default();
                let te = request.headers().get("te").cloned();
                let mut body = request.into_body();
                let mut head = Response::builder().header("x-authority", host);
                if let Some(te) = te {
                    head = head.header("x-te", te);
                }
                let mut send = respond.send_response(head.body(()).unwrap(), false).unwrap();
                while let Some(Ok(data)) = body.data().await {
                    let _ = body.flow_control().release_capacity(data.len());
                    let _ = send.send_data(data, false);
                }
                let mut trailers = body.trailers().await.ok().flatten().unwrap_or_default();
                trailers.insert("grpc-status", "0".parse().unwrap());
                let _ = send.send_trailers(trailers);
            });
        }
    })
}

async fn connect(lab: &Lab, made: Made, serve: impl Fn(DuplexStream) + 'static) -> SendRequest<Bytes> {
    let first = lab.agent("https://a.example.com", made, serve);
    let (io, _serving) = lab.visit(https_conn(&first, true), Limits::default());
    let (sender, connection) = h2::client::handshake(io).await.unwrap();
    spawn_local(connection);
    sender.ready().await.unwrap()
}

fn h2c() -> Made {
    Made { http2: true, ..Made::default() }
}

fn grpc() -> Request<()> {
    let request = Request::post("https://a.example.com/pkg.Service/Method");
    request.header("content-type", "application/grpc").header("te", "trailers").body(()).unwrap()
}

async fn whole(mut body: RecvStream) -> (Vec<u8>, Option<HeaderMap>) {
    let mut read = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        read.extend(data);
    }
    (read, body.trailers().await.unwrap())
}

#[tokio::test(start_paused = true)]
async fn grpc_keeps_its_trailers_both_ways() {
    local(async {
        let lab = Lab::default();
        let mut sender = connect(&lab, h2c(), echo()).await;
        for _ in 0..3 {
            let (answer, mut send) = sender.send_request(grpc(), false).unwrap();
            send.send_data(Bytes::from_static(b"message"), false).unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("x-checksum", "1".parse().unwrap());
            send.send_trailers(trailers).unwrap();
            let answer = answer.await.unwrap();
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.headers()["x-authority"], "a.example.com");
            assert_eq!(answer.headers()["x-te"], "trailers");
            let (body, trailers) = whole(answer.into_body()).await;
            let trailers = trailers.unwrap();
            assert_eq!((body.as_slice(), trailers.len()), (&b"message"[..], 2));
            assert_eq!(trailers["grpc-status"], "0");
            assert_eq!(trailers["x-checksum"], "1");
        }
        assert_eq!(lab.opened(), 1, "requests share an HTTP/2 connection to the upstream");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_shared_connection_that_nobody_uses_is_given_back() {
    local(async {
        let lab = Lab::default();
        let ended = Rc::new(Cell::new(false));
        let flag = ended.clone();
        let upstream = scripted(move |io| {
            let flag = flag.clone();
            async move {
                let mut connection = h2::server::handshake(io).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    spawn_local(async move {
                        // Longer than an unused connection is kept.
                        tokio::time::sleep(Duration::from_mins(1)).await;
                        let _ = respond.send_response(Response::new(()), true);
                    });
                }
                flag.set(true);
            }
        });
        let mut sender = connect(&lab, h2c(), upstream).await;
        let (answer, _send) = sender.send_request(grpc(), true).unwrap();
        assert_eq!(answer.await.unwrap().status(), 200, "a request under way is use");
        assert!(!ended.get());
        tokio::time::sleep(KEPT_UPSTREAM * 2).await;
        assert!(ended.get(), "the visitor stays, the agent's stream does not");
        assert_eq!(lab.opened(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_two_way_stream_may_rest_and_goes_on() {
    local(async {
        let lab = Lab::default();
        let mut sender = connect(&lab, h2c(), echo()).await;
        let (answer, mut send) = sender.send_request(grpc(), false).unwrap();
        let mut body = answer.await.unwrap().into_body();
        for n in 0..10 {
            tokio::time::sleep(Duration::from_secs(200)).await;
            send.send_data(Bytes::from(format!("{n}")), false).unwrap();
            assert_eq!(body.data().await.unwrap().unwrap(), format!("{n}"), "each message at once");
        }
        send.send_data(Bytes::new(), true).unwrap();
        assert!(body.data().await.is_none());
        assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn only_where_grpc_is_served_may_a_body_rest() {
    local(async {
        let lab = Lab::default();
        let (_, upstream) = strict_upstream();
        let sender = connect(&lab, Made::default(), upstream).await;
        let (answer, mut send) = sender.clone().send_request(grpc(), false).unwrap();
        send.send_data(Bytes::from_static(b"half"), false).unwrap();
        let answer = tokio::time::timeout(Duration::from_secs(IDLE_SECS_MAX), answer).await;
        assert_eq!(answer.expect("cut off in time").unwrap().status(), 408);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn large_bodies_cross_with_backpressure() {
    local(async {
        let lab = Lab::default();
        let mut sender = connect(&lab, h2c(), echo()).await;
        let (answer, mut send) = sender.send_request(grpc(), false).unwrap();
        let body = answer.await.unwrap().into_body();
        let total = 3_000_000;
        let sending = spawn_local(async move {
            let mut left = total;
            while left > 0 {
                send.reserve_capacity(left.min(100_000));
                let room = std::future::poll_fn(|cx| send.poll_capacity(cx)).await.unwrap().unwrap();
                let part = room.min(left);
                send.send_data(Bytes::from(vec![b'a'; part]), false).unwrap();
                left -= part;
            }
            send.send_data(Bytes::new(), true).unwrap();
        });
        let (read, trailers) = whole(body).await;
        sending.await.unwrap();
        assert_eq!((read.len(), trailers.is_some()), (total, true));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn http1_trailers_reach_an_http2_visitor() {
    local(async {
        let lab = Lab::default();
        let upstream = scripted(|mut io| async move {
            let _ = read_strictly(&mut io, &mut Vec::new()).await;
            let answer = b"HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n";
            let _ = io.write_all(answer).await;
            let _ = io.read(&mut [0; 1]).await;
        });
        let mut sender = connect(&lab, Made::default(), upstream).await;
        let request = Request::get("https://a.example.com/").body(()).unwrap();
        let answer = sender.send_request(request, true).unwrap().0.await.unwrap();
        assert_eq!(answer.headers().get("transfer-encoding"), None);
        let (body, trailers) = whole(answer.into_body()).await;
        assert_eq!(body, b"hello");
        assert_eq!(trailers.unwrap()["x-sum"], "1");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_http2_body_reaches_an_http1_upstream_framed_anew() {
    local(async {
        let lab = Lab::default();
        let (seen, upstream) = strict_upstream();
        let mut sender = connect(&lab, Made::default(), upstream).await;
        for length in [None, Some(5)] {
            let mut request = Request::post("https://a.example.com/x");
            if let Some(length) = length {
                request = request.header("content-length", length);
            }
            let (answer, mut send) = sender.send_request(request.body(()).unwrap(), false).unwrap();
            send.send_data(Bytes::from_static(b"hello"), true).unwrap();
            assert_eq!(whole(answer.await.unwrap().into_body()).await.0, b"hello");
        }
        let seen = seen.borrow();
        assert_eq!(seen.dirty, Vec::<String>::new());
        let framing = |n: usize| {
            let request = &seen.requests[n];
            assert_eq!(request.body, b"hello");
            (request.field("transfer-encoding"), request.field("content-length"))
        };
        assert_eq!((framing(0), framing(1)), ((Some("chunked"), None), (None, Some("5"))));
        assert_eq!(seen.requests[0].field("host"), Some("a.example.com"));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_http1_upstream_where_http2_was_promised_is_502_and_a_silent_one_too() {
    local(async {
        for (what, code) in [("HTTP/1.1 400 Bad Request\r\n\r\n", "ERR_NGROK_3004"), ("", "ERR_NGROK_8012")] {
            let lab = Lab::default();
            let upstream = scripted(move |mut io| async move {
                let _ = io.read(&mut [0; 24]).await;
                let _ = io.write_all(what.as_bytes()).await;
            });
            let mut sender = connect(&lab, h2c(), upstream).await;
            let request = Request::get("https://a.example.com/").body(()).unwrap();
            let answer = sender.send_request(request, true).unwrap().0.await.unwrap();
            assert_eq!(answer.status(), 502, "{what:?}");
            assert_eq!(answer.headers()["ngrok-error-code"], code, "{what:?}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_http2_upstream_that_refuses_resets_or_makes_up_a_status_has_a_number_of_its_own() {
    #[derive(Clone, Copy)]
    enum Does {
        GoAway,
        Reset(Reason),
        Status(u16),
    }
    let upstream = |does| {
        scripted(move |io| async move {
            let Ok(mut connection) = h2::server::handshake(io).await else { return };
            if matches!(does, Does::GoAway) {
                connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            }
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                match does {
                    Does::GoAway => {}
                    Does::Reset(reason) => respond.send_reset(reason),
                    Does::Status(status) => {
                        let head = Response::builder().status(status).body(()).unwrap();
                        let _ = respond.send_response(head, true);
                    }
                }
            }
        })
    };
    local(async {
        for (does, code) in [
            (Does::GoAway, 3006),
            (Does::Reset(Reason::REFUSED_STREAM), 3006),
            (Does::Reset(Reason::INTERNAL_ERROR), 3007),
            (Does::Status(600), 3010),
        ] {
            let lab = Lab::default();
            let mut sender = connect(&lab, h2c(), upstream(does)).await;
            let request = Request::post("https://a.example.com/").body(()).unwrap();
            let answer = sender.send_request(request, true).unwrap().0.await.unwrap();
            assert_eq!((answer.status().as_u16(), lab.events()[0].error), (502, Some(ErrorCode::new(code))));
            assert_eq!(answer.headers()["ngrok-error-code"], format!("ERR_NGROK_{code}"));
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_request_taken_back_is_taken_back_from_the_upstream() {
    local(async {
        let lab = Lab::default();
        let taken_back = Rc::new(Cell::new(false));
        let noted = taken_back.clone();
        let upstream = scripted(move |mut io| {
            let noted = noted.clone();
            async move {
                let _ = read_strictly(&mut io, &mut Vec::new()).await;
                noted.set(!matches!(io.read(&mut [0; 1]).await, Ok(1..)));
            }
        });
        let mut sender = connect(&lab, Made::default(), upstream).await;
        let request = Request::get("https://a.example.com/").body(()).unwrap();
        let (answer, mut send) = sender.send_request(request, true).unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!taken_back.get());
        send.send_reset(Reason::CANCEL);
        drop((answer, send));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(taken_back.get());
        assert_eq!(lab.events().len(), 1, "an unanswered request has its event too");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_request_is_answered_on_its_stream_alone() {
    local(async {
        let lab = Lab::default();
        let (_, upstream) = strict_upstream();
        let mut sender = connect(&lab, Made::default(), upstream).await;
        let bad = Request::get("https://a.example.com/").header("host", "b.example.com").body(()).unwrap();
        let answer = sender.send_request(bad, true).unwrap().0.await.unwrap();
        assert_eq!(answer.status(), 400);
        let other = Request::get("https://other.example.com/").body(()).unwrap();
        assert_eq!(sender.send_request(other, true).unwrap().0.await.unwrap().status(), 404);
        let good = Request::get("https://a.example.com/").body(()).unwrap();
        assert_eq!(sender.send_request(good, true).unwrap().0.await.unwrap().status(), 200);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn lengths_and_headers_alone_cross_from_http2() {
    local(async {
        let lab = Lab::default();
        let upstream = scripted(|io| async move {
            let Ok(mut connection) = h2::server::handshake(io).await else { return };
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                if request.uri().path() == "/length" {
                    let head = Response::builder().header("content-length", 5).body(()).unwrap();
                    respond
                        .send_response(head, false)
                        .unwrap()
                        .send_data(Bytes::from_static(b"hello"), true)
                        .unwrap();
                } else {
                    let head = Response::builder().header("grpc-status", 12).body(()).unwrap();
                    respond.send_response(head, true).unwrap();
                }
            }
        });
        let mut sender = connect(&lab, h2c(), upstream).await;
        let answer = |path: &str| Request::get(format!("https://a.example.com{path}")).body(()).unwrap();
        let length = sender.send_request(answer("/length"), true).unwrap().0.await.unwrap();
        assert_eq!(length.headers()["content-length"], "5");
        assert_eq!(whole(length.into_body()).await.0, b"hello");
        let alone = sender.send_request(answer("/alone"), true).unwrap().0.await.unwrap();
        assert_eq!(
            (alone.headers().get("content-length"), &alone.headers()["grpc-status"]),
            (None, &"12".parse().unwrap())
        );
        assert!(alone.body().is_end_stream());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_http2_upstream_that_went_away_between_requests_costs_nothing() {
    local(async {
        let lab = Lab::default();
        let once = scripted(|io| async move {
            let Ok(mut connection) = h2::server::handshake(io).await else { return };
            if let Some(Ok((_, mut respond))) = connection.accept().await {
                respond.send_response(Response::new(()), true).unwrap();
                connection.graceful_shutdown();
                let _ = std::future::poll_fn(|cx| connection.poll_closed(cx)).await;
            }
        });
        let mut sender = connect(&lab, h2c(), once).await;
        for _ in 0..3 {
            let (answer, _) = sender.send_request(grpc(), true).unwrap();
            assert_eq!(answer.await.unwrap().status(), 200);
        }
        assert_eq!(lab.opened(), 3);
    })
    .await;
}
