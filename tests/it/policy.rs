//! What policies cost, what they write down and what saving one says, with real processes.

use std::fs;
use std::io::Read;

use anyhow::{Context as _, Result};
use ebbgate_lab::guide::{self, REST_INTERNAL};
use ebbgate_lab::http;
use ebbgate_lab::lab::local;
use ebbgate_lab::test_lab::TestLab;
use ebbgate_lab::wait::soon;
use ebbgate_lab::web;
use serde_json::{Value, json};

use crate::visitor::Visitor;

/// The lines of the lab's logs.
fn lines(lab: &TestLab) -> Result<Vec<Value>> {
    let mut lines = Vec::new();
    for entry in fs::read_dir(lab.log_dir())?.flatten() {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        lines.extend(text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()));
    }
    Ok(lines)
}

/// The first line that has what is looked for.
fn logged(lab: &TestLab, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    soon(what, || Ok(lines(lab)?.into_iter().find(|line| wanted(line)))).inspect_err(|_| lab.show_logs())
}

#[test]
fn log_actions_are_in_the_lines_of_requests_and_connections() -> Result<()> {
    let lab = TestLab::running()?;
    let api = lab.api()?;
    guide::domain(&api)?;
    let log = |metadata: Value| json!({ "type": "log", "config": { "metadata": metadata } });
    let request = json!({ "on_http_request": [{ "actions": [
        log(json!({ "patient": "7", "method": "${req.method}" })),
        log(json!({ "second": [1, 2] })),
        { "type": "custom-response", "config": { "body": "ok" } },
    ] }] });
    guide::cloud(&api, "https://logged.clinic-network.com", &request)?;
    let addr = guide::address(&api)?;
    let connection = json!({ "on_tcp_connect": [{ "actions": [
        log(json!({ "from": "${conn.client_ip}" })),
        { "type": "deny" },
    ] }] });
    guide::cloud(&api, &format!("tcp://{addr}"), &connection)?;
    let visitor = Visitor::of(&lab)?;
    visitor.wait_https("logged.clinic-network.com")?;
    visitor.get("logged.clinic-network.com", "/seen", &[])?;
    let line = logged(&lab, "the request's line", |line| line["path"] == "/seen")?;
    assert_eq!(
        line["policy_logs"],
        json!([{ "patient": "7", "method": "GET" }, { "second": [1, 2] }]),
        "{line}"
    );
    // Until the address is served, connections to it are closed for another reason.
    let tcp = local(guide::port_of(&addr)?);
    let refused = |line: &Value| line["url"] == format!("tcp://{addr}") && line["account"].is_string();
    soon("the address to be served", || {
        let _ = visitor.tcp(tcp)?.read(&mut [0; 1]);
        Ok(lines(&lab)?.iter().any(refused).then_some(()))
    })?;
    let named = |line: &Value| line["policy_logs"] == json!([{ "from": "127.0.0.1" }]);
    let line = logged(&lab, "the connection's line", named)?;
    assert!(line["outcome"].is_string(), "{line}");
    Ok(())
}

/// What a visitor asks for is changed on its way, sent elsewhere, or not answered at all.
#[test]
fn requests_are_changed_sent_elsewhere_and_closed() -> Result<()> {
    const HOST: &str = "changed.clinic-network.com";
    let lab = TestLab::running()?;
    let api = lab.api()?;
    let (_, token) = guide::authtoken(&api, 1)?;
    guide::domain(&api)?;
    let service = web::spawn(|request| {
        let headers: Vec<_> = request.headers.iter().filter(|(name, _)| name.starts_with("x-of")).collect();
        web::Reply::json(200, &json!({ "path": request.path, "headers": headers }))
    })?;
    let action = |kind: &str, config: Value| json!({ "type": kind, "config": config });
    let at = |path: &str, action: Value| json!({ "expressions": [format!("req.url.path == '{path}'")], "actions": [action] });
    let changes = json!({ "expressions": ["hasReqHeader('x-clinic')"], "actions": [
        action("set-vars", json!({ "vars": [{ "clinic": "${req.headers['x-clinic'][0]}" }] })),
        action("remove-headers", json!({ "headers": ["x-of-secret"] })),
        action("add-headers", json!({ "headers": { "x-of-clinic": "number ${vars.clinic}" } })),
        action("url-rewrite", json!({ "from": "/api/([0-9]+)", "to": "/v2/$1" })),
    ] });
    let mut policy = guide::forward(REST_INTERNAL);
    let rules = policy["on_http_request"].as_array_mut().context("a list")?;
    let redirect = json!({ "from": "/old$", "to": "/new", "status_code": 301 });
    rules.splice(
        0..0,
        [
            at("/closed", json!({ "type": "close-connection" })),
            at("/old", action("redirect", redirect)),
            changes,
        ],
    );
    guide::cloud(&api, &format!("https://{HOST}"), &policy)?;
    let port = service.port();
    let endpoint = format!("  - name: rest\n    url: {REST_INTERNAL}\n    upstream:\n      url: {port}\n");
    let _agent = lab.agent("agent", &token, &endpoint)?;
    lab.wait_online(&[REST_INTERNAL], 1)?;
    let visitor = Visitor::of(&lab)?;
    visitor.wait_https(HOST)?;
    let sent = [("x-clinic", "7"), ("x-of-secret", "s")];
    let seen: Value = serde_json::from_slice(&visitor.get(HOST, "/api/12?day=1", &sent)?.body)?;
    assert_eq!(seen, json!({ "path": "/v2/12?day=1", "headers": [["x-of-clinic", "number 7"]] }));
    let moved = visitor.get(HOST, "/old", &[])?;
    let location = moved.header("location").context("a location")?;
    assert_eq!((moved.status, location.ends_with("/new")), (301, true), "{location}");
    let closed = visitor.get(HOST, "/closed", &[]).expect_err("the connection is closed without an answer");
    assert!(closed.to_string().contains("after 0 bytes"), "{closed:#}");
    let kept: Value = serde_json::from_slice(&visitor.get(HOST, "/api/12", &sent[1..])?.body)?;
    assert_eq!(kept, json!({ "path": "/api/12", "headers": [["x-of-secret", "s"]] }));
    Ok(())
}

/// Fifty replacements over a header of a megabyte held a shard for most of a second.
#[test]
fn a_costly_policy_stops_itself_and_nobody_else() -> Result<()> {
    const HOST: &str = "costly.clinic-network.com";
    const OTHER: &str = "other.clinic-network.com";
    let lab = TestLab::running()?;
    let api = lab.api()?;
    guide::domain(&api)?;
    let answer = |body: &str| json!({ "type": "custom-response", "config": { "body": body } });
    let fifty =
        (0..50).map(|_| "getReqHeader('x')[0].replace('x', '') == ''").collect::<Vec<_>>().join(" && ");
    let costly = json!({ "on_http_request": [
        { "expressions": ["hasReqHeader('x')", fifty], "actions": [answer("all empty")] },
        { "actions": [answer("no such header")] },
    ] });
    guide::cloud(&api, &format!("https://{HOST}"), &costly)?;
    guide::cloud(
        &api,
        &format!("https://{OTHER}"),
        &json!({ "on_http_request": [{ "actions": [answer("other")] }] }),
    )?;
    let visitor = Visitor::of(&lab)?;
    visitor.wait_https(HOST)?;
    visitor.wait_https(OTHER)?;
    for (bytes, status) in [(900_000, 431), (60_000, 500), (100, 200)] {
        let said = visitor.get(HOST, "/", &[("x", &"x".repeat(bytes))])?;
        assert_eq!(said.status, status, "{bytes}: {}", said.text());
        assert_eq!(visitor.get(OTHER, "/", &[])?.text(), "other");
    }
    assert_eq!(visitor.get(HOST, "/", &[])?.text(), "no such header");
    // Heads that no expression looks into pass, however long they are.
    assert_eq!(visitor.get(OTHER, "/", &[("x", &"x".repeat(900_000))])?.status, 200);
    Ok(())
}

#[test]
fn saving_a_policy_says_what_it_can_never_do() -> Result<()> {
    let lab = TestLab::control_only()?;
    let api = lab.api()?;
    guide::domain(&api)?;
    let policy = |expression: &str| {
        json!({ "on_http_request": [
            { "expressions": [expression], "actions": [{ "type": "deny" }] },
            { "actions": [{ "type": "forward-internal", "config": { "url": "https://a.internal", "binding": "internal" } }] },
        ] })
    };
    let url = "https://saved.clinic-network.com";
    let refused = guide::cloud(&api, url, &policy("conn.geo.country_code != 'DE'")).unwrap_err().to_string();
    assert!(refused.contains("needs a database of addresses"), "{refused}");
    let saved = guide::cloud(&api, url, &policy("req.method == 'TRACE'"))?;
    assert!(saved["warnings"].to_string().contains("`binding` has no effect"), "{saved}");
    Ok(())
}

#[test]
fn a_rate_limit_counts_each_bucket_over_every_connection_and_says_when_to_come_again() -> Result<()> {
    const HOST: &str = "limited.clinic-network.com";
    let lab = TestLab::running()?;
    let api = lab.api()?;
    guide::domain(&api)?;
    let limit = json!({ "name": "per key", "algorithm": "sliding_window", "capacity": 5, "rate": "24h",
        "bucket_key": ["getReqHeader('x-key')"] });
    let policy = |limit: &Value| {
        json!({ "on_http_request": [
            { "expressions": ["hasReqHeader('x-key')"], "actions": [{ "type": "rate-limit", "config": limit }] },
            { "actions": [{ "type": "custom-response", "config": { "body": "in" } }] },
        ] })
    };
    let endpoint = guide::cloud(&api, &format!("https://{HOST}"), &policy(&limit))?;
    let visitor = Visitor::of(&lab)?;
    visitor.wait_https(HOST)?;
    // Each request has a connection of its own, and so comes to any shard.
    let asked = |key: &str| visitor.get(HOST, "/", &[("x-key", key)]);
    for n in 1..=5 {
        assert_eq!(asked("a")?.status, 200, "request {n}");
    }
    let refused = asked("a")?;
    assert_eq!(refused.status, 429);
    let wait_secs: u64 = refused.header("retry-after").context("retry-after")?.parse()?;
    assert!((1..=2 * 86_400).contains(&wait_secs), "{wait_secs}");
    assert_eq!(asked("b")?.status, 200, "another bucket has its own room");
    let admin = local(lab.ports().edge_admin());
    let metrics = http::request(http::connect(admin)?, "GET", "localhost", "/metrics", &[], b"")?.text();
    assert!(metrics.contains("ebbgate_edge_requests_over_quota_total 1\n"), "{metrics}");

    // A change of the policy that leaves the quota as it is does not begin it anew.
    let mut shown = policy(&limit);
    shown["on_http_request"][1]["actions"][0]["config"]["body"] = json!("changed");
    let id = endpoint["id"].as_str().context("an id")?;
    let body = json!({ "traffic_policy": shown.to_string() });
    assert_eq!(api.call("PATCH", &format!("/endpoints/{id}"), Some(&body))?.0, 200);
    soon("the change", || Ok((visitor.get(HOST, "/", &[])?.text() == "changed").then_some(())))?;
    assert_eq!(asked("a")?.status, 429);
    Ok(())
}

#[test]
fn conditions_on_addresses_hold_once_an_edge_has_a_database_and_follow_its_file() -> Result<()> {
    const HOST: &str = "located.clinic-network.com";
    let folder = tempfile::tempdir()?;
    let used = folder.path().join("used.mmdb");
    let data = |name: &str| {
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../dataplane/tests/data/{name}.mmdb"))
    };
    fs::copy(data("city"), &used)?;
    let mut lab = TestLab::stopped()?;
    lab.edge_args(["--address-database".into(), used.clone().into_os_string()]);
    lab.edge_args(["--address-database".into(), data("list").into_os_string()]);
    lab.start()?;
    let api = lab.api()?;
    guide::domain(&api)?;
    let answer = |text: &str| json!({ "type": "custom-response", "config": { "body": text } });
    let policy = json!({ "on_http_request": [
        { "expressions": ["req.url.path == '/bytes'"], "actions": [answer("${conn.bytes_in} ${conn.bytes_out}")] },
        { "expressions": ["conn.geo.country_code == 'DE' && conn.client_ip.is_tor_node"],
          "actions": [answer("${conn.geo.city} ${conn.client_ip.categories[1]}")] },
        { "actions": [answer("elsewhere ${conn.geo.country_code}")] },
    ] });
    // The edge tells what it has when it has come.
    soon("the policy is taken", || {
        Ok(guide::cloud(&api, &format!("https://{HOST}"), &policy).ok().map(drop))
    })?;
    let number = json!({ "on_http_request": [{ "expressions": ["conn.client_ip.as.number == 1"],
        "actions": [{ "type": "deny" }] }, { "actions": [{ "type": "deny" }] }] });
    let refused = guide::cloud(&api, "https://number.clinic-network.com", &number).unwrap_err().to_string();
    assert!(refused.contains("`conn.client_ip.as.number` needs a database of addresses"), "{refused}");
    let visitor = Visitor::of(&lab)?;
    let said = |text: &str| {
        soon(text, || Ok(visitor.get(HOST, "/", &[]).ok().filter(|answer| answer.text() == text).map(drop)))
    };
    said("Berlin cloud.example")?;
    // What the handshake and the request took, encryption included.
    let bytes = visitor.get(HOST, "/bytes", &[])?.text();
    let bytes: Vec<u64> = bytes.split(' ').map(str::parse).collect::<Result<_, _>>()?;
    assert!(bytes.len() == 2 && bytes.iter().all(|bytes| (200..20_000).contains(bytes)), "{bytes:?}");
    let new = folder.path().join("new.mmdb");
    fs::copy(data("country"), &new)?;
    fs::rename(&new, &used)?;
    said("elsewhere NL")?;
    // A torn file changes nothing, and is counted.
    fs::write(&new, &fs::read(data("city"))?[..1_000])?;
    fs::rename(&new, &used)?;
    soon("the torn file is counted", || {
        let at = local(lab.ports().edge_admin());
        let metrics = http::request(http::connect(at)?, "GET", &at.to_string(), "/metrics", &[], b"")?.text();
        Ok(metrics.contains("ebbgate_edge_address_databases_refused_total 1").then_some(()))
    })?;
    said("elsewhere NL")
}
