//! The actions that find and replace.

use ebbgate_body::Coding;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{chunked, decoded, decoded_so_far, encoded, get, in_chunks, lab, ok, taken_apart, visit};
use crate::lab::{Lab, Made, local, scripted, strict_upstream};

const REPLACE: &str = r#"{"on_http_response":[{"actions":[{"type":"response-body-find-replace","config":{"replacements":[
    {"from":"secret","to":"******"},{"from":"[0-9]{4}","to":"N"}]}}]}]}"#;
/// Its pattern sees the whole body.
const HELD: &str = r#"{"on_http_response":[{"actions":[{"type":"response-body-find-replace","config":{"replacements":[
    {"from":"<!--.*?-->","to":""}]}}]}]}"#;

#[tokio::test(start_paused = true)]
async fn matches_are_replaced_across_chunks_and_in_codings() {
    local(async {
        let body = "a secret of 12345 in secrets ".repeat(30);
        let expect = "a ****** of N5 in ******s ".repeat(30);
        for bytes in [1, 7, 1000] {
            let read = visit(&lab(REPLACE, chunked("", body.as_bytes(), bytes)), &get("")).await;
            assert!(read.whole, "{read:?}");
            assert_eq!(String::from_utf8_lossy(&read.body), expect);
        }
        for coding in Coding::ALL {
            let answer =
                chunked(&format!("Content-Encoding: {}\r\n", coding.name()), &encoded(coding, &body), 11);
            let read = visit(&lab(REPLACE, answer), &get("")).await;
            assert_eq!((read.whole, read.field("content-encoding")), (true, Some(coding.name())), "{read:?}");
            assert_eq!(decoded(coding, &read.body), expect);
        }
        let length = visit(&lab(REPLACE, ok("ETag: \"1\"\r\n", &body)), &get("")).await;
        assert_eq!((length.field("content-length"), length.field("etag")), (None, None), "{}", length.head);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_held_body_is_changed_as_a_whole_or_refused_with_its_code() {
    local(async {
        let read = visit(&lab(HELD, ok("", "a<!-- b -->c")), &get("")).await;
        assert_eq!((read.field("content-length"), read.body.as_slice()), (Some("2"), b"ac".as_slice()));
        let coded = encoded(Coding::Gzip, "a<!-- b -->c");
        let answer = chunked("Content-Encoding: gzip\r\n", &coded, 5);
        assert_eq!(decoded(Coding::Gzip, &visit(&lab(HELD, answer), &get("")).await.body), "ac");
        let trailed = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n<!---->\r\n1\r\na\r\n0\r\nX-Sum: 7\r\n\r\n";
        let read = visit(&lab(HELD, trailed), &get("TE: trailers\r\n")).await;
        assert_eq!((read.body.as_slice(), read.trailers.as_str(), read.whole), (b"a".as_slice(), "x-sum: 7", true));
        let refused = async |answer: Vec<u8>, code: &str| {
            let read = visit(&lab(HELD, answer), &get("")).await;
            assert!(read.head.starts_with("http/1.1 500 ") && read.whole, "{read:?}");
            assert_eq!(read.field("ngrok-error-code").map(str::to_ascii_uppercase).as_deref(), Some(code), "{}", read.head);
        };
        let longer = "x".repeat(1024 * 1024 + 1);
        refused(ok("", &longer).into(), "ERR_NGROK_3903").await;
        refused(
            chunked("Content-Encoding: gzip\r\n", &encoded(Coding::Gzip, &longer), 4096),
            "ERR_NGROK_3903",
        )
        .await;
        refused(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf".to_vec(), "ERR_NGROK_3902").await;
        refused(ok("Content-Encoding: gzip\r\n", "plain").into(), "ERR_NGROK_3905").await;
        let cut = &coded[..coded.len() - 3];
        refused(chunked("Content-Encoding: gzip\r\n", cut, 99), "ERR_NGROK_3905").await;
        refused(ok("Content-Encoding: compress\r\n", "x").into(), "ERR_NGROK_3904").await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_passing_body_that_cannot_be_changed_is_refused_or_breaks_off() {
    local(async {
        let coded = encoded(Coding::Gzip, &"a secret ".repeat(50));
        for (coding, body) in [("gzip", b"plain".to_vec()), ("br", coded.clone())] {
            let answer = chunked(&format!("Content-Encoding: {coding}\r\n"), &body, 4096);
            let read = visit(&lab(REPLACE, answer), &get("")).await;
            assert!(read.whole && read.head.starts_with("http/1.1 500 "), "nothing went out: {}", read.head);
            assert_eq!(
                read.field("ngrok-error-code").map(str::to_ascii_uppercase).as_deref(),
                Some("ERR_NGROK_3905"),
                "{coding}"
            );
        }
        for body in [coded[..coded.len() - 3].to_vec(), [coded.as_slice(), b"more"].concat()] {
            let answer = chunked("Content-Encoding: gzip\r\n", &body, 4096);
            let read = visit(&lab(REPLACE, answer), &get("")).await;
            assert!(!read.whole || read.head.starts_with("http/1.1 500 "), "{}", read.head);
        }
        let bomb = encoded(Coding::Brotli, &"x".repeat(4 * 1024 * 1024));
        let read = visit(&lab(REPLACE, chunked("Content-Encoding: br\r\n", &bomb, 4096)), &get("")).await;
        // The encoder may have given nothing yet: then all of it is refused.
        let is_refused = !read.whole || read.head.starts_with("http/1.1 500 ");
        assert!(is_refused && read.body.len() < 1024 * 1024, "{} {}", read.body.len(), read.head);
        // What went out cannot be taken back.
        let lab = Lab::default();
        lab.agent("http://a.example.com", Made { policy: Some(REPLACE), ..Made::default() }, {
            scripted(|mut io| async move {
                let _ = io.read(&mut [0; 4096]).await;
                let body = encoded(Coding::Gzip, &"a secret ".repeat(50_000));
                let answer = chunked("Content-Encoding: gzip\r\n", &body[..body.len() - 3], body.len() / 2);
                let (first, rest) = answer.split_at(answer.len() / 2 + 100);
                let _ = io.write_all(first).await;
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                let _ = io.write_all(rest).await;
            })
        });
        let read = visit(&lab, &get("")).await;
        assert!(!read.whole && read.head.starts_with("http/1.1 200 "), "{}", read.head);
    })
    .await;
}

const REPLACE_REQUEST: &str = r#"{"on_http_request":[{"actions":[{"type":"request-body-find-replace","config":{"replacements":[
    {"from":"secret","to":"none"}]}}]}]}"#;

#[tokio::test(start_paused = true)]
async fn a_request_s_body_is_replaced_on_its_way_to_the_upstream() {
    local(async {
        let post = |more: &str, body: &[u8]| {
            let head = format!(
                "POST / HTTP/1.1\r\nHost: a.example.com\r\nContent-Length: {}\r\n{more}\r\n",
                body.len()
            );
            [head.as_bytes(), body].concat()
        };
        let posted = async |request: Vec<u8>| {
            let (seen, upstream) = strict_upstream();
            let lab = Lab::default();
            lab.agent(
                "http://a.example.com",
                Made { policy: Some(REPLACE_REQUEST), ..Made::default() },
                upstream,
            );
            let answer = lab.talk(&request).await;
            assert_eq!(seen.borrow().dirty, Vec::<String>::new());
            let request = seen.borrow().requests.first().cloned();
            (answer, request)
        };
        let (answer, request) = posted(post("", b"a secret word")).await;
        let request = request.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert_eq!(
            (request.field("content-length"), request.body.as_slice()),
            (Some("11"), b"a none word".as_slice())
        );
        // Of unknown length, in a coding, with a 100 asked for.
        let coded = encoded(Coding::Zstd, &"a secret word ".repeat(100));
        let more = "Content-Encoding: zstd\r\nExpect: 100-continue\r\n";
        let body = in_chunks(&coded, 9);
        let head =
            format!("POST / HTTP/1.1\r\nHost: a.example.com\r\nTransfer-Encoding: chunked\r\n{more}\r\n");
        let (answer, request) = posted([head.as_bytes(), &body].concat()).await;
        let request = request.unwrap();
        assert!(answer.contains("HTTP/1.1 200 "), "{answer}");
        assert_eq!(request.field("transfer-encoding"), Some("chunked"));
        assert_eq!(request.field("content-encoding"), Some("zstd"));
        assert_eq!(decoded(Coding::Zstd, &request.body), "a none word ".repeat(100));
        // Without a body nothing is framed anew.
        let (_, request) = posted(get("").into_bytes()).await;
        let request = request.unwrap();
        assert_eq!((request.field("content-length"), request.field("transfer-encoding")), (None, None));
        // What cannot be changed goes to nobody as it was.
        let (answer, request) = posted(post("Content-Encoding: gzip\r\n", b"plain")).await;
        assert!(answer.to_ascii_uppercase().contains("ERR_NGROK_3905") && request.is_none(), "{answer}");
        let (answer, request) = posted(post("Content-Encoding: dcb\r\n", b"plain")).await;
        assert!(answer.to_ascii_uppercase().contains("ERR_NGROK_3904") && request.is_none(), "{answer}");
        let body = in_chunks(&coded[..coded.len() - 4], 9);
        let (answer, request) = posted([head.as_bytes(), &body].concat()).await;
        assert!(
            request.is_none() && !answer.contains("HTTP/1.1 200 "),
            "no upstream gets it as a whole one: {answer}"
        );
    })
    .await;
}

const EVENTS: &str = r#"{"on_http_response":[{"actions":[{"type":"compress-response"}]}],"on_event_stream_message":[
    {"expressions":["res.status_code == 200"],"actions":[{"type":"sse-find-replace","config":{"replacements":[{"from":"(?s)a.*z","to":"*"}]}}]}]}"#;

#[tokio::test(start_paused = true)]
async fn events_are_changed_and_passed_on_one_by_one() {
    local(async {
        for (kind, expect) in
            [("text/event-stream; charset=utf-8", "data: *\n\n"), ("text/plain", "data: a to z\n\n")]
        {
            let lab = Lab::default();
            lab.agent("http://a.example.com", Made { policy: Some(EVENTS), ..Made::default() }, {
                scripted(move |mut io| async move {
                    let _ = io.read(&mut [0; 4096]).await;
                    let head = format!(
                        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
                    );
                    let _ = io.write_all(head.as_bytes()).await;
                    let _ = io.write_all(b"e\r\ndata: a to z\n\n\r\n").await;
                    std::future::pending::<()>().await;
                })
            });
            let (mut io, _serving) = lab.visit_http();
            io.write_all(get("Accept-Encoding: gzip\r\n").as_bytes()).await.unwrap();
            let (mut raw, mut plain) = (Vec::new(), String::new());
            while plain != expect {
                assert!(io.read_buf(&mut raw).await.unwrap() > 0);
                if raw.windows(4).any(|w| w == b"\r\n\r\n") {
                    plain = decoded_so_far(Coding::Gzip, &taken_apart(&raw).body);
                }
            }
        }
    })
    .await;
}

/// `int` of anything but digits fails.
const JUDGED: &str = r#"{"on_event_stream_message":[{"expressions":["int(event.id) > 1","event.name == 'tide'"],
    "actions":[{"type":"sse-find-replace","config":{"replacements":[{"from":"secret","to":"${event.id}"}]}}]}]}"#;

#[tokio::test(start_paused = true)]
async fn rules_are_judged_for_each_event_and_break_the_stream_off_where_they_fail() {
    local(async {
        let stream =
            "event: tide\nid: 1\ndata: secret\n\nevent: tide\nid: 2\ndata: secret\n\nid: 3\ndata: secret\n\n";
        let expect =
            "event: tide\nid: 1\ndata: secret\n\nevent: tide\nid: 2\ndata: 2\n\nid: 3\ndata: secret\n\n";
        let head = "Content-Type: text/event-stream\r\n";
        for bytes in [1, 7, 1000] {
            let read = visit(&lab(JUDGED, chunked(head, stream.as_bytes(), bytes)), &get("")).await;
            assert_eq!((read.whole, String::from_utf8_lossy(&read.body).as_ref()), (true, expect));
        }
        let coded = encoded(Coding::Gzip, stream);
        let answer = chunked(&format!("{head}Content-Encoding: gzip\r\n"), &coded, 5);
        assert_eq!(decoded(Coding::Gzip, &visit(&lab(JUDGED, answer), &get("")).await.body), expect);
        let read = visit(&lab(JUDGED, chunked(head, b"id: a\ndata: secret\n\n", 1000)), &get("")).await;
        assert!(read.whole && read.head.starts_with("http/1.1 500 "), "{}", read.head);
        let code = read.field("ngrok-error-code").map(str::to_ascii_uppercase);
        assert_eq!(code.as_deref(), Some("ERR_NGROK_2300"), "{}", read.head);
        // Each event is passed on while the next is waited for; one that cannot be judged ends the stream, and is not passed on.
        let lab = Lab::default();
        let (more, told) = tokio::sync::oneshot::channel();
        let told = std::cell::RefCell::new(Some(told));
        lab.agent("http://a.example.com", Made { policy: Some(JUDGED), ..Made::default() }, {
            scripted(move |mut io| {
                let told = told.borrow_mut().take().unwrap();
                async move {
                    let _ = io.read(&mut [0; 4096]).await;
                    let answer = chunked(
                        "Content-Type: text/event-stream\r\n",
                        b"event: tide\nid: 2\ndata: secret\n\nid: ",
                        9,
                    );
                    let _ = io.write_all(&answer[..answer.len() - 5]).await;
                    let _ = told.await;
                    let _ = io.write_all(b"f\r\na\ndata: secret\n\n\r\n").await;
                    std::future::pending::<()>().await;
                }
            })
        });
        let (mut io, _serving) = lab.visit_http();
        io.write_all(get("").as_bytes()).await.unwrap();
        let mut raw = Vec::new();
        while !String::from_utf8_lossy(&raw).contains("data: 2\n\n") {
            assert!(io.read_buf(&mut raw).await.unwrap() > 0);
        }
        more.send(()).unwrap();
        let _ = io.read_to_end(&mut raw).await;
        let read = taken_apart(&raw);
        assert!(!read.whole && !String::from_utf8_lossy(&read.body).contains("secret"), "{read:?}");
    })
    .await;
}
