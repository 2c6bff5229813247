//! Checks of upstreams through the real programs: docs/health.md.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

use anyhow::{Context as _, Result, ensure};
use ebbgate_lab::guide::{self, API_HOST, REST_INTERNAL};
use ebbgate_lab::test_lab::TestLab;
use ebbgate_lab::wait::soon;
use ebbgate_lab::web::{self, Reply};
use serde_json::Value;

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
