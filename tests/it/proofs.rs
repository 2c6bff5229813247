//! The proofs of docs/reliability.md, in short: the same programs that make its figures.

use anyhow::{Result, ensure};
use ebbgate_lab::fleet::{self, Victim, Visitors};
use ebbgate_lab::kills::{self, Engine};
use ebbgate_lab::lab::Programs;
use ebbgate_lab::linear;
use ebbgate_lab::program::{is_root, skip};
use ebbgate_lab::test_lab::programs;
use ebbgate_lab::turn::Turn;
use ebbgate_lab::workspace;
use std::process::Command;

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

#[test]
fn each_part_of_a_fleet_may_be_killed() -> Result<()> {
    let _turn = Turn::shared();
    let dir = tempfile::Builder::new().prefix("ebb-").tempdir()?;
    let victims = [Victim::Control(1), Victim::Etcd(0), Victim::Edge(0), Victim::Agent(0)];
    let mut kills = 0;
    fleet::run(dir.path(), &Programs::in_dir(&programs()), Visitors::FEW, &victims, |kill| {
        kills += 1;
        ensure!(kill.others.requests > 0, "{kill:?}");
        // Neither control nor the store is on the way of a visitor.
        if kill.victim.starts_with("control") || kill.victim.starts_with("etcd") {
            let seen = kill.others;
            let failed = seen.failed_requests + seen.cut_streams + seen.cut_websockets;
            ensure!(failed == 0, "{kill:?}");
        }
        Ok(())
    })?;
    // The run itself waits until every visitor is served again after each kill.
    ensure!(kills == victims.len());
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
