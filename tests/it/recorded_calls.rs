//! Calls as the Go client and the Terraform provider send them, replayed against our control
//! (`tests/conformance/api/recorded_calls.json` says where each is from).
//!
//! Their Go modules cannot be had on a build machine; the file has the requests, and what the programs need of answers.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use ebbgate_lab::api::Api;
use ebbgate_lab::test_lab::TestLab;
use serde_json::Value;

const CALLS: &str = include_str!("../conformance/api/recorded_calls.json");

/// What earlier calls of a flow gave.
type Kept = BTreeMap<String, String>;

#[test]
fn the_go_client_and_the_terraform_provider_get_what_they_need() -> Result<()> {
    let mut lab = TestLab::stopped()?;
    lab.start_control()?;
    let api = lab.api()?;
    let calls: Value = serde_json::from_str(CALLS)?;
    let mut replayed = 0;
    for flow in calls["flows"].as_array().context("no flows")? {
        let mut kept = Kept::new();
        for call in flow["calls"].as_array().context("no calls")? {
            replay(&api, &flow["user_agent"], call, &mut kept)
                .with_context(|| format!("{}: {}", flow["name"], call["call"]))?;
            replayed += 1;
        }
    }
    ensure!(replayed > 50, "{replayed} calls");
    Ok(())
}

fn replay(api: &Api, user_agent: &Value, call: &Value, kept: &mut Kept) -> Result<()> {
    let line = filled(call["call"].as_str().context("no call")?, kept);
    let (method, target) = line.split_once(' ').context("a call is METHOD PATH")?;
    // A page's address is absolute.
    let path = match target.split_once("://") {
        Some((_, rest)) => rest.find('/').and_then(|at| rest.get(at..)).context("no path")?,
        None => target,
    };
    let body = match &call["body"] {
        Value::Null => String::new(),
        body => filled(&body.to_string(), kept),
    };
    let agent = [("user-agent", user_agent.as_str().context("no user agent")?)];
    let answer = api.raw(method, path, &agent, body.as_bytes())?;
    let said = answer.text();
    let may_be = call["may_be"].as_array().into_iter().flatten().chain([&call["status"]]);
    ensure!(may_be.into_iter().any(|status| *status == answer.status), "answered {}: {said}", answer.status);
    let is_json = answer.header("content-type") == Some("application/json");
    ensure!(is_json || answer.status == 204, "not JSON: {:?}", answer.headers);
    ensure!(answer.status != 204 || said.is_empty(), "a body behind 204: {said}");
    ensure!(answer.header("ngrok-operation-id").is_some_and(|id| id.starts_with("op_")), "no operation id");
    let got: Value = if said.is_empty() { Value::Null } else { serde_json::from_str(&said)? };
    let wanted: Value = serde_json::from_str(&filled(&call["answer"].to_string(), kept))?;
    if answer.status == call["status"] {
        has(&got, &wanted, "answer")?;
    }
    for (name, field) in call["keep"].as_object().into_iter().flatten() {
        let value =
            field.as_str().and_then(|field| got[field].as_str()).with_context(|| format!("no {field}"))?;
        kept.insert(name.clone(), value.to_owned());
    }
    Ok(())
}

/// A text with `{name}` replaced by what was kept.
fn filled(text: &str, kept: &Kept) -> String {
    kept.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
}

/// Whether an answer has what is wanted: an object these fields at least, a text `$..` of that kind.
fn has(got: &Value, wanted: &Value, place: &str) -> Result<()> {
    let is = match wanted {
        Value::Object(fields) => {
            for (name, wanted) in fields {
                let field = got.get(name);
                if wanted == "$absent" {
                    ensure!(field.is_none(), "{place}.{name} is there: {got}");
                } else {
                    has(
                        field.with_context(|| format!("no {place}.{name}: {got}"))?,
                        wanted,
                        &format!("{place}.{name}"),
                    )?;
                }
            }
            true
        }
        Value::Array(items) if items.iter().all(Value::is_object) => {
            let all = got.as_array().filter(|all| all.len() == items.len());
            for (got, wanted) in all.with_context(|| format!("{place}: {got}"))?.iter().zip(items) {
                has(got, wanted, place)?;
            }
            true
        }
        Value::String(kind) if kind.starts_with('$') => is_a(got, kind),
        wanted => got == wanted,
    };
    ensure!(is, "{place} is {got}, not {wanted}");
    Ok(())
}

fn is_a(got: &Value, kind: &str) -> bool {
    let text = got.as_str();
    match kind.split_once(' ').unwrap_or((kind, "")) {
        ("$text", "or null") => got.is_null() || text.is_some(),
        ("$text", _) => text.is_some_and(|text| !text.is_empty()),
        ("$uri", _) => text.is_some_and(|text| text.starts_with("http://127.0.0.1:")),
        ("$time", _) => text.is_some_and(|text| text.len() == 20 && text.ends_with('Z')),
        ("$id", prefix) => text
            .and_then(|text| text.split_once('_'))
            .is_some_and(|(own, ksuid)| own == prefix && ksuid.len() == 27),
        ("$list", "") => got.is_array(),
        ("$list", length) => got.as_array().is_some_and(|list| length.parse() == Ok(list.len())),
        _ => false,
    }
}
