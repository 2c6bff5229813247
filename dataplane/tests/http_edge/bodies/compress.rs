//! `compress-response`.

use ebbgate_body::Coding;
use ebbgate_edge::http::limits::Limits;
use http::{HeaderMap, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::spawn_local;

use super::{answering, chunked, decoded, decoded_so_far, encoded, get, lab, ok, taken_apart, visit};
use crate::lab::{CODER_BYTES, Lab, Made, account, https_conn, local, read_until, scripted};

const COMPRESS: &str = r#"{"on_http_response":[{"actions":[
    {"type":"compress-response","config":{"algorithms":["gzip","deflate","br","zstd"]}},
    {"type":"add-headers","config":{"headers":{"x-chosen":"${actions.ngrok.compress.negotiated_algorithm}","x-already":"${actions.ngrok.compress.already_compressed}"}}}
]}]}"#;

#[tokio::test(start_paused = true)]
async fn a_response_is_compressed_as_its_client_likes_it() {
    local(async {
        let body = "the same words again and again, ".repeat(1000);
        let lab = lab(
            COMPRESS,
            ok("ETag: \"1\"\r\nAccept-Ranges: bytes\r\nContent-MD5: x\r\nVary: Cookie\r\nContent-Type: text/plain\r\n", &body),
        );
        for (accepted, coding) in [
            ("gzip", Coding::Gzip),
            ("deflate", Coding::Deflate),
            ("br", Coding::Brotli),
            ("gzip;q=0.5, zstd", Coding::Zstd),
            ("identity;q=0, *;q=0.1", Coding::Gzip),
        ] {
            let read = visit(&lab, &get(&format!("Accept-Encoding: {accepted}\r\n"))).await;
            assert!(read.whole && read.head.starts_with("http/1.1 200 "), "{read:?}");
            assert_eq!(read.field("content-encoding"), Some(coding.name()), "{}", read.head);
            assert_eq!(read.field("x-chosen"), Some(coding.name()));
            assert_eq!(read.field("x-already"), Some("false"));
            assert_eq!(read.field("etag"), Some("w/\"1\""));
            assert!(read.has("vary: cookie") && read.has("vary: accept-encoding"), "{}", read.head);
            for gone in ["content-length", "accept-ranges", "content-md5"] {
                assert_eq!(read.field(gone), None, "{}", read.head);
            }
            assert!(read.body.len() < body.len() / 10);
            assert_eq!(decoded(coding, &read.body), body);
        }
        for accepted in ["", "Accept-Encoding: identity\r\n", "Accept-Encoding: gzip;q=0\r\n"] {
            let read = visit(&lab, &get(accepted)).await;
            assert_eq!((read.field("content-encoding"), read.field("etag")), (None, Some("\"1\"")), "{}", read.head);
            assert!(read.has("vary: accept-encoding") && read.field("x-chosen") == Some(""), "{}", read.head);
            assert_eq!(String::from_utf8_lossy(&read.body), body);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_must_not_be_compressed_is_left_alone() {
    local(async {
        let check = async |answer: String, request: String, body: &str, already: &str| {
            let read = visit(&lab(COMPRESS, answer.clone()), &request).await;
            assert!(read.whole, "{answer}: {read:?}");
            assert_eq!(String::from_utf8_lossy(&read.body), body, "{answer}");
            assert_eq!((read.field("x-already"), read.field("x-chosen")), (Some(already), Some("")), "{answer}");
            assert_eq!(read.field("vary"), None, "{answer}");
            assert_eq!(read.field("etag"), Some("\"1\""), "{answer}");
        };
        let tag = "ETag: \"1\"\r\n";
        let asks = get("Accept-Encoding: gzip\r\n");
        for coding in ["gzip", "BR", "unheard-of", "identity, gzip"] {
            check(ok(&format!("{tag}Content-Encoding: {coding}\r\n"), "coded"), asks.clone(), "coded", "true").await;
        }
        check(ok(&format!("{tag}Cache-Control: max-age=5, No-Transform\r\n"), "b"), asks.clone(), "b", "false").await;
        let part = "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-3/9\r\nETag: \"1\"\r\nContent-Length: 4\r\n\r\npart";
        check(part.into(), asks.clone(), "part", "false").await;
        check(ok(&format!("{tag}Content-Range: bytes 0-3/9\r\n"), "part"), asks.clone(), "part", "false").await;
        check(ok(tag, ""), asks.clone(), "", "false").await;
        check("HTTP/1.1 204 No Content\r\nETag: \"1\"\r\n\r\n".into(), asks.clone(), "", "false").await;
        check("HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\n".into(), asks.clone(), "", "false").await;
        let head = asks.replace("GET", "HEAD");
        let answer = "HTTP/1.1 200 OK\r\nETag: \"1\"\r\nContent-Length: 500\r\n\r\n";
        let read = visit(&lab(COMPRESS, answer), &head).await;
        assert_eq!((read.field("content-length"), read.field("content-encoding")), (Some("500"), None));
        assert_eq!((read.field("etag"), read.body.len()), (Some("\"1\""), 0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_is_left_alone() {
    local(async {
        let switching = scripted(|mut io| async move {
            let _ = io.read(&mut [0; 4096]).await;
            let _ = io.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nraw").await;
            let mut word = [0; 4];
            let _ = io.read_exact(&mut word).await;
            let _ = io.write_all(&word).await;
        });
        let lab = Lab::default();
        lab.agent("http://a.example.com", Made { policy: Some(COMPRESS), ..Made::default() }, switching);
        let (mut io, _serving) = lab.visit_http();
        io.write_all(b"GET / HTTP/1.1\r\nHost: a.example.com\r\nAccept-Encoding: gzip\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nping")
            .await
            .unwrap();
        let read = read_until(&mut io, "ping").await;
        assert!(read.starts_with("HTTP/1.1 101 ") && read.ends_with("\r\n\r\nrawping"), "{read}");
        assert!(!read.to_lowercase().contains("content-encoding"), "{read}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn interim_answers_and_trailers_pass_a_changed_body() {
    local(async {
        let answer = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n\
             5\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 7\r\nContent-Digest: sha-256=:x:\r\n\r\n";
        let lab = lab(COMPRESS, answer);
        let (mut io, _serving) = lab.visit_http();
        io.write_all(get("Accept-Encoding: br\r\nTE: trailers\r\n").as_bytes()).await.unwrap();
        let mut raw = Vec::new();
        io.read_to_end(&mut raw).await.unwrap();
        let at = raw.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        let interim = String::from_utf8_lossy(&raw[..at]).to_lowercase();
        assert!(interim.starts_with("http/1.1 103 ") && interim.contains("link: </a>"), "{interim}");
        let read = taken_apart(&raw[at..]);
        assert_eq!(read.field("content-encoding"), Some("br"));
        assert_eq!(decoded(Coding::Brotli, &read.body), "hello world");
        assert_eq!((read.trailers.as_str(), read.whole), ("x-sum: 7", true));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_came_is_not_held_back_while_the_upstream_is_silent() {
    local(async {
        for coding in Coding::ALL {
            let lab = Lab::default();
            lab.agent("http://a.example.com", Made { policy: Some(COMPRESS), ..Made::default() }, {
                scripted(|mut io| async move {
                    let _ = io.read(&mut [0; 4096]).await;
                    let _ = io
                        .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nevent1\r\n")
                        .await;
                    std::future::pending::<()>().await;
                })
            });
            let (mut io, _serving) = lab.visit_http();
            io.write_all(get(&format!("Accept-Encoding: {}\r\n", coding.name())).as_bytes()).await.unwrap();
            let mut raw = Vec::new();
            let mut plain = String::new();
            while plain != "event1" {
                assert!(io.read_buf(&mut raw).await.unwrap() > 0);
                if raw.windows(4).any(|w| w == b"\r\n\r\n") {
                    plain = decoded_so_far(coding, &taken_apart(&raw).body);
                }
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_off_is_never_a_whole_one() {
    local(async {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n",
        ] {
            let read = visit(&lab(COMPRESS, answer), &get("Accept-Encoding: gzip\r\n")).await;
            assert!(!read.whole, "{answer}: {read:?}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_visitor_that_does_not_read_stops_the_upstream() {
    local(async {
        let sent = std::rc::Rc::new(std::cell::Cell::new(0_usize));
        let counter = sent.clone();
        let endless = scripted(move |mut io| {
            let counter = counter.clone();
            async move {
                let _ = io.read(&mut [0; 4096]).await;
                let _ = io.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
                let mut seed = 1_u32;
                loop {
                    let noise: Vec<u8> = std::iter::repeat_with(|| {
                        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        seed.to_be_bytes()[0]
                    })
                    .take(16 * 1024)
                    .collect();
                    if io.write_all(&noise).await.is_err() {
                        return;
                    }
                    counter.set(counter.get() + noise.len());
                }
            }
        });
        let lab = Lab::default();
        lab.agent("http://a.example.com", Made { policy: Some(COMPRESS), ..Made::default() }, endless);
        let (mut io, _serving) = lab.visit_http();
        io.write_all(get("Accept-Encoding: zstd\r\n").as_bytes()).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        let (before, most) = (sent.get(), 2 * 1024 * 1024);
        assert!(before > 0 && before < most, "{before} bytes were taken from the upstream");
        let mut read = vec![0; 256 * 1024];
        io.read_exact(&mut read).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        assert!(sent.get() > before, "it goes on when the visitor reads");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_visitor_of_http_1_0_reads_a_changed_body_to_the_end_of_the_connection() {
    local(async {
        let lab = lab(COMPRESS, ok("", &"word ".repeat(100)));
        let read =
            visit(&lab, "GET / HTTP/1.0\r\nHost: a.example.com\r\nAccept-Encoding: gzip\r\n\r\n").await;
        assert_eq!(
            (read.field("transfer-encoding"), read.field("content-length")),
            (None, None),
            "{}",
            read.head
        );
        assert_eq!(decoded(Coding::Gzip, &read.body), "word ".repeat(100));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn http_2_carries_changed_bodies_and_their_trailers() {
    local(async {
        let body = "the same words again and again, ".repeat(10_000);
        let answer = format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\nX-Sum: 7\r\n\r\n",
            body.len()
        );
        let lab = Lab::default();
        let made = Made { policy: Some(COMPRESS), ..Made::default() };
        let first = lab.agent("https://a.example.com", made, answering(answer.into_bytes()));
        let (io, _serving) = lab.visit(https_conn(&first, true), Limits::default());
        let (mut sender, connection) = h2::client::handshake(io).await.unwrap();
        spawn_local(connection);
        for coding in Coding::ALL {
            let request = Request::get("https://a.example.com/").header("accept-encoding", coding.name());
            let request = request.header("te", "trailers").body(()).unwrap();
            let (answer, _) = sender.send_request(request, true).unwrap();
            let answer = answer.await.unwrap();
            assert_eq!(answer.headers()["content-encoding"], coding.name());
            assert!(!answer.headers().contains_key("content-length"));
            let mut stream = answer.into_body();
            let mut read = Vec::new();
            while let Some(data) = stream.data().await {
                let data = data.unwrap();
                stream.flow_control().release_capacity(data.len()).unwrap();
                read.extend_from_slice(&data);
            }
            let trailers: HeaderMap = stream.trailers().await.unwrap().unwrap_or_default();
            assert_eq!(decoded(coding, &read), body);
            assert_eq!(trailers.get("x-sum").map(http::HeaderValue::as_bytes), Some(b"7".as_slice()));
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_policy_s_own_answer_is_compressed_too() {
    local(async {
        let policy = r#"{"on_http_request":[{"actions":[{"type":"custom-response","config":{"body":"hello"}}]}],
            "on_http_response":[{"actions":[{"type":"compress-response"}]}]}"#;
        let lab = Lab::default();
        lab.cloud("http://a.example.com", Made { policy: Some(policy), ..Made::default() });
        let read = visit(&lab, &get("Accept-Encoding: zstd, br\r\n")).await;
        assert_eq!(read.field("content-encoding"), Some("br"), "zstd has to be listed: {}", read.head);
        assert_eq!(decoded(Coding::Brotli, &read.body), "hello");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn coders_have_a_budget_that_they_give_back_however_a_body_ends() {
    const COMPRESS: &str = r#"{"on_http_response":[{"actions":[{"type":"compress-response"}]}]}"#;
    const REPLACE: &str = r#"{"on_http_response":[{"actions":[{"type":"response-body-find-replace","config":{
        "replacements":[{"from":"secret","to":"none"}]}}]}]}"#;
    local(async {
        let lab = Lab::default();
        let never_ending = || {
            scripted(|mut io| async move {
                let _ = io.read(&mut [0; 4096]).await;
                let _ = io.write_all(b"HTTP/1.1 200 OK\r\nETag: \"1\"\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nsecret\r\n").await;
                std::future::pending::<()>().await;
            })
        };
        let coded = chunked("Content-Encoding: br\r\n", &encoded(Coding::Brotli, &"a secret ".repeat(40_000)), 4096);
        for (account, url, policy) in
            [(1, "http://a.example.com", COMPRESS), (1, "http://b.example.com", REPLACE), (2, "http://c.example.com", COMPRESS)]
        {
            let made = Made { account, policy: Some(policy), ..Made::default() };
            if policy == COMPRESS {
                lab.agent(url, made, never_ending());
            } else {
                lab.agent(url, made, answering(coded.clone()));
            }
        }
        let visit = async |host: &str| {
            let (mut io, serving) = lab.visit_http();
            io.write_all(get("Accept-Encoding: gzip\r\n").replace("a.example", host).as_bytes()).await.unwrap();
            let mut raw = Vec::new();
            while !raw.windows(4).any(|w| w == b"\r\n\r\n") {
                assert!(io.read_buf(&mut raw).await.unwrap() > 0);
            }
            (String::from_utf8_lossy(&raw).to_lowercase(), io, serving)
        };
        let (head, io, serving) = visit("a.example").await;
        assert!(head.contains("\r\ncontent-encoding: gzip\r\n"), "{head}");
        let one = lab.coders().0;
        assert!((256 << 10..1 << 20).contains(&one), "{one}");
        // A visitor that goes away in the middle gives it back.
        drop(io);
        serving.await.unwrap();
        assert_eq!(lab.coders(), (0, 0));
        let others = lab.code(account(1), CODER_BYTES / 2 - one + 1).unwrap();
        let (head, _io, _serving) = visit("a.example").await;
        assert!(!head.contains("content-encoding") && head.contains("\r\nvary: accept-encoding\r\n"), "{head}");
        assert!(head.contains("\r\n6\r\nsecret"), "it goes as it is: {head}");
        let (head, _io, _serving) = visit("c.example").await;
        assert!(head.contains("\r\ncontent-encoding: gzip\r\n"), "another account has its own: {head}");
        let refused = lab.coders().1;
        assert_eq!(refused, 1);
        // What has to be changed is refused, whether its decoder lacks memory at once or when it sees the window.
        drop(others);
        for lacking in [1, (3 << 20) + (300 << 10)] {
            let _others = lab.code(account(1), CODER_BYTES / 2 - lacking).unwrap();
            let (head, ..) = visit("b.example").await;
            assert!(head.starts_with("http/1.1 503 ") && head.to_uppercase().contains("ERR_NGROK_3902"), "{lacking}: {head}");
        }
        assert_eq!(lab.coders().1, refused + 2);
        let (head, ..) = visit("b.example").await;
        assert!(head.starts_with("http/1.1 200 "), "{head}");
    })
    .await;
}
