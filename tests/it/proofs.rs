//! The proofs of docs/reliability.md, in short: the same programs that make its figures.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use ebbgate_lab::clock::DAY_SECS;
use ebbgate_lab::kills::{self, Engine};
use ebbgate_lab::lab::Programs;
use ebbgate_lab::linear;
use ebbgate_lab::program::{is_root, skip};
use ebbgate_lab::test_lab::programs;
use ebbgate_lab::turn::Turn;
use ebbgate_lab::workspace;
use serde_json::Value;

/// SIGKILLs of each engine here; the whole run has 1,000.
const KILLS: usize = 10;
/// Operations here; the whole run has 20,000.
const OPERATIONS: u64 = 600;

fn killed(engine: Engine) -> Result<()> {
    let _turn = Turn::shared();
    let dir = tempfile::Builder::new().prefix("ebb-").tempdir()?;
    let report = kills::run(dir.path(), &Programs::in_dir(&programs()), engine, KILLS, 5)?;
    ensure!(report.control_kills + report.etcd_kills == KILLS && report.acknowledged > KILLS, "{report:?}");
    Ok(())
}

#[test]
fn kills_of_control_on_sqlite_lose_nothing() -> Result<()> {
    killed(Engine::Sqlite)
}

#[test]
fn kills_of_control_and_of_etcd_lose_nothing() -> Result<()> {
    killed(Engine::Etcd)
}

/// The verb's lines.
fn fleet(only: &str) -> Result<Vec<Value>> {
    let lab = workspace::program("ebbgate-lab", "ebbgate-lab")?;
    let mut fleet = Command::new(lab);
    let ran = fleet.args(["fleet", "--short", "--only", only, "--programs"]).arg(programs()).output()?;
    let said = String::from_utf8(ran.stdout)?;
    ensure!(ran.status.success(), "{said}{}", String::from_utf8_lossy(&ran.stderr));
    said.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// Requests that failed, and streams and `WebSocket`s that were cut.
fn failures(seen: &Value) -> u64 {
    ["failed_requests", "cut_streams", "cut_websockets"].iter().filter_map(|what| seen[what].as_u64()).sum()
}

#[test]
fn each_part_of_a_fleet_may_be_killed_cut_off_and_upgraded() -> Result<()> {
    let _turn = Turn::shared();
    let lines = fleet("partitions,upgrades,kills")?;
    let of = |what: &'static str| lines.iter().filter(move |line| !line[what].is_null());
    // The run itself waits until every visitor is served again after each fault.
    assert_eq!(of("killed").count(), 4, "{lines:?}");
    for kill in of("killed") {
        let name = kill["killed"].as_str().unwrap_or_default();
        assert!(kill["others"]["requests"].as_u64() > Some(0), "{kill}");
        // Neither control nor the store is on the way of a visitor.
        if name.starts_with("control") || name.starts_with("etcd") {
            assert_eq!(failures(&kill["others"]), 0, "{kill}");
        }
    }
    assert_eq!(of("upgraded").count(), 4, "each edge, and one to a bad program: {lines:?}");
    for upgrade in of("upgraded") {
        let seen = &upgrade["all"];
        assert_eq!((failures(seen), seen["refused"].as_u64()), (0, Some(0)), "{upgrade}");
        assert_eq!(upgrade["bad"].is_null(), upgrade["refused"].is_null(), "{upgrade}");
    }
    if !is_root() {
        skip(
            "each_part_of_a_fleet_may_be_killed_cut_off_and_upgraded: cut off",
            "network namespaces need root",
        );
        return Ok(());
    }
    assert_eq!(of("cut").count(), 4, "{lines:?}");
    for partition in of("cut") {
        assert_eq!(partition["all"]["failed_requests"], 0, "they wait, and go another way: {partition}");
        assert_eq!(failures(&partition["later"]), 0, "{partition}");
        if partition["cut"].to_string().contains("control") {
            assert_eq!(failures(&partition["all"]), 0, "control is not on the way of a visitor: {partition}");
        }
    }
    Ok(())
}

#[test]
fn a_clock_that_is_a_day_off_is_named_and_is_no_other_machines_trouble() -> Result<()> {
    let _turn = Turn::shared();
    let lines = fleet("clocks")?;
    let [edge_runs, edge_starts, control_starts] = lines.as_slice() else { panic!("{lines:?}") };
    let is_a_day = |secs: &Value| secs.as_i64().is_some_and(|secs| (secs - DAY_SECS).abs() <= 60);
    // Turned while it runs: control hears of it, and nothing follows.
    ensure!(is_a_day(&edge_runs["edges_ahead_secs"][0]), "{edge_runs}");
    for seen in ["own", "others"] {
        assert_eq!(failures(&edge_runs[seen]), 0, "{edge_runs}");
        ensure!(edge_runs[seen]["requests"].as_u64() > Some(0), "{edge_runs}");
    }
    // Started a day behind, an edge takes control's certificate for one of the future, and says so.
    ensure!(edge_starts["edges_ahead_secs"][0].is_null(), "{edge_starts}");
    let said = edge_starts["said"].as_str().unwrap_or_default();
    ensure!(said.contains("a clock is wrong") && said.contains("not valid yet"), "{edge_starts}");
    // So do the edges of a control that starts a day ahead. They go to the other one.
    let said = control_starts["said"].as_str().unwrap_or_default();
    ensure!(said.contains("a clock is wrong") && said.contains("not valid yet"), "{control_starts}");
    let ahead = control_starts["edges_ahead_secs"].as_array().context("edges")?;
    ensure!(ahead.iter().all(|secs| secs.as_i64().is_some_and(|secs| secs.abs() <= 60)), "{control_starts}");
    for started in [edge_starts, control_starts] {
        ensure!(started["others_later"]["requests"].as_u64() > Some(0), "{started}");
        assert_eq!(failures(&started["others_later"]), 0, "{started}");
    }
    assert_eq!(failures(&control_starts["others"]), 0, "{control_starts}");
    Ok(())
}

#[test]
fn two_controls_are_linearizable_while_the_leader_is_killed_and_stopped() -> Result<()> {
    let _turn = Turn::shared();
    let dir = tempfile::Builder::new().prefix("ebb-").tempdir()?;
    let report = linear::run(dir.path(), &Programs::in_dir(&programs()), None, OPERATIONS, 5)?;
    ensure!(report.linearizable && report.faults.len() == 2, "{report:?}");
    Ok(())
}

#[test]
fn two_controls_are_linearizable_while_the_leader_is_cut_off() -> Result<()> {
    if !is_root() {
        skip("two_controls_are_linearizable_while_the_leader_is_cut_off", "network namespaces need root");
        return Ok(());
    }
    let _turn = Turn::shared();
    let lab = workspace::program("ebbgate-lab", "ebbgate-lab")?;
    let operations = OPERATIONS.to_string();
    let output = Command::new(lab)
        .args(["linear", "--partition", "--operations", &operations, "--programs"])
        .arg(programs())
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    ensure!(said.contains("\"linearizable\":true") && said.contains("cut_off"), "{said}");
    Ok(())
}
