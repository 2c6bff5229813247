//! `http-request`: what the called endpoint sees, what comes back, and that nothing of it is unbounded.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use ebbgate_edge::http::limits::Limits;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::Instant;

use crate::lab::{Lab, Made, http_conn, local, read_strictly, scripted, strict_upstream};

const AUTH: &str = "https://auth.internal";

fn get(more: &str) -> String {
    format!("GET /a HTTP/1.1\r\nHost: api.example.com\r\n{more}Connection: close\r\n\r\n")
}

/// A policy that asks [`AUTH`] and says what came of it. It lives as long as the process.
fn asking(config: &Value) -> &'static str {
    let mut config = config.clone();
    config["url"] = config.get("url").cloned().unwrap_or_else(|| json!(AUTH));
    let said = "${actions.ngrok.http_request.res.status_code} ${actions.ngrok.http_request.res.body}";
    telling(&config, said)
}

/// A policy that makes a call and answers with what is `said` of it, or with its failure.
fn telling(config: &Value, said: &str) -> &'static str {
    let failed = "${actions.ngrok.http_request.error.code} ${actions.ngrok.http_request.error.message}";
    let policy = json!({ "on_http_request": [
        { "actions": [{ "type": "http-request", "config": config }] },
        { "expressions": ["has(actions.ngrok.http_request.error)"],
          "actions": [{ "type": "custom-response", "config": { "body": failed } }] },
        { "actions": [{ "type": "custom-response", "config": { "body": said } }] },
    ] });
    Box::leak(policy.to_string().into_boxed_str())
}

/// An upstream that answers each request with these bytes.
fn answering(answer: impl AsRef<[u8]> + 'static) -> impl Fn(DuplexStream) + 'static {
    let answer = Rc::new(answer);
    scripted(move |mut io| {
        let answer = answer.clone();
        async move {
            let mut input = Vec::new();
            while let Ok(Some(_)) = read_strictly(&mut io, &mut input).await {
                if io.write_all((*answer).as_ref()).await.is_err() {
                    break;
                }
            }
        }
    })
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// The body of what a visitor is told.
async fn told(lab: &Lab, request: &str) -> String {
    let answer = lab.talk(request.as_bytes()).await;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or(answer)
}

#[tokio::test(start_paused = true)]
async fn the_called_endpoint_knows_who_asks_and_its_policy_runs() {
    local(async {
        let lab = Lab::default();
        let (seen, upstream) = strict_upstream();
        let config = json!({ "method": "POST", "body": "hello", "headers": { "x-own": "1" }, "url": format!("{AUTH}/check?a=b") });
        lab.cloud("http://api.example.com", Made { policy: Some(asking(&config)), ..Made::default() });
        let tagging = r#"{"on_http_request":[{"actions":[{"type":"add-headers","config":{"headers":{"x-policy":"${conn.client_ip}"}}}]}]}"#;
        let callee = lab.agent(AUTH, Made { policy: Some(tagging), ..Made::default() }, upstream);
        let forged = "ngrok-req-type: http-request\r\nngrok-req-id: op_forged\r\nCookie: session=1\r\n";
        assert_eq!(told(&lab, &get(forged)).await, "200 hello");
        let seen = seen.borrow();
        assert_eq!(seen.dirty, Vec::<String>::new());
        let request = &seen.requests[0];
        assert_eq!((request.line.as_str(), request.body.as_slice()), ("POST /check?a=b HTTP/1.1", &b"hello"[..]));
        for (name, value) in [
            ("host", "auth.internal"),
            ("x-own", "1"),
            ("x-policy", "192.0.2.7"),
            ("x-forwarded-for", "192.0.2.7"),
            ("ngrok-req-type", "http-request"),
        ] {
            assert_eq!(request.field(name), Some(value), "{name}");
        }
        let id = request.field("ngrok-req-id").unwrap();
        assert!(id.starts_with("op_") && id != "op_forged", "{id}");
        assert!(request.field("user-agent").unwrap().starts_with("ebbgate-edge/"));
        assert_eq!(request.field("cookie"), None, "what the visitor sent is the policy's to pass on");
        // The request has an event of its own.
        let events = lab.events();
        let own = events.iter().find(|event| event.endpoint == Some(callee.id)).unwrap();
        assert_eq!((own.status, own.path.as_str(), own.method.as_str()), (200, "/check", "POST"));
        assert_eq!(events.len(), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_visitors_request_cannot_pose_as_a_policys() {
    local(async {
        let lab = Lab::default();
        let (seen, upstream) = strict_upstream();
        lab.agent("http://api.example.com", Made::default(), upstream);
        lab.talk(get("ngrok-req-type: http-request\r\nngrok-req-id: op_1\r\n").as_bytes()).await;
        let seen = seen.borrow();
        assert_eq!(
            (seen.requests[0].field("ngrok-req-type"), seen.requests[0].field("ngrok-req-id")),
            (None, None)
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn answers_have_a_size_after_decoding() {
    local(async {
        let most = 256 * 1024;
        let plain = |bytes: usize| ok(&"x".repeat(bytes)).into_bytes();
        let gzip = |bytes: usize| {
            let mut edits = ebbgate_body::Edits::default();
            edits.encode(ebbgate_body::Coding::Gzip);
            let mut pipeline = ebbgate_body::Pipeline::new(&edits).unwrap();
            pipeline.push("x".repeat(bytes).into());
            pipeline.end();
            let mut body = Vec::new();
            while let ebbgate_body::Pulled::Data(data) = pipeline.pull().unwrap() {
                body.extend_from_slice(&data);
            }
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            [head.into_bytes(), body].concat()
        };
        let broken = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc".to_vec();
        let cut = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc".to_vec();
        for (what, answer, expect) in [
            ("at the bound", plain(most), "200 xxx"),
            ("above it", plain(most + 1), "ERR_NGROK_3601 "),
            ("coded, at the bound", gzip(most), "200 xxx"),
            ("coded, above it", gzip(most + 1), "ERR_NGROK_3601 "),
            ("a bomb", gzip(64 << 20), "ERR_NGROK_3"),
            ("not gzip", broken, "ERR_NGROK_3905 "),
        ] {
            let lab = Lab::default();
            lab.cloud("http://api.example.com", Made { policy: Some(asking(&json!({}))), ..Made::default() });
            lab.agent(AUTH, Made::default(), answering(answer));
            let told = told(&lab, &get("")).await;
            assert!(told.starts_with(expect), "{what}: {}", &told[..told.len().min(200)]);
        }
        let lab = Lab::default();
        lab.cloud("http://api.example.com", Made { policy: Some(asking(&json!({}))), ..Made::default() });
        lab.agent(
            AUTH,
            Made::default(),
            scripted(move |mut io| {
                let cut = cut.clone();
                async move {
                    let _ = read_strictly(&mut io, &mut Vec::new()).await;
                    let _ = io.write_all(&cut).await;
                }
            }),
        );
        let told = told(&lab, &get("")).await;
        assert!(told.starts_with("ERR_NGROK_3007 "), "{told}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_endpoint_costs_its_own_visitor_the_time_and_nobody_else() {
    local(async {
        let lab = Lab::default();
        let silent = scripted(|mut io| async move {
            let _ = io.read_to_end(&mut Vec::new()).await;
        });
        let config = json!({ "timeout": "5s", "retry_condition": "true" });
        lab.cloud("http://api.example.com", Made { policy: Some(asking(&config)), ..Made::default() });
        let (_, quick) = strict_upstream();
        lab.agent("http://other.example.com", Made { account: 2, ..Made::default() }, quick);
        lab.agent(AUTH, Made::default(), silent);
        let began = Instant::now();
        assert_eq!(told(&lab, &get("")).await, "ERR_NGROK_3602 no answer in time");
        assert_eq!(began.elapsed().as_secs(), 5, "all tries together");

        // As many of one account as may wait; one more is told so, and another account is served.
        let mut waiting = Vec::new();
        for _ in 0..4 {
            let before = lab.opened();
            let (mut io, serving) = lab.visit(http_conn(), Limits::default());
            io.write_all(get("").as_bytes()).await.unwrap();
            while lab.opened() == before {
                tokio::task::yield_now().await;
            }
            waiting.push((io, serving));
        }
        let (mut io, _more) = lab.visit(http_conn(), Limits::default());
        let began = Instant::now();
        io.write_all(get("").as_bytes()).await.unwrap();
        let other = lab.talk(b"GET / HTTP/1.1\r\nHost: other.example.com\r\nConnection: close\r\n\r\n").await;
        assert!(other.ends_with("hello") && began.elapsed() < Duration::from_secs(1), "{other}");
        let mut told = String::new();
        io.read_to_string(&mut told).await.unwrap();
        assert!(told.contains("ERR_NGROK_3602 policies of this account wait"), "{told}");
        assert!(began.elapsed() < Duration::from_secs(1));
        // Visitors that go away leave their places.
        for (io, serving) in waiting {
            drop(io);
            serving.await.unwrap();
        }
        assert_eq!(lab.calls_on_their_way(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn loops_end_with_3603_and_calls_are_counted_over_all_branches() {
    local(async {
        let lab = Lab::default();
        // Each level asks itself again, and says what it was told.
        let own = asking(&json!({ "url": "https://loop.internal" }));
        lab.cloud("http://api.example.com", Made { policy: Some(own), ..Made::default() });
        lab.cloud("https://loop.internal", Made { policy: Some(own), ..Made::default() });
        let said = told(&lab, &get("")).await;
        assert_eq!(said, "200 200 200 ERR_NGROK_3603 policies call each other more than 3 deep");

        // Each level asks eight times: 8 + 64 + 512 without a bound on all together.
        let lab = Lab::default();
        let action = json!({ "type": "http-request", "config": { "url": "https://loop.internal" } });
        let answer = json!({ "type": "custom-response", "config": { "body": "${actions.ngrok.http_request.error.code}" } });
        let actions: Vec<_> = std::iter::repeat_n(action, 8).chain([answer]).collect();
        let policy = json!({ "on_http_request": [{ "actions": actions }] }).to_string();
        let policy: &'static str = Box::leak(policy.into_boxed_str());
        lab.cloud("http://api.example.com", Made { policy: Some(policy), ..Made::default() });
        lab.cloud("https://loop.internal", Made { policy: Some(policy), ..Made::default() });
        assert_eq!(told(&lab, &get("")).await, "ERR_NGROK_3603");
        assert_eq!(lab.events().len(), 64 + 1, "all calls and the visitor's request");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn only_internal_endpoints_of_the_own_account_are_reached() {
    local(async {
        let lab = Lab::default();
        let config = json!({ "url": "https://${req.headers['x-to'][0]}/" });
        lab.cloud("http://api.example.com", Made { policy: Some(asking(&config)), ..Made::default() });
        lab.agent("https://theirs.internal", Made { account: 2, ..Made::default() }, answering(ok("theirs")));
        lab.agent("https://public.example.com", Made::default(), answering(ok("public")));
        for (to, expect) in [
            ("theirs.internal", "ERR_NGROK_3200 "),
            ("nobody.internal", "ERR_NGROK_3200 "),
            ("public.example.com", "ERR_NGROK_3900 "),
            ("127.0.0.1", "ERR_NGROK_3900 "),
        ] {
            let said = told(&lab, &get(&format!("X-To: {to}\r\n"))).await;
            assert!(said.starts_with(expect), "{to}: {said}");
        }
        assert_eq!(lab.opened(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn redirects_and_tries_go_through_the_edge() {
    local(async {
        let lab = Lab::default();
        let config = json!({ "max_redirects": 1 });
        lab.cloud("http://api.example.com", Made { policy: Some(asking(&config)), ..Made::default() });
        let to = "HTTP/1.1 307 Go\r\nLocation: https://moved.internal/new\r\nContent-Length: 0\r\n\r\n";
        lab.agent(AUTH, Made::default(), answering(to));
        lab.agent("https://moved.internal", Made::default(), answering(ok("moved")));
        assert_eq!(told(&lab, &get("")).await, "200 moved");

        let lab = Lab::default();
        let config = json!({ "retry_condition": "last_attempt.res.status_code == 503" });
        lab.cloud("http://api.example.com", Made { policy: Some(asking(&config)), ..Made::default() });
        let answers = Rc::new(RefCell::new(vec![
            ok("third"),
            "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n".into(),
            "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n".into(),
        ]));
        lab.agent(
            AUTH,
            Made::default(),
            scripted(move |mut io| {
                let answers = answers.clone();
                async move {
                    let mut input = Vec::new();
                    while let Ok(Some(_)) = read_strictly(&mut io, &mut input).await {
                        let answer = answers.borrow_mut().pop().unwrap_or_default();
                        let _ = io.write_all(answer.as_bytes()).await;
                    }
                }
            }),
        );
        let began = Instant::now();
        assert_eq!(told(&lab, &get("")).await, "200 third");
        assert_eq!(began.elapsed().as_millis() / 100, 3, "a pause of 100 ms, and one of 200");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_response_phase_may_ask_too() {
    local(async {
        let lab = Lab::default();
        let policy = r#"{"on_http_response":[{"actions":[
            {"type":"http-request","config":{"url":"https://auth.internal","on_error":"halt"}},
            {"type":"add-headers","config":{"headers":{"x-told":"${actions.ngrok.http_request.res.body}"}}}]}]}"#;
        lab.agent("http://api.example.com", Made { policy: Some(policy), ..Made::default() }, answering(ok("page")));
        lab.agent(AUTH, Made::default(), answering(ok("yes")));
        let answer = lab.talk(get("").as_bytes()).await;
        assert!(answer.contains("\r\nx-told: yes\r\n") && answer.ends_with("page"), "{answer}");
    })
    .await;
}

/// A policy that asks a host of the internet and says what came of it.
fn asking_outside(url: &str) -> &'static str {
    let config = json!({ "url": url, "method": "POST", "body": "hello", "headers": { "x-own": "1" } });
    let said = "${actions.ngrok.http_request.res.status_code} ${actions.ngrok.http_request.res.body} \
        ${actions.ngrok.http_request.res.resolved_ip} ${actions.ngrok.http_request.attempts[0].resolved_ip}";
    telling(&config, said)
}

#[tokio::test(start_paused = true)]
async fn a_host_of_the_internet_is_told_who_asks_and_where_to_complain() {
    local(async {
        let lab = Lab::default();
        let made =
            Made { policy: Some(asking_outside("https://api.example.com:8443/v1?a=b")), ..Made::default() };
        lab.cloud("http://api.example.com", made);
        // Off, unless the operator says otherwise.
        let refused = told(&lab, &get("")).await;
        assert!(refused.starts_with("ERR_NGROK_2300 this edge asks no host of the internet"), "{refused}");

        let asked = Rc::new(RefCell::new(Vec::new()));
        let seen = Rc::clone(&asked);
        lab.outside(move |url, request| {
            let head = request.headers().iter().map(|(n, v)| (n.to_string(), v.to_str().unwrap().to_owned()));
            let line = format!("{} {} {}", request.method(), url, request.uri());
            seen.borrow_mut().push((line, head.collect::<Vec<_>>(), request.body().clone()));
            Ok(http::Response::builder().status(202).header("x-a", "b").body("said".into()).unwrap())
        });
        let visitor =
            "X-Forwarded-For: 6.6.6.6\r\nngrok-report-abuse: https://forged/\r\nCookie: session=1\r\n";
        assert_eq!(told(&lab, &get(visitor)).await, "202 said 203.0.113.80 203.0.113.80");
        let asked = asked.borrow();
        let [(line, head, body)] = asked.as_slice() else { panic!("{asked:?}") };
        assert_eq!((line.as_str(), &body[..]), ("POST https://api.example.com:8443/ /v1?a=b", &b"hello"[..]));
        let field = |name: &str| {
            let values = head.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str());
            values.collect::<Vec<_>>()
        };
        for (name, value) in [
            ("host", "api.example.com:8443"),
            ("x-own", "1"),
            ("x-forwarded-for", "192.0.2.7"),
            ("ngrok-req-type", "http-request"),
            ("ngrok-report-abuse", "https://ops.example.com/abuse"),
        ] {
            assert_eq!(field(name), [value], "{name}");
        }
        assert!(
            field("ngrok-req-id")[0].starts_with("op_")
                && field("user-agent")[0].starts_with("ebbgate-edge/")
        );
        assert!(field("cookie").is_empty(), "{head:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn requests_to_hosts_of_the_internet_are_bounded_as_others_are() {
    local(async {
        let lab = Lab::default();
        // Each action tries three times; both phases together would make sixty-six requests.
        let ask = json!({ "type": "http-request", "config": { "url": "https://api.example.com/", "retry_condition": "true" } });
        let code = "${actions.ngrok.http_request.error.code}";
        let policy = json!({
            "on_http_request": [{ "actions": vec![ask.clone(); 11] }, { "actions": [{ "type": "custom-response" }] }],
            "on_http_response": [{ "actions": vec![ask; 11] },
                { "actions": [{ "type": "add-headers", "config": { "headers": { "x-code": code } } }] }],
        });
        let policy: &str = Box::leak(policy.to_string().into_boxed_str());
        lab.cloud("http://api.example.com", Made { policy: Some(policy), ..Made::default() });
        let count = Rc::new(RefCell::new(0));
        let counted = Rc::clone(&count);
        lab.outside(move |_, _| {
            *counted.borrow_mut() += 1;
            Ok(http::Response::new(bytes::Bytes::new()))
        });
        let answer = lab.talk(get("").as_bytes()).await;
        assert!(answer.contains("x-code: ERR_NGROK_3603\r\n"), "{answer}");
        assert_eq!(*count.borrow(), 64);
    })
    .await;
}
