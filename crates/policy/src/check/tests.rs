//! What saving a policy says: the seed's own slips word for word, and every rule of the grammar.

use proptest::prelude::*;

use super::*;

fn cloud(scheme: &str) -> CheckContext {
    CheckContext { scheme: scheme.parse().unwrap(), binding: Binding::Public, owner: Owner::Cloud }
}

fn agent(scheme: &str) -> CheckContext {
    CheckContext { owner: Owner::Agent, ..cloud(scheme) }
}

/// Everything `check` says, one line each.
fn report(text: &str, cx: CheckContext) -> String {
    let lines = |kind: &str, problems: &[Diagnostic]| {
        problems.iter().map(|problem| format!("{kind}: {problem}\n")).collect::<Vec<_>>().concat()
    };
    match check(text, &cx) {
        Err(errors) => lines("error", &errors),
        Ok(checked) => {
            let targets: Vec<String> = checked.forward_targets().iter().map(ToString::to_string).collect();
            format!("{}accepted; forwards to {targets:?}\n", lines("warning", &checked.warnings))
        }
    }
}

const SEED_TLS: &str = r#"
on_tcp_connect:
  - actions:
    - type: terminate-tls
      config:
        min_version: "1.3"
    - type: forward-internal
      config:
        url: tls://patient-db.clinic1.internal:443
"#;

const SEED_TCP: &str = r"
on_tcp_connect:
  - actions:
    - type: restrict-ips
      config:
        enforce: true
        allow:
          - e680:5791:be4c:5739:d959:7b94:6d54:d4b4/128
          - 203.0.113.42/32
    - type: forward-internal
      config:
        url: tcp://operations-database.clinic1.internal:443
";

const SEED_HTTPS: &str = r"
on_http_request:
  - expressions:
      - hasReqHeader('example-token')
  - actions:
      - type: jwt-validation
        config:
          issuer:
            allow_list:
              - value: 'https://example.com/issuer'
          audience:
            allow_list:
              - value: 'urn:example:api'
          http:
            tokens:
              - type: access_token
                method: header
                name: Authorization
                prefix: 'Bearer '
              - type: it+jwt
                method: body
                name: _id_token
          jws:
            allowed_algorithms:
              - RS256
              - ES256
            keys:
              sources:
                additional_jkus:
                  - 'https://example.com/issuer/jku'
  - type: forward-internal
    config:
      url: 'https://rest-api.clinic1.internal:443'
";

const SEED_TLS_JSON: &str = r#"{ "on_tcp_connect": [ { "actions": [ { "type": "terminate-tls", "config": { "min_version": "1.3" } } ] } ], { "type": "forward-internal", "config": { "url": "tls://patient-db.clinic1.internal:443" } } ] } ] }"#;

/// The seed's https policy with its three slips put right, as appendix B says.
fn repaired_https() -> String {
    SEED_HTTPS
        .replace("  - actions:\n", "    actions:\n")
        .replace(
            "  - type: forward-internal\n    config:\n      url: 'https://rest-api.clinic1.internal:443'\n",
            "      - type: forward-internal\n        config:\n          url: 'https://rest-api.clinic1.internal:443'\n  - actions:\n      - type: deny\n",
        )
}

/// The seed's unbalanced JSON with its bracket put right.
fn repaired_tls_json() -> String {
    SEED_TLS_JSON.replace("\"1.3\" } } ] } ], {", "\"1.3\" } }, {")
}

#[test]
fn the_seeds_policies_and_their_slips() {
    insta::assert_snapshot!("seed_tls", report(SEED_TLS, cloud("tls")));
    insta::assert_snapshot!("seed_tcp", report(SEED_TCP, cloud("tcp")));
    insta::assert_snapshot!("seed_https", report(SEED_HTTPS, cloud("https")));
    insta::assert_snapshot!("seed_https_repaired", report(&repaired_https(), cloud("https")));
    insta::assert_snapshot!("seed_tls_json", report(SEED_TLS_JSON, cloud("tls")));
    insta::assert_snapshot!("seed_tls_json_repaired", report(&repaired_tls_json(), cloud("tls")));
    // Only the fallback is missing: what is left when the first two slips are repaired.
    let without_fallback = repaired_https().replace("  - actions:\n      - type: deny\n", "");
    insta::assert_snapshot!("seed_https_without_fallback", report(&without_fallback, cloud("https")));
    assert!(report(&without_fallback, agent("https")).contains("accepted"));
    let trailing_comma = "{\n  \"on_http_request\": [],\n}";
    insta::assert_snapshot!("trailing_comma", report(trailing_comma, agent("https")));
}

#[test]
fn seed_and_canonical_form_agree() {
    for (text, cx) in
        [(SEED_TLS, cloud("tls")), (SEED_TCP, cloud("tcp")), (&repaired_https(), cloud("https"))]
    {
        let policy = check(text, &cx).unwrap().policy;
        let json = serde_json::to_string_pretty(&policy).unwrap();
        assert_eq!(check(&json, &cx).unwrap().policy, policy);
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a list of cases")]
fn the_grammar() {
    let mut all = String::new();
    let mut case = |title: &str, text: &str, cx: CheckContext| {
        all.extend([format!("# {title}\n{}\n", report(text, cx))]);
    };
    case("no map", "- a\n", agent("https"));
    case("empty", "", agent("https"));
    case("empty map", "{}", agent("https"));
    case("unknown phase", "on_http_requests: []\n", agent("https"));
    case("event phase", "on_event_stream_message: []\n", agent("https"));
    case(
        "legacy names",
        "enabled: true\ninbound:\n  - actions: [{type: deny}]\noutbound: []\n",
        agent("https"),
    );
    case("legacy names on tcp", "inbound:\n  - actions: [{type: deny}]\n", cloud("tcp"));
    case("phase not a list", "on_http_request: {actions: []}\n", agent("https"));
    case("rule not a map", "on_http_request: [deny]\n", agent("https"));
    case(
        "rule with a slip in its keys",
        "on_http_request:\n  - expresions: []\n    action: []\n",
        agent("https"),
    );
    case("no actions", "on_http_request:\n  - name: x\n    actions: []\n", agent("https"));
    case("action without type", "on_http_request:\n  - actions:\n      - config: {}\n", agent("https"));
    case(
        "action with stray keys",
        "on_http_request:\n  - actions:\n      - type: deny\n        status_code: 404\n",
        agent("https"),
    );
    case("config not a map", "on_http_request:\n  - actions: [{type: deny, config: 404}]\n", agent("https"));
    case(
        "expressions not a list",
        "on_http_request:\n  - expressions: true\n    actions: [{type: deny}]\n",
        agent("https"),
    );
    case(
        "expression not text",
        "on_http_request:\n  - expressions: [[1], true]\n    actions: [{type: deny}]\n",
        agent("https"),
    );
    case(
        "two defects at once",
        "on_http_request:\n  - actions: [{type: denny}]\n  - expressions: [req.metod == 'GET', req.url]\n    actions: [{type: deny, config: {status: 404}}]\n",
        agent("https"),
    );
    case("refused action", "on_http_request:\n  - actions: [{type: saml}]\n", agent("https"));
    let sign_in = |config: &str| format!("on_http_request:\n  - actions:\n{config}");
    let oidc = |more: &str| {
        format!(
            "      - type: openid-connect\n        config: {{client_id: c, client_secret: s, issuer_url: 'https://id.example'{more}}}\n"
        )
    };
    case(
        "oauth without a client",
        &sign_in("      - {type: oauth, config: {provider: gihub, client_secret: s}}\n"),
        agent("https"),
    );
    case(
        "sign-in with bad values",
        &sign_in(&oidc(
            ", auth_id: a b, scopes: ['a b'], authz_url_params: {state: x, prompt: [1]}, max_session_duration: 31d, idle_session_duration: 9000h, auth_cookie_domain: com, idle_session_timeout: 1h",
        )),
        agent("https"),
    );
    case(
        "sign-in with an issuer that is no https URL",
        "on_http_request:\n  - actions: [{type: openid-connect, config: {client_id: c, client_secret: s, issuer_url: 'https://${req.host}/'}}, {type: openid-connect, config: {auth_id: b, client_id: c, client_secret: s, issuer_url: 'ftp://id'}}]\n",
        agent("https"),
    );
    case(
        "two sign-ins of one auth_id",
        &sign_in(
            &[oidc(", auth_id: a"), oidc(", auth_id: b"), oidc(", auth_id: a, scopes: [openid]")].concat(),
        ),
        agent("https"),
    );
    case(
        "two kinds of sign-in",
        &sign_in(&[oidc(""), "      - {type: oauth, config: {provider: github, client_id: c, client_secret: s, auth_id: b}}\n".to_owned()].concat()),
        agent("https"),
    );
    case(
        "action in a phase it lacks",
        "on_http_response:\n  - actions: [{type: jwt-validation}]\n",
        agent("http"),
    );
    case(
        "terminate-tls on tcp",
        "on_tcp_connect:\n  - actions: [{type: terminate-tls}, {type: deny}]\n",
        cloud("tcp"),
    );
    case("http phase on tcp", "on_http_request:\n  - actions: [{type: deny}]\n", agent("tcp"));
    let internal = CheckContext { binding: Binding::Internal, ..agent("https") };
    case("tcp phase on internal https", "on_tcp_connect:\n  - actions: [{type: deny}]\n", internal);
    case(
        "unreachable",
        "on_http_request:\n  - actions: [{type: deny}, {type: log, config: {metadata: {a: 1}}}]\n",
        agent("https"),
    );
    case(
        "reachable after on_error",
        "on_http_request:\n  - actions: [{type: forward-internal, config: {url: 'https://a.internal', on_error: continue}}, {type: deny}]\n",
        cloud("https"),
    );
    case(
        "cloud: only conditional ends",
        "on_http_request:\n  - expressions: [\"req.method == 'GET'\"]\n    actions: [{type: deny}]\n",
        cloud("https"),
    );
    case(
        "cloud: forward that may go on",
        "on_tcp_connect:\n  - actions: [{type: forward-internal, config: {url: 'tcp://a.internal:1', on_error: continue}}]\n",
        cloud("tcp"),
    );
    case(
        "cloud: closed on connect",
        "on_tcp_connect:\n  - actions: [{type: close-connection}]\n",
        cloud("https"),
    );
    case(
        "cloud: end in the response phase only",
        "on_http_response:\n  - actions: [{type: custom-response}]\n",
        cloud("https"),
    );
    case(
        "a bomb",
        "a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\n",
        agent("https"),
    );
    case("flow form of YAML", "{on_http_request: [{actions: [{type: deny}]}]}", cloud("https"));
    insta::assert_snapshot!("grammar", all);
}

#[test]
fn a_list_has_a_longest_length_and_oddities_are_told_once() {
    let config = |count: u32| {
        let entries = (0..count).map(|n| format!("\"10.{}.{}.9/24\"", n / 250 % 250, n % 250));
        let entries: Vec<_> = entries.collect();
        format!(
            r#"{{"on_tcp_connect":[{{"actions":[{{"type":"restrict-ips","config":{{"allow":[{}]}}}}]}}]}}"#,
            entries.join(",")
        )
    };
    let checked = check(&config(10_000), &agent("tcp")).unwrap();
    let warning = match checked.warnings.as_slice() {
        [only] => only.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(warning.contains("the network is 10.0.0.0/24 (and 9999 more like it)"), "{warning}");
    let errors = check(&config(10_001), &agent("tcp")).unwrap_err();
    let first = errors.first().unwrap();
    assert_eq!(first.path, "on_tcp_connect[0].actions[0].config.allow");
    assert_eq!(first.message, "10001 entries; at most 10000 are allowed");
}

#[test]
fn configurations() {
    let mut all = String::new();
    let mut case = |phase: &str, kind: &str, config: &str, scheme: &str| {
        let text = format!("{phase}:\n  - actions:\n      - type: {kind}\n        config: {config}\n");
        all.extend([format!("# {kind} {config}\n{}\n", report(&text, agent(scheme)))]);
    };
    let (connect, request, response) = ("on_tcp_connect", "on_http_request", "on_http_response");
    case(connect, "restrict-ips", "{}", "tcp");
    case(connect, "restrict-ips", "{deny: [10.0.0.0/8]}", "tcp");
    case(
        connect,
        "restrict-ips",
        "{allow: [10.0.0.0/33, nonsense, 10.0.0.1/8, '${conn.client_ip}', '${nope}', 5]}",
        "tcp",
    );
    case(connect, "restrict-ips", "{allow: [10.0.0.0/8], ip_policies: [ipp_x, ca_x], enforced: true}", "tcp");
    case(
        connect,
        "restrict-ips",
        "{allow: [10.0.0.1/8, 0.0.0.0/0, '2001:db8::1/32', 10.0.0.0/8, 10.1.0.0/16, '::ffff:10.1.0.0/112'], deny: [10.0.0.0/8]}",
        "tcp",
    );
    case(connect, "terminate-tls", "{min_version: 1.3, max_version: '1.2'}", "tls");
    case(connect, "terminate-tls", "{min_version: '1.1', mutual_tls_verification_strategy: require}", "tls");
    case(connect, "terminate-tls", "{server_certificate: x}", "tls");
    case(connect, "terminate-tls", "{mutual_tls_certificate_authorities: []}", "tls");
    case(connect, "terminate-tls", "{mutual_tls_certificate_authorities: [ca_x, nonsense]}", "tls");
    case(request, "forward-internal", "{}", "https");
    case(request, "forward-internal", "{url: 'https://example.com'}", "https");
    case(request, "forward-internal", "{url: 'tcp://a.internal:1'}", "https");
    case(request, "forward-internal", "{url: 'https://*.a.internal'}", "https");
    case(
        request,
        "forward-internal",
        "{url: 'https://a.internal/path', on_error: stop, binding: public}",
        "https",
    );
    case(request, "forward-internal", "{url: 'https://${req.host}.internal'}", "https");
    case(request, "deny", "{status_code: 99}", "https");
    case(request, "deny", "{status_code: '404'}", "https");
    case(request, "close-connection", "{now: true}", "https");
    case(
        request,
        "custom-response",
        "{status_code: 204, body: x, headers: {content-length: 1, x: [1], 'a b': c}}",
        "https",
    );
    case(request, "add-headers", "{headers: {}}", "https");
    case(
        request,
        "add-headers",
        "{headers: {User-Agent: x, Transfer-Encoding: chunked, x: '${req.'}}",
        "https",
    );
    case(request, "add-headers", "{header: {a: b}}", "https");
    case(request, "remove-headers", "{headers: [host, user-agent, x]}", "https");
    case(
        request,
        "set-vars",
        "{vars: [{a: 1}, {b: '${vars.a}'}, {a: 2}, {c: 1, d: 2}, {'e-f': 1}]}",
        "https",
    );
    case(request, "set-vars", "{vars: {a: 1}}", "https");
    case(request, "log", "{metadata: {a: '${res.status_code}'}}", "https");
    case(request, "jwt-validation", "{}", "https");
    case(
        request,
        "jwt-validation",
        "{issuer: {allow_list: []}, http: {tokens: [{type: bearer, method: query, name: 'a b'}]}, jws: {allowed_algorithms: [none, HS256, RS257], keys: {sources: {additional_jkus: ['http://a/', 'ftp://a/', 'https://${req.host}/', 'https://u:p@a/']}}}}",
        "https",
    );
    case(
        request,
        "jwt-validation",
        "{issuer: {allow_list: [{value: i}]}, http: {tokens: [{type: jwt, method: header, name: X}, {type: jwt, method: header, name: x}]}, jws: {allowed_algorithms: [RS256], keys: [{identification: {token_claims: [sub]}, sources: [{additional_jkus: ['https://a/']}]}]}}",
        "https",
    );
    case(
        request,
        "jwt-validation",
        "{issuer: {allow_list: [{value: i}]}, audience: {allow_list: []}, http: {tokens: []}, jws: {allowed_algorithms: [], keys: {sources: {additional_jkus: []}}}}",
        "https",
    );
    case(request, "basic-auth", "{credentials: ['a:short', nocolon, ':password1'], realm: 'a\"b'}", "https");
    case(request, "redirect", "{from: '(', status_code: 200}", "https");
    case(request, "url-rewrite", "{from: 'a', too: b}", "https");
    case(response, "custom-response", "{status_code: 502, body: '${res.status_code}'}", "https");
    insta::assert_snapshot!("configurations", all);
}

#[test]
fn a_disabled_policy_runs_nothing_and_says_so() {
    let text = "enabled: false\non_http_request: [{actions: [{type: deny}]}]";
    let checked = check(text, &agent("https")).unwrap();
    assert_eq!(checked.policy, TrafficPolicy::default());
    assert!(checked.warnings.iter().any(|w| w.to_string().contains("none of these rules runs")));
    // A cloud endpoint would have nothing behind it.
    assert!(report(text, cloud("https")).contains("ERR_NGROK_2235"));
    // Its rules are checked all the same.
    assert!(
        report("enabled: false\non_http_request: [{actions: [{type: x}]}]", agent("https"))
            .starts_with("error")
    );
    assert!(report("enabled: maybe", agent("https")).contains("`enabled` is true or false, not text"));
    assert!(
        report("enabled: true\non_http_request: [{actions: [{type: deny}]}]", cloud("https"))
            .starts_with("accepted")
    );
}

#[test]
fn a_policy_that_is_not_enforced_says_so_and_has_somewhere_to_go() {
    let trial = |rest: &str| format!("enforce: false\non_http_request:\n{rest}");
    let deny = trial("  - actions: [{type: deny}]\n");
    let checked = check(&deny, &agent("https")).unwrap();
    assert!(!checked.policy.is_enforced() && checked.policy.on_http_request.len() == 1);
    let [warning] = &checked.warnings[..] else { panic!("{:?}", checked.warnings) };
    assert_eq!((warning.line, warning.path.as_str()), (Some(1), "enforce"));
    assert!(warning.message.contains("none of it is done"), "{warning}");
    // What a cloud endpoint answers by itself is not enforced either.
    let said = report(&deny, cloud("https"));
    assert!(
        said.contains("ERR_NGROK_2235") && said.contains("nothing but forward-internal serves"),
        "{said}"
    );
    let forward = "  - actions: [{type: forward-internal, config: {url: 'https://a.internal'}}]\n";
    assert!(report(&trial(forward), cloud("https")).contains("accepted"));
    let on = check(&format!("enforce: true\non_http_request:\n{forward}"), &cloud("https")).unwrap();
    assert_eq!((on.policy.is_enforced(), on.policy.enforce, on.warnings.len()), (true, None, 0));
    let said = report("enforce: perhaps", agent("https"));
    assert!(said.contains("`enforce` is true or false, not text"), "{said}");
    assert!(report("enforced: false", agent("https")).contains("did you mean `enforce`?"));
    // Its rules are checked all the same, and it keeps its form.
    assert!(report(&trial("  - actions: [{type: x}]\n"), agent("https")).starts_with("error"));
    let canonical = serde_json::to_string(&checked.policy).unwrap();
    assert_eq!(canonical, r#"{"enforce":false,"on_http_request":[{"actions":[{"type":"deny"}]}]}"#);
    assert_eq!(check(&canonical, &agent("https")).unwrap().policy, checked.policy);
}

#[test]
fn forward_internal_in_on_tcp_connect_of_http_endpoints_is_refused() {
    let text = |url: &str| {
        format!("on_tcp_connect: [{{actions: [{{type: forward-internal, config: {{url: '{url}'}}}}]}}]")
    };
    for (scheme, url) in [("https", "https://a.internal"), ("http", "http://a.internal")] {
        let said = report(&text(url), cloud(scheme));
        assert!(
            said.contains("would close every visitor") && said.contains("move it to on_http_request"),
            "{said}"
        );
    }
    for (scheme, url) in [("tls", "tls://a.internal"), ("tcp", "tcp://a.internal:1")] {
        assert!(report(&text(url), cloud(scheme)).starts_with("accepted"), "{scheme}");
    }
}

#[test]
fn what_has_no_effect_is_told() {
    let check = |text: &str, scheme: &str, expect: &str| {
        let said = report(text, agent(scheme));
        assert!(said.contains(expect), "{text}: {said}");
    };
    check(
        "on_http_request: [{actions: [{type: forward-internal, config: {url: 'https://a.internal', binding: internal}}]}]",
        "https",
        "`binding` has no effect",
    );
    check(
        "on_tcp_connect: [{actions: [{type: deny, config: {status_code: 404}}]}]",
        "tcp",
        "`status_code` has no effect in on_tcp_connect",
    );
    check(
        "on_http_request: [{actions: [{type: redirect, config: {to: 'https://a', headers: {Location: b}}}]}]",
        "https",
        "a redirect's location is what `to` gives",
    );
    let token = |name: &str| format!("{{type: jwt, method: header, name: {name}}}");
    let jwt = |tokens: &str| {
        format!(
            "on_http_request: [{{actions: [{{type: jwt-validation, config: {{issuer: {{allow_list: [{{value: a}}]}}, http: {{tokens: [{tokens}]}}, jws: {{allowed_algorithms: [RS256], keys: {{sources: {{additional_jkus: ['https://a/k']}}}}}}}}}}]}}]"
        )
    };
    check(
        &jwt(&format!("{}, {}", token("a"), token("b"))),
        "https",
        "every one of these 2 tokens must be in a request",
    );
    assert!(report(&jwt(&token("a")), agent("https")).starts_with("accepted"));
}

#[test]
fn variables_and_results_that_nothing_makes_are_refused() {
    let check = |text: &str, expect: &str| {
        let said = report(text, agent("https"));
        assert!(said.contains(expect), "{text}: {said}");
    };
    check(
        "on_http_request: [{actions: [{type: set-vars, config: {vars: [{region: eu}]}}]}, {expressions: ['vars.regoin == 1'], actions: [{type: deny}]}]",
        "no set-vars action before this sets `vars.regoin` in this phase (ERR_NGROK_2224); did you mean `vars.region`?",
    );
    check(
        "on_http_request: [{expressions: ['vars.a'], actions: [{type: set-vars, config: {vars: [{a: 1}]}}]}]",
        "no set-vars action before this sets `vars.a`",
    );
    check(
        "on_http_request: [{actions: [{type: set-vars, config: {vars: [{a: 1}]}}]}]\non_http_response: [{expressions: ['has(vars.a)'], actions: [{type: log, config: {metadata: {a: b}}}]}]",
        "no set-vars action before this sets `vars.a` in this phase",
    );
    check(
        "on_http_request: [{expressions: [\"actions.ngrok.restrict_ips.action == 'deny'\"], actions: [{type: deny}]}, {actions: [{type: restrict-ips, config: {allow: ['::/0']}}]}]",
        "no `restrict-ips` action before this can have left `actions.ngrok.restrict_ips`",
    );
    // A conditional action may have run; requests' results are there for responses, wherever they are written.
    check(
        "on_http_response: [{expressions: [\"actions.ngrok.restrict_ips.action == 'deny'\"], actions: [{type: log, config: {metadata: {a: '${actions.ngrok.log}'}}}]}]\non_http_request: [{expressions: ['true'], actions: [{type: restrict-ips, config: {allow: ['::/0']}}, {type: log, config: {metadata: {a: '${actions.ngrok.restrict_ips.action}'}}}]}]",
        "accepted",
    );
}

#[test]
fn the_size_of_a_document_is_bounded() {
    let long = format!("# {}\n", "x".repeat(crate::DOCUMENT_BYTES_MAX));
    assert!(report(&long, agent("https")).contains("at most 262144"));
    let rules = "on_http_request:\n".to_owned() + &"  - actions: [{type: deny}]\n".repeat(201);
    assert!(report(&rules, agent("https")).contains("201 rules"));
    let actions = format!("on_http_request:\n  - actions: [{}]\n", vec!["{type: deny}"; 51].join(","));
    assert!(report(&actions, agent("https")).contains("at most 50 actions"));
    let expressions = format!(
        "on_http_request:\n  - expressions: [{}]\n    actions: [{{type: deny}}]\n",
        vec!["'true'"; 51].join(",")
    );
    assert!(report(&expressions, agent("https")).contains("at most 50 expressions"));
}

#[test]
fn objects_that_a_policy_names_are_listed() {
    let text = "on_tcp_connect:\n  - actions:\n      - type: terminate-tls\n        config: {mutual_tls_certificate_authorities: [ca_2x3oYVqKXGvqVDu1nl1DrZMCfCA]}\n      - type: restrict-ips\n        config: {ip_policies: [ipp_2x3oYVqKXGvqVDu1nl1DrZMCfCA]}\n";
    let checked = check(text, &agent("tls")).unwrap();
    assert_eq!(checked.authorities().len(), 1);
    assert_eq!(checked.ip_policies().len(), 1);
}

/// Pieces that policies are made of, so that random texts get past the first character.
const PIECES: &[&str] = &[
    "on_http_request",
    "on_tcp_connect",
    "on_http_response",
    "inbound",
    ":",
    "\n",
    "\n  ",
    "\n    ",
    "\n      ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    ",",
    "\"",
    "'",
    "actions",
    "expressions",
    "name",
    "type",
    "config",
    "deny",
    "forward-internal",
    "restrict-ips",
    "terminate-tls",
    "custom-response",
    "set-vars",
    "jwt-validation",
    "url",
    "allow",
    "vars",
    "headers",
    "${",
    "}",
    "req.",
    "req.method",
    "conn.client_ip",
    "hasReqHeader('x')",
    " == ",
    " && ",
    "(",
    ")",
    "1",
    "true",
    "null",
    "&a ",
    "*a",
    "!t",
    "\u{feff}",
    "\\",
    "é",
    "10.0.0.0/8",
    "---",
];

fn texts() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::collection::vec(prop::sample::select(PIECES), 0..40).prop_map(|pieces| pieces.concat()),
        "[ -~\\n]{0,120}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Any text is either accepted, and then compiles for an edge and survives its canonical form, or refused with places.
    #[test]
    fn any_text_is_judged(text in texts(), scheme in prop::sample::select(&["http", "https", "tls", "tcp"][..])) {
        match check(&text, &agent(scheme)) {
            Ok(checked) => {
                prop_assert!(crate::Engine::compile(&checked.policy, &crate::References::default()).is_ok());
                let canonical = serde_json::to_string(&checked.policy).unwrap();
                prop_assert_eq!(check(&canonical, &agent(scheme)).unwrap().policy, checked.policy);
            }
            Err(errors) => {
                prop_assert!(!errors.is_empty());
                let lines = u32::try_from(text.lines().count()).unwrap().max(1) + 1;
                for error in errors {
                    prop_assert!(error.line.is_some_and(|line| (1..=lines).contains(&line)), "{}", error);
                }
            }
        }
    }
}

#[test]
fn variables_of_databases_are_told_with_their_place_where_no_database_has_them() {
    let text = "on_http_request:\n  - expressions: [\"conn.geo.country_code == 'DE'\", 'conn.client_ip.is_tor_node']\n    actions: [{type: deny}]\n  - actions: [{type: log, config: {metadata: {as: '${conn.client_ip.as.number}'}}}, {type: deny}]\n";
    let checked = check(text, &cloud("https")).unwrap();
    let told = |there: &[&str]| {
        let there = there.iter().map(ToString::to_string).collect();
        checked.addresses_missing(&there).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let all = told(&[]);
    assert_eq!(all.len(), 3, "{all:?}");
    assert!(
        all[0].starts_with(
            "line 2, column 19: on_http_request[0].expressions[0]: `conn.geo.country_code` needs a"
        ),
        "{all:?}"
    );
    assert!(all[0].contains("--address-database"), "{all:?}");
    assert_eq!(told(&["geo.location.country_code", "is_tor_node"]).len(), 1);
    assert!(told(&["geo.location.country_code", "is_tor_node", "as.number"]).is_empty());
}

#[test]
fn actions_that_need_a_core_rule_set_are_told_where_no_edge_has_one() {
    let text = "on_http_request:\n  - actions:\n      - type: owasp-crs-request\n        config: {on_error: halt}\n      - type: deny\n";
    let checked = check(text, &cloud("https")).unwrap();
    let told: Vec<_> = checked.core_rule_set_missing(false).iter().map(ToString::to_string).collect();
    let place =
        "line 4, column 9: on_http_request[0].actions[0].config: this action needs an OWASP Core Rule Set";
    assert!(told.len() == 1 && told[0].starts_with(place) && told[0].contains("--waf-rules"), "{told:?}");
    assert!(checked.core_rule_set_missing(true).is_empty());
    let disabled = check(&format!("enabled: false\n{text}"), &cloud("https")).unwrap();
    assert!(disabled.core_rule_set_missing(false).is_empty());
}
