//! `verify-webhook` for every provider that has a secret: signed by Python's hmac and by openssl, through a real edge.

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ebbgate_lab::guide;
use ebbgate_lab::http;
use ebbgate_lab::test_lab::TestLab;
use serde_json::{Map, Value, json};

use crate::visitor::Visitor;

const HOST: &str = "hooks.clinic-network.com";

/// Requests as the script signs them at this time.
fn signed() -> Result<Vec<Value>> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/conformance/webhooks.py");
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs().to_string();
    let ran = Command::new("python3").args([script, &format!("https://{HOST}"), &now]).output()?;
    ensure!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    Ok(serde_json::from_slice(&ran.stdout)?)
}

fn text<'v>(entry: &'v Value, key: &str) -> Result<&'v str> {
    entry[key].as_str().with_context(|| format!("{entry} has no {key}"))
}

#[test]
fn webhooks_of_every_provider_are_let_in_once_and_unchanged() -> Result<()> {
    let entries = signed()?;
    let mut rules: Vec<Value> = Vec::new();
    for entry in &entries {
        let provider = text(entry, "provider")?;
        let condition = format!("req.url.path == '/{provider}'");
        if rules.iter().all(|rule| rule["expressions"][0] != condition.as_str()) {
            let config = json!({ "provider": provider, "secret": entry["secret"] });
            let answer = json!({ "type": "custom-response", "config": { "body": provider } });
            let verify = json!({ "type": "verify-webhook", "config": config });
            rules.push(json!({ "expressions": [condition], "actions": [verify, answer] }));
        }
    }
    ensure!(rules.len() == 65, "{} providers", rules.len());
    rules.push(json!({ "actions": [{ "type": "deny" }] }));
    let lab = TestLab::running()?;
    let api = lab.api()?;
    guide::domain(&api)?;
    guide::cloud(&api, &format!("https://{HOST}"), &json!({ "on_http_request": rules }))?;
    let visitor = Visitor::of(&lab)?;
    visitor.wait_https(HOST)?;
    let send = |entry: &Value, headers: &Map<String, Value>, body: &[u8]| {
        let headers: Vec<(&str, &str)> =
            headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_str()?))).collect();
        http::request(visitor.tls(HOST)?, "POST", HOST, text(entry, "path")?, &headers, body)
    };
    let mut stale = 0;
    for entry in &entries {
        let provider = text(entry, "provider")?;
        let headers = entry["headers"].as_object().context("headers")?;
        let body = STANDARD.decode(text(entry, "body")?)?;
        let answer = send(entry, headers, &body)?;
        ensure!((answer.status, answer.text()) == (200, provider.to_owned()), "{entry}: {answer:?}");
        if provider != "gitlab" && provider != "mailgun" {
            let changed = [&body[..], b" "].concat();
            let answer = send(entry, headers, &changed)?;
            ensure!(matches!(answer.status, 401 | 403), "{entry} with another body: {answer:?}");
            ensure!(answer.header("ngrok-error-code") == Some("ERR_NGROK_3204"), "{answer:?}");
        }
        let answer = send(entry, &Map::new(), &body)?;
        let wanted = if provider == "mailgun" { 200 } else { 403 };
        ensure!(
            matches!(answer.status, 401 | 403) || answer.status == wanted,
            "{entry} unsigned: {answer:?}"
        );
        if let Some(old) = entry["stale"].as_object() {
            let answer = send(entry, old, &body)?;
            ensure!(answer.status == 403, "{entry} of two hours ago: {answer:?}");
            stale += 1;
        }
    }
    ensure!(stale == 21, "{stale} providers sign a time");
    Ok(())
}
