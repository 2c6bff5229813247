//! Edges whose disk is full or read-only: they start, serve, and say so.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use ebbgate_lab::guide::{self, API_HOST};
use ebbgate_lab::lab::local;
use ebbgate_lab::process::{Daemon, Spec};
use ebbgate_lab::test_lab::TestLab;
use ebbgate_lab::wait::soon;
use serde_json::json;

use crate::damage::plain;
use crate::visitor::Visitor;

/// Mounts a small disk at the first argument, spoils it as the second says, and becomes the rest.
const ON_A_DISK: &str = r#"
    at="$1"; spoil="$2"; shift 2
    mount -t tmpfs -o size=1m tmpfs "$at" || exit 97
    sh -c "cd '$at' && $spoil" || true
    exec "$@"
"#;

/// An edge of the lab with a disk of its own. None: that needs root and mount namespaces.
fn edge(lab: &TestLab, name: &str, spoil: &str) -> Result<Option<Daemon>> {
    let may = Command::new("unshare").args(["--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]).output()?;
    if !may.status.success() {
        eprintln!("skipped: a disk of its own needs root and mount namespaces");
        return Ok(None);
    }
    let disk = lab.file(name);
    std::fs::create_dir(&disk)?;
    let ports = lab.ports();
    let socket = format!("unix:{}", lab.dir().join("run/edge.sock").display());
    let spec =
        Spec::new(name, "unshare").args(["--mount", "sh", "-c", ON_A_DISK, "sh"]).arg(&disk).arg(spoil);
    let spec = spec.arg(lab.programs().edge()).arg("--dir").arg(&disk).args(["--control", &socket]);
    let spec = spec
        .args(["--http".to_owned(), local(ports.http()).to_string()])
        .args(["--https".to_owned(), local(ports.https()).to_string()])
        .args(["--connect".to_owned(), local(ports.connect()).to_string()])
        .args(["--admin".to_owned(), local(ports.edge_admin()).to_string()]);
    Ok(Some(spec.start(&lab.log_dir())?))
}

#[test]
fn an_edge_with_a_full_or_read_only_disk_starts_serves_and_says_so() -> Result<()> {
    let mut lab = TestLab::stopped()?;
    lab.start_control()?;
    let api = lab.api()?;
    guide::domain(&api)?;
    let policy = json!({ "on_http_request": [{ "actions": [{ "type": "custom-response",
        "config": { "status_code": 200, "body": "served" } }] }] });
    guide::cloud(&api, &format!("https://{API_HOST}"), &policy)?;
    let full = "mkdir edge run; cat /dev/zero > filler";
    // Nothing there at all, and directories of before.
    for (name, spoil, word) in [
        ("full", full, "space"),
        ("bare-full", "cat /dev/zero > filler", "space"),
        ("read-only", "mount -o remount,ro .", "ead-only"),
        ("old-read-only", "mkdir edge run; : > edge/lock; mount -o remount,ro .", "ead-only"),
    ] {
        let Some(mut edge) = edge(&lab, name, spoil)? else { return Ok(()) };
        let admin = local(lab.ports().edge_admin());
        let ready = soon("the edge to be ready", || {
            edge.check_alive()?;
            Ok(plain(admin, "/readyz").ok().filter(|(status, _)| *status == 200).map(|(_, text)| text))
        })
        .inspect_err(|_| lab.show_logs())
        .with_context(|| name.to_owned())?;
        ensure!(ready.starts_with("ready\n") && ready.contains(word), "{name}: {ready}");
        let (_, metrics) = plain(admin, "/metrics")?;
        ensure!(metrics.contains("ebbgate_edge_disk_unwritable 1\n"), "{name}: {metrics}");
        let visitor = Visitor::of(&lab)?;
        visitor.wait_https(API_HOST)?;
        ensure!(visitor.get(API_HOST, "/", &[])?.text() == "served", "{name}");
        if name == "full" {
            // Room again: what control told gets to the disk by itself.
            let target = edge.pid().to_string();
            let filler = lab.file(name).join("filler");
            let empty = format!(": > '{}'", filler.display());
            let emptied = Command::new("nsenter")
                .args(["--mount", "--target", &target, "sh", "-c", &empty])
                .status()?;
            ensure!(emptied.success(), "the filler is emptied");
            soon("the program to be saved", || {
                let (_, metrics) = plain(admin, "/metrics")?;
                let saved = Command::new("nsenter")
                    .args(["--mount", "--target", &target, "sh", "-c", "cat \"$0\"/*"])
                    .arg(lab.file(name).join("edge/program"))
                    .output()?;
                let served = String::from_utf8_lossy(&saved.stdout).contains("served");
                Ok((served && metrics.contains("ebbgate_edge_disk_unwritable 0\n")).then_some(()))
            })
            .inspect_err(|_| lab.show_logs())?;
        }
        ensure!(edge.stop()?, "{name}: the edge had to be killed");
    }
    Ok(())
}
