//! `enforce: false`: what is done, what is told, and what is not even tried.

use std::sync::Arc;

use bytes::Bytes;
use ebbgate_model::ErrorCode;
use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};

use super::*;
use crate::facts::MemberFacts;
use crate::facts::tests::request;
use crate::identity::{KeyRing, SEALING_KEY_BYTES, SealingKey, SessionFacts};
use crate::testing::{World, engine};

fn of_agent(mut cx: Context) -> Context {
    Arc::make_mut(&mut cx.endpoint).member = Some(Box::new(MemberFacts::default()));
    cx
}

fn on_trial(rules: &Value) -> Arc<crate::Engine> {
    engine(json!({ "enforce": false, "on_http_request": rules }))
}

/// Runs the request's phase of a policy on trial: the verdict, and what was told.
fn run(rules: &Value, cx: &mut Context, world: &mut World) -> (Verdict, NotEnforced) {
    let verdict = world.run(&on_trial(rules), Phase::HttpRequest, cx);
    let told = std::mem::take(&mut cx.not_enforced);
    let [told] = <[NotEnforced; 1]>::try_from(told).expect("one phase, told once");
    (verdict, told)
}

fn told(rules: &Value, world: &mut World) -> NotEnforced {
    let (verdict, told) = run(rules, &mut of_agent(request("/a", &[("content-length", "2")])), world);
    assert!(matches!(verdict, Verdict::Continue), "{verdict:?}");
    told
}

#[test]
fn a_refusal_is_told_and_not_done() {
    let denies = json!([
        { "actions": [{ "type": "add-headers", "config": { "headers": { "x-a": "1" } } }] },
        { "expressions": ["req.headers['x-a'][0] == '1'"], "actions": [{ "type": "deny", "config": { "status_code": 405 } }] }
    ]);
    let mut cx = of_agent(request("/a", &[]));
    let (verdict, told) = run(&denies, &mut cx, &mut World::default());
    assert!(matches!(verdict, Verdict::Continue));
    assert_eq!(
        (told.outcome.as_str(), told.status, told.phase.as_str()),
        ("respond", Some(405), "on_http_request")
    );
    assert_eq!(told.decided_by, "on_http_request[1].actions[0]");
    assert_eq!(told.url, "https://api.example.com");
    assert!(!cx.request.unwrap().headers.contains_key("x-a"), "the traffic is as it was");

    let lists =
        json!([{ "actions": [{ "type": "restrict-ips", "config": { "allow": ["198.51.100.0/24"] } }] }]);
    let told = self::told(&lists, &mut World::default());
    assert_eq!((told.outcome.as_str(), told.code.map(ErrorCode::number)), ("respond", Some(3203)));
    let told = self::told(
        &json!([{ "expressions": ["1 / 0 == 1"], "actions": [{ "type": "deny" }] }]),
        &mut World::default(),
    );
    assert_eq!(
        (told.outcome.as_str(), told.decided_by.as_str()),
        ("fail", "on_http_request[0].expressions[0]")
    );
    let told = self::told(
        &json!([{ "actions": [{ "type": "log", "config": { "metadata": { "a": "b" } } }] }]),
        &mut World::default(),
    );
    assert_eq!((told.outcome.as_str(), told.decided_by.as_str()), ("continue", ""));
}

#[test]
fn what_logs_record_is_recorded() {
    let mut cx = of_agent(request("/a", &[]));
    run(
        &json!([{ "actions": [{ "type": "log", "config": { "metadata": { "a": "b" } } }] }]),
        &mut cx,
        &mut World::default(),
    );
    assert_eq!(cx.logs, [json!({ "a": "b" })]);
}

#[test]
fn a_cloud_endpoint_forwards_past_everything_else() {
    let rules = json!([
        { "actions": [{ "type": "deny" }] },
        { "expressions": ["1 / 0 == 1"], "actions": [{ "type": "deny" }] },
        { "expressions": ["req.url.path == '/b'"], "actions": [{ "type": "forward-internal", "config": { "url": "https://b.internal" } }] },
        { "actions": [
            { "type": "basic-auth", "config": { "credentials": ["ann:hunter2hunter2"] } },
            { "type": "forward-internal", "config": { "url": "https://a.internal" } }
        ] }
    ]);
    for (path, to) in [("/a", "https://a.internal"), ("/b", "https://b.internal")] {
        let (verdict, told) = run(&rules, &mut request(path, &[]), &mut World::default());
        let Verdict::Forward { url, .. } = verdict else { panic!("{verdict:?}") };
        assert_eq!(url.to_string(), to);
        assert_eq!(
            (told.outcome.as_str(), told.decided_by.as_str()),
            ("respond", "on_http_request[0].actions[0]")
        );
    }
    let (verdict, told) = run(&rules, &mut of_agent(request("/a", &[])), &mut World::default());
    assert!(matches!(verdict, Verdict::Continue), "an agent's upstream serves");
    assert_eq!(told.status, Some(403));
    // A forward that fails goes on to the next one, and nothing is told again.
    let tries = json!([
        { "actions": [{ "type": "forward-internal", "config": { "url": "https://b.internal", "on_error": "continue" } }] },
        { "actions": [{ "type": "forward-internal", "config": { "url": "https://a.internal" } }] }
    ]);
    let mut world = World { forwards_failing: 1, ..World::default() };
    let (verdict, told) = run(&tries, &mut request("/a", &[]), &mut world);
    assert!(matches!(verdict, Verdict::Forward { url, .. } if url.to_string() == "https://a.internal"));
    assert_eq!((told.outcome.as_str(), told.to.as_str()), ("forward", "https://b.internal"));
}

#[test]
fn nobody_else_is_asked() {
    let key = SealingKey { id: 0, from_unix_secs: 0, key: [0; SEALING_KEY_BYTES] };
    let sessions = SessionFacts { ring: Arc::new(KeyRing::new([key])), ..SessionFacts::default() };
    let mut world = World { sessions, ..World::default() };
    let calls = json!([
        { "actions": [{ "type": "http-request", "config": { "url": "https://a.internal/hook" } }] },
        { "expressions": ["actions.ngrok.http_request.res.status_code == 200"], "actions": [{ "type": "deny" }] }
    ]);
    let told = told(&calls, &mut world);
    assert_eq!(
        (told.outcome.as_str(), told.not_judged.as_slice()),
        ("unknown", &["on_http_request[0].actions[0]".to_owned()][..])
    );
    let signs_in = json!([{ "actions": [{ "type": "openid-connect", "config":
        { "issuer_url": "https://id.example.com", "client_id": "a", "client_secret": "b" } }] }]);
    let mut cx = of_agent(request("/a", &[]));
    Arc::make_mut(&mut cx.conn).tls = Some(Arc::default());
    let (_, told) = run(&signs_in, &mut cx, &mut world);
    assert_eq!((told.outcome.as_str(), told.not_judged.len()), ("unknown", 1));
    assert!(world.calls.is_empty() && world.exchanges.is_empty() && world.notes.is_empty());
    // A refusal stands whatever the action before it would have said.
    let refused = json!([{ "actions": [{ "type": "http-request", "config": { "url": "https://a.internal/hook" } }, { "type": "deny" }] }]);
    assert_eq!(self::told(&refused, &mut world).outcome, "respond");
}

#[test]
fn a_body_is_read_where_its_end_is_known() {
    let rules = json!([{ "actions": [{ "type": "verify-webhook", "config": { "provider": "github", "secret": "s" } }] }]);
    let mut world = World { body: Some(Ok(Bytes::from("{}"))), ..World::default() };
    let told = told(&rules, &mut world);
    assert_eq!((told.outcome.as_str(), told.code.map(ErrorCode::number)), ("respond", Some(3204)));
    for length in [None, Some("99999999999")] {
        let mut cx = of_agent(request("/a", &[("x-hub-signature-256", "sha256=00")]));
        if let Some(length) = length {
            cx.request.as_mut().unwrap().headers.insert("content-length", HeaderValue::from_static(length));
        }
        let mut world = World::default();
        let (_, told) = run(&rules, &mut cx, &mut world);
        assert_eq!((told.outcome.as_str(), told.not_judged.len()), ("unknown", 1), "{length:?}");
    }
}

#[test]
fn what_is_not_judged_fails_an_enforced_policy_and_no_other() {
    let rules = json!([{ "actions": [{ "type": "rate-limit", "config": { "name": "a", "algorithm": "sliding_window", "capacity": 1,
        "rate": "60s", "bucket_key": ["conn.client_ip"] } }] }]);
    for (policy, is_failed) in [
        (json!({ "enforce": false, "on_http_request": rules }), false),
        (json!({ "on_http_request": rules }), true),
    ] {
        let (engine, mut cx) = (engine(policy), of_agent(request("/a", &[])));
        let mut run = engine.start(Phase::HttpRequest);
        assert!(matches!(run.step(&mut cx), crate::Step::Need(Effect::Count(_))));
        run.resume(&mut cx, crate::Outcome::NotJudged);
        let step = run.step(&mut cx);
        assert_eq!(matches!(step, crate::Step::Done(Verdict::Failed { .. })), is_failed, "{step:?}");
    }
}

#[test]
fn the_response_is_judged_after_a_request_that_would_have_passed() {
    let policy = |denies: bool| {
        engine(json!({ "enforce": false,
            "on_http_request": [{ "expressions": [denies.to_string()], "actions": [{ "type": "deny" }] },
                { "actions": [{ "type": "add-headers", "config": { "headers": { "x-seen": "1" } } }] }],
            "on_http_response": [{ "expressions": ["req.headers['x-seen'][0] == '1'"],
                "actions": [{ "type": "add-headers", "config": { "headers": { "x-b": "1" } } }, { "type": "custom-response" }] }] }))
    };
    for (denies, outcomes) in [(false, vec!["continue", "respond"]), (true, vec!["respond"])] {
        let (mut world, mut cx) = (World::default(), of_agent(request("/a", &[])));
        let engine = policy(denies);
        assert!(matches!(world.run(&engine, Phase::HttpRequest, &mut cx), Verdict::Continue));
        let (mut head, ()) = http::Response::new(()).into_parts();
        head.status = StatusCode::CREATED;
        cx.response = Some(head);
        assert!(matches!(world.run(&engine, Phase::HttpResponse, &mut cx), Verdict::Continue));
        let told: Vec<_> = cx.not_enforced.iter().map(|told| told.outcome.as_str()).collect();
        assert_eq!(told, outcomes);
        let head = cx.response.unwrap();
        assert_eq!(head.status, StatusCode::CREATED);
        assert!(!head.headers.contains_key("x-b"));
    }
}

#[test]
fn its_work_takes_nothing_from_policies_after_it() {
    let all: Vec<_> = (0..40)
        .map(|_| json!({ "expressions": ["[1, 2, 3, 4, 5, 6, 7, 8, 9].all(a, [1, 2, 3, 4, 5, 6, 7, 8, 9].all(b, a + b > 0))"],
            "actions": [{ "type": "log", "config": { "metadata": { "a": "b" } } }] }))
        .collect();
    let mut cx = of_agent(request("/a", &[]));
    run(&json!(all), &mut cx, &mut World::default());
    assert_eq!(cx.work.spent(), 0);
}

#[test]
fn terminate_tls_is_left_to_a_trial_of_its_own() {
    let engine = engine(
        json!({ "enforce": false, "on_tcp_connect": [{ "actions": [{ "type": "terminate-tls" }, { "type": "close-connection" }] }] }),
    );
    let mut cx = of_agent(crate::facts::tests::context());
    assert!(matches!(World::default().run(&engine, Phase::TcpConnect, &mut cx), Verdict::Continue));
    assert_eq!((cx.not_enforced[0].outcome.as_str(), cx.not_enforced[0].not_judged.len()), ("close", 1));
    assert!(!engine.guards_connections() && engine.has(Phase::TcpConnect));
}
