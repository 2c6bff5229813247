//! `enforce: false`: visitors meet nothing of the policy, and its verdicts are told apart.

use std::rc::Rc;

use ebbgate_model::event::RequestEvent;
use serde_json::{Value, json};

use crate::lab::{Lab, Made, local, strict_upstream};

const PUBLIC: &str = "http://api.example.com";
const INNER: &str = "http://inner.internal";

/// A policy that lives as long as the process.
fn policy(rules: &Value, enforce: bool) -> &'static str {
    let mut policy = rules.clone();
    policy["enforce"] = enforce.into();
    Box::leak(policy.to_string().into_boxed_str())
}

fn strict() -> Value {
    json!({
        "on_tcp_connect": [{ "actions": [{ "type": "restrict-ips", "config": { "allow": ["192.0.2.200/32"] } }] }],
        "on_http_request": [
            { "actions": [{ "type": "add-headers", "config": { "headers": { "x-policy": "1" } } },
                { "type": "log", "config": { "metadata": { "path": "${req.url.path}" } } }] },
            { "expressions": ["req.method == 'POST'"],
              "actions": [{ "type": "verify-webhook", "config": { "provider": "github", "secret": "s" } }] },
            { "actions": [{ "type": "basic-auth", "config": { "credentials": ["ann:hunter2hunter2"] } }] }],
        "on_http_response": [{ "actions": [{ "type": "custom-response", "config": { "status_code": 418 } }] }]
    })
}

/// Phase, outcome, status and place of what was told.
fn told(event: &RequestEvent) -> Vec<(&str, &str, Option<u16>, &str)> {
    let told = event.not_enforced.iter();
    told.map(|told| (told.phase.as_str(), told.outcome.as_str(), told.status, told.decided_by.as_str()))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn an_agents_endpoint_serves_as_if_there_were_no_policy() {
    local(async {
        let request = "GET /a HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n\r\n";
        for enforce in [false, true] {
            let lab = Lab::default();
            let (seen, upstream) = strict_upstream();
            lab.agent(PUBLIC, Made { policy: Some(policy(&strict(), enforce)), ..Made::default() }, upstream);
            let answer = lab.talk(request.as_bytes()).await;
            let event = lab.events().pop().unwrap();
            if enforce {
                assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
                assert!(event.not_enforced.is_empty());
                continue;
            }
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            assert!(!answer.contains("www-authenticate"), "{answer}");
            assert_eq!(seen.borrow().requests.len(), 1);
            assert_eq!(seen.borrow().requests[0].field("x-policy"), None);
            assert_eq!(
                told(&event),
                [
                    ("on_tcp_connect", "close", None, "on_tcp_connect[0].actions[0]"),
                    ("on_http_request", "respond", Some(401), "on_http_request[2].actions[0]"),
                ],
                "the response's rules would not have run"
            );
            assert!(event.decisions.is_empty(), "{:?}", event.decisions);
            assert_eq!(event.policy_logs, [json!({ "path": "/a" })]);
            assert_eq!(event.error, None);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_cloud_endpoint_forwards_and_does_nothing_else() {
    local(async {
        let lab = Lab::default();
        let mut rules = strict();
        let forward = json!({ "actions": [{ "type": "forward-internal", "config": { "url": INNER } }] });
        rules["on_http_request"].as_array_mut().unwrap().push(forward);
        lab.cloud(PUBLIC, Made { policy: Some(policy(&rules, false)), ..Made::default() });
        let (seen, upstream) = strict_upstream();
        // The policy behind the forward is enforced, and has all of its own budget.
        let inner = json!({ "on_http_request": [{ "actions": [{ "type": "add-headers", "config": { "headers": { "x-inner": "1" } } }] }] });
        lab.agent(INNER, Made { policy: Some(policy(&inner, true)), ..Made::default() }, upstream);
        let request = "POST /a HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
        let answer = lab.talk(request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let seen = Rc::clone(&seen);
        let seen = seen.borrow();
        assert_eq!((seen.requests[0].field("x-inner"), seen.requests[0].field("x-policy")), (Some("1"), None));
        assert_eq!(seen.requests[0].body, b"hello", "what was read to be judged is sent");
        let event = lab.events().pop().unwrap();
        assert_eq!(told(&event)[1], ("on_http_request", "respond", Some(403), "on_http_request[1].actions[0]"));
        assert_eq!(event.not_enforced[1].url, PUBLIC);
        assert_eq!(event.forwarded_to, INNER);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_body_without_room_or_without_a_length_passes_unjudged() {
    local(async {
        let lab = Lab::default();
        let rules = json!({ "on_http_request": [{ "actions": [{ "type": "verify-webhook", "config": { "provider": "github", "secret": "s" } }] }] });
        let (seen, upstream) = strict_upstream();
        let endpoint = lab.agent(PUBLIC, Made { policy: Some(policy(&rules, false)), ..Made::default() }, upstream);
        let chunked = "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
        let short = "Content-Length: 5\r\nConnection: close\r\n\r\nhello";
        let mut shares = Vec::new();
        for (rest, is_full) in [(chunked, false), (short, true)] {
            while is_full && let Some(share) = lab.hold(endpoint.account, 1 << 10) {
                shares.push(share);
            }
            let signed = "x-hub-signature-256: sha256=00";
            let request = format!("POST / HTTP/1.1\r\nHost: api.example.com\r\n{signed}\r\n{rest}");
            let answer = lab.talk(request.as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            let event = lab.events().pop().unwrap();
            assert_eq!(told(&event), [("on_http_request", "unknown", None, "")], "{rest}");
            assert_eq!(event.not_enforced[0].not_judged, ["on_http_request[0].actions[0]"]);
        }
        assert!(seen.borrow().requests.iter().all(|request| request.body == b"hello"));
    })
    .await;
}
