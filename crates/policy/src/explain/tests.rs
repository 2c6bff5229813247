//! Cases through a policy of all phases; cases that cannot be read.

use super::*;
use crate::check::{CheckContext, Owner, check};
use crate::references::References;
use ebbgate_model::Binding;

const POLICY: &str = r#"
on_tcp_connect:
  - name: office
    expressions: ["conn.client_ip.startsWith('203.0.113.')"]
    actions: [{type: log, config: {metadata: {from: office}}}]
  - expressions: ["conn.client_ip == '198.51.100.66'"]
    actions: [{type: close-connection}]
on_http_request:
  - expressions: ["req.method == 'DELETE'", "!has(req.headers.reason)"]
    actions: [{type: deny, config: {status_code: 405}}]
  - actions:
      - {type: add-headers, config: {headers: {x-site: "${conn.client_ip}"}}}
      - {type: forward-internal, config: {url: "https://api.clinic1.internal", on_error: continue}}
      - {type: custom-response, config: {status_code: 503, body: closed}}
on_http_response:
  - expressions: ["res.status_code >= 500"]
    actions: [{type: add-headers, config: {headers: {retry-after: "60"}}}]
"#;

fn explained(case: &str) -> Explanation {
    let url: EndpointUrl = "https://api.example.com".parse().unwrap();
    let cx = CheckContext { scheme: Scheme::Https, binding: Binding::Public, owner: Owner::Cloud };
    let policy = check(POLICY, &cx).unwrap().policy;
    let engine = Arc::new(Engine::compile(&policy, &References::default()).unwrap());
    let text: CaseText = serde_json::from_str(case).unwrap();
    explain(&engine, &text.read(&url).unwrap())
}

#[test]
fn a_forward_says_where_and_what_the_upstream_gets() {
    let it = explained(r#"{"client_ip": "203.0.113.9", "path": "/v1"}"#);
    assert!(
        matches!(&it.decision, Decision::Forward(url) if url.to_string() == "https://api.clinic1.internal")
    );
    assert_eq!(it.decided_by, "on_http_request[1].actions[1]");
    assert_eq!(it.request.unwrap().headers["x-site"], "203.0.113.9");
    assert_eq!(it.logs.len(), 1);
    assert_eq!(it.response.unwrap().status, 200);
    let phases: Vec<_> = it.phases.iter().map(|(phase, _)| *phase).collect();
    assert_eq!(phases, [Phase::TcpConnect, Phase::HttpRequest, Phase::HttpResponse]);
}

#[test]
fn a_condition_shows_what_it_read() {
    let it = explained(r#"{"method": "DELETE", "headers": {"reason": "moved"}}"#);
    let (_, trace) = &it.phases[1];
    let conditions: Vec<_> = trace
        .steps
        .iter()
        .filter_map(|step| match &step.what {
            Traced::Condition { result, reads, .. } => Some((result.clone(), reads.clone())),
            Traced::Action { .. } | Traced::Untold { .. } => None,
        })
        .collect();
    assert_eq!(conditions[0], (Ok(true), vec![("req.method".into(), Some("DELETE".into()))]));
    let headers = serde_json::json!({"host": ["api.example.com"], "reason": ["moved"]});
    assert_eq!(conditions[1], (Ok(false), vec![("req.headers".into(), Some(headers))]));
}

#[test]
fn the_place_that_decides_is_named() {
    let it = explained(r#"{"method": "DELETE"}"#);
    assert_eq!((it.decision.word(), it.decided_by.as_str()), ("respond", "on_http_request[0].actions[0]"));
    assert_eq!(it.response.unwrap().status, 405);
    let it = explained(r#"{"client_ip": "198.51.100.66"}"#);
    assert_eq!((it.decision.word(), it.decided_by.as_str()), ("close", "on_tcp_connect[1].actions[0]"));
    assert!(it.response.is_none() && it.request.is_none());
}

#[test]
fn a_forward_that_fails_goes_on_and_its_answer_has_a_response_phase() {
    let it = explained(r#"{"forward_fails": "ERR_NGROK_3200"}"#);
    assert_eq!((it.decision.word(), it.decided_by.as_str()), ("respond", "on_http_request[1].actions[2]"));
    let response = it.response.unwrap();
    assert_eq!((response.status.as_u16(), &response.headers["retry-after"]), (503, &"60".parse().unwrap()));
}

#[test]
fn a_case_that_cannot_be_read_names_its_field() {
    let url: EndpointUrl = "https://api.example.com".parse().unwrap();
    for (case, field) in [
        (r#"{"path": "v1"}"#, "path"),
        (r#"{"method": "G T"}"#, "method"),
        (r#"{"headers": {"a b": "c"}}"#, "headers.a b"),
        (r#"{"headers": {"a": ["b", "c\n"]}}"#, "headers.a"),
        (r#"{"time": "noon"}"#, "time"),
        (r#"{"tls": {"version": "1.1"}}"#, "tls.version"),
        (r#"{"tls": {"client_certificates": "none"}}"#, "tls.client_certificates"),
        (r#"{"keys": {"https://k": []}}"#, "keys.https://k"),
        (r#"{"forward_fails": "soon"}"#, "forward_fails"),
        (r#"{"response": {"status": 99}}"#, "response.status"),
    ] {
        let text: CaseText = serde_json::from_str(case).unwrap();
        assert_eq!(text.read(&url).unwrap_err().field, field, "{case}");
    }
    assert!(serde_json::from_str::<CaseText>(r#"{"adress": "x"}"#).is_err());
}
