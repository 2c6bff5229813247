//! Whole requests: routing, policies, header rules, retries, failures, upgrades and streams.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use ebbgate_edge::http::limits::Limits;
use ebbgate_model::ErrorCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::lab::{
    KEPT_UPSTREAM, Lab, Made, http_conn, https_conn, local, read_strictly, read_until, scripted,
    strict_upstream,
};

const FORWARD: &str = r#"{"on_http_request":[{"actions":[{"type":"forward-internal","config":{"url":"https://rest.clinic1.internal"}}]}]}"#;

fn get(host: &str) -> String {
    format!("GET /path?x=1 HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

#[tokio::test(start_paused = true)]
async fn a_request_goes_through_a_cloud_endpoint_to_an_agent_and_back() {
    local(async {
        let lab = Lab::default();
        let (seen, upstream) = strict_upstream();
        let made = Made { policy: Some(FORWARD), ..Made::default() };
        let cloud = lab.cloud("http://api.example.com", made);
        lab.agent("https://rest.clinic1.internal", Made::default(), upstream);
        let request = "POST /path?x=1 HTTP/1.1\r\nHost: API.example.com\r\nX-Forwarded-For: 9.9.9.9\r\nX-Own: a\r\n\
                       Connection: close, x-own\r\nContent-Length: 3\r\n\r\nabc";
        let answer = lab.talk(request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nhello"), "{answer}");

        let seen = seen.borrow();
        assert_eq!(seen.dirty, Vec::<String>::new());
        let request = &seen.requests[0];
        assert_eq!((request.line.as_str(), request.body.as_slice()), ("POST /path?x=1 HTTP/1.1", &b"abc"[..]));
        assert_eq!(request.field("host"), Some("API.example.com"));
        assert_eq!(request.field("x-forwarded-for"), Some("9.9.9.9, 192.0.2.7"));
        assert_eq!(request.field("x-forwarded-proto"), Some("http"));
        assert_eq!(request.field("x-forwarded-host"), Some("API.example.com"));
        assert_eq!((request.field("x-own"), request.field("connection")), (None, None));

        let event = &lab.events()[0];
        assert_eq!((event.endpoint, event.status, event.error), (Some(cloud.id), 200, None));
        assert_eq!((event.bytes_in, event.bytes_out), (3, 5));
        assert_eq!((event.path.as_str(), event.forwarded_to.as_str()), ("/path", "https://rest.clinic1.internal"));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn failures_have_their_published_numbers() {
    local(async {
        let lab = Lab::default();
        lab.cloud("http://empty.example.com", Made::default());
        lab.cloud("http://missing.example.com", Made { policy: Some(FORWARD), ..Made::default() });
        let gone = lab.agent("http://gone.example.com", Made::default(), drop);
        lab.unplug(&gone);
        lab.agent("http://down.example.com", Made::default(), drop);
        let garbage = scripted(|mut io| async move {
            let _ = io.write_all(b"SSH-2.0-OpenSSH_9.2\r\n\r\n").await;
            let _ = io.read(&mut [0; 1]).await;
        });
        lab.agent("http://garbage.example.com", Made::default(), garbage);
        let silent = scripted(|mut io| async move {
            let _ = io.read_to_end(&mut Vec::new()).await;
        });
        lab.agent("http://silent.example.com", Made::default(), silent);
        for (host, status) in [("http://zero.example.com", "000"), ("http://strange.example.com", "600")] {
            let upstream = scripted(move |mut io| async move {
                let _ = io.write_all(format!("HTTP/1.1 {status} What\r\n\r\n").as_bytes()).await;
                let _ = io.read(&mut [0; 1]).await;
            });
            lab.agent(host, Made::default(), upstream);
        }
        for (host, status, code) in [
            ("nobody.example.com", 404, 3200),
            ("empty.example.com", 404, 3200),
            ("missing.example.com", 404, 3200),
            ("gone.example.com", 502, 3210),
            ("down.example.com", 502, 8012),
            ("garbage.example.com", 502, 3004),
            ("silent.example.com", 504, 3005),
            ("zero.example.com", 502, 3009),
            ("strange.example.com", 502, 3010),
        ] {
            let (mut io, _serving) = lab.visit_http();
            io.write_all(get(host).as_bytes()).await.unwrap();
            let answer = read_until(&mut io, "no end").await;
            let code = ErrorCode::new(code);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{host}: {answer}");
            assert!(answer.contains(&format!("ngrok-error-code: {code}\r\n")), "{host}: {answer}");
            let event = lab.events().pop().unwrap();
            assert_eq!((event.status, event.error), (status, Some(code)), "{host}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_upstreams_splitting_answers_are_502() {
    local(async {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\na",
            "HTTP/1.1 200 OK\nContent-Length: 1\r\n\r\na",
            "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA\0: b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\n0\n\n",
            "HTTP/1.1 101 Go\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
            "HTTP/9.1 200 OK\r\n\r\n",
        ] {
            let lab = Lab::default();
            let upstream = scripted(move |mut io| async move {
                let _ = read_strictly(&mut io, &mut Vec::new()).await;
                let _ = io.write_all(answer.as_bytes()).await;
                let _ = io.read(&mut [0; 1]).await;
            });
            lab.agent("http://a.example.com", Made::default(), upstream);
            let read = lab.talk(get("a.example.com").as_bytes()).await;
            assert!(
                read.starts_with("HTTP/1.1 502 ") && read.contains("ERR_NGROK_3004"),
                "{answer:?}: {read}"
            );
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_upstream_cannot_set_the_edges_error_code_and_trailing_bytes_are_not_an_answer() {
    local(async {
        let lab = Lab::default();
        let upstream = scripted(|mut io| async move {
            let _ = read_strictly(&mut io, &mut Vec::new()).await;
            let answer = "HTTP/1.1 200 OK\r\nngrok-error-code: ERR_NGROK_1\r\nContent-Length: 1\r\n\r\naHTTP/1.1 200 OK\r\n\r\n";
            let _ = io.write_all(answer.as_bytes()).await;
            let _ = io.read(&mut [0; 1]).await;
        });
        lab.agent("http://a.example.com", Made::default(), upstream);
        let one = "GET / HTTP/1.1\r\nHost: a.example.com\r\n\r\n";
        let read = lab.talk(one.repeat(2).as_bytes()).await;
        assert_eq!(read.matches("HTTP/1.1 200 OK").count(), 2, "{read}");
        assert_eq!(lab.opened(), 2, "a stream that said too much is not used again");
        assert!(!read.contains("ngrok-error-code"), "{read}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_dying_member_costs_no_idempotent_request() {
    local(async {
        let lab = Lab::default();
        let (seen, upstream) = strict_upstream();
        lab.agent("http://a.example.com", Made::default(), drop);
        let gone = lab.agent("http://a.example.com", Made::default(), drop);
        lab.unplug(&gone);
        lab.agent("http://a.example.com", Made::default(), upstream);
        for _ in 0..6 {
            let read = lab.talk(get("a.example.com").as_bytes()).await;
            assert!(read.starts_with("HTTP/1.1 200 "), "{read}");
        }
        assert_eq!(seen.borrow().requests.len(), 6);

        // A POST is not sent twice once it may have been acted on, but may go elsewhere when no stream opened.
        let post =
            "POST / HTTP/1.1\r\nHost: a.example.com\r\nContent-Length: 1\r\nConnection: close\r\n\r\na";
        let mut failed = 0;
        for _ in 0..9 {
            failed += usize::from(lab.talk(post.as_bytes()).await.starts_with("HTTP/1.1 502 "));
        }
        assert!((1..9).contains(&failed), "{failed}");
        assert_eq!(seen.borrow().requests.len(), 6 + 9 - failed);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_failing_forward_goes_on_when_the_policy_says_so() {
    local(async {
        let lab = Lab::default();
        let policy = r#"{"on_http_request":[{"actions":[
            {"type":"forward-internal","config":{"url":"https://gone.internal","on_error":"continue"}},
            {"type":"forward-internal","config":{"url":"https://down.internal","on_error":"continue"}},
            {"type":"custom-response","config":{"status_code":503,"body":"later","headers":{"x-a":"b"}}}]}],
            "on_http_response":[{"actions":[{"type":"add-headers","config":{"headers":{"x-out":"1"}}}]}]}"#;
        lab.cloud("http://a.example.com", Made { policy: Some(policy), ..Made::default() });
        lab.agent("https://down.internal", Made::default(), drop);
        let read = lab.talk(get("a.example.com").as_bytes()).await;
        assert!(read.starts_with("HTTP/1.1 503 ") && read.ends_with("later"), "{read}");
        assert!(read.contains("x-a: b\r\n") && read.contains("x-out: 1\r\n"), "{read}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_may_have_been_acted_on_is_not_forwarded_again() {
    local(async {
        let lab = Lab::default();
        let policy = r#"{"on_http_request":[{"actions":[
            {"type":"forward-internal","config":{"url":"https://dies.internal","on_error":"continue"}},
            {"type":"forward-internal","config":{"url":"https://spare.internal"}}]}]}"#;
        lab.cloud("http://a.example.com", Made { policy: Some(policy), ..Made::default() });
        let dies = scripted(|mut io| async move {
            let _ = read_strictly(&mut io, &mut Vec::new()).await;
        });
        lab.agent("https://dies.internal", Made::default(), dies);
        let (seen, spare) = strict_upstream();
        lab.agent("https://spare.internal", Made::default(), spare);
        let post = "POST / HTTP/1.1\r\nHost: a.example.com\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let read = lab.talk(post.as_bytes()).await;
        assert!(read.starts_with("HTTP/1.1 502 "), "{read}");
        assert_eq!(seen.borrow().requests.len(), 0);
        let read = lab.talk(get("a.example.com").as_bytes()).await;
        assert!(read.starts_with("HTTP/1.1 200 "), "a GET may be sent twice: {read}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_circle_that_goes_on_after_every_failure_ends() {
    local(async {
        let lab = Lab::default();
        // Each hop fails at depth and the one before tries its next: 2 to the power of 8 forwards, if nobody counts.
        let policy = r#"{"on_http_request":[{"actions":[
            {"type":"forward-internal","config":{"url":"https://rest.clinic1.internal","on_error":"continue"}},
            {"type":"forward-internal","config":{"url":"https://rest.clinic1.internal","on_error":"continue"}},
            {"type":"forward-internal","config":{"url":"https://nowhere.internal"}}]}]}"#;
        lab.cloud("http://a.example.com", Made { policy: Some(FORWARD), ..Made::default() });
        lab.cloud("https://rest.clinic1.internal", Made { policy: Some(policy), ..Made::default() });
        let read = lab.talk(get("a.example.com").as_bytes()).await;
        assert!(read.starts_with("HTTP/1.1 502 ") && read.contains("ERR_NGROK_3501"), "{read}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn eight_forwards_are_taken() {
    local(async {
        let lab = Lab::default();
        let (_, upstream) = strict_upstream();
        for n in 0..8 {
            let url =
                if n == 0 { "http://a.example.com".to_owned() } else { format!("https://h{n}.internal") };
            let policy = FORWARD.replace("rest.clinic1", &format!("h{}", n + 1)).leak();
            lab.cloud(&url, Made { policy: Some(policy), ..Made::default() });
        }
        lab.agent("https://h8.internal", Made::default(), upstream);
        let read = lab.talk(get("a.example.com").as_bytes()).await;
        assert!(read.starts_with("HTTP/1.1 200 "), "{read}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn forwarding_in_a_circle_ends() {
    local(async {
        let lab = Lab::default();
        lab.cloud("http://a.example.com", Made { policy: Some(FORWARD), ..Made::default() });
        lab.cloud("https://rest.clinic1.internal", Made { policy: Some(FORWARD), ..Made::default() });
        let read = lab.talk(get("a.example.com").as_bytes()).await;
        assert!(read.starts_with("HTTP/1.1 502 ") && read.contains("ERR_NGROK_3501"), "{read}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn accounts_do_not_see_each_others_internal_endpoints() {
    local(async {
        let lab = Lab::default();
        let (seen, upstream) = strict_upstream();
        lab.cloud("http://a.example.com", Made { policy: Some(FORWARD), ..Made::default() });
        lab.agent("https://rest.clinic1.internal", Made { account: 2, ..Made::default() }, upstream);
        let read = lab.talk(get("a.example.com").as_bytes()).await;
        assert!(read.contains("ERR_NGROK_3200") && seen.borrow().requests.is_empty(), "{read}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_host_outside_the_connections_admission_is_misdirected() {
    local(async {
        let lab = Lab::default();
        let guard = r#"{"on_tcp_connect":[{"actions":[{"type":"restrict-ips","config":{"allow":["192.0.2.0/24"]}}]}]}"#;
        let guarded = Made { policy: Some(guard), ..Made::default() };
        let (_, upstream) = strict_upstream();
        let open = lab.agent("https://open.example.com", Made::default(), upstream.clone());
        lab.agent("https://other.example.com", Made::default(), upstream.clone());
        let strict = lab.agent("https://strict.example.com", guarded, upstream.clone());
        lab.agent("https://foreign.example.com", Made { account: 2, ..Made::default() }, upstream);
        for (first, host, status) in [
            (&open, "open.example.com", 200),
            (&open, "other.example.com", 200),
            (&open, "strict.example.com", 421),
            (&open, "foreign.example.com", 421),
            (&open, "nobody.example.com", 404),
            (&strict, "strict.example.com", 200),
            (&strict, "open.example.com", 421),
        ] {
            let (mut io, _serving) = lab.visit(https_conn(first, false), Limits::default());
            io.write_all(get(host).as_bytes()).await.unwrap();
            let read = read_until(&mut io, "no end").await;
            assert!(read.starts_with(&format!("HTTP/1.1 {status} ")), "{} -> {host}: {read}", first.url);
        }
    })
    .await;
}

/// The rules of docs/threat-model.md, "Server name and Host", beside the above.
#[tokio::test(start_paused = true)]
async fn server_name_and_host_differ_within_one_endpoint_or_without_connection_policies_only() {
    local(async {
        let lab = Lab::default();
        let guard = r#"{"on_tcp_connect":[{"actions":[{"type":"restrict-ips","config":{"allow":["192.0.2.0/24"]}}]}]}"#;
        let guarded = || Made { policy: Some(guard), ..Made::default() };
        let (_, upstream) = strict_upstream();
        let wild = lab.agent("https://*.wild.example.com", guarded(), upstream.clone());
        lab.agent("https://one.wild.example.com", guarded(), upstream.clone());
        lab.agent("https://open.example.com", Made::default(), upstream.clone());
        lab.agent("https://foreign.example.com", Made { account: 2, ..Made::default() }, upstream);
        for (first, host, status) in [
            // Two names of one endpoint, guarded or not.
            (Some(&wild), "a.wild.example.com", 200),
            (Some(&wild), "b.wild.example.com", 200),
            // A name below it that another endpoint has.
            (Some(&wild), "one.wild.example.com", 421),
            // The server name was nobody's: no policy was passed, so none can be passed by.
            (None, "open.example.com", 200),
            (None, "foreign.example.com", 200),
            (None, "a.wild.example.com", 421),
            (None, "nobody.example.com", 404),
        ] {
            let mut conn = https_conn(&wild, false);
            conn.first_endpoint = first.cloned();
            let (mut io, _serving) = lab.visit(conn, Limits::default());
            io.write_all(get(host).as_bytes()).await.unwrap();
            let read = read_until(&mut io, "no end").await;
            assert!(read.starts_with(&format!("HTTP/1.1 {status} ")), "{} -> {host}: {read}", first.is_some());
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_policy_runs_on_clear_text_when_the_host_is_known() {
    local(async {
        let lab = Lab::default();
        let (seen, upstream) = strict_upstream();
        let policy = r#"{"on_tcp_connect":[{"actions":[{"type":"restrict-ips","config":{"allow":["198.51.100.0/24"]}}]}]}"#;
        lab.agent("http://a.example.com", Made { policy: Some(policy), ..Made::default() }, upstream);
        assert_eq!(lab.talk(get("a.example.com").as_bytes()).await, "");
        assert!(seen.borrow().requests.is_empty());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_account_that_does_not_admit_the_visitor_answers_before_any_policy() {
    local(async {
        let lab = Lab::default();
        let (seen, upstream) = strict_upstream();
        let policy = r#"{"on_tcp_connect":[{"actions":[{"type":"restrict-ips","config":{"allow":["198.51.100.0/24"]}}]}],
            "on_http_request":[{"actions":[{"type":"custom-response","config":{"status_code":200,"body":"no"}}]}]}"#;
        lab.cloud("http://cloud.example.com", Made { policy: Some(policy), ..Made::default() });
        lab.agent("http://agent.example.com", Made::default(), upstream.clone());
        let other = lab.agent("http://other.example.com", Made { account: 2, ..Made::default() }, upstream);
        // On a connection that is open already, too.
        let (mut io, _serving) = lab.visit_http();
        io.write_all(b"GET / HTTP/1.1\r\nHost: agent.example.com\r\n\r\n").await.unwrap();
        assert!(read_until(&mut io, "hello").await.starts_with("HTTP/1.1 200 "));
        lab.close(crate::lab::account(1));
        io.write_all(get("agent.example.com").as_bytes()).await.unwrap();
        let late = read_until(&mut io, "no end").await;
        for (host, read) in [
            ("agent.example.com", late),
            ("agent.example.com", lab.talk(get("agent.example.com").as_bytes()).await),
            ("cloud.example.com", lab.talk(get("cloud.example.com").as_bytes()).await),
        ] {
            assert!(read.starts_with("HTTP/1.1 403 "), "{host}: {read}");
            assert!(read.contains("ngrok-error-code: ERR_NGROK_3205\r\n"), "{host}: {read}");
            assert!(read.contains("192.0.2.7"), "{host}: {read}");
        }
        assert_eq!(seen.borrow().requests.len(), 1);
        let event = lab.events().pop().unwrap();
        assert_eq!(
            (event.error, event.account),
            (Some(ErrorCode::ENDPOINTS_RESTRICTED), Some(crate::lab::account(1)))
        );
        let read = lab.talk(get(other.url.host().as_str()).as_bytes()).await;
        assert!(read.starts_with("HTTP/1.1 200 "), "another account's endpoints are open: {read}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn heads_with_more_fields_than_usual_are_taken_at_any_time() {
    local(async {
        let lab = Lab::default();
        let (seen, upstream) = strict_upstream();
        lab.agent("http://a.example.com", Made::default(), upstream);
        for order in [[1, 200, 1, 990], [200, 1, 100, 99]] {
            let (mut io, _serving) = lab.visit_http();
            for fields in order {
                let more = (0..fields).fold(String::new(), |text, n| text + &format!("X-{n}: {n}\r\n"));
                let request =
                    format!("POST / HTTP/1.1\r\nHost: a.example.com\r\nContent-Length: 3\r\n{more}\r\nabc");
                io.write_all(request.as_bytes()).await.unwrap();
                let read = read_until(&mut io, "hello").await;
                assert!(read.starts_with("HTTP/1.1 200 "), "{fields}: {read}");
                let seen = seen.borrow();
                let request = seen.requests.last().unwrap();
                let ours = request
                    .fields
                    .iter()
                    .filter(|(name, _)| name.strip_prefix("x-").is_some_and(|n| n.parse::<u32>().is_ok()));
                assert_eq!((ours.count(), request.body.as_slice()), (fields, &b"abc"[..]));
            }
        }
        assert_eq!(seen.borrow().dirty, Vec::<String>::new());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn kept_streams_serve_the_next_request_and_a_stale_one_costs_nothing() {
    local(async {
        let lab = Lab::default();
        let (seen, upstream) = strict_upstream();
        lab.agent("http://a.example.com", Made::default(), upstream);
        let (mut io, _serving) = lab.visit_http();
        for _ in 0..3 {
            io.write_all(b"GET / HTTP/1.1\r\nHost: a.example.com\r\n\r\n").await.unwrap();
            let read = read_until(&mut io, "hello").await;
            assert!(read.starts_with("HTTP/1.1 200 "), "{read}");
        }
        assert_eq!((lab.opened(), seen.borrow().requests.len()), (1, 3));

        let lab = Lab::default();
        let served = Rc::new(Cell::new(0));
        let count = served.clone();
        let once = scripted(move |mut io| {
            let count = count.clone();
            async move {
                let mut input = Vec::new();
                let _ = read_strictly(&mut io, &mut input).await;
                count.set(count.get() + 1);
                let _ = io.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await;
                // The next request on this stream gets no answer: the upstream's keep-alive is over.
                let _ = read_strictly(&mut io, &mut input).await;
            }
        });
        lab.agent("http://a.example.com", Made::default(), once);
        let (mut io, _serving) = lab.visit_http();
        for _ in 0..3 {
            io.write_all(b"GET / HTTP/1.1\r\nHost: a.example.com\r\n\r\n").await.unwrap();
            let read = read_until(&mut io, "hello").await;
            assert!(read.starts_with("HTTP/1.1 200 "), "{read}");
        }
        assert_eq!(served.get(), 3);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_kept_stream_that_rests_is_given_back() {
    local(async {
        let lab = Lab::default();
        let ended = Rc::new(Cell::new(false));
        let flag = ended.clone();
        let upstream = scripted(move |mut io| {
            let flag = flag.clone();
            async move {
                let mut input = Vec::new();
                let _ = read_strictly(&mut io, &mut input).await;
                let _ = io.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await;
                let _ = io.read(&mut [0; 1]).await;
                flag.set(true);
            }
        });
        lab.agent("http://a.example.com", Made::default(), upstream);
        let (mut io, serving) = lab.visit_http();
        io.write_all(b"GET / HTTP/1.1\r\nHost: a.example.com\r\n\r\n").await.unwrap();
        read_until(&mut io, "hello").await;
        let kept = KEPT_UPSTREAM;
        tokio::time::sleep(kept.mul_f32(0.9)).await;
        assert!(!ended.get(), "kept for the next request");
        tokio::time::sleep(kept / 2).await;
        assert!(ended.get() && !serving.is_finished(), "the visitor stays, the agent's stream does not");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn websockets_switch_only_when_the_upstream_agrees_and_early_bytes_wait() {
    local(async {
        let request = "GET /ws HTTP/1.1\r\nHost: a.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        let lab = Lab::default();
        let echo = scripted(|mut io| async move {
            let mut input = Vec::new();
            let request = read_strictly(&mut io, &mut input).await.unwrap().unwrap();
            assert_eq!(request.field("upgrade"), Some("websocket"));
            let _ = io.write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\nfirst ").await;
            let (mut read, mut write) = tokio::io::split(io);
            let _ = write.write_all(&input).await;
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.write_all(b" last").await;
            let _ = write.shutdown().await;
        });
        lab.agent("http://a.example.com", Made::default(), echo);
        let (mut io, serving) = lab.visit_http();
        io.write_all(format!("{request}early").as_bytes()).await.unwrap();
        let read = read_until(&mut io, "first early").await;
        assert!(read.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{read}");
        assert!(read.contains("sec-websocket-accept: x\r\n") && read.contains("upgrade: websocket\r\n"), "{read}");
        io.write_all(b"GET / HTTP/1.1\n\0").await.unwrap();
        assert_eq!(read_until(&mut io, "\n\0").await, "GET / HTTP/1.1\n\0", "bytes of a tunnel are nobody's business");
        io.shutdown().await.unwrap();
        assert_eq!(read_until(&mut io, "no end").await, " last", "half-close goes through");
        assert_eq!(serving.await.unwrap().outcome, "tunnel finished");
        assert_eq!(lab.events()[0].status, 101);

        let lab = Lab::default();
        let (seen, refuses) = strict_upstream();
        lab.agent("http://a.example.com", Made::default(), refuses);
        let read = lab.talk(format!("{request}{}", get("a.example.com")).as_bytes()).await;
        assert_eq!(read.matches("HTTP/1.1 200 ").count(), 2, "what waited is the next request: {read}");
        assert_eq!(seen.borrow().requests.len(), 2);
        assert_eq!(seen.borrow().dirty, Vec::<String>::new());

        let lab = Lab::default();
        let (seen, refuses) = strict_upstream();
        lab.agent("http://a.example.com", Made::default(), refuses);
        let smuggled = format!("{request}0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
        let read = lab.talk(smuggled.as_bytes()).await;
        assert!(read.contains("HTTP/1.1 200 ") && read.contains("HTTP/1.1 400 "), "{read}");
        assert_eq!(seen.borrow().requests.len(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn http2_is_not_reached_by_upgrade() {
    local(async {
        let lab = Lab::default();
        let (seen, upstream) = strict_upstream();
        lab.agent("http://a.example.com", Made::default(), upstream);
        let request = "GET / HTTP/1.1\r\nHost: a.example.com\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n";
        assert!(lab.talk(request.as_bytes()).await.starts_with("HTTP/1.1 200 "));
        let seen = seen.borrow();
        assert_eq!((seen.requests[0].field("upgrade"), seen.requests[0].field("http2-settings")), (None, None));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn server_sent_events_arrive_one_by_one_and_outlive_every_request_timeout() {
    local(async {
        let lab = Lab::default();
        let events = scripted(|mut io| async move {
            let _ = read_strictly(&mut io, &mut Vec::new()).await;
            let _ = io.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            for n in 0..20 {
                let _ = io.write_all(format!("a\r\ndata: {n:02}\n\n\r\n").as_bytes()).await;
                tokio::time::sleep(Duration::from_secs(200)).await;
            }
            let _ = io.write_all(b"0\r\n\r\n").await;
        });
        lab.agent("http://a.example.com", Made::default(), events);
        let (mut io, _serving) = lab.visit_http();
        io.write_all(get("a.example.com").as_bytes()).await.unwrap();
        let started = tokio::time::Instant::now();
        for n in 0..20 {
            let read = read_until(&mut io, &format!("data: {n:02}\n\n\r\n")).await;
            assert!(read.ends_with(&format!("data: {n:02}\n\n\r\n")), "{n}: {read}");
            assert_eq!(started.elapsed().as_secs(), n * 200, "an event is not held back");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_with_nothing_moving_either_way_ends_and_is_not_mistaken_for_whole() {
    local(async {
        let lab = Lab::default();
        let stuck = scripted(|mut io| async move {
            let _ = read_strictly(&mut io, &mut Vec::new()).await;
            let _ = io.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n").await;
            let _ = io.read_to_end(&mut Vec::new()).await;
        });
        lab.agent("http://a.example.com", Made::default(), stuck);
        let (mut io, _serving) = lab.visit_http();
        io.write_all(get("a.example.com").as_bytes()).await.unwrap();
        let started = tokio::time::Instant::now();
        let read = read_until(&mut io, "no end").await;
        assert!(read.ends_with("1\r\na\r\n"), "no last chunk: {read}");
        assert_eq!(started.elapsed().as_secs(), 300);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_head_request_keeps_the_length_and_has_no_body() {
    local(async {
        let lab = Lab::default();
        let (_, upstream) = strict_upstream();
        lab.agent("http://a.example.com", Made::default(), upstream);
        let request = "HEAD / HTTP/1.1\r\nHost: a.example.com\r\n\r\n";
        let read = lab.talk(request.repeat(2).as_bytes()).await;
        assert_eq!(
            (read.matches("200 OK").count(), read.matches("content-length: 5\r\n").count()),
            (2, 2),
            "{read}"
        );
        assert!(read.ends_with("\r\n\r\n"), "{read}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_visitor_that_leaves_resets_its_upstream() {
    local(async {
        let lab = Lab::default();
        let ended = Rc::new(Cell::new(false));
        let end = ended.clone();
        let endless = scripted(move |mut io| {
            let end = end.clone();
            async move {
                let _ = read_strictly(&mut io, &mut Vec::new()).await;
                let _ = io.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
                while io.write_all(&[b'a'; 1024]).await.is_ok() {}
                end.set(true);
            }
        });
        lab.agent("http://a.example.com", Made::default(), endless);
        let (mut io, serving) = lab.visit(http_conn(), Limits::default());
        io.write_all(get("a.example.com").as_bytes()).await.unwrap();
        let _ = io.read(&mut [0; 100]).await;
        drop(io);
        serving.await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(ended.get());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_ends_with_its_connection_is_whole_and_a_truncated_one_is_not() {
    local(async {
        for (answer, expect) in [
            ("HTTP/1.0 200 OK\r\n\r\nhello", "5\r\nhello\r\n0\r\n\r\n"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", "hello"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "5\r\nhello\r\n"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nx\r\n", "5\r\nhello\r\n"),
            ("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", "\r\n\r\n"),
        ] {
            let lab = Lab::default();
            let upstream = scripted(move |mut io| async move {
                let _ = read_strictly(&mut io, &mut Vec::new()).await;
                let _ = io.write_all(answer.as_bytes()).await;
            });
            lab.agent("http://a.example.com", Made::default(), upstream);
            let (mut io, _serving) = lab.visit_http();
            io.write_all(get("a.example.com").as_bytes()).await.unwrap();
            let read = read_until(&mut io, "no end").await;
            assert!(read.starts_with("HTTP/1.1 20") && read.ends_with(expect), "{answer:?}: {read}");
            assert!(!answer.contains("204") || !read.contains("content-length"), "{read}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_stopping_edge_finishes_what_is_in_flight_and_takes_nothing_new() {
    local(async {
        let lab = Lab::default();
        let slow = || {
            scripted(|mut io| async move {
                let _ = read_strictly(&mut io, &mut Vec::new()).await;
                tokio::time::sleep(Duration::from_secs(20)).await;
                let _ = io.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await;
                let _ = io.read(&mut [0; 1]).await;
            })
        };
        lab.agent("http://a.example.com", Made::default(), slow());
        let first = lab.agent("https://a.example.com", Made::default(), slow());
        let (_resting, resting) = lab.visit_http();
        let (mut busy, busy_serving) = lab.visit_http();
        busy.write_all(b"GET / HTTP/1.1\r\nHost: a.example.com\r\n\r\n").await.unwrap();
        let (io, _serving) = lab.visit(https_conn(&first, true), Limits::default());
        let (mut sender, connection) = h2::client::handshake(io).await.unwrap();
        let connection = tokio::task::spawn_local(connection);
        let request = || http::Request::get("https://a.example.com/").body(()).unwrap();
        let (answer, _) = sender.send_request(request(), true).unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;

        lab.drain();
        let started = tokio::time::Instant::now();
        resting.await.unwrap();
        assert_eq!(started.elapsed().as_secs(), 0, "a resting connection ends at once");
        let read = read_until(&mut busy, "hello").await;
        assert!(read.starts_with("HTTP/1.1 200 ") && read.contains("connection: close"), "{read}");
        assert_eq!(answer.await.unwrap().status(), 200);
        assert!(sender.ready().await.is_err(), "no further stream");
        busy_serving.await.unwrap();
        connection.await.unwrap().unwrap();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_policy_saved_while_a_connection_lasts_holds_for_its_next_request() {
    local(async {
        let guard = r#"{"on_tcp_connect":[{"actions":[{"type":"restrict-ips","config":{"allow":["192.0.2.0/24"]}}]}]}"#;
        let stricter = r#"{"on_tcp_connect":[{"actions":[{"type":"restrict-ips","config":{"allow":["192.0.2.0/24"]}}]}],
            "on_http_request":[{"actions":[{"type":"deny","config":{"status_code":403}}]}]}"#;
        let lab = Lab::default();
        let (_, upstream) = strict_upstream();
        let first = lab.agent("https://a.example.com", Made { policy: Some(guard), ..Made::default() }, upstream);
        let (mut io, _serving) = lab.visit(https_conn(&first, false), Limits::default());
        let request = b"GET / HTTP/1.1\r\nHost: a.example.com\r\n\r\n";
        io.write_all(request).await.unwrap();
        assert!(read_until(&mut io, "hello").await.starts_with("HTTP/1.1 200 "));
        lab.change(&first, stricter);
        io.write_all(request).await.unwrap();
        assert!(read_until(&mut io, "\r\n\r\n").await.starts_with("HTTP/1.1 403 "));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn connection_rules_saved_while_a_connection_lasts_end_it_when_they_refuse_it() {
    local(async {
        let allow = r#"{"on_tcp_connect":[{"actions":[{"type":"restrict-ips","config":{"allow":["192.0.2.0/24"]}}]}]}"#;
        let refuse = r#"{"on_tcp_connect":[{"actions":[{"type":"restrict-ips","config":{"allow":["10.0.0.0/8"]}}]}]}"#;
        let handshake = r#"{"on_tcp_connect":[{"actions":[{"type":"terminate-tls","config":{"min_version":"1.3"}}]}]}"#;
        for (url, policy) in [("http://a.example.com", refuse), ("https://a.example.com", refuse), ("https://a.example.com", handshake)] {
            let lab = Lab::default();
            let (_, upstream) = strict_upstream();
            let first = lab.agent(url, Made { policy: Some(allow), ..Made::default() }, upstream);
            let conn = if url.starts_with("https") { https_conn(&first, false) } else { http_conn() };
            let (mut io, _serving) = lab.visit(conn, Limits::default());
            let request = b"GET / HTTP/1.1\r\nHost: a.example.com\r\n\r\n";
            for _ in 0..2 {
                io.write_all(request).await.unwrap();
                assert!(read_until(&mut io, "hello").await.starts_with("HTTP/1.1 200 "));
            }
            lab.change(&first, policy);
            io.write_all(request).await.unwrap();
            assert_eq!(read_until(&mut io, "no end").await, "", "{url} {policy}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_without_a_body_gets_a_short_one_in_the_form_that_is_asked_for() {
    local(async {
        let lab = Lab::default();
        let deny = r#"{"on_http_request":[{"actions":[{"type":"deny","config":{"status_code":403}}]}]}"#;
        lab.cloud("http://a.example.com", Made { policy: Some(deny), ..Made::default() });
        let custom = r#"{"on_http_request":[{"actions":[{"type":"custom-response","config":{"status_code":403}}]}]}"#;
        lab.cloud("http://custom.example.com", Made { policy: Some(custom), ..Made::default() });
        for (accept, kind, text) in [
            ("text/html", "text/html; charset=utf-8", "<h1>403 Forbidden</h1>"),
            ("application/json", "application/json", "\"status_code\":403"),
            ("*/*", "text/plain; charset=utf-8", "This endpoint does not serve this request.\n"),
        ] {
            let request = format!("GET / HTTP/1.1\r\nHost: a.example.com\r\nAccept: {accept}\r\n\r\n");
            let read = lab.talk(request.as_bytes()).await;
            assert!(read.starts_with("HTTP/1.1 403 ") && read.contains(text), "{read}");
            assert!(read.contains(&format!("content-type: {kind}\r\n")), "{read}");
            let head = lab.talk(request.replace("GET", "HEAD").as_bytes()).await;
            assert!(head.contains(&format!("content-type: {kind}\r\n")) && head.ends_with("\r\n\r\n"), "{head}");
        }
        let login = r#"{"on_http_request":[{"actions":[{"type":"basic-auth","config":{"credentials":["user:password1"]}}]}]}"#;
        lab.cloud("http://login.example.com", Made { policy: Some(login), ..Made::default() });
        let read = lab.talk(b"GET / HTTP/1.1\r\nHost: login.example.com\r\n\r\n").await;
        assert!(read.starts_with("HTTP/1.1 401 ") && read.contains("www-authenticate: Basic"), "{read}");
        assert!(!read.contains("content-length: 0\r\n"), "{read}");
        let read = lab.talk(b"GET / HTTP/1.1\r\nHost: custom.example.com\r\n\r\n").await;
        assert!(read.contains("content-length: 0\r\n"), "a custom answer stays as it was written: {read}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn clear_text_of_a_name_that_is_served_behind_tls_is_sent_there() {
    local(async {
        let lab = Lab::default();
        let (seen, upstream) = strict_upstream();
        lab.agent("https://a.example.com", Made::default(), upstream.clone());
        lab.agent("https://both.example.com", Made::default(), upstream.clone());
        lab.agent("http://both.example.com", Made::default(), upstream);
        let request = "POST /x?y=%20z HTTP/1.1\r\nHost: A.example.com:8080\r\nContent-Length: 1\r\n\r\na";
        let read = lab.talk(request.as_bytes()).await;
        assert!(read.starts_with("HTTP/1.1 308 "), "{read}");
        assert!(read.contains("location: https://a.example.com/x?y=%20z\r\n"), "{read}");
        assert!(seen.borrow().requests.is_empty());
        assert!(lab.talk(get("both.example.com").as_bytes()).await.starts_with("HTTP/1.1 200 "));
        assert!(lab.talk(get("nobody.example.com").as_bytes()).await.starts_with("HTTP/1.1 404 "));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn each_request_has_an_operation_and_who_is_refused_learns_its_id() {
    local(async {
        let lab = Lab::default();
        let own = r#"{"on_http_request":[{"expressions":["req.url.path == '/deny'"],"actions":[{"type":"deny"}]},
            {"actions":[{"type":"custom-response","config":{"body":"hello"}}]}]}"#;
        lab.cloud("http://a.example.com", Made { policy: Some(own), ..Made::default() });
        for (path, is_told) in [("/deny", true), ("/", false)] {
            let request = format!("GET {path} HTTP/1.1\r\nHost: a.example.com\r\nConnection: close\r\n\r\n");
            let read = lab.talk(request.as_bytes()).await;
            let event = lab.events().pop().unwrap();
            assert!(event.operation.starts_with("op_"), "{}", event.operation);
            let header = format!("ngrok-operation-id: {}\r\n", event.operation);
            assert_eq!(read.contains(&header), is_told, "{read}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn visitors_learn_no_internal_name_and_the_operator_finds_it_by_the_operation() {
    local(async {
        let lab = Lab::default();
        lab.cloud("http://missing.example.com", Made { policy: Some(FORWARD), ..Made::default() });
        let through = FORWARD.replace("rest.clinic1", "dead").leak();
        lab.cloud("http://dead.example.com", Made { policy: Some(through), ..Made::default() });
        let dead = lab.agent("https://dead.internal", Made::default(), drop);
        lab.unplug(&dead);
        let through = FORWARD.replace("rest.clinic1", "empty").leak();
        lab.cloud("http://empty.example.com", Made { policy: Some(through), ..Made::default() });
        lab.cloud("https://empty.internal", Made::default());
        for (host, detail) in [
            ("missing.example.com", "https://rest.clinic1.internal"),
            ("dead.example.com", "session ts_"),
            ("empty.example.com", "https://empty.internal"),
        ] {
            for accept in ["text/html", "application/json", "*/*"] {
                let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nAccept: {accept}\r\n\r\n");
                let read = lab.talk(request.as_bytes()).await;
                assert!(read.contains(&format!("http://{host}")), "{read}");
                assert!(!read.contains("internal") && !read.contains("ts_"), "{read}");
                let event = lab.events().pop().unwrap();
                assert!(
                    event.operation.starts_with("op_") && read.matches(&event.operation).count() == 2,
                    "{read}"
                );
                assert!(event.detail.contains(detail), "{host}: {}", event.detail);
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_visitor_cannot_say_where_it_comes_from() {
    local(async {
        let lab = Lab::default();
        let (seen, upstream) = strict_upstream();
        let policy = r#"{"on_http_request":[{"actions":[{"type":"add-headers","config":{"headers":{"x-real-ip":"${conn.client_ip}"}}}]}]}"#;
        lab.agent("http://a.example.com", Made::default(), upstream.clone());
        lab.agent("http://set.example.com", Made { policy: Some(policy), ..Made::default() }, upstream);
        for host in ["a.example.com", "set.example.com"] {
            let lies = "Forwarded: for=9.9.9.9\r\nX-Real-IP: 9.9.9.9\r\nX_Real_IP: 9.9.9.9\r\n";
            lab.talk(format!("GET / HTTP/1.1\r\nHost: {host}\r\n{lies}\r\n").as_bytes()).await;
        }
        let seen = seen.borrow();
        assert_eq!(seen.requests.len(), 2);
        for request in &seen.requests {
            assert_eq!((request.field("forwarded"), request.field("x_real_ip")), (None, None));
            assert_eq!(request.field("x-forwarded-for"), Some("192.0.2.7"));
        }
        assert_eq!(seen.requests[0].field("x-real-ip"), None);
        assert_eq!(seen.requests[1].field("x-real-ip"), Some("192.0.2.7"), "a policy may say it");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_request_is_its_members_work_until_the_last_byte_of_its_response() {
    local(async {
        let lab = Lab::default();
        let least = r#"{"on_http_request":[{"actions":[{"type":"forward-internal","config":
            {"url":"https://rest.clinic1.internal","strategy":"least_connections"}}]}]}"#;
        let cloud = lab.cloud("http://api.example.com", Made { policy: Some(least), ..Made::default() });
        let upstream = scripted(|mut io| async move {
            read_until(&mut io, "\r\n\r\n").await;
            let _ = io.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab").await;
            tokio::time::sleep(Duration::from_secs(5)).await;
            let _ = io.write_all(b"cd").await;
            let _ = io.read(&mut [0]).await;
        });
        let agent = lab.agent("https://rest.clinic1.internal", Made::default(), upstream);
        let loads = || (cloud.load().now(), agent.load().now());
        let (mut client, served) = lab.visit_http();
        client.write_all(get("api.example.com").as_bytes()).await.unwrap();
        let head = read_until(&mut client, "\r\n\r\nab").await;
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head:?}");
        assert_eq!(loads(), (1, 1));
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"cd");
        served.await.unwrap();
        assert_eq!(loads(), (0, 0));
    })
    .await;
}
