//! A change goes to a canary edge first: one that fails there, or that it cannot use, is taken back by itself and seen nowhere
//! else, while another account's goes on.

use anyhow::{Context as _, Result, ensure};
use ebbgate_lab::api::{Api, text};
use ebbgate_lab::test_lab::TestLab;
use ebbgate_lab::wait::soon;
use serde_json::{Value, json};

use crate::damage::damage;
use crate::fleet::{self, across};
use crate::visitor::Visitor;

const PAGE: &str = include_str!("../../docs/rollout.md");

/// What `ebbgate-control GROUP VERB --dir ...` prints, as the page shows it.
fn control(lab: &TestLab, group: &str, args: &[&str]) -> Result<Value> {
    let printed = lab.control_command(&[&[group], args].concat())?;
    fleet::is_on(PAGE, &format!("ebbgate-control {group} {} --dir", args[0]), &printed);
    Ok(printed)
}

/// The change of an endpoint that waits.
fn waiting(lab: &TestLab, endpoint: &str) -> Result<Option<Value>> {
    let shown = lab.control_command(&["rollout", "status"])?;
    let all = shown["rollouts"].as_array().context("a list")?;
    Ok(all.iter().find(|rollout| rollout["endpoint"] == endpoint).cloned())
}

pub(crate) fn answer(status: u16, body: &str) -> Value {
    let action = json!({"type": "custom-response", "config": {"status_code": status, "body": body}});
    json!({"on_http_request": [{"actions": [action]}]})
}

/// An endpoint of an account at a name of its own.
pub(crate) fn endpoint(api: &Api, host: &str) -> Result<String> {
    api.create("/reserved_domains", &json!({ "domain": host, "region": "us" }))?;
    let made = ebbgate_lab::guide::cloud(api, &format!("https://{host}"), &answer(200, "before"))?;
    Ok(text(&made, "id")?.to_owned())
}

pub(crate) fn write(api: &Api, endpoint: &str, policy: &Value) -> Result<()> {
    let body = json!({ "traffic_policy": policy.to_string() });
    let (status, said) = api.call("PATCH", &format!("/endpoints/{endpoint}"), Some(&body))?;
    ensure!(status == 200, "{status} {said}");
    Ok(())
}

/// Waits until a visitor is answered so.
pub(crate) fn has(visitor: &Visitor, host: &str, status: u16, body: &str) -> Result<()> {
    soon(&format!("{host} to answer {body}"), || {
        let answer = visitor.get(host, "/", &[])?;
        Ok((answer.status == status && answer.text() == body).then_some(()))
    })
}

#[test]
fn a_change_that_fails_at_a_canary_is_taken_back_by_itself_and_anothers_goes_on() -> Result<()> {
    const BAD: &str = "bad.example.com";
    const GOOD: &str = "good.example.com";
    let mut lab = fleet::lab()?;
    let (paris, rome) = (across::edge(&lab, "paris", "127.0.0.2")?, across::edge(&lab, "rome", "127.0.0.3")?);
    let canary = across::id(&paris)?;
    let (api, (_, other)) = (lab.api()?, lab.account("other")?);
    let (bad, good) = (endpoint(&api, BAD)?, endpoint(&other, GOOD)?);
    let visitors = [&paris, &rome].map(|edge| Ok(Visitor::of(&lab)?.at(edge.https())));
    let [at_paris, at_rome]: [Result<Visitor>; 2] = visitors;
    let (at_paris, at_rome) = (at_paris?, at_rome?);
    for host in [BAD, GOOD] {
        at_paris.wait_https(host)?;
        at_rome.wait_https(host)?;
    }
    // A visitor of rome gets this all the time.
    let same = |host: &str| -> Result<()> {
        let answer = at_rome.get(host, "/", &[])?;
        ensure!((answer.status, answer.text().as_str()) == (200, "before"), "{host}: {}", answer.text());
        Ok(())
    };

    ensure!(control(&lab, "edge", &["canary", &canary])?["canary"] == true);
    let set = |secs: &str| control(&lab, "rollout", &["set", "--soak-secs", secs, "--least-requests", "10"]);
    // Longer than this test: nothing goes to all edges before it should.
    set("3600")?;
    write(&api, &bad, &answer(503, "broken"))?;
    write(&other, &good, &answer(200, "after"))?;
    has(&at_paris, GOOD, 200, "after")?;
    same(GOOD)?;
    ensure!(waiting(&lab, &good)?.context("it waits")?["state"] == "held");
    let listed = lab.control_command(&["edge", "list"])?;
    let rome_shown = listed["edges"].as_array().context("edges")?.iter().find(|edge| edge["name"] == "rome");
    ensure!(rome_shown.context("rome")?["held"].as_u64() >= Some(1), "{listed}");

    // The canary's visitors meet the bad one, until it is taken back.
    soon("the bad change to be taken back", || {
        at_paris.get(BAD, "/", &[])?;
        same(BAD)?;
        Ok((waiting(&lab, &bad)?.context("it is kept")?["state"] == "returned").then_some(()))
    })
    .inspect_err(|_| lab.show_logs())?;
    has(&at_paris, BAD, 200, "before")?;
    let shown = control(&lab, "rollout", &["status"])?;
    let reason =
        waiting(&lab, &bad)?.context("it is kept")?["reason"].as_str().unwrap_or_default().to_owned();
    ensure!(reason.contains("requests failed"), "{shown}");
    let read = api.raw("GET", &format!("/endpoints/{bad}"), &[], b"")?;
    ensure!(
        read.header("ebbgate-warning").is_some_and(|warning| warning.contains("taken back")),
        "{:?}",
        read.headers
    );

    // The other account's is delayed by none of this, and a control that starts anew holds it as before.
    ensure!(control(&lab, "rollout", &["pause", &good])?["rollouts"][0]["state"] == "paused");
    lab.kill_control();
    lab.start_control()?;
    for _ in 0..10 {
        same(GOOD)?;
        same(BAD)?;
    }
    soon("the canary to be back", || {
        let shown = lab.control_command(&["rollout", "status"])?;
        Ok((shown["canaries"] == json!([canary])).then_some(()))
    })?;
    ensure!(control(&lab, "rollout", &["resume", &good])?["rollouts"][0]["state"] == "held");
    same(GOOD)?;
    control(&lab, "rollout", &["set", "--soak-secs", "1"])?;
    has(&at_rome, GOOD, 200, "after").inspect_err(|_| lab.show_logs())?;
    ensure!(waiting(&lab, &good)?.is_none());
    same(BAD)?;

    // The operator insists.
    let given = lab.control_command(&["rollout", "resume", &bad])?;
    ensure!(given["rollouts"][0]["state"] == "released", "{given}");
    has(&at_rome, BAD, 503, "broken")?;
    let gone = lab.control_command(&["rollout", "resume", &bad]).unwrap_err().to_string();
    ensure!(gone.contains("rollout status"), "{gone}");
    ensure!(lab.control_command(&["rollout", "pause"]).is_err(), "one, or all");
    Ok(())
}

/// The change names a secret. Its record is damaged while the change waits, so that edges have the secret no longer.
#[test]
fn a_change_that_a_canary_refuses_is_taken_back_and_no_other_edge_has_it() -> Result<()> {
    const HOST: &str = "secret.example.com";
    let mut lab = fleet::lab()?;
    let (paris, rome) = (across::edge(&lab, "paris", "127.0.0.2")?, across::edge(&lab, "rome", "127.0.0.3")?);
    let api = lab.api()?;
    let endpoint = endpoint(&api, HOST)?;
    api.create("/vaults", &json!({ "name": "clinic" }))?;
    let secret =
        json!({ "name": "key", "value": "red", "vault_name": "clinic", "description": "to be damaged" });
    let secret = text(&api.create("/vault_secrets", &secret)?, "id")?.to_owned();
    let [at_paris, at_rome]: [Result<Visitor>; 2] =
        [&paris, &rome].map(|edge| Ok(Visitor::of(&lab)?.at(edge.https())));
    let (at_paris, at_rome) = (at_paris?, at_rome?);
    at_paris.wait_https(HOST)?;
    at_rome.wait_https(HOST)?;
    lab.control_command(&["edge", "canary", &across::id(&paris)?])?;
    lab.control_command(&["rollout", "set", "--soak-secs", "3600"])?;
    write(&api, &endpoint, &answer(200, "${secrets.get('clinic', 'key')}"))?;
    has(&at_paris, HOST, 200, "red").inspect_err(|_| lab.show_logs())?;
    let same = || has(&at_rome, HOST, 200, "before");
    same()?;

    ensure!(lab.stop_control()?, "control had to be killed");
    damage(&lab, &secret, "to be damage")?;
    lab.start_control()?;
    soon("the change to be taken back", || {
        same()?;
        Ok((waiting(&lab, &endpoint)?.context("it is kept")?["state"] == "returned").then_some(()))
    })
    .inspect_err(|_| lab.show_logs())?;
    let reason = waiting(&lab, &endpoint)?.context("it is kept")?["reason"].to_string();
    ensure!(reason.contains("refused it") && reason.contains("secret"), "{reason}");
    has(&at_paris, HOST, 200, "before").inspect_err(|_| lab.show_logs())?;
    same()
}
