//! Checks of upstreams through the real programs: docs/health.md.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

use anyhow::{Context as _, Result, ensure};
use ebbgate_lab::guide::{self, API_HOST, REST_INTERNAL};
use ebbgate_lab::lab::local;
use ebbgate_lab::remote_edge::RemoteEdge;
use ebbgate_lab::test_lab::TestLab;
use ebbgate_lab::wait::soon;
use ebbgate_lab::web::{self, Reply};
use serde_json::{Value, json};

use crate::fleet;
use crate::fleet::across::{edge, metric, only};
use crate::visitor::Visitor;

/// The page; its agent file and what it shows are checked here.
const PAGE: &str = include_str!("../../docs/health.md");

/// A service with a `/healthz` that answers as the test says; anything else tells its name. Counts requests of visitors.
fn service(name: &'static str) -> Result<(u16, Arc<AtomicU16>, Arc<AtomicUsize>)> {
    let (status, asked) = (Arc::new(AtomicU16::new(200)), Arc::new(AtomicUsize::new(0)));
    let (answers, counts) = (Arc::clone(&status), Arc::clone(&asked));
    let address = web::spawn(move |request| {
        let is_check = request.path == "/healthz";
        if !is_check {
            counts.fetch_add(1, Ordering::SeqCst);
        }
        let status = if is_check { answers.load(Ordering::SeqCst) } else { 200 };
        Reply { status, content_type: "text/plain", body: name.into() }
    })?;
    Ok((address.port(), status, asked))
}

/// The endpoints of the page's agent file, with another port.
fn endpoints(port: u16) -> Result<String> {
    let yaml =
        PAGE.split_once("```yaml agent.yml\nendpoints:\n").and_then(|(_, rest)| rest.split_once("```"));
    let yaml = yaml.context("the page has an agent file")?.0;
    ensure!(yaml.contains("url: 8080\n") && yaml.contains(REST_INTERNAL), "{yaml}");
    Ok(yaml.replace("url: 8080\n", &format!("url: {port}\n")))
}

#[test]
fn a_member_whose_check_fails_is_passed_by_and_shown() -> Result<()> {
    let lab = TestLab::running()?;
    let api = lab.api()?;
    let (_, token) = guide::authtoken(&api, 1)?;
    guide::domain(&api)?;
    guide::cloud(&api, &format!("https://{API_HOST}"), &guide::forward(REST_INTERNAL))?;
    let ((port_a, status, asked), (port_b, ..)) = (service("a")?, service("b")?);
    let _a = lab.agent("a", &token, &endpoints(port_a)?)?;
    let _b = lab.agent("b", &token, &endpoints(port_b)?)?;
    lab.wait_online(&[REST_INTERNAL], 2)?;
    let of = |port: u16| -> Result<Value> {
        let upstream = format!("http://localhost:{port}");
        let listed = lab.listed(REST_INTERNAL)?;
        let mut found = listed.into_iter().filter(|endpoint| endpoint["upstream_url"] == upstream.as_str());
        Ok(found.next().map(|endpoint| endpoint["health"].clone()).unwrap_or_default())
    };
    let state = |port: u16, state: &str| {
        soon(&format!("{port} to be {state}"), || {
            Ok(Some(of(port)?).filter(|health| health["state"] == state))
        })
    };
    state(port_a, "healthy")?;
    state(port_b, "healthy")?;
    status.store(503, Ordering::SeqCst);
    let shown = state(port_a, "unhealthy")?;
    // What the page shows, with this lab's port.
    let page = PAGE.split_once("```json health\n").and_then(|(_, rest)| rest.split_once("```"));
    let page = page.context("the page shows it")?.0.replace(":8080", &format!(":{port_a}"));
    let mut expect: Value = serde_json::from_str(&page)?;
    expect["since"] = shown["since"].clone();
    assert_eq!(shown, expect);
    let visitor = Visitor::of(&lab)?;
    visitor.wait_https(API_HOST)?;
    let before = asked.load(Ordering::SeqCst);
    for _ in 0..12 {
        let answer = visitor.get(API_HOST, "/", &[])?;
        ensure!(answer.body == b"b", "{}", answer.text());
    }
    assert_eq!(asked.load(Ordering::SeqCst), before, "the unhealthy member is asked by nobody but its agent");
    status.store(204, Ordering::SeqCst);
    state(port_a, "healthy")?;
    soon("work for the member again", || Ok((visitor.get(API_HOST, "/", &[])?.body == b"a").then_some(())))?;
    let log = std::fs::read_to_string(lab.log_dir().join("a.log"))?;
    ensure!(log.contains("endpoint unhealthy") && log.contains("endpoint healthy"), "{log}");
    Ok(())
}

/// Runs a command of the page on an endpoint.
fn page_command(lab: &TestLab, verb: &str, endpoint: &str) -> Result<()> {
    let begins = format!("ebbgate api endpoints {verb} ep_");
    ensure!(PAGE.lines().any(|line| line.starts_with(&begins)), "the page has `{begins}`");
    let ran = Command::new(lab.programs().agent())
        .args(["api", "endpoints", verb, endpoint])
        .env("EBBGATE_API_URL", format!("http://{}", local(lab.ports().api())))
        .env("EBBGATE_API_KEY", lab.api_key()?)
        .output()?;
    ensure!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    Ok(())
}

#[test]
fn a_member_at_another_edge_is_picked_by_its_health_and_a_drained_one_is_not() -> Result<()> {
    let lab = fleet::lab()?;
    let (rome, mut paris) = (edge(&lab, "rome", "127.0.0.2")?, edge(&lab, "paris", "127.0.0.3")?);
    let api = lab.api()?;
    let (_, token) = guide::authtoken(&api, 1)?;
    guide::domain(&api)?;
    guide::cloud(&api, &format!("https://{API_HOST}"), &guide::forward(REST_INTERNAL))?;
    let ((port_r, status_r, asked_r), (port_p, _, asked_p)) = (service("rome")?, service("paris")?);
    let _r = lab.agent_at("of-rome", &token, &endpoints(port_r)?, &only(&rome))?;
    let _p = lab.agent_at("of-paris", &token, &endpoints(port_p)?, &only(&paris))?;
    lab.wait_online(&[REST_INTERNAL], 2)?;
    let member = |port: u16| -> Result<Value> {
        let upstream = format!("http://localhost:{port}");
        let mut listed = lab.listed(REST_INTERNAL)?.into_iter();
        listed.find(|endpoint| endpoint["upstream_url"] == upstream.as_str()).context("it is listed")
    };
    let state = |port: u16, state: &str| {
        soon(&format!("{port} to be {state}"), || {
            Ok(Some(member(port)?).filter(|member| member["health"]["state"] == state))
        })
    };
    let visitor = |at: &RemoteEdge| Ok::<_, anyhow::Error>(Visitor::of(&lab)?.at(at.https()));
    let (at_rome, at_paris) = (visitor(&rome)?, visitor(&paris)?);
    let answer = |visitor: &Visitor| Ok::<_, anyhow::Error>(visitor.get(API_HOST, "/", &[])?.text());
    let comes_to = |visitor: &Visitor, who: &str| {
        soon(&format!("an answer of {who}"), || Ok(answer(visitor).ok().filter(|body| body == who)))
    };
    // Everybody's own member comes first, and each edge knows a way to the other.
    comes_to(&at_rome, "rome")?;
    comes_to(&at_paris, "paris")?;
    for edge in [&rome, &paris] {
        soon("the other's member", || Ok((metric(edge, "ebbgate_edge_peer_endpoints")? == 1).then_some(())))?;
        soon("a way", || Ok((metric(edge, "ebbgate_edge_peer_ways")? >= 1).then_some(())))?;
    }

    // One fails its checks: its own edge's visitors go to the other.
    status_r.store(503, Ordering::SeqCst);
    state(port_r, "unhealthy")?;
    comes_to(&at_rome, "paris")?;
    let before = asked_r.load(Ordering::SeqCst);
    for _ in 0..12 {
        ensure!(answer(&at_rome)? == "paris" && answer(&at_paris)? == "paris");
    }
    assert_eq!(asked_r.load(Ordering::SeqCst), before, "the unhealthy one is asked by its agent alone");
    status_r.store(204, Ordering::SeqCst);
    state(port_r, "healthy")?;
    comes_to(&at_rome, "rome")?;

    // The other is drained: visitors of both edges leave it.
    let endpoint = member(port_p)?["id"].as_str().context("an id")?.to_owned();
    page_command(&lab, "drain", &endpoint)?;
    let shown = state(port_p, "drained")?;
    let page = PAGE.split_once("```json drained\n").and_then(|(_, rest)| rest.split_once("```"));
    let mut expect: Value = serde_json::from_str(page.context("the page shows it")?.0)?;
    expect["since"] = shown["health"]["since"].clone();
    assert_eq!(shown["health"], expect);
    comes_to(&at_paris, "rome")?;
    let before = asked_p.load(Ordering::SeqCst);
    for _ in 0..12 {
        ensure!(answer(&at_rome)? == "rome" && answer(&at_paris)? == "rome");
    }
    assert_eq!(asked_p.load(Ordering::SeqCst), before, "the drained one is asked by its agent alone");
    assert_eq!(metric(&paris, "ebbgate_edge_agent_endpoints_drained")?, 1);

    // It works, and is asked where the one that is left is unhealthy, and where none is left.
    status_r.store(503, Ordering::SeqCst);
    state(port_r, "unhealthy")?;
    comes_to(&at_rome, "paris")?;
    status_r.store(204, Ordering::SeqCst);
    state(port_r, "healthy")?;
    comes_to(&at_rome, "rome")?;
    page_command(&lab, "drain", member(port_r)?["id"].as_str().context("an id")?)?;
    comes_to(&at_paris, "paris")?;
    page_command(&lab, "undrain", member(port_r)?["id"].as_str().context("an id")?)?;
    comes_to(&at_paris, "rome")?;

    // Its edge dies and starts again: the agent comes back, and it is the same member.
    let kept = paris.dir().join("edge/drains.json");
    soon("the edge to keep it", || {
        Ok(std::fs::read_to_string(&kept).ok().filter(|kept| kept.contains(r#""drained":true"#)))
    })?;
    paris.kill();
    paris.start()?;
    let endpoint = soon("the agent to be back", || {
        let Ok(back) = member(port_p) else { return Ok(None) };
        let id = back["id"].as_str().unwrap_or_default().to_owned();
        Ok(Some(id).filter(|id| *id != endpoint && back["health"]["state"] == "drained"))
    })?;
    comes_to(&at_paris, "rome")?;
    comes_to(&at_rome, "rome")?;

    page_command(&lab, "undrain", &endpoint)?;
    state(port_p, "healthy")?;
    comes_to(&at_paris, "paris")?;
    assert_eq!(metric(&paris, "ebbgate_edge_agent_endpoints_drained")?, 0);
    let (status, refused) =
        api.call("POST", &format!("/endpoints/{endpoint}/drain"), Some(&json!({ "x": 1 })))?;
    ensure!(status == 400, "{refused}");
    Ok(())
}
