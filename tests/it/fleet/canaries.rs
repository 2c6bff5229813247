//! A canary edge that one control feeds, and changes that are made at another.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ebbgate_lab::wait::{soon, until};
use serde_json::Value;

use super::across::id;
use super::controls::Controls;
use crate::rollout::{answer, endpoint, has, write};
use crate::visitor::Visitor;

/// Longest wait for a canary to count as lost: the lease of what its control told, and 20 s.
const LOST_SECS_MAX: u64 = 120;
/// Longer than this test: nothing goes to all edges before it should.
const NEVER_SECS: &str = "3600";

/// What `ebbgate-control GROUP VERB` of the second control prints.
fn second(fleet: &Controls, args: &[&str]) -> Result<Value> {
    let mut control = Command::new(fleet.lab.programs().control());
    let ran = control.args(args).arg("--dir").arg(fleet.second.dir()).output()?;
    ensure!(ran.status.success(), "{args:?}: {}", String::from_utf8_lossy(&ran.stderr));
    Ok(serde_json::from_slice(&ran.stdout)?)
}

/// The change of an endpoint that waits, as the second control shows it.
fn waiting(fleet: &Controls, endpoint: &str) -> Result<Option<Value>> {
    let shown = second(fleet, &["rollout", "status"])?;
    let all = shown["rollouts"].as_array().context("a list")?;
    Ok(all.iter().find(|rollout| rollout["endpoint"] == endpoint).cloned())
}

#[test]
fn a_canary_of_another_control_judges_a_change_and_is_missed_when_it_is_killed() -> Result<()> {
    const BAD: &str = "bad.example.com";
    const GOOD: &str = "good.example.com";
    let mut fleet = Controls::start()?;
    let canary = id(&fleet.paris)?;
    let api = fleet.second.api();
    let (bad, good) = (endpoint(&api, BAD)?, endpoint(&api, GOOD)?);
    let at_paris = Visitor::of(&fleet.lab)?.at(fleet.paris.https());
    let at_rome = Visitor::of(&fleet.lab)?.at(fleet.rome.https());
    for host in [BAD, GOOD] {
        at_paris.wait_https(host)?;
        at_rome.wait_https(host)?;
    }
    let soak = |fleet: &Controls, secs: &str| {
        second(fleet, &["rollout", "set", "--soak-secs", secs, "--least-requests", "10"])
    };
    let is_returned = |fleet: &Controls, endpoint: &str| -> Result<Option<String>> {
        let waits = waiting(fleet, endpoint)?.context("it is kept")?;
        Ok((waits["state"] == "returned").then(|| waits["reason"].to_string()))
    };

    // Everything is asked of the control that does not feed the canary.
    second(&fleet, &["edge", "canary", &canary])?;
    soon("the canary's control to know it", || {
        Ok((fleet.edge(fleet.lab.dir(), "paris")?["canary"] == true).then_some(()))
    })?;
    soak(&fleet, NEVER_SECS)?;
    write(&api, &bad, &answer(503, "broken"))?;
    write(&api, &good, &answer(200, "after"))?;
    has(&at_paris, GOOD, 200, "after")?;
    has(&at_rome, GOOD, 200, "before")?;
    ensure!(waiting(&fleet, &good)?.context("it waits")?["canaries"][0]["edge"] == canary);
    let reason = soon("the bad change to be taken back", || {
        at_paris.get(BAD, "/", &[])?;
        let seen = at_rome.get(BAD, "/", &[])?;
        ensure!((seen.status, seen.text().as_str()) == (200, "before"), "{}", seen.text());
        is_returned(&fleet, &bad)
    })?;
    ensure!(reason.contains("requests failed"), "{reason}");
    has(&at_paris, BAD, 200, "before")?;

    // The canary's control is killed: it goes to the other one, which judges from then on.
    fleet.lab.kill_control();
    soon("paris to be at the second control", || {
        let paris = fleet.edge(fleet.second.dir(), "paris")?;
        Ok((paris["connected"] == true && paris["control"].is_null()).then_some(()))
    })?;
    ensure!(waiting(&fleet, &good)?.context("it waits")?["state"] == "held");
    soak(&fleet, "1")?;
    has(&at_rome, GOOD, 200, "after")?;

    // Back at its first control, the canary is killed with a change: the second one misses it.
    fleet.lab.start_control()?;
    fleet.paris.stop()?;
    fleet.paris.start()?;
    soon("paris to be at the first control", || {
        Ok((!fleet.edge(fleet.second.dir(), "paris")?["control"].is_null()).then_some(()))
    })?;
    soak(&fleet, NEVER_SECS)?;
    write(&api, &good, &answer(200, "later"))?;
    has(&at_paris, GOOD, 200, "later")?;
    fleet.paris.kill();
    fleet.lab.kill_control();
    let reason = until(Duration::from_secs(LOST_SECS_MAX), "the change to be taken back", || {
        let seen = at_rome.get(GOOD, "/", &[])?;
        ensure!((seen.status, seen.text().as_str()) == (200, "after"), "{}", seen.text());
        is_returned(&fleet, &good)
    })?;
    ensure!(reason.contains("was lost"), "{reason}");
    Ok(())
}
