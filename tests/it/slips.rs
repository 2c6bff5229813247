//! The slips in the guide's own snippets: each gets the answer that the specification proposes (surface.md appendix B).

use anyhow::Result;
use ebbgate_lab::api::Api;
use ebbgate_lab::guide::{self, API_HOST, OPERATIONS_INTERNAL, PATIENTS_HOST, REST_INTERNAL};
use ebbgate_lab::http;
use ebbgate_lab::lab::local;
use ebbgate_lab::test_lab::TestLab;
use ebbgate_lab::wait::soon;
use serde_json::{Value, json};

use crate::service;
use crate::visitor::Visitor;

/// Sends a body as it stands.
fn post(api: &Api, path: &str, body: &str) -> Result<(u16, Value)> {
    let answer = api.raw("POST", path, &[], body.as_bytes())?;
    Ok((answer.status, serde_json::from_slice(&answer.body)?))
}

/// A refused policy: the codes are among the answer's, and its message says each of the words.
fn refused_policy(api: &Api, url: &str, policy: &str, codes: &[u32], words: &[&str]) -> Result<()> {
    let body = json!({ "type": "cloud", "url": url, "traffic_policy": policy });
    let (status, answer) = post(api, "/endpoints", &body.to_string())?;
    let text = answer.to_string();
    assert_eq!(status, 400, "{text}");
    assert!(
        codes.iter().any(|code| text.contains(&format!("ERR_NGROK_{code}"))),
        "expected {codes:?}: {text}"
    );
    for word in words {
        assert!(text.contains(word), "expected `{word}`: {text}");
    }
    Ok(())
}

#[test]
fn b1_a_call_without_the_version_header_means_version_2() -> Result<()> {
    let lab = TestLab::control_only()?;
    let call = |lab: &TestLab| -> Result<http::Answer> {
        let key = format!("Bearer {}", lab.api_key()?);
        let headers = [("authorization", key.as_str()), ("content-type", "application/json")];
        let api = local(lab.ports().api());
        http::request(http::connect(api)?, "POST", "api", "/credentials", &headers, br#"{"description":"x"}"#)
    };
    let answer = call(&lab)?;
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert!(answer.headers.iter().any(|(name, _)| name.contains("warning")), "{:?}", answer.headers);

    let mut strict = TestLab::stopped()?;
    strict.control_args(["--strict"]);
    strict.start_control()?;
    let answer = call(&strict)?;
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("ERR_NGROK_218"), "{}", answer.text());
    Ok(())
}

#[test]
fn b2_a_target_that_nearly_names_an_endpoint_is_warned_about_and_closed() -> Result<()> {
    let lab = TestLab::running()?;
    let api = lab.api()?;
    let (_, token) = guide::authtoken(&api, 1)?;
    let echo = service::tcp_echo()?.port();
    let _agent = lab.agent("agent", &token, &guide::endpoints(echo, echo, echo))?;
    lab.wait_online(&[OPERATIONS_INTERNAL], 1)?;
    let addr = guide::address(&api)?;
    let slip = guide::forward("tcp://operations-database.clinic1.internal:443");
    let body = json!({ "type": "cloud", "url": format!("tcp://{addr}"), "traffic_policy": slip.to_string() });
    let answer = api.raw("POST", "/endpoints", &[], body.to_string().as_bytes())?;
    assert_eq!(answer.status, 201, "{}", answer.text());
    let said = format!("{} {:?}", answer.text(), answer.headers);
    assert!(said.contains(OPERATIONS_INTERNAL), "the warning names what was meant: {said}");
    Ok(())
}

#[test]
fn b4_a_trailing_comma_is_refused_at_its_place() -> Result<()> {
    let lab = TestLab::control_only()?;
    let api = lab.api()?;
    let body = format!("{{\n  \"type\": \"cloud\",\n  \"url\": \"https://{API_HOST}\",\n }}");
    let (status, answer) = post(&api, "/endpoints", &body)?;
    assert_eq!((status, &answer["error_code"]), (400, &json!("ERR_NGROK_213")), "{answer}");
    let message = answer["msg"].as_str().unwrap_or_default();
    assert!(message.contains("line") && message.contains("comma"), "{message}");
    assert!(answer["details"]["operation_id"].as_str().is_some_and(|id| id.starts_with("op_")), "{answer}");
    Ok(())
}

#[test]
fn b5_endpoints_without_a_policy_wait_for_one() -> Result<()> {
    let lab = TestLab::running()?;
    let api = lab.api()?;
    let (_, token) = guide::authtoken(&api, 1)?;
    guide::domain(&api)?;
    let rest = service::http_echo("rest")?.port();
    let _agent = lab.agent("agent", &token, &guide::endpoints(rest, rest, rest))?;
    lab.wait_online(&[REST_INTERNAL], 1)?;
    let endpoint =
        api.create("/endpoints", &json!({ "type": "cloud", "url": format!("https://{API_HOST}") }))?;
    let visitor = Visitor::of(&lab)?;
    let waiting = soon("an answer that says what is missing", || {
        let answer = visitor.get(API_HOST, "/", &[]).ok();
        Ok(answer.filter(|answer| answer.text().contains("no traffic policy")))
    })?;
    assert!(matches!(waiting.status, 404 | 502 | 503), "{} {}", waiting.status, waiting.text());

    let policy = json!({ "traffic_policy": guide::forward(REST_INTERNAL).to_string() });
    let path = format!("/endpoints/{}", endpoint["id"].as_str().unwrap_or_default());
    assert_eq!(api.call("PATCH", &path, Some(&policy))?.0, 200);
    soon("the policy to be in force", || {
        Ok(visitor.get(API_HOST, "/", &[]).ok().filter(|answer| answer.status == 200).map(drop))
    })?;

    let mut strict = TestLab::stopped()?;
    strict.control_args(["--strict"]);
    strict.start_control()?;
    let api = strict.api()?;
    guide::domain(&api)?;
    let (status, answer) =
        post(&api, "/endpoints", &format!(r#"{{"type":"cloud","url":"https://{API_HOST}"}}"#))?;
    assert_eq!(status, 400, "{answer}");
    assert!(answer.to_string().contains("ERR_NGROK_18011"), "{answer}");
    Ok(())
}

#[test]
fn b6_an_address_without_its_scheme_is_taken() -> Result<()> {
    let lab = TestLab::control_only()?;
    let api = lab.api()?;
    let addr = guide::address(&api)?;
    let endpoint = guide::cloud(&api, &addr, &guide::forward(OPERATIONS_INTERNAL))?;
    assert_eq!(endpoint["url"], format!("tcp://{addr}"));
    Ok(())
}

#[test]
fn b7_to_b9_rules_of_the_wrong_shape_are_refused_with_a_hint() -> Result<()> {
    let lab = TestLab::control_only()?;
    let api = lab.api()?;
    guide::domain(&api)?;
    let url = format!("https://{API_HOST}");
    let b7 = "on_http_request:\n  - expressions:\n      - hasReqHeader('example-token')\n  - actions:\n      - type: deny\n";
    refused_policy(&api, &url, b7, &[2206], &["actions"])?;
    let b8 = "on_http_request:\n  - actions:\n      - type: deny\n  - type: forward-internal\n    config:\n      \
              url: 'https://rest-api.clinic1.internal:443'\n";
    refused_policy(&api, &url, b8, &[2206, 2236], &["forward-internal"])?;
    let b9 = "on_http_request:\n  - expressions:\n      - hasReqHeader('example-token')\n    actions:\n      - type: deny\n";
    refused_policy(&api, &url, b9, &[2235], &[])
}

#[test]
fn b10_every_listed_token_must_be_there() -> Result<()> {
    let lab = TestLab::running()?;
    let api = lab.api()?;
    guide::domain(&api)?;
    let issuer = crate::issuer::Issuer::start()?;
    let mut policy = guide::rest_policy(&issuer.jku());
    let tokens = &mut policy["on_http_request"][0]["actions"][0]["config"]["http"]["tokens"];
    let second = json!({ "type": "it+jwt", "method": "body", "name": "_id_token" });
    tokens.as_array_mut().expect("an array").push(second);
    guide::cloud(&api, &format!("https://{API_HOST}"), &policy)?;
    let visitor = Visitor::of(&lab)?;
    visitor.wait_https(API_HOST)?;
    let bearer = format!("Bearer {}", issuer.token(jsonwebtoken::Algorithm::RS256)?);
    let answer = visitor.get(API_HOST, "/", &[("example-token", "1"), ("authorization", &bearer)])?;
    assert_eq!((answer.status, answer.header("ngrok-error-code")), (401, Some("ERR_NGROK_3415")));
    Ok(())
}

#[test]
fn b11_the_unbalanced_policy_is_refused_at_its_place() -> Result<()> {
    let lab = TestLab::control_only()?;
    let api = lab.api()?;
    guide::domain(&api)?;
    let guides = r#"{ "on_tcp_connect": [ { "actions": [ { "type": "terminate-tls", "config": { "min_version": "1.3" } } ] } ], { "type": "forward-internal", "config": { "url": "tls://patient-db.clinic1.internal:443" } } ] } ] }"#;
    refused_policy(&api, &format!("tls://{PATIENTS_HOST}"), guides, &[2236], &["line 1", "column"])
}

#[test]
fn b13_endpoints_under_agent_are_lifted_with_a_warning() -> Result<()> {
    let lab = TestLab::running()?;
    let (_, token) = guide::authtoken(&lab.api()?, 1)?;
    let rest = service::http_echo("rest")?.port();
    let endpoints = guide::endpoints(rest, rest, rest);
    let indented = endpoints.lines().map(|line| format!("  {line}\n")).collect::<Vec<_>>().concat();
    let file = format!(
        "version: 3\nagent:\n  authtoken: {token}\n  connect_url: {}\n  connect_cas: {}\n  endpoints:\n{indented}",
        local(lab.ports().connect()),
        lab.connect_ca().display()
    );
    let path = lab.write("slip.yml", &file)?;
    let mut check = std::process::Command::new(lab.programs().agent());
    let ran = ebbgate_lab::program::run(check.args(["config", "check", "--config"]).arg(&path))?;
    assert!(ran.ok && ran.text.contains("endpoints"), "valid, with a warning: {ran:?}");
    let _agent = ebbgate_lab::process::Spec::new("slip", lab.programs().agent())
        .args(["start", "--all", "--config"])
        .arg(path)
        .start(&lab.log_dir())?;
    lab.wait_online(&[REST_INTERNAL], 1)
}

#[test]
fn b21_upstreams_may_be_written_as_number_text_or_address() -> Result<()> {
    let lab = TestLab::running()?;
    let (_, token) = guide::authtoken(&lab.api()?, 1)?;
    let port = service::tcp_echo()?.port();
    let forms = [
        port.to_string(),
        format!("'{port}'"),
        format!("127.0.0.1:{port}"),
        format!("tcp://127.0.0.1:{port}"),
    ];
    let endpoint = |(n, form): (usize, &String)| {
        format!("  - name: e{n}\n    url: tls://e{n}.clinic1.internal\n    upstream:\n      url: {form}\n")
    };
    let endpoints = forms.iter().enumerate().map(endpoint).collect::<Vec<_>>().concat();
    let _agent = lab.agent("agent", &token, &endpoints)?;
    lab.wait_online(&["tls://e0.clinic1.internal", "tls://e3.clinic1.internal"], 1)
}
