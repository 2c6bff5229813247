//! Whole runs: order, conditions, effects, verdicts, and what each action leaves behind.

#![expect(clippy::needless_pass_by_value, reason = "tables read better with values than with borrows")]

use std::net::SocketAddr;

use ebbgate_model::IpRuleAction::{Allow, Deny};
use ebbgate_model::{ErrorCode, IpPolicyRule};
use serde_json::{Value, json};

use super::*;
use crate::facts::tests::{context, request};
use crate::facts::{Received, TlsFacts};
use crate::testing::{World, engine};
use crate::verdict::{OnError, TlsVersion, Verification};

fn from(client: &str) -> Context {
    let mut cx = context();
    let client: SocketAddr = client.parse().unwrap();
    Arc::make_mut(&mut cx.conn).client = client;
    cx
}

/// One short word for a verdict.
fn word(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Continue => "continue".into(),
        Verdict::Forward { url, on_error: OnError::Halt, .. } => format!("forward {url}"),
        Verdict::Forward { url, on_error: OnError::Continue, .. } => format!("try {url}"),
        Verdict::Respond(reply) => {
            let code = reply.code.map(|code| format!(" {}", code.number())).unwrap_or_default();
            format!("{}{code} {}", reply.status.as_u16(), String::from_utf8_lossy(&reply.body))
                .trim_end()
                .to_owned()
        }
        Verdict::Close { code } => format!("close {:?}", code.map(ErrorCode::number)),
        Verdict::Failed { code, message } => format!("failed {}: {message}", code.number()),
    }
}

fn run(policy: Value, phase: Phase, cx: &mut Context) -> String {
    word(&World::default().run(&engine(policy), phase, cx))
}

fn on_request(rules: Value, cx: &mut Context) -> String {
    run(json!({ "on_http_request": rules }), Phase::HttpRequest, cx)
}

#[test]
fn rules_go_top_down_and_stop_at_an_end() {
    let rules = || {
        json!([
            {"expressions": ["req.method == 'POST'"], "actions": [{"type": "deny", "config": {"status_code": 405}}]},
            {"expressions": ["hasReqHeader('token')", "getReqHeader('token')[0] == 'a'"], "actions": [
                {"type": "forward-internal", "config": {"url": "https://rest-api.clinic1.internal"}},
            ]},
            {"actions": [{"type": "deny"}]},
        ])
    };
    let check = |headers: &[(&str, &str)], method: &str, expect: &str| {
        let mut cx = request("/", headers);
        cx.request.as_mut().unwrap().method = method.parse().unwrap();
        assert_eq!(on_request(rules(), &mut cx), expect);
    };
    check(&[("Token", "a")], "GET", "forward https://rest-api.clinic1.internal");
    check(&[("Token", "b")], "GET", "403");
    check(&[], "GET", "403");
    check(&[("Token", "a")], "POST", "405");
}

#[test]
fn a_policy_without_rules_continues() {
    let engine = engine(json!({}));
    assert!(Phase::ALL.iter().all(|phase| !engine.has(*phase)));
    assert_eq!(word(&World::default().run(&engine, Phase::HttpRequest, &mut request("/", &[]))), "continue");
}

#[test]
fn a_failing_expression_closes_the_gate() {
    let rules = json!([{"expressions": ["req.headers['nope'][0] == 'x'"], "actions": [{"type": "deny"}]}]);
    let outcome = on_request(rules, &mut request("/", &[]));
    assert_eq!(outcome, "failed 2300: on_http_request[0].expressions[0]: the request has no header `nope`");
}

#[test]
fn restrict_ips() {
    let policy = |config: Value| json!({"on_tcp_connect": [{"actions": [{"type": "restrict-ips", "config": config}]}]});
    let check = |config: Value, client: &str, expect: &str, matched: &str| {
        let mut cx = from(client);
        assert_eq!(run(policy(config.clone()), Phase::TcpConnect, &mut cx), expect, "{config} {client}");
        assert_eq!(cx.result("restrict_ips").unwrap()["matched_cidr"], matched, "{config} {client}");
    };
    let seed = || json!({"enforce": true, "allow": ["e680:5791:be4c:5739:d959:7b94:6d54:d4b4/128", "203.0.113.42/32"]});
    let closed = "close Some(3203)";
    check(seed(), "203.0.113.42:1", "continue", "203.0.113.42/32");
    check(seed(), "[::ffff:203.0.113.42]:1", "continue", "203.0.113.42/32");
    check(
        seed(),
        "[e680:5791:be4c:5739:d959:7b94:6d54:d4b4]:1",
        "continue",
        "e680:5791:be4c:5739:d959:7b94:6d54:d4b4/128",
    );
    check(
        seed(),
        "[e680:5791:be4c:5739:d959:7b94:6d54:d4b4%7]:1",
        "continue",
        "e680:5791:be4c:5739:d959:7b94:6d54:d4b4/128",
    );
    check(seed(), "203.0.113.43:1", closed, "");
    check(seed(), "[::1]:1", closed, "");
    check(json!({"deny": ["10.0.0.0/8"]}), "11.0.0.1:1", closed, "");
    check(json!({"allow": ["0.0.0.0/0"], "deny": ["10.0.0.0/8"]}), "10.0.0.1:1", closed, "10.0.0.0/8");
    check(
        json!({"allow": ["0.0.0.0/0"], "deny": ["10.0.0.0/8"]}),
        "[::ffff:10.0.0.1]:1",
        closed,
        "10.0.0.0/8",
    );
    check(json!({"allow": ["0.0.0.0/0"], "deny": ["10.0.0.0/8"]}), "11.0.0.1:1", "continue", "0.0.0.0/0");
    check(json!({"allow": ["0.0.0.0/0"]}), "[::1]:1", closed, "");
    check(json!({"allow": ["10.0.0.0/8"], "enforce": false}), "11.0.0.1:1", "continue", "");
    check(json!({"allow": ["${conn.server_ip}/24"]}), "192.0.2.77:1", "continue", "192.0.2.0/24");
    // What a request says about addresses changes nothing.
    let mut cx = request("/", &[("x-forwarded-for", "203.0.113.42"), ("forwarded", "for=203.0.113.42")]);
    Arc::make_mut(&mut cx.conn).client = "198.51.100.1:1".parse().unwrap();
    let rules = json!([{"actions": [{"type": "restrict-ips", "config": seed()}]}]);
    assert_eq!(on_request(rules, &mut cx), "403 3203");
    assert_eq!(cx.result("restrict_ips").unwrap()["action"], "deny");
}

#[test]
fn restrict_ips_by_ip_policies_of_the_account() {
    let id = "ipp_2x3oYVqKXGvqVDu1nl1DrZMCfCA";
    let policy =
        json!({"on_tcp_connect": [{"actions": [{"type": "restrict-ips", "config": {"ip_policies": [id]}}]}]});
    let policy: TrafficPolicy = serde_json::from_value(policy).unwrap();
    let missing = Engine::compile(&policy, &References::default()).unwrap_err();
    assert_eq!(
        missing.first().map(|problem| problem.message.as_str()),
        Some("the account has no IP policy ipp_2x3oYVqKXGvqVDu1nl1DrZMCfCA")
    );
    let rule = |cidr: &str, action| IpPolicyRule { cidr: cidr.parse().unwrap(), action };
    let rules = vec![rule("203.0.113.0/24", Allow), rule("203.0.113.66/32", Deny)];
    let refs = References { ip_policies: [(id.parse().unwrap(), rules)].into(), ..References::default() };
    let engine = Arc::new(Engine::compile(&policy, &refs).unwrap());
    let run = |client: &str| word(&World::default().run(&engine, Phase::TcpConnect, &mut from(client)));
    assert_eq!(run("203.0.113.42:1"), "continue");
    assert_eq!(run("203.0.113.66:1"), "close Some(3203)");
    assert_eq!(run("198.51.100.1:1"), "close Some(3203)");
}

#[test]
fn terminate_tls_asks_and_shows_the_handshake() {
    let policy = json!({"on_tcp_connect": [
        {"actions": [{"type": "restrict-ips", "config": {"allow": ["203.0.113.42"]}}, {"type": "terminate-tls", "config": {"min_version": "1.3"}}]},
        {"expressions": ["conn.tls.version == '1.3'", "actions.ngrok.terminate_tls.sni == 'db'"], "actions": [
            {"type": "forward-internal", "config": {"url": "tls://patient-db.clinic1.internal"}},
        ]},
    ]});
    let engine =
        Arc::new(Engine::compile(&serde_json::from_value(policy).unwrap(), &References::default()).unwrap());
    let mut cx = context();
    cx.endpoint = Arc::new(crate::EndpointFacts::new("ep".into(), "tls://db.example.com".parse().unwrap()));
    let mut run = engine.start(Phase::TcpConnect);
    let Step::Need(Effect::TerminateTls(settings)) = run.step(&mut cx) else {
        panic!("a handshake comes first")
    };
    assert_eq!((settings.min, settings.max), (TlsVersion::V1_3, TlsVersion::V1_3));
    assert_eq!(settings.verification, Verification::RequireAndVerify);
    // Stepping without an answer asks again.
    assert!(matches!(run.step(&mut cx), Step::Need(Effect::TerminateTls(_))));
    let facts = TlsFacts { version: "1.3".into(), sni: "db".into(), ..TlsFacts::default() };
    run.resume(&mut cx, Outcome::Tls(Arc::new(facts)));
    let Step::Done(verdict) = run.step(&mut cx) else { panic!("nothing else is needed") };
    assert_eq!(word(&verdict), "forward tls://patient-db.clinic1.internal");
    assert_eq!(cx.conn.tls.as_ref().unwrap().sni, "db");
}

#[test]
fn mutual_tls_settings() {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).unwrap().pem();
    let leaf =
        rcgen::CertificateParams::new(vec!["a.example".into()]).unwrap().self_signed(&key).unwrap().pem();
    let id = "ca_2x3oYVqKXGvqVDu1nl1DrZMCfCA";
    let refs = References {
        authorities: [(id.parse().unwrap(), authority.clone())].into(),
        ..References::default()
    };
    let compile = |config: Value| {
        let policy = json!({"on_tcp_connect": [{"actions": [{"type": "terminate-tls", "config": config}]}]});
        Engine::compile(&serde_json::from_value(policy).unwrap(), &refs)
    };
    let settings = |config: Value| {
        let mut run = Arc::new(compile(config).unwrap()).start(Phase::TcpConnect);
        let Step::Need(Effect::TerminateTls(settings)) = run.step(&mut context()) else {
            panic!("a handshake comes first")
        };
        settings
    };
    let both = settings(json!({"mutual_tls_certificate_authorities": [authority, id]}));
    assert_eq!(both.client_authorities, [authority.clone(), authority.clone()]);
    for (name, expect) in [
        ("require-and-verify", Verification::RequireAndVerify),
        ("require-any", Verification::RequireAny),
        ("request", Verification::Request),
    ] {
        let config =
            json!({"mutual_tls_certificate_authorities": [id], "mutual_tls_verification_strategy": name});
        assert_eq!(settings(config).verification, expect);
    }
    let own = settings(json!({"server_certificate": leaf, "server_private_key": key.serialize_pem()}));
    assert!(!format!("{own:?}").contains("PRIVATE KEY"), "the key must not be printed");
    let problem =
        |config: Value| compile(config).unwrap_err().first().map(|problem| problem.message.clone()).unwrap();
    assert!(
        problem(json!({"mutual_tls_certificate_authorities": [leaf]}))
            .contains("not a certificate authority")
    );
    assert!(
        problem(json!({"mutual_tls_certificate_authorities": ["ca_2x3oYVqKXGvqVDu1nl1DrZMCfCB"]}))
            .contains("the account has no")
    );
    assert!(
        problem(json!({"server_certificate": leaf, "server_private_key": leaf}))
            .contains("not a PEM private key")
    );
    assert!(
        problem(
            json!({"server_certificate": key.serialize_pem(), "server_private_key": key.serialize_pem()})
        )
        .contains("where a certificate belongs")
    );
}

#[test]
fn forwarding_that_may_fail() {
    let rules = json!([{"actions": [
        {"type": "forward-internal", "config": {"url": "https://a.internal", "on_error": "continue"}},
        {"type": "forward-internal", "config": {"url": "https://b.internal", "on_error": "continue"}},
        {"type": "custom-response", "config": {"status_code": 503, "body": "${actions.ngrok.forward_internal.error.code} ${actions.ngrok.forward_internal.url}"}},
    ]}]);
    let engine = engine(json!({ "on_http_request": rules }));
    let run = |forwards_failing| {
        let mut cx = request("/", &[]);
        word(&World { forwards_failing, ..World::default() }.run(&engine, Phase::HttpRequest, &mut cx))
    };
    assert_eq!(run(0), "try https://a.internal");
    assert_eq!(run(1), "try https://b.internal");
    assert_eq!(run(2), "503 ERR_NGROK_3200 https://b.internal");
}

/// A request may choose among internal endpoints only as far as the policy lets it.
#[test]
fn a_computed_target_stays_internal() {
    let check = |host: &str, expect: &str| {
        let rules = json!([{"actions": [{"type": "forward-internal", "config": {"url": "https://${getReqHeader('site')[0]}"}}]}]);
        let outcome = on_request(rules, &mut request("/", &[("site", host)]));
        assert!(outcome.contains(expect), "{host}: {outcome}");
    };
    check("a.internal", "forward https://a.internal");
    check("A.Internal:8443", "forward https://a.internal:8443");
    check(
        "attacker.example",
        "failed 3900: forward-internal url: https://attacker.example is not an internal endpoint",
    );
    check("a.internal.attacker.example", "is not an internal endpoint");
    check("a.internal@attacker.example", "failed 3900");
    check("a.internal/../x", "failed 3900");
    check("*.internal", "names no one endpoint");
    check("a.internal#", "failed 3900");
    check("", "failed 3900");
}

#[test]
fn headers_are_added_and_removed() {
    let mut cx = request("/", &[("x-old", "1"), ("x-old", "2"), ("x-keep", "k")]);
    let rules = json!([{"actions": [
        {"type": "add-headers", "config": {"headers": {"X-Keep": "more", "X-Client": "${conn.client_ip}", "Host": "inner.example"}}},
        {"type": "remove-headers", "config": {"headers": ["X-Old", "x-absent"]}},
    ]}]);
    assert_eq!(on_request(rules, &mut cx), "continue");
    let headers = &cx.request.as_ref().unwrap().headers;
    assert_eq!(headers.get_all("x-keep").iter().collect::<Vec<_>>(), ["k", "more"]);
    assert_eq!(headers.get_all("host").iter().collect::<Vec<_>>(), ["inner.example"]);
    assert_eq!(headers["x-client"], "203.0.113.42");
    assert!(!headers.contains_key("x-old"));
    assert_eq!(cx.result("add_headers").unwrap()["headers_added"]["x-client"], "203.0.113.42");
    assert_eq!(cx.result("remove_headers").unwrap()["headers_removed"], json!(["x-old"]));
}

/// Nothing a request says can end a header early.
#[test]
fn a_value_cannot_split_a_message() {
    let rules = json!([{"actions": [{"type": "add-headers", "config": {"headers": {"x": "${url.unescape(req.url.query)}"}}}]}]);
    let outcome = on_request(rules, &mut request("/?a%0d%0aset-cookie:%20x", &[]));
    assert_eq!(outcome, "failed 3900: add-headers: header `x`: the value has control characters");
}

#[test]
fn custom_responses() {
    let check = |config: Value, expect: &str, content_type: Option<&str>| {
        let engine = engine(
            json!({"on_http_request": [{"actions": [{"type": "custom-response", "config": config}]}]}),
        );
        let verdict = World::default().run(&engine, Phase::HttpRequest, &mut request("/x", &[]));
        assert_eq!(word(&verdict), expect);
        let Verdict::Respond(reply) = verdict else { panic!("an answer") };
        assert!(reply.response_phase);
        assert_eq!(reply.headers.get("content-type").map(|value| value.to_str().unwrap()), content_type);
    };
    check(json!({"body": "hello ${req.url.path}"}), "200 hello /x", Some("text/plain; charset=utf-8"));
    check(json!({"status_code": 404, "body": "{\"a\": 1}"}), "404 {\"a\": 1}", Some("application/json"));
    check(json!({"body": "<!DOCTYPE html><p>"}), "200 <!DOCTYPE html><p>", Some("text/html; charset=utf-8"));
    check(json!({"body": "x", "headers": {"Content-Type": "a/b"}}), "200 x", Some("a/b"));
    check(json!({"status_code": 204}), "204", None);
}

#[test]
fn variables_and_logs() {
    let mut cx = request("/", &[("site", "north")]);
    let rules = json!([
        {"actions": [{"type": "set-vars", "config": {"vars": [{"site": "${getReqHeader('site')[0]}"}, {"limits": {"n": "${1 + 1}"}}]}}]},
        {"expressions": ["vars.site == 'north'", "vars.limits.n == 2"], "actions": [
            {"type": "log", "config": {"metadata": {"site": "${vars.site}", "n": "${vars.limits.n}", "plain": [1]}}},
        ]},
    ]);
    let engine = engine(json!({"on_http_request": rules}));
    assert_eq!(word(&World::default().run(&engine, Phase::HttpRequest, &mut cx)), "continue");
    assert_eq!(cx.logs, [json!({"site": "north", "n": 2, "plain": [1]})]);
    assert_eq!(cx.result("log").unwrap()["metadata"]["n"], 2);
    // Variables last for one phase.
    World::default().run(&engine, Phase::HttpRequest, &mut cx);
    let mut again = engine.start(Phase::HttpResponse);
    again.step(&mut cx);
    assert!(cx.vars.is_empty());
}

#[test]
fn the_log_of_one_run_is_bounded() {
    let mut cx = request("/", &[]);
    let log = json!({"type": "log", "config": {"metadata": {"a": "${'x'.replace('x', 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx')}"}}});
    let rules: Vec<Value> = (0..4).map(|_| json!({"actions": vec![log.clone(); 40]})).collect();
    assert_eq!(on_request(json!(rules), &mut cx), "continue");
    assert_eq!(cx.logs.len(), crate::facts::LOG_ENTRIES_MAX);
}

#[test]
fn response_rules_see_and_change_the_response() {
    let mut cx = request("/", &[]);
    let response = http::Response::builder().status(500).header("server", "secret").body(()).unwrap();
    cx.response = Some(response.into_parts().0);
    let policy = json!({"on_http_response": [
        {"actions": [{"type": "remove-headers", "config": {"headers": ["server"]}}]},
        {"expressions": ["res.status_code >= 500"], "actions": [{"type": "custom-response", "config": {"status_code": 502, "body": "sorry"}}]},
    ]});
    assert_eq!(run(policy, Phase::HttpResponse, &mut cx), "502 sorry");
    assert!(!cx.response.unwrap().headers.contains_key("server"));
}

#[test]
fn the_same_context_gives_the_same_run() {
    let policy = json!({"on_http_request": [{"actions": [
        {"type": "custom-response", "config": {"body": "${rand.int(0, 1000000)} ${time.now} ${req.headers} ${{'b': 1, 'a': 2}.map(k, k)}"}},
    ]}]});
    let once = || {
        let mut cx = request("/", &[("b", "2"), ("a", "1")]);
        cx.rng_seed = 42;
        run(policy.clone(), Phase::HttpRequest, &mut cx)
    };
    assert!((0..20).all(|_| once() == once()));
}

#[test]
fn basic_auth() {
    use base64::Engine as _;
    let config = || json!({"credentials": ["ada:password1", "bob:pass:word:2", "${'eve:' + vars.secret}"], "realm": "clinic"});
    let check = |headers: &[(&str, &str)], expect: &str, user: &str| {
        let mut cx = request("/", headers);
        let rules = json!([
            {"actions": [{"type": "set-vars", "config": {"vars": [{"secret": "computed-1"}]}}]},
            {"actions": [{"type": "basic-auth", "config": config()}]},
        ]);
        assert_eq!(on_request(rules, &mut cx), expect, "{headers:?}");
        assert_eq!(cx.result("basic_auth").unwrap()["credentials"]["username"], user);
    };
    let basic = |text: &str| format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text));
    check(&[("authorization", &basic("ada:password1"))], "continue", "ada");
    check(&[("authorization", &basic("bob:pass:word:2").replace("Basic", "bAsIc"))], "continue", "bob");
    check(&[("authorization", &basic("eve:computed-1"))], "continue", "eve");
    check(&[("authorization", &basic("ada:password2"))], "401", "ada");
    check(&[("authorization", &basic("ada:password1 "))], "401", "ada");
    check(&[("authorization", &basic("Ada:password1"))], "401", "Ada");
    check(&[("authorization", &basic(""))], "401", "");
    check(&[], "401", "");
    check(&[("authorization", "Basic")], "401", "");
    check(&[("authorization", &basic(&format!("ada:{}", "x".repeat(4_000))))], "401", "");
    check(&[("authorization", "Basic !!!")], "401", "");
    check(&[("authorization", "Bearer x")], "401", "");
    check(&[("authorization", &basic("ada:password1")), ("authorization", &basic("x:y"))], "401", "");
    let mut open = config();
    open["enforce"] = false.into();
    let rules = json!([{"actions": [
        {"type": "set-vars", "config": {"vars": [{"secret": "computed-1"}]}},
        {"type": "basic-auth", "config": open},
        {"type": "custom-response", "config": {"body": "${actions.ngrok.basic_auth.credentials.authorized}"}},
    ]}]);
    assert_eq!(on_request(rules, &mut request("/", &[])), "200 false");
}

#[test]
fn redirects() {
    let check = |config: Value, uri: &str, expect: &str| {
        let engine =
            engine(json!({"on_http_request": [{"actions": [{"type": "redirect", "config": config}]}]}));
        let said = match World::default().run(&engine, Phase::HttpRequest, &mut request(uri, &[])) {
            Verdict::Respond(reply) => {
                format!("{} {}", reply.status.as_u16(), reply.headers["location"].to_str().unwrap())
            }
            other => word(&other),
        };
        assert_eq!(said, expect, "{config}");
    };
    check(json!({"to": "https://new.example/"}), "/a", "302 https://new.example/");
    check(
        json!({"from": "/old/(.*)", "to": "/new/$1", "status_code": 308}),
        "/old/a?b=1",
        "308 https://api.example.com/new/a?b=1",
    );
    check(json!({"from": "^https://api", "to": "https://www"}), "/x", "302 https://www.example.com/x");
    check(json!({"from": "/nowhere", "to": "/x"}), "/a", "continue");
    check(json!({"to": "${req.url}"}), "/a", "continue");
    check(
        json!({"from": "${req.url.query}", "to": "x"}),
        "/a?(",
        "failed 3901: redirect: the pattern cannot be read: error: unclosed group",
    );
    check(json!({"to": "${url.unescape(req.url.query)}"}), "/a?x%0d%0ay", "302 x%0D%0Ay");
    // The published how-to: a path at the same host.
    check(json!({"from": "/.*", "to": "/redirect"}), "/r/a", "302 /redirect");
    check(json!({"from": "//.*", "to": "x"}), "/r/a", "failed 3900: redirect: what comes out is not a URL");
    check(json!({"to": "myapp:open"}), "/a", "302 myapp:open");
}

/// What is computed from a decoded path or a header is made a URL again (RFC 3986 section 2).
#[test]
fn redirect_and_url_rewrite_give_valid_urls() {
    let run = |kind: &str, config: Value, uri: &str| {
        let engine = engine(json!({"on_http_request": [{"actions": [{"type": kind, "config": config}]}]}));
        let mut cx = request(uri, &[("x-city", "San Francisco")]);
        match World::default().run(&engine, Phase::HttpRequest, &mut cx) {
            Verdict::Respond(reply) => reply.headers["location"].to_str().unwrap().to_owned(),
            Verdict::Continue => {
                let request = cx.request.unwrap();
                format!("{} {}", request.headers["host"].to_str().unwrap(), request.uri)
            }
            other => word(&other),
        }
    };
    for (path, decoded) in [
        ("/a%20b", "/a%20b"),
        ("/caf%C3%A9", "/caf%C3%A9"),
        ("/a%22b", "/a%22b"),
        ("/100%25", "/100%25"),
        ("/a%23b", "/a%23b"),
        ("/x%0d%0aSet-Cookie:%20a=b", "/x%0D%0ASet-Cookie:%20a=b"),
    ] {
        let rewritten = run("url-rewrite", json!({"to": "https://app.example/in${req.url.path}"}), path);
        assert_eq!(rewritten, format!("app.example /in{decoded}"));
        if !path.contains("%23") {
            let location = run("redirect", json!({"to": "https://new.example/in${req.url.path}"}), path);
            assert_eq!(location, format!("https://new.example/in{decoded}"));
        }
    }
    let city = "c=${req.headers['x-city'][0]}";
    let location = run("redirect", json!({ "to": format!("https://new.example?{city}") }), "/");
    assert_eq!(location, "https://new.example?c=San%20Francisco");
    let rewritten = run("url-rewrite", json!({ "from": "/city", "to": format!("/by-city?{city}") }), "/city");
    assert_eq!(rewritten, "api.example.com /by-city?c=San%20Francisco");
    // The published how-to: all from the first slash on is replaced, and that is the one of `https://`.
    let rewritten = run("url-rewrite", json!({"from": "/.*", "to": "/rewrite"}), "/full/a/b");
    assert_eq!(rewritten, "api.example.com /rewrite");
    // Escapes and what they stand beside are left as they are.
    let tail = "a%20b%2Fc//d;e=1?x=%26&y=+&z=%C3%A9";
    let rewritten = run("url-rewrite", json!({"from": "/v1/", "to": "/v2/"}), &format!("/v1/{tail}"));
    assert_eq!(rewritten, format!("api.example.com /v2/{tail}"));
}

#[test]
fn a_url_rewrite_to_another_host_is_obeyed() {
    let run = |config: Value| {
        let mut cx = request("/a", &[]);
        let rules = json!([{"actions": [{"type": "url-rewrite", "config": config}]}]);
        let outcome = on_request(rules, &mut cx);
        let request = cx.request.unwrap();
        format!("{outcome}: {} {}", request.headers["host"].to_str().unwrap(), request.uri)
    };
    assert_eq!(
        run(json!({"from": "^https://[^/]+", "to": "https://other.example"})),
        "continue: other.example /a"
    );
    assert_eq!(run(json!({"to": "https://x.example:8443?q=1"})), "continue: x.example:8443 /?q=1");
    let refused = "failed 3900: url-rewrite: what comes out is not a URL: api.example.com /a";
    assert_eq!(run(json!({"to": "https://user:secret@x.example/"})), refused);
    assert_eq!(run(json!({"to": "https://a b/"})), refused);
}

#[test]
fn a_long_policy_lets_others_run_between_its_evaluations() {
    let costly = "lists.range(300).all(x, x >= 0)";
    let rule = json!({"expressions": vec![costly; 20], "actions": [{"type": "log", "config": {"metadata": {"a": "b"}}}]});
    let policy = engine(json!({ "on_http_request": [rule, {"actions": [{"type": "deny"}]}] }));
    let mut world = World::default();
    let mut cx = request("/", &[]);
    assert_eq!(word(&world.run(&policy, Phase::HttpRequest, &mut cx)), "403");
    let spent = usize::try_from(cx.work.spent()).unwrap();
    assert!(
        world.pauses >= 2 && world.pauses + 1 >= spent / 20_000,
        "{} pauses, {spent} units",
        world.pauses
    );
    // Nothing is evaluated twice on account of a pause.
    assert_eq!(cx.logs.len(), 1);
}

/// A visitor who sends more headers than the policy may look at learns so; a policy that does not look lets them pass.
#[test]
fn more_headers_than_a_policy_may_see_are_answered_431() {
    let long = "x".repeat(crate::expr::SEEN_HEADER_BYTES_MAX + 1);
    let check = |rule: Value, expect: &str| {
        let mut cx = request("/", &[("x-long", &long)]);
        assert_eq!(on_request(json!([rule, {"actions": [{"type": "deny"}]}]), &mut cx), expect);
    };
    let looks =
        |expression: &str| json!({"expressions": [expression], "actions": [{"type": "close-connection"}]});
    check(looks("req.headers['x-long'][0] == 'a'"), "431");
    check(looks("'a' in req.headers || true"), "431");
    check(json!({"actions": [{"type": "log", "config": {"metadata": {"all": "${req.headers}"}}}]}), "431");
    check(looks("hasReqHeader('x-other')"), "403");
    check(looks("req.host == 'x'"), "403");
}

#[test]
fn rewrites() {
    let check = |config: Value, uri: &str, expect: &str| {
        let mut cx = request(uri, &[]);
        let rules = json!([{"actions": [{"type": "url-rewrite", "config": config}]}]);
        let outcome = on_request(rules, &mut cx);
        let uri = cx.request.unwrap().uri.to_string();
        assert_eq!(if outcome == "continue" { uri } else { outcome }, expect, "{config}");
    };
    check(json!({"from": "/v1/", "to": "/v2/"}), "/v1/a/v1/b?x=1", "/v2/a/v2/b?x=1");
    check(json!({"from": r"/users/(\d+)", "to": "/u?id=$1"}), "/users/7", "/u?id=7");
    check(
        json!({"to": "/all?from=${url.escape(req.url.path)}"}),
        "/a b".replace(' ', "%20").as_str(),
        "/all?from=%2Fa+b",
    );
    check(json!({"from": "/nowhere", "to": "/x"}), "/a?b", "/a?b");
    check(json!({"to": "not a url"}), "/a", "failed 3900: url-rewrite: what comes out is not a URL");
    check(json!({"to": "https://x.example?q=1"}), "/a", "/?q=1");
}

#[test]
fn a_replacement_stops_where_it_is_too_long() {
    let check = |to: String, uri: &str, expect: &str| {
        let rules = json!([{"actions": [{"type": "redirect", "config": {"from": "(.)", "to": to}}]}]);
        let mut cx = request(uri, &[]);
        assert_eq!(on_request(rules, &mut cx), expect);
    };
    let long = format!("/{}", "a".repeat(8_000));
    // Eight thousand matches, each replaced by eight thousand bytes, or by four thousand references to the whole match.
    let refused = "failed 3900: redirect: the URL is longer than 8192 bytes";
    check("x".repeat(8_192), &long, refused);
    check("$1".repeat(4_000), &long, refused);
    check("x".repeat(8_193), "/", refused);
    // Pieces mean what the whole does: references, braces, dollars, names nobody has.
    let to = "/$2$$$1-$nobody-$$${'$'}{all}z";
    let config = json!({"from": "/(o)(?P<all>ld)", "to": to});
    let rules = json!([{"actions": [{"type": "url-rewrite", "config": config}]}]);
    let mut cx = request("/old/b", &[]);
    assert_eq!(on_request(rules, &mut cx), "continue");
    assert_eq!(cx.request.unwrap().uri.to_string(), "/ld$o--$ldz/b");
}

#[test]
fn a_pattern_that_looks_at_all_the_rest_at_every_match_is_stopped() {
    let rules =
        json!([{"actions": [{"type": "redirect", "config": {"from": ".*[^A-Z]|[A-Z]", "to": "$0"}}]}]);
    let uri = format!("/{}", "A".repeat(60_000));
    let mut cx = request(&uri, &[]);
    let expect = "failed 3900: redirect: one evaluation needs more than 100000 units of work";
    assert_eq!(on_request(rules, &mut cx), expect);
}

#[test]
fn all_expressions_on_the_way_share_one_budget() {
    // Each pays for 3,000 turns and more; 200 rules of 50 would take minutes.
    let costly = "lists.range(300).all(x, lists.range(10).all(y, x + y >= 0))";
    let rule = json!({"expressions": vec![costly; 50], "actions": [{"type": "remove-headers", "config": {"headers": ["x"]}}]});
    let policy = engine(json!({ "on_http_request": vec![rule; 4] }));
    let mut cx = request("/", &[]);
    let said = word(&World::default().run(&policy, Phase::HttpRequest, &mut cx));
    assert!(said.starts_with("failed 2300") && said.ends_with("more than 500000 units of work"), "{said}");
    // A further endpoint on the way inherits what is left: nothing.
    let cheap =
        engine(json!({ "on_http_request": [{"expressions": ["true"], "actions": [{"type": "deny"}]}] }));
    let mut next = request("/", &[]);
    next.work = cx.work.clone();
    let said = word(&World::default().run(&cheap, Phase::HttpRequest, &mut next));
    assert!(said.starts_with("failed 2300"), "{said}");
}

#[test]
fn the_end_of_a_body_is_told_when_it_has_come_and_a_log_waits_for_it() {
    let end = |name: &'static str| {
        let trailers = [(name.parse().unwrap(), "7".parse().unwrap())].into_iter().collect();
        Arc::new(Received { at_unix_ms: 1_767_323_046_999, trailers })
    };
    let asked = |cx: &mut Context| {
        let rules = json!([{"expressions": ["has(req.trailers) && has(req.ts.body_received) && 'x-sum' in req.trailers",
            "req.trailers['x-sum'][0] + req.ts.body_received == '72026-01-02T03:04:06Z'"], "actions": [{"type": "deny"}]}]);
        on_request(rules, cx)
    };
    let mut cx = request("/", &[]);
    assert_eq!(asked(&mut cx), "continue", "it has not come");
    cx.request_end = Some(end("x-sum"));
    assert_eq!(asked(&mut cx), "403");
    let log = |cx: &mut Context| {
        let metadata = json!({"a": "${req.trailers['x-sum'][0]}", "b": "${vars.b}"});
        let actions = json!([{"type": "set-vars", "config": {"vars": [{"b": "then"}]}}, {"type": "log", "config": {"metadata": metadata}},
            {"type": "set-vars", "config": {"vars": [{"b": "later"}]}}]);
        assert_eq!(on_request(json!([{ "actions": actions }]), cx), "continue");
        (std::mem::take(&mut cx.logs), std::mem::take(&mut cx.late_logs))
    };
    let entry = json!({"a": "7", "b": "then"});
    assert_eq!(log(&mut cx).0, std::slice::from_ref(&entry), "there is nothing to wait for");
    cx.request_end = None;
    let (now, mut late) = log(&mut cx);
    assert_eq!((now.len(), late.len()), (0, 1));
    assert_eq!(late.pop().unwrap().entry(Some(end("x-sum")), None), entry);
    let (_, mut late) = log(&mut cx);
    let failed = late.pop().unwrap().entry(Some(end("x-other")), None).to_string();
    assert!(failed.contains("log metadata `a`: there is no key `x-sum`"), "{failed}");
    let all = json!([{ "actions": vec![json!({"type": "log", "config": {"metadata": {"a": "${req.trailers}"}}}); 10] }]);
    assert_eq!(on_request(all, &mut cx), "continue");
    assert_eq!((cx.late_logs.len(), cx.logs.len()), (crate::facts::LATE_LOGS_MAX, 2), "{:?}", cx.logs);
    // The response's, where it names them.
    let policy = json!({"on_http_response": [{"actions": [{"type": "log", "config": {"metadata": {"s": "${res.trailers['grpc-status'][0]}"}}}]}]});
    cx.late_logs.clear();
    cx.response = Some(http::Response::new(()).into_parts().0);
    assert_eq!(run(policy, Phase::HttpResponse, &mut cx), "continue");
    assert_eq!(cx.late_logs.pop().unwrap().entry(None, Some(end("grpc-status"))), json!({"s": "7"}));
}
