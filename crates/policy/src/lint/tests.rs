//! Each lint with texts that deserve it and texts that do not.

use super::*;
use crate::check::Owner;
use ebbgate_model::Scheme;

fn doubts(text: &str) -> Vec<String> {
    let cx = CheckContext { scheme: Scheme::Https, binding: Binding::Public, owner: Owner::Cloud };
    crate::check(text, &cx).unwrap();
    lint(text, &cx)
        .iter()
        .map(|doubt| format!("{}:{} {}", doubt.line.unwrap(), doubt.path, doubt.code))
        .collect()
}

const FORWARD: &str = "{type: forward-internal, config: {url: 'https://a.internal'}}";

#[test]
fn rules_behind_the_end_are_named() {
    let text = "on_http_request:
  - {expressions: [\"req.method == 'GET'\"], actions: [{type: deny}]}
  - {expressions: [\"req.method == 'GET'\", \"req.url.path == '/a'\"], actions: [{type: log, config: {metadata: {a: b}}}]}
  - {expressions: [\"req.method == 'PUT'\"], actions: [{type: deny}]}
  - {actions: [{type: deny}]}
  - {expressions: [\"req.method == 'POST'\"], actions: [{type: deny}]}
";
    assert_eq!(doubts(text), ["3:on_http_request[1] ERR_NGROK_2207", "6:on_http_request[4] ERR_NGROK_2207"]);
}

#[test]
fn a_forward_without_a_guard_is_named() {
    let unguarded = |before: &str, conditions: &str| {
        let text = format!(
            "on_http_request:\n{before}  - {{{conditions}actions: [{FORWARD}]}}\n  - {{actions: [{{type: deny}}]}}\n"
        );
        doubts(&text).iter().filter(|doubt| doubt.contains("2234")).count()
    };
    let guard = "{type: restrict-ips, config: {allow: [10.0.0.0/8]}}";
    let basic = "{type: basic-auth, config: {credentials: ['doctor:long-enough-secret']}}";
    assert_eq!(unguarded("", "expressions: [\"req.method == 'GET'\"], "), 1);
    assert_eq!(unguarded(&format!("  - actions: [{guard}]\n"), ""), 0);
    assert_eq!(unguarded(&format!("  - actions: [{basic}]\n"), ""), 0);
    assert_eq!(
        unguarded(&format!("  - {{expressions: [\"req.method == 'GET'\"], actions: [{guard}]}}\n"), ""),
        1
    );
    let off = guard.replace("allow", "enforce: false, allow");
    assert_eq!(unguarded(&format!("  - actions: [{off}]\n"), ""), 1);
    assert_eq!(unguarded("", "expressions: [\"conn.client_ip == '10.0.0.1'\"], "), 0);
}

#[test]
fn a_guard_on_trial_is_none() {
    let text = |enforce: bool| {
        format!(
            "enforce: {enforce}\non_http_request:\n  - actions: [{{type: restrict-ips, config: {{allow: [10.0.0.0/8]}}}}, {FORWARD}]\n"
        )
    };
    assert_eq!(doubts(&text(false)), ["3:on_http_request[0].actions[1] ERR_NGROK_2234"]);
    assert_eq!(doubts(&text(true)), Vec::<String>::new());
}

#[test]
fn mutual_tls_guards_and_other_bindings_are_not_asked() {
    let tls = "on_tcp_connect:
  - actions: [{type: terminate-tls, config: {mutual_tls_certificate_authorities: [ca_2a4YjQ2Xk9PJhD0PjTtXEBQrgyz]}}]
";
    let text = format!("{tls}on_http_request:\n  - actions: [{FORWARD}]\n");
    assert!(doubts(&text).is_empty());
    let text = format!("on_http_request:\n  - actions: [{FORWARD}]\n");
    assert_eq!(doubts(&text), ["2:on_http_request[0].actions[0] ERR_NGROK_2234"]);
    let cx = CheckContext { scheme: Scheme::Https, binding: Binding::Internal, owner: Owner::Cloud };
    assert!(lint(&text, &cx).is_empty());
}

/// The doubts about one rule with these conditions and a harmless action.
fn of_conditions(conditions: &str, cx: CheckContext) -> Vec<String> {
    let phase = if cx.scheme.is_http() { "on_http_request" } else { "on_tcp_connect" };
    let rule =
        format!("{{expressions: [{conditions}], actions: [{{type: log, config: {{metadata: {{a: b}}}}}}]}}");
    let text = format!("{phase}:\n  - {rule}\n  - {{actions: [{{type: deny}}]}}\n");
    crate::check(&text, &cx).unwrap_or_else(|defects| panic!("{text}: {defects:?}"));
    lint(&text, &cx).iter().map(ToString::to_string).collect()
}

fn https() -> CheckContext {
    CheckContext { scheme: Scheme::Https, binding: Binding::Public, owner: Owner::Cloud }
}

#[track_caller]
fn doubted(conditions: &str, words: &str) {
    let doubts = of_conditions(conditions, https());
    assert_eq!(doubts.len(), 1, "{conditions}: {doubts:?}");
    assert!(doubts[0].contains(words), "{conditions}: {doubts:?}");
}

#[track_caller]
fn clean(conditions: &str) {
    assert_eq!(of_conditions(conditions, https()), Vec::<String>::new(), "{conditions}");
}

#[test]
fn a_rule_is_dead_when_its_conditions_never_hold() {
    doubted("'false'", "always false");
    doubted("\"req.method == 'GET' && 1 == 2\"", "always false");
    doubted("\"!true || 'a' == 'b'\"", "always false");
    doubted("\"req.method == 'GET'\", \"'PUT' == req.method\"", "says the opposite");
    doubted("\"hasReqHeader('a') && !hasReqHeader('a')\"", "says the opposite");
    clean("\"req.method == 'GET' || req.method == 'PUT'\"");
    clean("\"req.method == 'GET' && req.url.path == '/'\"");
    clean("\"!hasReqHeader('a')\", \"hasReqHeader('b')\"");
    clean("\"1 == 1\"");
    clean("\"rand.double() < 0.5\", \"!(rand.double() < 0.5)\"");
}

#[test]
fn a_rule_is_shadowed_by_parts_of_its_conditions() {
    let after = |first: &str, between: &str, second: &str| {
        let text = format!(
            "on_http_request:\n  - {{expressions: [\"{first}\"], actions: [{{type: deny}}]}}\n{between}\
             \x20 - {{expressions: [\"{second}\"], actions: [{{type: log, config: {{metadata: {{a: b}}}}}}]}}\n\
             \x20 - {{actions: [{{type: deny}}]}}\n"
        );
        doubts(&text).len()
    };
    let get = "req.method == 'GET'";
    assert_eq!(after(get, "", "'GET' == req.method && hasReqHeader('a')"), 1);
    assert_eq!(after("true", "", "hasReqHeader('a')"), 2, "the last rule too");
    assert_eq!(after(get, "", "req.method == 'PUT'"), 0);
    assert_eq!(after("req.method == 'GET' && hasReqHeader('a')", "", get), 0, "the first is the narrower");
    assert_eq!(after("rand.double() < 0.5", "", "rand.double() < 0.5"), 0);
    // Between them the request changes.
    let rewrite = "  - {actions: [{type: url-rewrite, config: {from: '/b', to: '/a'}}]}\n";
    assert_eq!(after("req.url.path == '/a'", "", "req.url.path == '/a'"), 1);
    assert_eq!(after("req.url.path == '/a'", rewrite, "req.url.path == '/a'"), 0);
}

#[test]
fn a_connection_that_is_always_ended_has_no_requests() {
    let text = "on_tcp_connect:
  - {actions: [{type: deny}]}
on_http_request:
  - {actions: [{type: deny}]}
";
    assert_eq!(doubts(text), ["4:on_http_request[0] ERR_NGROK_2207"]);
    let text = text.replacen("{actions", "{expressions: [\"conn.client_ip == '192.0.2.1'\"], actions", 1);
    assert!(doubts(&text).is_empty());
}

#[test]
fn letters_that_a_value_never_has() {
    doubted("\"req.method == 'get'\"", "capital letters only");
    doubted("\"req.method in ['GET', 'put']\"", "`put`");
    doubted("\"req.content_type.startsWith('Text/')\"", "small letters only");
    doubted("\"endpoint.host.matches('^API[.]')\"", "the pattern needs `API.`");
    doubted("\"req.host.lower() == 'API.example.com'\"", "lower()");
    doubted("\"req.headers.exists(name, name.startsWith('X-'))\"", "the name of a header");
    clean("\"req.method.lower() == 'get'\"");
    clean("\"req.headers.exists(name, name.startsWith('x-'))\"");
    clean("\"req.headers['X-Site'][0] == 'North'\"");
    clean("\"hasReqHeader('X-Site')\"");
    clean("\"req.url.path == '/A'\"");
    clean("\"endpoint.host.matches('(?i)^API[.]')\"");
    clean("\"endpoint.host.matches('^(API|api)[.]')\"");
}

#[test]
fn patterns_that_match_nothing() {
    doubted("\"req.url.path.matches('$^')\"", "its anchors contradict");
    doubted("\"req.url.path.matches('a^b')\"", "its anchors contradict");
    doubted("\"matches(req.url.path, '[a&&b]')\"", "a class in it is empty");
    clean("\"req.url.path.matches('^/a$')\"");
    clean("\"req.url.path.matches('(?m)a$|^b')\"");
    let action = |kind: &str, config: &str| {
        doubts(&format!(
            "on_http_request:\n  - {{actions: [{{type: {kind}, config: {{{config}}}}}]}}\n  - {{actions: [{{type: deny}}]}}\n"
        ))
    };
    let at = "2:on_http_request[0].actions[0].config.from ERR_NGROK_2204";
    assert_eq!(action("url-rewrite", "from: '^/old', to: /new"), [at]);
    assert_eq!(action("redirect", "from: 'old$/', to: /new"), [at]);
    assert_eq!(
        action("request-body-find-replace", "replacements: [{from: '$^', to: ''}]"),
        ["2:on_http_request[0].actions[0].config.replacements[0].from ERR_NGROK_2204"]
    );
    assert!(action("url-rewrite", "from: '/old', to: /new").is_empty());
    assert!(action("redirect", "from: '^https?://[^/]+/old', to: /new").is_empty());
    assert!(action("request-body-find-replace", "replacements: [{from: '^/old', to: ''}]").is_empty());
}

#[test]
fn conditions_on_what_is_never_there() {
    doubted("\"conn.tls.client.subject.common_name == 'a'\"", "nothing asks clients for certificates");
    clean("\"conn.tls.version == '1.3'\"");
    clean("\"has(conn.tls.client) && conn.tls.client.subject.common_name == 'a'\"");
    let http = CheckContext { scheme: Scheme::Http, ..https() };
    assert!(
        of_conditions("\"conn.tls.version == '1.3'\"", http)[0]
            .contains("TLS does not end at an http endpoint")
    );
    let tls = CheckContext { scheme: Scheme::Tls, ..https() };
    assert!(of_conditions("\"conn.tls.sni == 'a'\"", tls)[0].contains("no terminate-tls stands before"));
    assert!(of_conditions("\"conn.client_ip == '192.0.2.1'\"", tls).is_empty());
    let asking = "on_tcp_connect:
  - actions: [{type: terminate-tls, config: {mutual_tls_certificate_authorities: [ca_2a4YjQ2Xk9PJhD0PjTtXEBQrgyz]}}]
  - {expressions: [\"conn.tls.client.subject.common_name == 'a'\"], actions: [{type: deny}]}
on_http_request: [{actions: [{type: deny}]}]
";
    assert!(doubts(asking).is_empty());
}

/// Said when a policy is saved too.
#[test]
fn a_list_that_only_denies_lets_nobody_pass() {
    let warnings = |config: &str| {
        let text = format!(
            "on_http_request: [{{actions: [{{type: restrict-ips, config: {{{config}}}}}, {{type: deny}}]}}]\n"
        );
        let warnings = crate::check(&text, &https()).unwrap().warnings;
        warnings
            .iter()
            .filter(|warning| warning.message.contains("with `deny` alone nobody is allowed"))
            .count()
    };
    assert_eq!(warnings("deny: [192.0.2.1]"), 1);
    assert_eq!(warnings("deny: [192.0.2.1], allow: ['0.0.0.0/0', '::/0']"), 0);
    assert_eq!(warnings("deny: [192.0.2.1], ip_policies: [ipp_2a4YjQ2Xk9PJhD0PjTtXEBQrgyz]"), 0);
}
