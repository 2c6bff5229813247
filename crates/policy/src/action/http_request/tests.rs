//! What is asked, which redirects and tries follow, what is left behind, and configurations at their bounds.

use super::*;
use crate::check::{CheckContext, Owner, check};
use crate::facts::Phase;
use crate::facts::tests::request;
use crate::testing::{World, engine};
use crate::verdict::{CallAnswer, Verdict};
use ebbgate_model::{Binding, ErrorCode};
use http::StatusCode;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[expect(clippy::unnecessary_wraps, reason = "tests mix answers with failures")]
fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Result<CallAnswer, CallError> {
    let name = |name: &str| HeaderName::from_bytes(name.as_bytes()).unwrap();
    let headers = headers.iter().map(|(n, value)| (name(n), value.parse().unwrap())).collect();
    Ok(CallAnswer {
        status: StatusCode::from_u16(status).unwrap(),
        headers,
        body: body.to_owned().into(),
        resolved_ip: None,
    })
}

/// What a host of the internet answers.
fn external(status: u16, headers: &[(&str, &str)], ip: &str) -> Result<CallAnswer, CallError> {
    let answer = answer(status, headers, "")?;
    Ok(CallAnswer { resolved_ip: Some(ip.parse().unwrap()), ..answer })
}

fn policy(config: &Value) -> Value {
    json!({ "on_http_request": [{ "actions": [
        { "type": "http-request", "config": config },
        { "type": "custom-response", "config": { "body": "on" } },
    ] }] })
}

/// What was called, as `METHOD URL body`, how it ended, and the result.
fn run(
    config: &Value,
    answers: Vec<(Duration, Result<CallAnswer, CallError>)>,
) -> (Vec<String>, String, Value) {
    let mut world = World { call_answers: answers.into(), ..World::default() };
    let mut cx = request("/a?b=c", &[("x-user", "ann & bob")]);
    let end = match world.run(&engine(policy(config)), Phase::HttpRequest, &mut cx) {
        Verdict::Respond(reply) => String::from_utf8_lossy(&reply.body).into_owned(),
        Verdict::Failed { code, message } => format!("{code} {message}"),
        other => format!("{other:?}"),
    };
    let called = |call: &Call| {
        let body = String::from_utf8_lossy(&call.body).into_owned();
        format!("{} {} {body}", call.method, call.address()).trim_end().to_owned()
    };
    let result = cx.result("http_request").cloned().unwrap_or_default();
    (world.calls.iter().map(called).collect(), end, result)
}

#[test]
fn the_published_example_asks_and_keeps_what_was_said() {
    let config = json!({
        "url": "https://auth.internal:8443/v1/check?fixed=1",
        "method": "POST",
        "query_params": [{ "key": "user", "value": "${req.headers['x-user'][0]}" }, { "key": "n", "value": 7 }],
        "headers": { "x-from": "${conn.client_ip}" },
        "body": "{\"path\": \"${req.url.path}\"}",
    });
    let said = answer(201, &[("x-role", "nurse"), ("x-role", "night")], "yes");
    let (calls, end, result) = run(&config, vec![(ms(12), said)]);
    assert_eq!(
        calls,
        ["POST https://auth.internal:8443/v1/check?fixed=1&user=ann+%26+bob&n=7 {\"path\": \"/a\"}"]
    );
    assert_eq!(end, "on");
    let header = json!({ "x-role": ["nurse", "night"] });
    assert_eq!(
        result["res"],
        json!({ "status_code": 201, "header": header, "body": "yes", "time_ms": "12", "resolved_ip": "" })
    );
    assert_eq!(
        result["attempts"],
        json!([{ "response_status_code": 201, "response_header": header, "response_time_ms": "12", "resolved_ip": "" }])
    );
    assert_eq!(result["req"]["header"], json!({ "x-from": ["203.0.113.42"] }));
    assert_eq!(result["req"]["method"], "POST");
    assert!(result.get("error").is_none());
}

#[test]
fn results_are_read_by_the_actions_after() {
    let policy = json!({ "on_http_request": [
        { "actions": [{ "type": "http-request", "config": { "url": "https://auth.internal" } }] },
        { "expressions": ["actions.ngrok.http_request.res.status_code != 200"],
          "actions": [{ "type": "deny", "config": { "status_code": 401 } }] },
        { "actions": [{ "type": "custom-response",
            "config": { "body": "${actions.ngrok.http_request.res.header['x-role'][0]}" } }] },
    ] });
    for (said, status, body) in [
        (answer(200, &[("x-role", "nurse")], ""), 200, "nurse"),
        (answer(403, &[], ""), 401, ""),
        // Without an answer the status is 0: what compares it stays closed.
        (Err(calling::error(ErrorCode::OFFLINE, "offline")), 401, ""),
    ] {
        let mut world = World { call_answers: vec![(ms(1), said)].into(), ..World::default() };
        let mut cx = request("/", &[]);
        match world.run(&engine(policy.clone()), Phase::HttpRequest, &mut cx) {
            Verdict::Respond(reply) => {
                assert_eq!((reply.status.as_u16(), &reply.body[..]), (status, body.as_bytes()));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_failure_goes_on_or_halts() {
    let late = || vec![(ms(3_000), Err(calling::late()))];
    let mut config = json!({ "url": "https://auth.internal" });
    let (_, end, result) = run(&config, late());
    assert_eq!((end.as_str(), &result["error"]["code"]), ("on", &json!("ERR_NGROK_3602")));
    assert_eq!(result["res"]["status_code"], 0);
    config["on_error"] = json!("halt");
    let (_, end, _) = run(&config, late());
    assert_eq!(end, "ERR_NGROK_3602 http-request: no answer in time");
    // An answer is none, whatever its status.
    assert_eq!(run(&config, vec![(ms(1), answer(500, &[], ""))]).1, "on");
}

#[test]
fn tries_follow_the_condition_with_pauses_inside_the_time() {
    let config = |condition: &str| json!({ "url": "https://auth.internal", "timeout": "2s", "retry_condition": condition });
    let failing = |took: u64| (0..5).map(move |_| (ms(took), answer(500, &[], "")));
    for condition in [
        "last_attempt.res.status_code == 500",
        "last_attempt.res.statusCode == 500",
        "attempts < 9 && last_attempt.req.method == 'GET'",
        "last_attempt.error == ''",
    ] {
        let mut world = World { call_answers: failing(5).collect(), ..World::default() };
        let mut cx = request("/", &[]);
        world.run(&engine(policy(&config(condition))), Phase::HttpRequest, &mut cx);
        let waits: Vec<_> = world.calls.iter().map(|call| (call.after, call.timeout)).collect();
        assert_eq!(waits, [(ms(0), ms(2_000)), (ms(100), ms(1_995)), (ms(200), ms(1_990))], "{condition}");
        let attempts = cx.result("http_request").unwrap()["attempts"].as_array().unwrap().len();
        assert_eq!(attempts, 3, "{condition}");
    }
    let calls = |condition: &str, took| run(&config(condition), failing(took).collect()).0.len();
    assert_eq!(calls("attempts < 2", 5), 2);
    assert_eq!(calls("last_attempt.res.status_code == 503", 5), 1);
    assert_eq!(calls("true", 950), 2, "no time is left for a third");
    assert_eq!(calls("true", 1_900), 1, "less than the pause is left");
    let twice = vec![(ms(1), Err(calling::late())), (ms(1), answer(200, &[], "ok"))];
    let (_, _, result) = run(&config("last_attempt.error != ''"), twice);
    assert_eq!((&result["res"]["body"], result.get("error")), (&json!("ok"), None), "the last one counts");
}

#[test]
fn a_condition_that_fails_is_a_failure() {
    let config = json!({ "url": "https://auth.internal", "on_error": "halt",
        "retry_condition": "last_attempt.res.header['x'][0] == 'a'" });
    let (calls, end, _) = run(&config, vec![(ms(1), answer(200, &[], ""))]);
    assert_eq!(calls.len(), 1);
    assert!(end.starts_with("ERR_NGROK_2300 http-request: retry_condition: "), "{end}");
}

#[test]
fn redirects_stay_inside_and_drop_what_is_anothers() {
    let config = |max: u64| {
        json!({ "url": "https://a.internal/x/y?q", "method": "POST", "body": "b", "max_redirects": max,
            "headers": { "authorization": "secret", "content-type": "text/plain", "x-own": "1" }, "on_error": "halt" })
    };
    let to = |status: u16, location: &str| (ms(1), answer(status, &[("location", location)], ""));
    let done = || (ms(1), answer(200, &[], ""));
    for (status, location, expect) in [
        (302, "z", "GET https://a.internal/x/z"),
        (301, "/z?w", "GET https://a.internal/z?w"),
        (303, "?w", "GET https://a.internal/x/y?w"),
        (307, "//b.internal/z", "POST https://b.internal/z b"),
        (308, "http://b.internal:81", "POST http://b.internal:81/ b"),
    ] {
        let (calls, end, _) = run(&config(1), vec![to(status, location), done()]);
        assert_eq!((calls.last().unwrap().as_str(), end.as_str()), (expect, "on"), "{location}");
    }
    for location in [
        "https://example.com/",
        "//203.0.113.9/",
        "ftp://b.internal/",
        "http://[::1]/",
        "https://b.internal@evil.com/",
    ] {
        let (calls, end, _) = run(&config(5), vec![to(307, location), done()]);
        assert_eq!(calls.len(), 1, "{location}");
        assert!(end.starts_with("ERR_NGROK_2300 http-request: a redirect: "), "{location}: {end}");
    }
    let circle = || vec![to(307, "/1"), to(307, "/2"), to(307, "/3"), done()];
    let (calls, end, _) = run(&config(2), circle());
    assert_eq!((calls.len(), end.as_str()), (3, "ERR_NGROK_2300 http-request: more than 2 redirects"));
    assert_eq!(run(&config(3), circle()).1, "on");
    // None are followed unless asked for: the redirect is the answer.
    let (calls, _, result) = run(&config(0), circle());
    assert_eq!((calls.len(), &result["res"]["status_code"]), (1, &json!(307)));

    let mut world =
        World { call_answers: vec![to(307, "https://b.internal/"), done()].into(), ..World::default() };
    world.run(&engine(policy(&config(1))), Phase::HttpRequest, &mut request("/", &[]));
    let names = |at: usize| world.calls[at].headers.keys().map(HeaderName::as_str).collect::<Vec<_>>();
    assert_eq!(names(0).len(), 3);
    assert!(!names(1).contains(&"authorization") && names(1).contains(&"x-own"), "{:?}", names(1));
}

#[test]
fn a_computed_url_is_read_again_and_stays_inside() {
    for (header, expect) in [
        ("b.internal", "GET https://b.internal/"),
        ("example.com", "`example.com` is not the name of an internal endpoint"),
        ("b.internal@example.com", ""),
        ("*.internal", "is not the name of an internal endpoint"),
        ("b.internal:x", ""),
    ] {
        let config = json!({ "url": "https://${req.headers['x-to'][0]}/", "on_error": "halt" });
        let mut world =
            World { call_answers: vec![(ms(1), answer(200, &[], ""))].into(), ..World::default() };
        let mut cx = request("/", &[("x-to", header)]);
        let verdict = world.run(&engine(policy(&config)), Phase::HttpRequest, &mut cx);
        if let Some(call) = world.calls.first() {
            assert_eq!(format!("GET {}", call.address()), expect);
            continue;
        }
        let Verdict::Failed { code, message } = verdict else { panic!("{header}: {verdict:?}") };
        assert!(code.number() == 3900 && message.contains(expect), "{header}: {message}");
    }
    // The policy's own failure is one, whatever on_error says.
    let config = json!({ "url": "https://${req.headers['absent'][0]}/" });
    assert!(run(&config, Vec::new()).1.starts_with("ERR_NGROK_3900 "));
}

#[test]
fn a_host_of_the_internet_is_asked_and_its_address_told() {
    let config = json!({ "url": "https://api.example.com:8443/v1?of=${req.headers['x-user'][0]}", "max_redirects": 2,
        "on_error": "halt" });
    let moved = external(307, &[("location", "https://other.example.com/z")], "203.0.113.1");
    let (calls, end, result) = run(&config, vec![(ms(1), moved), (ms(2), external(200, &[], "2001:db8::1"))]);
    assert_eq!(
        (calls, end.as_str()),
        (
            vec![
                "GET https://api.example.com:8443/v1?of=ann%20&%20bob".to_owned(),
                "GET https://other.example.com/z".to_owned()
            ],
            "on"
        )
    );
    assert_eq!(result["res"]["resolved_ip"], "2001:db8::1");
    assert_eq!(result["attempts"][0]["resolved_ip"], "2001:db8::1");
    // A host outside leads nobody into the account's endpoints, and out of https neither.
    for location in ["https://audit.internal/", "http://other.example.com/", "//audit.internal/"] {
        let moved = external(307, &[("location", location)], "203.0.113.1");
        let (calls, end, _) = run(&config, vec![(ms(1), moved)]);
        assert_eq!(calls.len(), 1, "{location}");
        assert!(end.starts_with("ERR_NGROK_2300 http-request: a redirect: "), "{location}: {end}");
    }
}

#[test]
fn a_host_of_the_internet_is_written_and_never_computed() {
    for url in [
        "https://${req.headers['x-to'][0]}/",
        "https://api.${req.headers['x-to'][0]}/",
        // The host does not end before what is computed.
        "https://example.com${req.headers['x-to'][0]}",
        "${'https://'}${req.headers['x-to'][0]}/",
    ] {
        let config = json!({ "url": url, "on_error": "halt" });
        let mut world = World::default();
        let mut cx = request("/", &[("x-to", ".example.com")]);
        cx.request.as_mut().unwrap().headers.insert("x-to", "evil.example.com".parse().unwrap());
        let verdict = world.run(&engine(policy(&config)), Phase::HttpRequest, &mut cx);
        assert!(world.calls.is_empty(), "{url}: {:?}", world.calls);
        let Verdict::Failed { code, message } = verdict else { panic!("{url}: {verdict:?}") };
        assert!(code.number() == 3900 && message.contains("is written, not computed"), "{url}: {message}");
    }
}

#[test]
fn settings_at_below_and_above_their_limits() {
    let cx =
        CheckContext { scheme: ebbgate_model::Scheme::Https, binding: Binding::Public, owner: Owner::Cloud };
    let parameter =
        |key: usize, value: usize| json!([{ "key": "k".repeat(key), "value": "v".repeat(value) }]);
    let parameters = |n: usize| vec![json!({ "key": "k", "value": "v" }); n];
    let headers =
        |n: usize| (0..n).map(|n| (format!("x-{n}"), json!("v"))).collect::<serde_json::Map<_, _>>();
    for (key, value, code) in [
        ("url", json!("http://a.b.internal:81/x?y"), None),
        ("url", json!("https://example.com/"), None),
        ("url", json!("https://example.com:8443/${req.url.path}"), None),
        ("url", json!("http://example.com/"), Some(2204)),
        ("url", json!("http://example.com/${req.url.path}"), Some(2204)),
        ("url", json!("tcp://a.internal:1"), Some(2204)),
        ("url", json!("a.internal"), Some(2204)),
        ("url", json!("https://*.a.internal"), Some(2204)),
        ("url", json!("https://user@a.internal/"), Some(2204)),
        ("url", Value::Null, Some(2234)),
        ("method", json!("OPTIONS"), None),
        ("method", json!("HEAD"), Some(2204)),
        ("method", json!("get"), Some(2204)),
        ("query_params", json!(parameters(32)), None),
        ("query_params", json!(parameters(33)), Some(2218)),
        ("query_params", parameter(128, 8192), None),
        ("query_params", parameter(129, 1), Some(2204)),
        ("query_params", parameter(1, 8193), Some(2204)),
        ("query_params", json!([{ "key": "k" }]), Some(2234)),
        ("query_params", json!([{ "key": "k", "value": "v", "more": 1 }]), Some(2203)),
        ("query_params", json!({ "k": "v" }), Some(2222)),
        ("headers", json!(headers(10)), None),
        ("headers", json!(headers(11)), Some(2218)),
        ("headers", json!({ "user-agent": "x" }), Some(2219)),
        ("headers", json!({ "content-length": "1" }), Some(2219)),
        ("body", json!("b"), Some(2240)),
        ("max_redirects", json!(0), None),
        ("max_redirects", json!(10), None),
        ("max_redirects", json!(11), Some(2215)),
        ("timeout", json!("1s"), None),
        ("timeout", json!("30s"), None),
        ("timeout", json!("999ms"), Some(2215)),
        ("timeout", json!("30s1ms"), Some(2215)),
        ("retry_condition", json!(false), None),
        ("retry_condition", json!("attempts < 2"), None),
        ("retry_condition", json!("attempt < 2"), Some(2224)),
        ("retry_condition", json!("'text'"), Some(2200)),
        ("retry_condition", json!(1), Some(2222)),
        ("on_error", json!("halt"), None),
        ("on_error", json!("stop"), Some(2204)),
        ("urls", json!("x"), Some(2203)),
    ] {
        let mut config = json!({ "url": "https://a.internal" });
        config[key] = value.clone();
        let found = check(&policy(&config).to_string(), &cx).err().unwrap_or_default();
        let codes: Vec<_> = found.iter().map(|problem| problem.code.number()).collect();
        assert_eq!(codes, code.into_iter().collect::<Vec<u32>>(), "{key}: {value} {found:?}");
    }
}
