//! What saving says of the actions on bodies, and what they make of a head.

use ebbgate_body::Coding;
use ebbgate_model::{Binding, Scheme};
use http::Response;
use serde_json::{Value, json};

use super::*;
use crate::check::{CheckContext, Owner, check};
use crate::facts::tests::request;
use crate::testing::{World, engine};
use crate::verdict::Verdict;
use crate::{Diagnostic, Phase};

/// What saving an action says, errors before warnings.
fn said(phase: &str, kind: &str, config: &Value) -> String {
    let policy = json!({ phase: [{ "actions": [{ "type": kind, "config": config }] }] });
    let cx = CheckContext { scheme: Scheme::Https, binding: Binding::Public, owner: Owner::Agent };
    let line = |problem: &Diagnostic| {
        let place = problem.path.rsplit_once("config").map_or("", |(_, place)| place).trim_start_matches('.');
        let hint = problem.hint.as_deref().map(|hint| format!("; {hint}")).unwrap_or_default();
        format!("{} {place}: {}{hint}", problem.code.number(), problem.message)
    };
    let problems = match check(&policy.to_string(), &cx) {
        Ok(checked) => checked.warnings,
        Err(errors) => errors,
    };
    problems.iter().map(line).collect::<Vec<_>>().join(" | ")
}

#[test]
fn saving_judges_algorithms() {
    let said = |config: Value| said("on_http_response", "compress-response", &config);
    assert_eq!(said(Value::Null), "");
    assert_eq!(said(json!({ "algorithms": ["br", "zstd", "gzip", "deflate"] })), "");
    assert_eq!(
        said(json!({ "algorithms": ["gzip", "compress"] })),
        "2204 algorithms[1]: no edge produces the coding `compress`: no browser takes it; \
         remove it; clients that take it take gzip too"
    );
    assert_eq!(
        said(json!({ "algorithms": ["gzop", "gzip", "gzip"] })),
        "2204 algorithms[0]: there is no algorithm `gzop`; did you mean `gzip`? | 2231 algorithms[2]: `gzip` is listed twice"
    );
    assert_eq!(said(json!({ "algorithms": [] })), "2223 algorithms: at least one entry is needed");
    assert_eq!(said(json!({ "algorithms": "gzip" })), "2222 algorithms: expected a list, found text");
    assert!(said(json!({ "algorithms": vec!["gzip"; 11] })).starts_with("2218 algorithms: 11 entries"));
    assert!(said(json!({ "algorithm": ["gzip"] })).contains("did you mean `algorithms`?"));
}

#[test]
fn saving_judges_replacements() {
    for (phase, kind) in [
        ("on_http_request", "request-body-find-replace"),
        ("on_http_response", "response-body-find-replace"),
        ("on_event_stream_message", "sse-find-replace"),
    ] {
        let said = |replacements: Value| said(phase, kind, &json!({ "replacements": replacements }));
        assert_eq!(
            said(json!([{ "from": "a[0-9]{1,3}", "to": "$0" }, { "from": "b", "to": "" }])),
            "",
            "{kind}"
        );
        assert_eq!(said(json!([{ "from": "${req.host}", "to": "${req.method}" }])), "", "{kind}");
        assert_eq!(said(json!([])), "2223 replacements: at least one entry is needed", "{kind}");
        assert!(
            said(json!(vec![json!({ "from": "a", "to": "b" }); 33])).starts_with("2218 replacements: 33"),
            "{kind}"
        );
        assert!(
            said(json!([{ "to": "b" }])).starts_with("2234 replacements[0].from: `from` is required"),
            "{kind}"
        );
        assert!(said(json!([{ "from": "", "to": "b" }])).starts_with("2223 replacements[0].from"), "{kind}");
        assert!(said(json!([{ "from": "a(", "to": "b" }])).contains("unclosed group"), "{kind}");
        assert!(
            said(json!([{ "from": "a".repeat(4097), "to": "b" }])).contains("longer than 4096 bytes"),
            "{kind}"
        );
        assert!(said(json!([{ "from": "a", "to": 5 }])).starts_with("2222 replacements[0].to"), "{kind}");
        assert!(
            said(json!([{ "from": "a", "to": "${nope}" }])).starts_with("2238 replacements[0].to"),
            "{kind}"
        );
        assert!(said(json!([{ "form": "a", "to": "b" }])).contains("did you mean `from`?"), "{kind}");
        let unbounded = said(json!([{ "from": "a+", "to": "b" }]));
        if kind == "sse-find-replace" {
            assert_eq!(unbounded, "", "an event is whole anyway");
            assert_eq!(said(json!([{ "from": "a", "field": "retry" }])), "");
            assert!(said(json!([{ "from": "a", "field": "id" }])).contains("the fields are data, retry"));
        } else {
            assert!(
                unbounded.starts_with("2204 replacements[0].from: the whole body is held"),
                "{unbounded}"
            );
            assert!(unbounded.contains("1048576 bytes fails with ERR_NGROK_3903"), "{unbounded}");
            assert!(said(json!([{ "from": "a" }])).starts_with("2234 replacements[0].to"), "{kind}");
            assert!(said(json!([{ "from": "a", "to": "b", "field": "data" }])).starts_with("2203"), "{kind}");
        }
    }
    let elsewhere =
        said("on_http_response", "sse-find-replace", &json!({ "replacements": [{ "from": "a" }] }));
    assert!(elsewhere.contains("move it to on_event_stream_message"), "{elsewhere}");
    let another = said("on_event_stream_message", "log", &json!({ "metadata": { "a": "b" } }));
    assert!(another.contains("does not run in on_event_stream_message"), "{another}");
}

/// A context of a response with these headers, to `GET /`.
fn response(status: u16, headers: &[(&str, &str)]) -> Context {
    let mut cx = request("/", &[("accept-encoding", "gzip")]);
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    cx.response = Some(response.body(()).unwrap().into_parts().0);
    cx
}

fn run(kind: &str, config: &Value, cx: &mut Context) -> String {
    let (phase, key) = match kind {
        "request-body-find-replace" => (Phase::HttpRequest, "on_http_request"),
        "sse-find-replace" => (Phase::EventStream, "on_event_stream_message"),
        _ => (Phase::HttpResponse, "on_http_response"),
    };
    let policy = json!({ key: [{ "actions": [{ "type": kind, "config": config }] }] });
    match World::default().run(&engine(policy), phase, cx) {
        Verdict::Continue => String::new(),
        Verdict::Failed { code, message } => format!("{}: {message}", code.number()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_replaced_body_loses_what_its_head_said_of_it() {
    let config = json!({ "replacements": [{ "from": "${req.method}", "to": "${endpoint.host}" }] });
    let headers = [
        ("content-length", "5"),
        ("content-type", "text/plain"),
        ("etag", "\"1\""),
        ("last-modified", "x"),
        ("accept-ranges", "bytes"),
        ("content-digest", "x"),
        ("content-encoding", "gzip, br"),
    ];
    let mut cx = response(200, &headers);
    assert_eq!(run("response-body-find-replace", &config, &mut cx), "");
    let head = cx.response.as_ref().unwrap();
    let mut left: Vec<_> = head.headers.keys().map(HeaderName::as_str).collect();
    left.sort_unstable();
    assert_eq!(left, ["content-encoding", "content-type"]);
    let edits = head.extensions.get::<Edits>().unwrap();
    assert!(!edits.is_empty() && !edits.holds_body());
    assert_eq!(edits.leaves_in(), [Coding::Gzip, Coding::Brotli], "it stays in its codings");
    assert_eq!(
        cx.result("response_body_find_replace").unwrap(),
        &json!({ "replacements": [{ "from": "GET", "to": "api.example.com" }] })
    );
}

#[test]
fn what_has_no_whole_body_is_left_alone() {
    let config = json!({ "replacements": [{ "from": "a+", "to": "b" }] });
    for (status, headers) in [
        (204, vec![]),
        (304, vec![("etag", "\"1\"")]),
        (206, vec![("content-range", "bytes 0-1/9")]),
        (200, vec![("content-range", "bytes 0-1/9")]),
        (200, vec![("content-length", "0")]),
    ] {
        let mut cx = response(status, &headers);
        assert_eq!(run("response-body-find-replace", &config, &mut cx), "");
        assert_eq!(run("compress-response", &Value::Null, &mut cx), "");
        let head = cx.response.as_ref().unwrap();
        assert!(head.extensions.get::<Edits>().is_none(), "{status} {headers:?}");
        assert_eq!(head.headers.len(), headers.len());
    }
    let mut cx = request("/", &[("content-length", "0")]);
    assert_eq!(run("request-body-find-replace", &config, &mut cx), "");
    assert!(cx.request.as_ref().unwrap().extensions.get::<Edits>().is_none());
}

#[test]
fn a_coding_that_is_not_known_fails_the_policy() {
    let config = json!({ "replacements": [{ "from": "a", "to": "b" }] });
    let mut cx = response(200, &[("content-encoding", "gzip, secret")]);
    assert_eq!(
        run("response-body-find-replace", &config, &mut cx),
        "3904: response-body-find-replace: the content coding `secret` is not one of gzip, deflate, br and zstd"
    );
    let mut cx = response(200, &[("content-encoding", "gzip, gzip, gzip, gzip, gzip")]);
    assert!(run("response-body-find-replace", &config, &mut cx).contains("more than 4 codings"));
    let mut cx = request("/", &[("content-encoding", "x")]);
    assert!(
        run("request-body-find-replace", &config, &mut cx).starts_with("3904: request-body-find-replace")
    );
}

#[test]
fn what_is_computed_is_judged_when_it_is_there() {
    let failed = |entry: Value, expect: &str| {
        let mut cx = response(200, &[]);
        let headers = &mut cx.request.as_mut().unwrap().headers;
        headers.insert("x", HeaderValue::from_static("a("));
        headers.insert("y", HeaderValue::try_from("y".repeat(5_000)).unwrap());
        let said = run("sse-find-replace", &json!({ "replacements": [entry] }), &mut cx);
        assert!(said.contains(expect), "{said}");
        assert!(cx.response.as_ref().unwrap().extensions.get::<Edits>().is_none());
    };
    failed(json!({ "from": "${req.headers['x'][0]}" }), "3901: sse-find-replace: the pattern cannot be read");
    failed(json!({ "from": "a", "field": "${req.method}" }), "3900: sse-find-replace: `GET` is not a field");
    failed(json!({ "from": "${req.headers['nope'][0]}" }), "3900: sse-find-replace");
    let twice = "${req.headers['y'][0]}${req.headers['y'][0]}";
    failed(
        json!({ "from": "a", "to": twice }),
        "3900: sse-find-replace: a replacement is longer than 8192 bytes",
    );
}

#[test]
fn compressing_and_replacing_work_on_one_body() {
    let config = json!({ "replacements": [{ "from": "a", "to": "b" }] });
    let mut cx = response(200, &[("etag", "W/\"1\""), ("vary", "*")]);
    assert_eq!(run("compress-response", &Value::Null, &mut cx), "");
    assert_eq!(cx.response.as_ref().unwrap().headers["etag"], "W/\"1\"");
    assert_eq!(cx.response.as_ref().unwrap().headers.get_all("vary").iter().count(), 1);
    assert_eq!(run("response-body-find-replace", &config, &mut cx), "");
    let head = cx.response.as_ref().unwrap();
    let edits = head.extensions.get::<Edits>().unwrap();
    assert_eq!(edits.leaves_in(), [Coding::Gzip]);
    // The other way round: what is in a coding already is not put into another.
    assert_eq!(run("compress-response", &Value::Null, &mut cx), "");
    assert_eq!(cx.result("compress").unwrap()["already_compressed"], true);
}

/// What a policy makes of an event stream, and its error.
fn streamed(rules: &Value, stream: &str) -> Result<String, String> {
    let mut cx = response(200, &[("content-type", "text/event-stream"), ("etag", "x")]);
    let policy = json!({ "on_event_stream_message": rules });
    let verdict = World::default().run(&engine(policy), Phase::EventStream, &mut cx);
    if let Verdict::Failed { message, .. } = verdict {
        return Err(message);
    }
    let head = cx.response.unwrap();
    let Some(edits) = head.extensions.get::<Edits>() else { return Ok(format!("as it is: {stream}")) };
    assert!(!head.headers.contains_key("etag"));
    let mut pipeline = ebbgate_body::Pipeline::new(edits).unwrap();
    pipeline.push(stream.to_owned().into());
    pipeline.end();
    let mut made = Vec::new();
    loop {
        match pipeline.pull().map_err(|defect| defect.to_string())? {
            ebbgate_body::Pulled::Data(data) => made.extend_from_slice(&data),
            ebbgate_body::Pulled::Over => return Ok(String::from_utf8(made).unwrap()),
            ebbgate_body::Pulled::Tired | ebbgate_body::Pulled::Starved => {}
        }
    }
}

#[test]
fn rules_that_name_the_event_are_judged_for_each_and_others_once() {
    let rule = |expressions: Value, from: &str, to: &str| json!({ "expressions": expressions, "actions": [{ "type": "sse-find-replace", "config": { "replacements": [{ "from": from, "to": to }] } }] });
    let stream = "event: a\nid: 1\ndata: x\n\ndata: x\nretry: 9\n\n";
    let check = |rules: Value, expect: &str| {
        assert_eq!(streamed(&rules, stream).unwrap_or_else(|e| e), expect, "{rules}");
    };
    check(
        json!([rule(json!(["event.name == 'a'"]), "x", "y")]),
        "event: a\nid: 1\ndata: y\n\ndata: x\nretry: 9\n\n",
    );
    check(
        json!([rule(json!(["event.name == 'message' && event.retry == 9"]), "x", "y")]),
        "event: a\nid: 1\ndata: x\n\ndata: y\nretry: 9\n\n",
    );
    check(
        json!([rule(json!(["!has(event.retry)", "res.status_code == 200"]), "x", "y")]),
        "event: a\nid: 1\ndata: y\n\ndata: x\nretry: 9\n\n",
    );
    // A replacement may name the event; without a condition it concerns each.
    check(
        json!([rule(json!([]), "x", "${event.name}-${event.id}")]),
        "event: a\nid: 1\ndata: a-1\n\ndata: message-\nretry: 9\n\n",
    );
    // A rule sees what the rules before it left.
    let first = rule(json!([]), "x", "z");
    check(
        json!([first, rule(json!(["event.data == 'z'"]), "z", "${event.data}z")]),
        "event: a\nid: 1\ndata: zz\n\ndata: zz\nretry: 9\n\n",
    );
    let untouched = format!("as it is: {stream}");
    check(json!([rule(json!(["res.status_code == 201", "event.name == 'a'"]), "x", "y")]), &untouched);
    // What cannot be judged breaks the stream off.
    check(
        json!([rule(json!(["int(event.data) > 1"]), "x", "y")]),
        "the rules for an event: on_event_stream_message[0].expressions[0]: int: string parse error: invalid digit found in string",
    );
    let costly = "lists.range(10000).all(i, lists.range(1000).all(j, event.data.sha256() != ''))";
    let error = streamed(&json!([rule(json!([costly]), "x", "y")]), stream).unwrap_err();
    assert!(error.contains("more than 100000 units"), "{error}");
}
