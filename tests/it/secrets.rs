//! Secrets of vaults, from the API to the edge and back to nowhere, with the real programs.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use ebbgate_lab::api::text;
use ebbgate_lab::guide;
use ebbgate_lab::lab::local;
use ebbgate_lab::program::run;
use ebbgate_lab::test_lab::TestLab;
use ebbgate_lab::wait::soon;
use serde_json::json;

use crate::visitor::Visitor;

const HOST: &str = "vault.clinic-network.com";
const OLD: &str = "first-password-8d1f";
const NEW: &str = "second-password-77aa";

/// Whether a text stands in any log of the lab.
fn is_logged(lab: &TestLab, wanted: &str) -> bool {
    let entries = fs::read_dir(lab.log_dir()).into_iter().flatten().flatten();
    entries.filter_map(|entry| fs::read_to_string(entry.path()).ok()).any(|text| text.contains(wanted))
}

#[test]
fn a_changed_secret_is_live_without_a_change_of_the_policy_and_is_told_nowhere() -> Result<()> {
    let lab = TestLab::running()?;
    let api = lab.api()?;
    guide::domain(&api)?;
    api.create("/vaults", &json!({ "name": "clinic" }))?;
    let secret = json!({ "name": "alan", "value": OLD, "vault_name": "clinic" });
    let secret = api.create("/vault_secrets", &secret)?;
    let one = format!("/vault_secrets/{}", text(&secret, "id")?);
    let policy = json!({ "on_http_request": [{ "actions": [
        { "type": "basic-auth", "config": { "credentials": ["alan:${secrets.get('clinic', 'alan')}"] } },
        { "type": "add-headers", "config": { "headers": { "x-key": "${secrets.get('clinic', 'alan')}" } } },
        { "type": "log", "config": { "metadata": { "headers": "${req.headers}" } } },
        { "type": "custom-response", "config": { "body": "in" } },
    ] }] });
    let endpoint = guide::cloud(&api, &format!("https://{HOST}"), &policy)?;
    let visitor = Visitor::of(&lab)?;
    visitor.wait_https(HOST)?;
    let status = |password: &str| -> Result<Option<u16>> {
        let token = base64::engine::general_purpose::STANDARD.encode(format!("alan:{password}"));
        let header = ("authorization", format!("Basic {token}"));
        Ok(visitor.get(HOST, "/", &[(header.0, header.1.as_str())]).ok().map(|answer| answer.status))
    };
    soon("the secret to be at the edge", || Ok((status(OLD)? == Some(200)).then_some(())))
        .inspect_err(|_| lab.show_logs())?;
    ensure!(status(NEW)? == Some(401));

    let changed = api.call("PATCH", &one, Some(&json!({ "value": NEW })))?;
    ensure!(changed.0 == 200, "{changed:?}");
    soon("the new value to be at the edge", || Ok((status(NEW)? == Some(200)).then_some(())))
        .inspect_err(|_| lab.show_logs())?;
    ensure!(status(OLD)? == Some(401), "the old value is gone");

    soon("the requests to be logged", || Ok(is_logged(&lab, "(secret)").then_some(())))?;
    for value in [OLD, NEW] {
        ensure!(!is_logged(&lab, value), "{value} is in a log");
        for path in [one.as_str(), "/vault_secrets", "/vaults", "/endpoints"] {
            let answer = api.call("GET", path, None)?.1.to_string();
            ensure!(!answer.contains(value), "{value} is in the answer to {path}");
        }
    }
    let used = api.call("DELETE", &one, None)?;
    ensure!(used.0 == 409 && used.1.to_string().contains(text(&endpoint, "id")?), "{used:?}");
    Ok(())
}

#[test]
fn an_agents_policy_names_the_secrets_of_its_account() -> Result<()> {
    const AGENT: &str = "https://rest-api.clinic1.internal";
    const ABSENT: &str = "there is no secret `key` in a vault `clinic`";
    let mut lab = TestLab::running()?;
    let api = lab.api()?;
    let (_, token) = guide::authtoken(&api, 1)?;
    guide::domain(&api)?;
    guide::cloud(&api, &format!("https://{HOST}"), &guide::forward(AGENT))?;
    let visitor = Visitor::of(&lab)?;
    let file = format!(
        "  - name: rest\n    url: {AGENT}\n    upstream: {{ url: 9 }}\n    traffic_policy:\n      on_http_request:\n        - actions:\n            - type: custom-response\n              config: {{ body: \"${{secrets.get('clinic', 'key')}}\" }}\n"
    );
    let served = |value: &str| {
        soon("the agent's policy to serve the value", || {
            let answer = visitor.get(HOST, "/", &[]).ok();
            Ok(answer.filter(|answer| answer.status == 200 && answer.body == value.as_bytes()).map(drop))
        })
    };
    let refused = lab.agent("refused", &token, &file)?;
    soon("the refusal of a secret that is not there", || Ok(refused.log()?.contains(ABSENT).then_some(())))
        .inspect_err(|_| lab.show_logs())?;
    drop(refused);

    // No cloud endpoint's policy names it.
    api.create("/vaults", &json!({ "name": "clinic" }))?;
    let secret = json!({ "name": "key", "value": OLD, "vault_name": "clinic" });
    let secret = api.create("/vault_secrets", &secret)?;
    let one = format!("/vault_secrets/{}", text(&secret, "id")?);
    let agent = lab.agent("agent", &token, &file)?;
    served(OLD).inspect_err(|_| lab.show_logs())?;
    let changed = api.call("PATCH", &one, Some(&json!({ "value": NEW })))?;
    ensure!(changed.0 == 200, "{changed:?}");
    served(NEW).inspect_err(|_| lab.show_logs())?;
    ensure!(api.call("DELETE", &one, None)?.0 == 409, "an endpoint that is online names it");

    // An edge that starts anew has what its agents need, whether control is there or not.
    lab.kill_control();
    lab.kill_edge();
    lab.start_edge()?;
    served(NEW).inspect_err(|_| lab.show_logs())?;
    lab.start_control()?;
    lab.wait_online(&[AGENT], 1)?;

    drop(agent);
    lab.wait_online(&[AGENT], 0)?;
    ensure!(api.call("DELETE", &one, None)?.0 == 204, "nobody names it now");
    let refused = lab.agent("removed", &token, &file)?;
    soon("the refusal of a secret that was removed", || Ok(refused.log()?.contains(ABSENT).then_some(())))
        .inspect_err(|_| lab.show_logs())?;
    Ok(())
}

const PAGE: &str = include_str!("../../docs/resources.md");
/// Printed before each command of the page.
const MARK: &str = "=== next command ===";

/// A text with ids and numbers taken out: they differ from run to run.
fn steady(text: &str) -> String {
    let mut steady = String::new();
    let mut word = String::new();
    for c in text.chars().chain(['\n']) {
        if c.is_ascii_alphanumeric() {
            word.push(c);
            continue;
        }
        // Numbers, and the parts of a time.
        let is_number = word.bytes().all(|b| matches!(b, b'0'..=b'9' | b'T' | b'Z'));
        let shown = if word.len() == 27 || (is_number && !word.is_empty()) { "#" } else { &word };
        steady.push_str(shown);
        steady.push(c);
        word.clear();
    }
    steady
}

#[test]
fn the_page_prints_what_it_says() -> Result<()> {
    let mut lab = TestLab::stopped()?;
    lab.start_control()?;
    let base = format!("http://{}", local(lab.ports().api()));
    let blocks: Vec<&str> = PAGE.split("\n```").skip(1).step_by(2).collect();
    let (mut script, mut expected) = (String::new(), Vec::new());
    for block in blocks {
        let (info, text) = block.split_once('\n').context("a block has a kind")?;
        if info == "sh" {
            script.push_str(text);
            continue;
        }
        ensure!(info == "console", "a block is a function or commands, not `{info}`");
        let text = format!("\n{text}\n");
        for command in text.split("\n$ ").skip(1) {
            let (line, output) = command.split_once('\n').unwrap_or((command, ""));
            for part in ["\necho '", MARK, "'\n", line, "\n"] {
                script.push_str(part);
            }
            expected.push((line.to_owned(), output.to_owned()));
        }
    }
    ensure!(expected.len() == 9, "the page has {} commands", expected.len());
    let mut shell = Command::new("bash");
    shell.args(["-u", "-o", "pipefail", "-c", &script]).env("API", &base).env("KEY", lab.api_key()?);
    let ran = run(&mut shell)?;
    let printed = ran.text.replace(&base, "https://api.example.com");
    let printed: Vec<&str> = printed.split(MARK).skip(1).collect();
    ensure!(printed.len() == expected.len(), "{}", ran.text);
    for ((line, output), printed) in expected.iter().zip(printed) {
        assert_eq!(steady(printed.trim()), steady(output.trim()), "{line}, among\n{}", ran.text);
    }
    Ok(())
}
