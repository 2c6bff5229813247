//! Traffic events from a real visitor to a real destination: every field that edges tell, and nothing secret.

use std::fs;

use anyhow::{Context, Result, ensure};
use ebbgate_lab::api::Api;
use ebbgate_lab::guide::{self, API_HOST, REST_INTERNAL};
use ebbgate_lab::http;
use ebbgate_lab::lab::local;
use ebbgate_lab::test_lab::TestLab;
use ebbgate_lab::wait::soon;
use serde_json::{Value, json};

use crate::access::Authority;
use crate::service;
use crate::visitor::Visitor;

const HOOK_HOST: &str = "hook.clinic-network.com";
const PLAIN_HOST: &str = "plain.clinic-network.com";
/// `ann:hunter2hunter2` in base64.
const BASIC: &str = "Basic YW5uOmh1bnRlcjJodW50ZXIy";

/// What is null in these events: as docs/events.md says; and no circuit was asked, and no webhook verified.
const NOT_TOLD: [&str; 4] = ["circuit_breaker", "compression", "oauth", "webhook_verification"];

/// Events in the file of the lab's one destination.
fn events(lab: &TestLab) -> Result<Vec<Value>> {
    let accounts = fs::read_dir(lab.file("events"))?.flatten();
    let files = accounts.map(|account| account.path().join("traffic/events.jsonl"));
    let text: String = files.filter_map(|file| fs::read_to_string(file).ok()).collect();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    Ok(whole.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

fn event(lab: &TestLab, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    soon(what, || {
        Ok(events(lab)?.into_iter().find(|event| wanted(&event["object"])).map(|mut e| e["object"].take()))
    })
}

/// Pointers to nulls, what is not told left out.
fn nulls(at: &str, value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Null => found.push(at.to_owned()),
        Value::Object(fields) => {
            for (name, value) in fields.iter().filter(|(name, _)| !NOT_TOLD.contains(&name.as_str())) {
                nulls(&format!("{at}/{name}"), value, found);
            }
        }
        _ => {}
    }
}

/// One endpoint for visitors with certificates and passwords, one for everybody, and an address that nobody may connect to,
/// which is returned.
fn endpoints(api: &Api, clinic: &Authority) -> Result<String> {
    guide::domain(api)?;
    let everybody = json!({"type": "restrict-ips", "config": {"enforce": true, "allow": ["127.0.0.0/8"]}});
    let policy = json!({
        "on_tcp_connect": [{"actions": [
            everybody.clone(),
            {"type": "terminate-tls", "config": {"mutual_tls_certificate_authorities": [clinic.pem]}},
        ]}],
        "on_http_request": [{"actions": [
            everybody,
            {"type": "basic-auth", "config": {"credentials": ["ann:hunter2hunter2"]}},
            {"type": "log", "config": {"metadata": {"patient": "7"}}},
            {"type": "forward-internal", "config": {"url": REST_INTERNAL}},
        ]}],
    });
    guide::cloud(api, &format!("https://{API_HOST}"), &policy)?;
    guide::cloud(api, &format!("https://{PLAIN_HOST}"), &guide::forward(REST_INTERNAL))?;
    let hook = json!({"on_http_request": [{"actions": [
        {"type": "verify-webhook", "config": {"provider": "github", "secret": "webhook-secret"}},
        {"type": "custom-response", "config": {"status_code": 200}},
    ]}]});
    guide::cloud(api, &format!("https://{HOOK_HOST}"), &hook)?;
    let addr = guide::address(api)?;
    let nobody = json!({"on_tcp_connect": [{"actions": [
        {"type": "restrict-ips", "config": {"enforce": true, "allow": ["192.0.2.0/24"]}},
        {"type": "deny"},
    ]}]});
    guide::cloud(api, &format!("tcp://{addr}"), &nobody)?;
    Ok(addr)
}

/// A lab with an event destination that writes to a file.
fn recording() -> Result<(TestLab, Api, Value)> {
    let mut lab = TestLab::stopped()?;
    fs::create_dir_all(lab.file("events"))?;
    let files = lab.file("events");
    lab.control_args(["--events-files".into(), files]);
    lab.start()?;
    let api = lab.api()?;
    let made = api.create("/event_destinations", &json!({"target": {"file": {"directory": "traffic"}}}))?;
    Ok((lab, api, made))
}

#[test]
fn every_field_that_edges_know_is_told_and_no_secret() -> Result<()> {
    let (lab, api, made) = recording()?;
    // Without `fields` an event has all of them.
    let sources = json!([{"type": "http_request_complete.v0"}, {"type": "tcp_connection_closed.v0"}]);
    api.create("/event_subscriptions", &json!({"destination_ids": [made["id"]], "sources": sources}))?;

    let (_, token) = guide::authtoken(&api, 1)?;
    let clinic = Authority::new("clinic")?;
    let addr = endpoints(&api, &clinic)?;
    let rest = service::http_echo("rest")?.port();
    let _agent = lab.agent("agent", &token, &guide::endpoints(rest, rest, rest))?;
    lab.wait_online(&[REST_INTERNAL], 1)?;
    let doctor = Visitor::showing(&lab, &clinic.identity()?)?;
    let headers = [
        ("authorization", BASIC),
        ("cookie", "session=cookie-secret"),
        ("x-api-key", "header-secret"),
        ("user-agent", "traffic-test/1"),
        ("accept", "application/json"),
    ];
    soon("the endpoint", || {
        Ok(doctor.get(API_HOST, "/", &headers).ok().filter(|answer| answer.status == 200).map(drop))
    })?;
    let answer = doctor.get(API_HOST, "/seen?page=2&access_token=query-secret", &headers)?;
    ensure!(answer.status == 200, "{answer:?}");
    let request = event(&lab, "the request", |object| object["http"]["request"]["url"]["path"] == "/seen")?;
    let mut missing = Vec::new();
    nulls("", &request, &mut missing);
    ensure!(missing.is_empty(), "{missing:?} of {request}");
    let part = |pointer: &str| request.pointer(pointer).cloned().unwrap_or_default();
    for (pointer, expect) in [
        ("/basic_auth", json!({"decision": "allow", "username": "ann"})),
        ("/ip_policy", json!({"decision": "allow"})),
        ("/conn/client_ip", json!("127.0.0.1")),
        ("/conn/server_name", json!(API_HOST)),
        ("/http/request/user_agent", json!("traffic-test/1")),
        ("/http/request/headers", json!({"accept": ["application/json"]})),
        ("/http/request/url/query", json!("page=2&access_token=(masked)")),
        ("/http/response/headers/content-type", json!(["application/json"])),
        ("/traffic_policy/logs", json!([{"patient": "7"}])),
    ] {
        ensure!(part(pointer) == expect, "{pointer}: {request}");
    }
    let raw = part("/http/request/url/raw");
    ensure!(raw.as_str().is_some_and(|raw| raw.starts_with(&format!("https://{API_HOST}"))), "{raw}");
    let (suite, ja4) = (part("/tls/cipher_suite"), part("/ja4_fingerprint"));
    ensure!(suite.as_str().is_some_and(|suite| suite.starts_with("TLS13_")), "{suite}");
    ensure!(ja4.as_str().is_some_and(|ja4| ja4.starts_with("t13d") && ja4.len() == 36), "{ja4}");

    // A wrong password may be a right one in the wrong place: neither half is told.
    let wrong = [("authorization", "Basic cGFzc3dvcmQxMjM6eA==")];
    ensure!(doctor.get(API_HOST, "/wrong", &wrong)?.status == 401);
    let request = event(&lab, "the refusal", |object| object["http"]["request"]["url"]["path"] == "/wrong")?;
    ensure!(request["basic_auth"] == json!({"decision": "deny", "username": null}), "{request}");
    ensure!(request["backend"]["connection_reused"].is_null(), "{request}");

    let visitor = Visitor::of(&lab)?;
    visitor.wait_https(PLAIN_HOST)?;
    soon("a request over a connection that was open before", || {
        visitor.get(PLAIN_HOST, "/again", &[])?;
        let is_reused = |event: &Value| event["object"]["backend"]["connection_reused"] == true;
        Ok(events(&lab)?.iter().any(is_reused).then_some(()))
    })?;

    visitor.wait_https(HOOK_HOST)?;
    let forged = [("x-hub-signature-256", "sha256=00")];
    ensure!(visitor.request("POST", HOOK_HOST, "/forged", &forged, b"{}")?.status == 403);
    let request = event(&lab, "the webhook", |object| object["http"]["request"]["url"]["path"] == "/forged")?;
    ensure!(request["webhook_verification"]["decision"] == "deny", "{request}");

    let to = local(guide::port_of(&addr)?);
    soon("a connection that is refused", || {
        drop(http::connect(to));
        let is_refused = |event: &Value| {
            event["event_type"] == "tcp_connection_closed.v0"
                && event["object"]["ip_policy"]["decision"] == "deny"
        };
        Ok(events(&lab)?.iter().any(is_refused).then_some(()))
    })?;
    let connection = event(&lab, "the doctor's connection", |object| {
        object["ip_policy"]["decision"] == "allow" && object["conn"]["end_ts"].is_string()
    })?;
    ensure!(connection["ja4_fingerprint"] == ja4, "{connection}");
    let all = serde_json::to_string(&events(&lab)?).context("JSON")?;
    for secret in
        ["hunter2", "cookie-secret", "header-secret", "query-secret", "YW5u", "password123", "webhook-secret"]
    {
        ensure!(!all.contains(secret), "{secret} is in an event");
    }
    Ok(())
}

/// A policy on trial through real programs: what visitors get, what events and metrics tell, and what is refused when it is saved.
#[test]
fn rules_on_trial_are_told_and_not_done() -> Result<()> {
    let (lab, api, made) = recording()?;
    let sources = json!([{"type": "http_request_complete.v0"}, {"type": "tcp_connection_closed.v0"}]);
    api.create("/event_subscriptions", &json!({"destination_ids": [made["id"]], "sources": sources}))?;
    guide::domain(&api)?;
    let nobody = json!({"type": "restrict-ips", "config": {"allow": ["192.0.2.0/24"]}});
    let forward = |url: &str| json!({"type": "forward-internal", "config": {"url": url}});
    let trial = json!({"enforce": false,
    "on_tcp_connect": [{"actions": [nobody]}],
    "on_http_request": [
        {"expressions": ["req.method == 'DELETE'"], "actions": [{"type": "deny", "config": {"status_code": 405}}]},
        {"actions": [forward(REST_INTERNAL)]},
    ]});
    guide::cloud(&api, &format!("https://{PLAIN_HOST}"), &trial)?;
    let addr = guide::address(&api)?;
    let connections = json!({"enforce": false, "on_tcp_connect": [{"actions": [nobody, forward(guide::OPERATIONS_INTERNAL)]}]});
    guide::cloud(&api, &format!("tcp://{addr}"), &connections)?;
    let unserved = json!({"enforce": false, "on_http_request": [{"actions": [{"type": "deny"}]}]});
    let refused = guide::cloud(&api, &format!("https://{HOOK_HOST}"), &unserved).unwrap_err().to_string();
    ensure!(
        refused.contains("ERR_NGROK_2235") && refused.contains("nothing but forward-internal"),
        "{refused}"
    );

    let (_, token) = guide::authtoken(&api, 1)?;
    let rest = service::http_echo("rest")?.port();
    let _agent = lab.agent("agent", &token, &guide::endpoints(rest, rest, rest))?;
    lab.wait_online(&[REST_INTERNAL, guide::OPERATIONS_INTERNAL], 1)?;
    let visitor = Visitor::of(&lab)?;
    visitor.wait_https(PLAIN_HOST)?;
    ensure!(visitor.request("DELETE", PLAIN_HOST, "/visits/7", &[], b"")?.status == 200);
    let request =
        event(&lab, "the request", |object| object["http"]["request"]["url"]["path"] == "/visits/7")?;
    let told = |object: &Value, phase: &str| {
        let all = object["traffic_policy"]["not_enforced"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|told| told["phase"] == phase).unwrap_or_default()
    };
    let refusal = json!({"url": format!("https://{PLAIN_HOST}"), "phase": "on_http_request", "outcome": "respond",
        "status": 405, "decided_by": "on_http_request[0].actions[0]"});
    ensure!(told(&request, "on_http_request") == refusal, "{request}");
    ensure!(request["ip_policy"]["decision"].is_null(), "{request}");
    let to = local(guide::port_of(&addr)?);
    soon("a connection that a list would have refused", || {
        let Ok(tcp) = http::connect(to) else { return Ok(None) };
        let answer = http::request(tcp, "GET", "localhost", "/", &[], b"");
        Ok(answer.ok().filter(|answer| answer.status == 200).map(drop))
    })?;
    event(&lab, "the connection", |object| {
        let told = told(object, "on_tcp_connect");
        told["url"] == format!("tcp://{addr}")
            && told["outcome"] == "close"
            && told["code"] == "ERR_NGROK_3203"
    })?;
    let admin = local(lab.ports().edge_admin());
    let metrics = http::request(http::connect(admin)?, "GET", "localhost", "/metrics", &[], b"")?.text();
    let line =
        "ebbgate_edge_policy_phases_not_enforced_total{phase=\"on_http_request\",outcome=\"respond\"} 1\n";
    ensure!(metrics.contains(line), "{metrics}");
    Ok(())
}

/// The file of an event destination is what `ebbgate policy diff` takes.
#[test]
fn recorded_traffic_is_compared_under_a_new_policy() -> Result<()> {
    let (lab, api, made) = recording()?;
    let sources = json!([{"type": "http_request_complete.v0"}]);
    api.create("/event_subscriptions", &json!({"destination_ids": [made["id"]], "sources": sources}))?;
    guide::domain(&api)?;
    let old =
        json!({"on_http_request": [{"actions": [{"type": "custom-response", "config": {"body": "open"}}]}]});
    guide::cloud(&api, &format!("https://{PLAIN_HOST}"), &old)?;
    let visitor = Visitor::of(&lab)?;
    visitor.wait_https(PLAIN_HOST)?;
    ensure!(visitor.get(PLAIN_HOST, "/visits?day=1", &[("accept", "text/html")])?.status == 200);
    ensure!(visitor.request("DELETE", PLAIN_HOST, "/visits/7", &[("x-partner", "yes")], b"")?.status == 200);
    for path in ["/visits", "/visits/7"] {
        event(&lab, path, |object| object["http"]["request"]["url"]["path"] == path)?;
    }
    let record = lab.file("recorded.jsonl");
    fs::write(&record, events(&lab)?.iter().map(|event| format!("{event}\n")).collect::<Vec<_>>().concat())?;
    let compare = |new: &Value| -> Result<(bool, Value)> {
        fs::write(lab.file("old.json"), old.to_string())?;
        fs::write(lab.file("new.json"), new.to_string())?;
        let output = std::process::Command::new(lab.programs().agent())
            .args(["policy", "diff", "--json", "--url"])
            .arg(format!("https://{PLAIN_HOST}"))
            .arg("--against")
            .args([&record, &lab.file("old.json"), &lab.file("new.json")])
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok((output.status.success(), serde_json::from_str(&text).with_context(|| format!("{output:?}"))?))
    };
    let (is_same, told) = compare(&old)?;
    ensure!(is_same && told["changed"] == 0 && told["unknown"] == 0, "{told}");
    let rule = |expression: &str| {
        json!({"on_http_request": [
            {"name": "no deletions", "expressions": [expression], "actions": [{"type": "deny", "config": {"status_code": 405}}]},
            {"actions": [{"type": "custom-response", "config": {"body": "open"}}]},
        ]})
    };
    let (is_same, told) = compare(&rule("req.method == 'DELETE'"))?;
    ensure!(!is_same && told["changed"] == 1 && told["unknown"] == 0, "{told}");
    let group = &told["groups"][0];
    ensure!(group["example"] == "DELETE /visits/7 from 127.0.0.1", "{told}");
    ensure!((&group["old"]["status"], &group["new"]["status"]) == (&json!(200), &json!(405)), "{told}");
    ensure!(group["new"]["rule"] == "no deletions" && group["new"]["action"] == "deny", "{told}");
    // A visitor who is refused learns an id, by which the operator finds the request and what decided.
    let deny = rule("req.method == 'DELETE'");
    guide::cloud(&api, &format!("https://{HOOK_HOST}"), &deny)?;
    visitor.wait_https(HOOK_HOST)?;
    let refused = visitor.request("DELETE", HOOK_HOST, "/visits/8", &[], b"")?;
    ensure!(refused.status == 405, "{refused:?}");
    let operation = refused.header("ngrok-operation-id").context("no operation id")?.to_owned();
    soon("the event of the operation", || {
        Ok(events(&lab)?.iter().any(|event| event["operation_id"] == operation.as_str()).then_some(()))
    })?;
    fs::write(&record, events(&lab)?.iter().map(|event| format!("{event}\n")).collect::<Vec<_>>().concat())?;
    fs::write(lab.file("new.json"), deny.to_string())?;
    let output = std::process::Command::new(lab.programs().agent())
        .args(["policy", "explain", "--operation", &operation, "--against"])
        .args([&record, &lab.file("new.json")])
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    for words in [
        "DELETE /visits/8 from 127.0.0.1\n",
        "req.method = \"DELETE\"\n",
        "result: it is answered 405, by deny at on_http_request[0].actions[0] \"no deletions\"\n",
        "recorded: it was answered 405\n",
    ] {
        ensure!(said.contains(words), "{words} in {output:?}");
    }
    ensure!(!said.contains("these differ"), "{said}");
    // What events do not tell of any request is not guessed.
    let (_, told) = compare(&rule("hasReqHeader('x-partner')"))?;
    ensure!(told["changed"] == 0 && told["unknown"] == told["compared"], "{told}");
    Ok(())
}
