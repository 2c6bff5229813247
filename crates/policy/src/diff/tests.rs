//! Records as events tell them, under two policies: what changes, what does not, and what cannot be told.

use serde_json::json;

use super::*;
use crate::check::{CheckContext, Owner, check};
use crate::references::References;
use ebbgate_model::{Binding, Scheme};

fn record(method: &str, path: &str, client: &str) -> serde_json::Value {
    json!({
        "event_id": "ev_1", "event_type": "http_request_complete.v0", "event_timestamp": "2026-11-29T03:00:00Z",
        "account_id": "ac_1", "principal": null,
        "object": {
            "conn": {"client_ip": client, "server_ip": "198.51.100.1", "server_name": "api.example.com", "server_port": 443,
                     "start_ts": "2026-11-29T02:59:59Z"},
            "http": {
                "request": {
                    "method": method, "headers": {"accept": ["text/html"]}, "body_length": 0, "user_agent": "curl/8",
                    "url": {"scheme": "https", "host": "api.example.com", "path": path, "query": null,
                            "raw": format!("https://api.example.com{path}")},
                },
                "response": {"status_code": 200, "headers": {}, "body_length": 7},
            },
            "tls": {"version": "1.3", "cipher_suite": "TLS_AES_128_GCM_SHA256"},
            "ja4_fingerprint": null,
        },
    })
}

fn policy(text: &str) -> (TrafficPolicy, Arc<Engine>) {
    let cx = CheckContext { scheme: Scheme::Https, binding: Binding::Public, owner: Owner::Agent };
    let policy = check(text, &cx).unwrap_or_else(|defects| panic!("{text}: {defects:?}")).policy;
    let engine = Engine::compile(&policy, &References::default()).unwrap();
    (policy, Arc::new(engine))
}

fn compared(old: &str, new: &str, records: &[serde_json::Value]) -> (String, [usize; 3]) {
    let ((old, old_engine), (new, new_engine)) = (policy(old), policy(new));
    let url = "https://api.example.com".parse().unwrap();
    let side = |policy, engine| Side { policy, engine };
    let mut comparison =
        Comparison::new(&url, Owner::Agent, side(&old, &old_engine), side(&new, &new_engine));
    for record in records {
        comparison.add(&record.to_string()).unwrap();
    }
    let counts = [Change::Changed, Change::Unknown, Change::Same].map(|change| comparison.count(change));
    assert_eq!(comparison.json()["changed"], counts[0]);
    (comparison.text(), counts)
}

const OPEN: &str = "on_http_request: []\n";
const NO_DELETE: &str = "on_http_request:
  - name: no deletions
    expressions: [\"req.method == 'DELETE'\"]
    actions: [{type: deny, config: {status_code: 405}}]
";

#[test]
fn what_changes_is_told_with_rule_action_and_status() {
    let records = [
        record("GET", "/a", "203.0.113.9"),
        record("DELETE", "/b", "203.0.113.9"),
        record("DELETE", "/c", "203.0.113.10"),
    ];
    let (text, counts) = compared(OPEN, NO_DELETE, &records);
    assert_eq!(counts, [2, 0, 1]);
    assert_eq!(
        text,
        "changed 2x, first DELETE /b from 203.0.113.9\n  old: goes to the endpoint's upstream\n  \
         new: is answered 405, by deny at on_http_request[0].actions[0] \"no deletions\"\n\
         3 compared: 2 changed, 0 unknown, 1 the same\n"
    );
    assert_eq!(compared(NO_DELETE, NO_DELETE, &records).1, [0, 0, 3]);
}

/// One rule with a condition before an end, against the same with another end.
#[test]
fn what_a_record_does_not_tell_is_unknown() {
    let records = [record("GET", "/a?page=2", "203.0.113.9")];
    let with = |condition: &str, status: u16| {
        format!(
            "on_http_request:\n  - {{expressions: [\"{condition}\"], actions: [{{type: deny, config: {{status_code: {status}}}}}]}}\n"
        )
    };
    for condition in [
        "hasReqHeader('x-site')",
        "req.headers['cookie'][0] == 'a'",
        "getReqHeader('authorization')[0] == 'a'",
        "size(req.headers) > 3",
        "req.content_length > 3",
        "conn.client_port > 3",
        "rand.double() < 2.0",
        "req.version == '1.1'",
        "conn.tls.client.subject.common_name == 'a'",
    ] {
        let (text, counts) = compared(&with(condition, 403), &with(condition, 404), &records);
        assert_eq!(counts, [0, 1, 0], "{condition}: {text}");
        assert!(text.contains("the record does not tell"), "{text}");
        assert_eq!(
            compared(&with(condition, 403), &with(condition, 403), &records).1,
            [0, 0, 1],
            "{condition}"
        );
    }
    for condition in [
        "req.method == 'GET'",
        "req.url.path == '/a'",
        "req.headers['accept'][0] == 'text/html'",
        "!hasReqHeader('range')",
        "req.user_agent.contains('curl')",
        "conn.tls.version == '1.3'",
        "inCidrRange(conn.client_ip, '203.0.113.0/24')",
        "timestamp(time.now).getHours() == 3",
        "endpoint.host == 'api.example.com'",
        "req.host == 'api.example.com'",
    ] {
        let (text, counts) = compared(&with(condition, 403), &with(condition, 404), &records);
        assert_eq!(counts, [1, 0, 0], "{condition}: {text}");
    }
}

#[test]
fn masked_and_cut_values_are_not_told() {
    let rule = |condition: &str| {
        format!("on_http_request: [{{expressions: [\"{condition}\"], actions: [{{type: deny}}]}}]\n")
    };
    let mut masked = record("GET", "/a", "203.0.113.9");
    masked["object"]["http"]["request"]["url"]["query"] = "token=(masked)".into();
    assert_eq!(compared(OPEN, &rule("getQueryParam('token')[0] == 'x'"), &[masked.clone()]).1, [0, 1, 0]);
    assert_eq!(compared(OPEN, &rule("req.url.path == '/a'"), &[masked]).1, [1, 0, 0]);
    let mut cut = record("GET", "/a", "203.0.113.9");
    cut["object"]["http"]["request"]["headers"]["accept"] = json!(["x".repeat(256)]);
    assert_eq!(compared(OPEN, &rule("req.headers['accept'][0].endsWith('x')"), &[cut]).1, [0, 1, 0]);
}

#[test]
fn an_action_that_decides_by_what_is_not_told_passes_in_both_or_is_unknown() {
    let basic = "{type: basic-auth, config: {credentials: ['doctor:long-enough-secret']}}";
    let forward = "{type: forward-internal, config: {url: 'https://a.internal'}}";
    let guarded = format!("on_http_request: [{{actions: [{basic}, {forward}]}}]\n");
    let renamed = format!("on_http_request: [{{name: a, actions: [{basic}]}}, {{actions: [{forward}]}}]\n");
    let open = format!("on_http_request: [{{actions: [{forward}]}}]\n");
    let elsewhere = guarded.replace("a.internal", "b.internal");
    let records = [record("GET", "/a", "203.0.113.9")];
    assert_eq!(compared(&guarded, &renamed, &records).1, [0, 0, 1]);
    assert_eq!(compared(&guarded, &open, &records).1, [0, 1, 0]);
    assert_eq!(compared(&guarded, &elsewhere, &records).1, [0, 1, 0]);
}

#[test]
fn what_an_untold_rule_may_have_changed_is_not_told_either() {
    let changing = "on_http_request:
  - {expressions: [\"hasReqHeader('x-site')\"], actions: [{type: url-rewrite, config: {from: '/a', to: '/b'}}]}
  - {expressions: [\"req.url.path == '/a'\"], actions: [{type: deny, config: {status_code: 404}}]}
";
    let records = [record("GET", "/a", "203.0.113.9")];
    assert_eq!(compared(changing, &changing.replace("404", "405"), &records).1, [0, 1, 0]);
    assert_eq!(compared(changing, changing, &records).1, [0, 0, 1]);
    let by_address = changing.replace("req.url.path == '/a'", "conn.client_ip == '203.0.113.9'");
    // The rule before may only rewrite, so the last one decides whatever it does. It still depends on nothing else.
    assert_eq!(compared(&by_address, &by_address, &records).1, [0, 0, 1]);
    let computed = "on_http_request: [{actions: [{type: custom-response, config: {body: \"${req.headers['cookie'][0]}\"}}]}]\n";
    assert_eq!(compared(OPEN, computed, &records).1, [0, 1, 0]);
}

#[test]
fn rules_for_responses_that_differ_are_unknown_where_a_response_passes_them() {
    let adding = "on_http_response: [{actions: [{type: add-headers, config: {headers: {x-a: b}}}]}]\n";
    let records = [record("GET", "/a", "203.0.113.9")];
    assert_eq!(compared(OPEN, adding, &records).1, [0, 1, 0]);
    let closed = "on_http_request: [{actions: [{type: deny}]}]\n";
    assert_eq!(compared(closed, &format!("{closed}{adding}"), &records).1, [0, 0, 1]);
}

#[test]
fn connections_are_judged_by_their_own_phase() {
    let restricted =
        "on_tcp_connect: [{actions: [{type: restrict-ips, config: {allow: [203.0.113.0/24]}}]}]\n";
    let records = [record("GET", "/a", "203.0.113.9"), record("GET", "/a", "198.51.100.7")];
    let (text, counts) = compared(OPEN, restricted, &records);
    assert_eq!(counts, [1, 0, 1]);
    assert!(
        text.contains("is closed (ERR_NGROK_3203), by restrict-ips at on_tcp_connect[0].actions[0]"),
        "{text}"
    );
}

#[test]
fn events_of_others_are_left_out_and_what_is_no_event_is_refused() {
    let ((policy, engine), url) = (policy(OPEN), "https://api.example.com".parse().unwrap());
    let side = Side { policy: &policy, engine: &engine };
    let mut comparison = Comparison::new(&url, Owner::Agent, side, side);
    let mut other = record("GET", "/", "203.0.113.9");
    other["object"]["http"]["request"]["url"]["host"] = "other.example.com".into();
    comparison.add(&other.to_string()).unwrap();
    comparison.add(r#"{"event_type": "endpoint_created.v0", "object": {}}"#).unwrap();
    assert_eq!((comparison.compared(), comparison.json()["left_out"].clone()), (0, json!(2)));
    for (line, words) in
        [("", "not an event"), ("[]", "no `event_type`"), (&"x".repeat(RECORD_BYTES_MAX + 1), "longer than")]
    {
        assert!(comparison.add(line).unwrap_err().to_string().contains(words), "{words}");
    }
    let mut part = record("GET", "/", "203.0.113.9");
    part["object"]["conn"]["client_ip"] = serde_json::Value::Null;
    assert!(comparison.add(&part.to_string()).unwrap_err().to_string().contains("no `conn.client_ip`"));
}

#[test]
fn the_work_of_all_records_is_bounded() {
    let ((policy, engine), url) = (policy(NO_DELETE), "https://api.example.com".parse().unwrap());
    let side = Side { policy: &policy, engine: &engine };
    let line = record("GET", "/", "203.0.113.9").to_string();
    let mut comparison = Comparison::new(&url, Owner::Agent, side, side).at_most(10 * RECORD_UNITS);
    let refused = (0..20).find_map(|_| comparison.add(&line).err()).unwrap();
    assert!(refused.to_string().contains("too much work"), "{refused}");
    assert!((5..10).contains(&comparison.compared()), "{}", comparison.compared());
}

#[test]
fn what_is_not_enforced_changes_when_it_is() {
    let records = [record("GET", "/", "203.0.113.9"), record("DELETE", "/1", "203.0.113.9")];
    let trial = format!("enforce: false\n{NO_DELETE}");
    let (text, counts) = compared(&trial, NO_DELETE, &records);
    assert_eq!(counts, [1, 0, 1], "{text}");
    assert!(text.contains("old: is answered 405, by deny at on_http_request[0].actions[0] \"no deletions\", which is not enforced"), "{text}");
    assert_eq!(compared(&trial, &trial, &records).1, [0, 0, 2]);
    assert_eq!(compared(OPEN, &trial, &records).1, [1, 0, 1], "what it would do is told");
}

#[test]
fn a_recorded_request_is_explained_as_far_as_it_is_told() {
    let text = "on_http_request:
  - expressions: [\"hasReqHeader('x-partner')\"]
    actions: [{type: deny}]
  - actions: [{type: rate-limit, config: {name: a, algorithm: sliding_window, capacity: 1, rate: 60s, bucket_key: [conn.client_ip]}}]
  - name: no deletions
    expressions: [\"req.method == 'DELETE'\"]
    actions: [{type: deny, config: {status_code: 405}}]
";
    let (policy, engine) = policy(text);
    let mut event = record("DELETE", "/1", "203.0.113.9");
    event["operation_id"] = "op_1".into();
    let line = event.to_string();
    assert_eq!(operation_of(&line).as_deref(), Some("op_1"));
    let url = url_of(&line).unwrap();
    assert_eq!(url.to_string(), "https://api.example.com");
    let it = explain_record(&engine, &policy, (&url, Owner::Agent), &line).unwrap().unwrap();
    let (said, json) = (it.text(), it.json());
    for words in [
        "DELETE /1 from 203.0.113.9\non_http_request\n",
        "    not told  hasReqHeader('x-partner')\n",
        "    rate-limit: not told: `rate-limit` decides by what the record does not tell\n",
        "             req.method = \"DELETE\"\n    deny: answers 405\n",
        "result: it is answered 405, by deny at on_http_request[2].actions[0] \"no deletions\", if what the event does not tell is as assumed\n",
        "recorded: it was answered 200\n",
    ] {
        assert!(said.contains(words), "{words} in {said}");
    }
    assert!(!said.contains("these differ"), "it depends on what is not told: {said}");
    assert_eq!(
        (&json["status"], &json["differs"], json["not_told"].as_array().unwrap().len()),
        (&json!(405), &json!(null), 2)
    );
    let (policy, engine) = self::policy(NO_DELETE);
    let it = explain_record(&engine, &policy, (&url, Owner::Agent), &line).unwrap().unwrap();
    assert!(
        it.text().ends_with(
            "these differ: another policy was in force, or another endpoint on the way answered\n"
        )
    );
    assert_eq!(it.json()["differs"], true);
    let other = "https://other.example.com".parse().unwrap();
    assert!(explain_record(&engine, &policy, (&other, Owner::Agent), &line).unwrap().is_none());
    let tls = json!({"event_type": "tcp_connection_closed.v0", "object": {"conn": {"server_name": "db.example.com", "server_ip": "192.0.2.1", "server_port": 443}}});
    assert_eq!(url_of(&tls.to_string()).unwrap().to_string(), "tls://db.example.com");
    let tcp = json!({"event_type": "tcp_connection_closed.v0", "object": {"conn": {"server_name": "", "server_ip": "192.0.2.1", "server_port": 20000}}});
    assert_eq!(url_of(&tcp.to_string()).unwrap().to_string(), "tcp://192.0.2.1:20000");
    for line in ["", "[]", "{}"] {
        assert!(url_of(line).is_none() && operation_of(line).is_none());
    }
}
