//! Records on etcd: two controls, edges that go to the other one, backups that go from one engine to the other.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ebbgate_lab::api::{list, text};
use ebbgate_lab::etcd::Etcd;
use ebbgate_lab::guide;
use ebbgate_lab::lab::{Lab, Programs};
use ebbgate_lab::machine::Machine;
use ebbgate_lab::mesh::certificates;
use ebbgate_lab::replica::Replica;
use ebbgate_lab::test_lab::programs;
use ebbgate_lab::turn::Turn;
use ebbgate_lab::wait::soon;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::visitor::Visitor;

/// A lab whose records are on an etcd of one member.
fn lab(dir: &Path) -> Result<(Etcd, Lab)> {
    let etcd = Etcd::start(&dir.join("etcd"), 1)?;
    let lab = Lab::open_with(&dir.join("lab"), Programs::in_dir(&programs()), &["--store", &etcd.url()])?;
    Ok((etcd, lab))
}

fn temporary() -> Result<TempDir> {
    Ok(tempfile::Builder::new().prefix("ebb-").tempdir()?)
}

/// Runs `ebbgate-control`; an error is what it says.
fn control(args: &[&str]) -> Result<String> {
    let output = Command::new(programs().join("ebbgate-control")).args(args).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

fn path(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

/// An https endpoint that answers by itself.
fn answering(word: &str) -> Value {
    json!({ "on_http_request": [{ "actions": [{ "type": "custom-response",
        "config": { "status_code": 200, "body": word } }] }] })
}

#[test]
fn what_one_control_acknowledges_the_other_answers() -> Result<()> {
    let _turn = Turn::shared();
    let dir = temporary()?;
    let (_etcd, mut lab) = lab(dir.path())?;
    lab.start_control()?;
    let mut replica = Replica::new(&lab, &dir.path().join("replica"))?;
    replica.start()?;
    let (first, second) = (lab.api()?, replica.api());
    for round in 0..20 {
        let (writer, reader) = if round % 2 == 0 { (&first, &second) } else { (&second, &first) };
        let made = writer.create("/ip_policies", &json!({ "description": round.to_string() }))?;
        let id = text(&made, "id")?;
        assert_eq!(reader.read(&format!("/ip_policies/{id}"))?["description"], round.to_string());
        let (status, _) = reader.call("DELETE", &format!("/ip_policies/{id}"), None)?;
        assert_eq!(status, 204);
        assert_eq!(writer.call("GET", &format!("/ip_policies/{id}"), None)?.0, 404, "deleted at the other");
    }
    // A name is given once, whoever is asked.
    guide::domain(&first)?;
    let taken = json!({ "domain": "*.clinic-network.com" });
    assert_eq!(second.call("POST", "/reserved_domains", Some(&taken))?.0, 409);
    // Commands of the operator work on a directory that names an etcd.
    let checked: Value = serde_json::from_str(&control(&["check", "--dir", path(lab.dir())])?)?;
    assert_eq!((&checked["state"], &checked["objects"]["reserved_domains"]), (&json!("ok"), &json!(1)));
    ensure!(lab.stop_control()?, "control had to be killed");
    let again = control(&["init", "--dir", path(lab.dir())]).unwrap_err().to_string();
    assert!(again.contains("is initialised already"), "{again}");
    Ok(())
}

#[test]
fn a_backup_goes_from_either_engine_to_the_other_and_so_does_an_export() -> Result<()> {
    let _turn = Turn::shared();
    let dir = temporary()?;
    let mut lab = Lab::open(&dir.path().join("lab"), Programs::in_dir(&programs()))?;
    lab.start_control()?;
    let api = lab.api()?;
    guide::domain(&api)?;
    guide::cloud(&api, "https://a.clinic-network.com", &answering("kept"))?;
    ensure!(lab.stop_control()?, "control had to be killed");
    let (at, bundle) = (lab.dir().to_owned(), dir.path().join("one.bundle"));
    control(&["backup", "--dir", path(&at), path(&bundle)])?;
    let records = |dir: &Path| -> Result<Vec<String>> {
        let text = control(&["export", "--dir", path(dir)])?;
        // The first line has the revision, which goes on.
        Ok(text.lines().skip(1).map(str::to_owned).collect())
    };
    // The audit log goes on: it tells of each backup, restore and export, and new entries are chained a moment later.
    let objects = |dir: &Path| -> Result<Vec<String>> {
        let is_object =
            |line: &String| line.starts_with(r#"{"key":"#) && !line.starts_with(r#"{"key":"audit/"#);
        Ok(records(dir)?.into_iter().filter(is_object).collect())
    };
    let revision = |dir: &Path| -> Result<u64> {
        let head: Value =
            serde_json::from_str(control(&["export", "--dir", path(dir)])?.lines().next().unwrap_or(""))?;
        head["revision"].as_u64().context("the export has a revision")
    };
    let (before, at_first) = (objects(&at)?, revision(&at)?);

    let etcd = Etcd::start(&dir.path().join("etcd"), 1)?;
    control(&["restore", "--dir", path(&at), "--store", &etcd.url(), path(&bundle)])?;
    assert_eq!(objects(&at)?, before, "the same records, sealed ones still sealed");
    let on_etcd = revision(&at)?;
    assert!(on_etcd > at_first, "generations go on: {at_first}, then {on_etcd}");
    let refused = control(&["restore", "--dir", path(&at), "--store", &etcd.url(), path(&bundle)]);
    assert!(refused.unwrap_err().to_string().contains("choose another prefix"));
    lab.start_control()?;
    assert_eq!(list(&lab.api()?, "/endpoints", "endpoints")?.len(), 1, "served from etcd");
    lab.api()?.create("/ip_policies", &json!({ "description": "on etcd" }))?;

    let (back, elsewhere) = (dir.path().join("two.bundle"), dir.path().join("elsewhere"));
    control(&["backup", "--dir", path(&at), path(&back)])?;
    ensure!(lab.stop_control()?, "control had to be killed");
    control(&["restore", "--dir", path(&elsewhere), path(&back)])?;
    assert_eq!(objects(&elsewhere)?, objects(&at)?);
    assert!(revision(&elsewhere)? > on_etcd && elsewhere.join("control.db").exists());
    control(&["check", "--dir", path(&elsewhere)])?;

    // An export goes where the secrets are and no records.
    let file = dir.path().join("all.jsonl");
    fs::write(&file, control(&["export", "--dir", path(&elsewhere)])?)?;
    let used = control(&["import", "--dir", path(&elsewhere), path(&file)]).unwrap_err().to_string();
    assert!(used.contains("has records already"), "{used}");
    fs::remove_file(elsewhere.join("control.db"))?;
    let url = format!("{}?prefix=/imported/", etcd.url());
    control(&["import", "--dir", path(&elsewhere), "--store", &url, path(&file)])?;
    assert_eq!(objects(&elsewhere)?, objects(&at)?);
    let stranger = dir.path().join("stranger");
    control(&["init", "--dir", path(&stranger)])?;
    fs::remove_file(stranger.join("control.db"))?;
    let sealed = control(&["import", "--dir", path(&stranger), path(&file)]).unwrap_err().to_string();
    assert!(sealed.contains("do not fit the secrets"), "{sealed}");
    Ok(())
}

#[test]
fn an_etcd_that_wants_certificates_gets_them_and_nobody_else_gets_in() -> Result<()> {
    let _turn = Turn::shared();
    let dir = temporary()?;
    let tls = certificates(dir.path(), "DNS:etcd.example")?;
    let here = Machine::here(Ipv4Addr::LOCALHOST);
    let etcd = Etcd::on(&dir.path().join("etcd"), &[here], Some(tls), &[])?;
    let file = |name: &str| dir.path().join(name).display().to_string();
    let (url, ca, cert, key) = (etcd.url(), file("ca.pem"), file("client.pem"), file("client.key"));
    let at = dir.path().join("data");
    let without = control(&["init", "--dir", path(&at), "--store", &url, "--store-ca", &ca]);
    let without = without.unwrap_err().to_string();
    assert!(without.contains("does not answer") || without.contains("no answer"), "{without}");
    let tls = ["--store", &url, "--store-ca", &ca, "--store-cert", &cert, "--store-key", &key];
    control(&[&["init", "--dir", path(&at)][..], &tls].concat())?;
    control(&["check", "--dir", path(&at)])?;
    let half = control(&["init", "--dir", path(&at), "--store", &url, "--store-cert", &cert]).unwrap_err();
    assert!(half.to_string().contains("--store-ca"), "{half}");
    Ok(())
}

#[test]
fn an_etcd_at_its_quota_refuses_changes_until_it_has_room_and_answers_reads() -> Result<()> {
    let _turn = Turn::shared();
    let dir = temporary()?;
    let here = Machine::here(Ipv4Addr::LOCALHOST);
    let quota = ["--quota-backend-bytes", "2097152"];
    let mut etcd = Etcd::on(&dir.path().join("etcd"), &[here], None, &quota)?;
    let programs = Programs::in_dir(&programs());
    let mut lab = Lab::open_with(&dir.path().join("lab"), programs, &["--store", &etcd.url()])?;
    lab.start_control()?;
    let api = lab.api()?;
    let made = api.create("/ip_policies", &json!({ "description": "made in time" }))?;
    let much = json!({ "description": "x", "metadata": "m".repeat(4_000) });
    let status = || -> Result<u16> { Ok(api.call("POST", "/ip_policies", Some(&much))?.0) };
    soon("the quota to be reached", || Ok((status()? == 503).then_some(())))?;
    let id = text(&made, "id")?;
    assert_eq!(api.read(&format!("/ip_policies/{id}"))?["description"], "made in time", "reads go on");
    // The way out of docs/reliability.md.
    etcd.kill(0);
    etcd.set_flags(&["--quota-backend-bytes", "67108864"]);
    etcd.restart(0)?;
    soon("the alarm to be disarmed", || Ok(etcd.ctl(0, &["alarm", "disarm"]).ok()))?;
    soon("changes to be taken again", || Ok((status()? == 201).then_some(())))
}

mod alone {
    //! Asserts a time: runs with nothing beside it.

    use super::*;

    /// Within this time after a control's end its edges have the other's changes.
    const FAIL_OVER_SECS_MAX: u64 = 2;

    #[test]
    fn an_edge_goes_to_the_other_control_when_its_own_is_killed() -> Result<()> {
        let _turn = Turn::alone();
        let dir = temporary()?;
        let (_etcd, mut lab) = lab(dir.path())?;
        lab.start_control()?;
        let mut replica = Replica::new(&lab, &dir.path().join("replica"))?;
        replica.start()?;
        lab.edge_args(["--control".to_owned(), format!("unix:{}", replica.edge_socket().display())]);
        lab.start_edge()?;
        let second = replica.api();
        guide::domain(&second)?;
        guide::cloud(&second, "https://before.clinic-network.com", &answering("before"))?;
        let visitor = Visitor::of(&lab)?;
        visitor.wait_https("before.clinic-network.com")?;
        for round in 0..3 {
            lab.kill_control();
            let killed = Instant::now();
            let host = format!("after-{round}.clinic-network.com");
            guide::cloud(&second, &format!("https://{host}"), &answering("after"))?;
            visitor.wait_https(&host)?;
            let took = killed.elapsed();
            assert!(took < Duration::from_secs(FAIL_OVER_SECS_MAX), "round {round}: {took:?}");
            assert_eq!(visitor.get("before.clinic-network.com", "/", &[])?.text(), "before");
            // The edge is at the replica now; back to the first by the replica's end.
            lab.start_control()?;
            replica.kill();
            let back = format!("back-{round}.clinic-network.com");
            guide::cloud(&lab.api()?, &format!("https://{back}"), &answering("back"))?;
            visitor.wait_https(&back)?;
            replica.start()?;
        }
        Ok(())
    }
}
