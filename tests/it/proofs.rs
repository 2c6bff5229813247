//! The proofs of docs/reliability.md, in short: the same programs that make its figures.

use std::process::Command;

use anyhow::{Result, ensure};
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
fn fleet() -> Result<Vec<Value>> {
    let lab = workspace::program("ebbgate-lab", "ebbgate-lab")?;
    let ran = Command::new(lab).args(["fleet", "--short", "--programs"]).arg(programs()).output()?;
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
    let lines = fleet()?;
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
    assert_eq!(of("upgraded").count(), 2, "{lines:?}");
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
    assert_eq!(of("cut").count(), 2, "{lines:?}");
    for partition in of("cut") {
        assert_eq!(partition["all"]["failed_requests"], 0, "they wait, and go another way: {partition}");
        assert_eq!(failures(&partition["later"]), 0, "{partition}");
    }
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
