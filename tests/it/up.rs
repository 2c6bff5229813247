//! `up --bare --json`: one line, then service until a signal; nothing is left behind, and state is kept.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use ebbgate_lab::api::Api;
use ebbgate_lab::guide::{self, API_HOST};
use ebbgate_lab::http;
use ebbgate_lab::test_lab::programs;
use ebbgate_lab::wait::soon;
use ebbgate_lab::workspace;
use serde_json::{Value, json};

/// The verb's process; killed when a test fails before it has ended.
struct Up {
    child: Child,
    line: Value,
}

impl Up {
    fn start(dir: &Path) -> Result<Self> {
        let mut child = Command::new(lab_program()?)
            .args(["up", "--bare", "--json", "--programs"])
            .arg(programs())
            .arg("--dir")
            .arg(dir)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("stdout")?).read_line(&mut line)?;
        let line = serde_json::from_str(&line).with_context(|| format!("the line {line:?}"));
        let mut up = Self { child, line: Value::Null };
        up.line = line?;
        Ok(up)
    }

    fn text(&self, key: &str) -> &str {
        self.line[key].as_str().unwrap_or_default()
    }

    fn api(&self) -> Result<Api> {
        let addr = self.text("api").strip_prefix("http://").context("api is a URL")?.parse()?;
        Ok(Api::new(addr, self.text("api_key")))
    }

    fn pids(&self) -> Vec<u64> {
        self.line["pids"].as_object().into_iter().flatten().filter_map(|(_, pid)| pid.as_u64()).collect()
    }

    fn signal(&self, name: &str) -> Result<()> {
        let pid = self.child.id().to_string();
        anyhow::ensure!(Command::new("kill").args([name, &pid]).status()?.success());
        Ok(())
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `ebbgate-lab`, built beside this test by `cargo test --workspace`, or now.
pub(crate) fn lab_program() -> Result<PathBuf> {
    workspace::program("ebbgate-lab", "ebbgate-lab")
}

fn gone(pid: u64) -> bool {
    // A zombie is gone too: its parent has not looked yet.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.is_empty() || stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
}

#[test]
fn one_line_then_service_then_nothing_left() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let lab = dir.path().join("lab");
    let up = Up::start(&lab)?;
    for key in [
        "events",
        "api",
        "api_key",
        "connect",
        "connect_ca",
        "http",
        "https",
        "ingress_ca",
        "tcp_host",
        "edge_admin",
        "control_admin",
    ] {
        assert!(!up.text(key).is_empty(), "{key} in {}", up.line);
    }
    assert!(Path::new(up.text("ingress_ca")).exists() && Path::new(up.text("connect_ca")).exists());
    for admin in ["edge_admin", "control_admin"] {
        let healthz = |host: &str| -> Result<u16> {
            let stream = http::connect(up.text(admin).parse()?)?;
            Ok(http::request(stream, "GET", host, "/healthz", &[], b"")?.status)
        };
        assert_eq!(healthz(up.text(admin))?, 200, "{admin}");
        // A page in an administrator's browser that made its own name resolve to this port.
        assert_eq!(healthz("attacker.example")?, 403, "{admin}");
    }
    // Its traffic is recorded for `ebbgate policy diff`.
    let events = Path::new(up.text("events")).to_owned();
    let api = up.api()?;
    api.create("/reserved_domains", &json!({ "domain": "*.clinic-network.com" }))?;
    let answers = |body: &str| json!({ "on_http_request": [{ "actions": [{ "type": "custom-response", "config": { "body": body } }] }] });
    guide::cloud(&api, &format!("http://{API_HOST}"), &answers("old"))?;
    let visit = || -> Result<Option<()>> {
        let answer =
            http::request(http::connect(up.text("http").parse()?)?, "GET", API_HOST, "/seen", &[], b"")?;
        Ok((answer.status == 200).then_some(()))
    };
    soon("the endpoint", visit)?;
    soon("the record of a visit", || Ok(std::fs::read_to_string(&events)?.contains("/seen").then_some(())))?;
    let side = |name: &str| -> Result<PathBuf> {
        let path = dir.path().join(name);
        std::fs::write(&path, answers(name).to_string())?;
        Ok(path)
    };
    let agent = ebbgate_lab::lab::Programs::in_dir(&programs());
    let diff = Command::new(agent.agent())
        .args(["policy", "diff", "--url", &format!("http://{API_HOST}"), "--against"])
        .args([&events, &side("old")?, &side("new")?])
        .output()?;
    let said = String::from_utf8_lossy(&diff.stdout);
    assert!(said.contains("changed") && said.contains("first GET /seen from 127.0.0.1"), "{diff:?}");
    let made = up.api()?.create("/bot_users", &serde_json::json!({ "name": "kept" }))?;
    let (pids, line) = (up.pids(), up.line.clone());
    assert_eq!(pids.len(), 2, "{line}");
    up.signal("-INT")?;
    let mut up = up;
    let status = up.child.wait()?;
    assert!(status.success(), "{status}");
    assert!(pids.iter().all(|pid| gone(*pid)), "{pids:?}");
    assert_not_mounted(&lab)?;

    // The same directory: the same ports, key and objects.
    let again = Up::start(&lab)?;
    for key in ["api", "api_key", "connect", "http", "https"] {
        assert_eq!(again.line[key], line[key], "{key}");
    }
    let path = format!("/bot_users/{}", made["id"].as_str().unwrap_or_default());
    assert_eq!(again.api()?.read(&path)?["name"], "kept");
    // A second one on the same directory is refused.
    assert!(Up::start(&lab).is_err());

    // SIGKILL to the verb itself leaves no process either.
    let pids = again.pids();
    again.signal("-KILL")?;
    // Its children die with the thread that made them, its lock goes with its last thread.
    let mut again = again;
    again.child.wait()?;
    soon("the children to be gone", || Ok(pids.iter().all(|pid| gone(*pid)).then_some(())))?;
    // The pins that it could not take away go with the next one.
    let mut last = Up::start(&lab)?;
    last.signal("-INT")?;
    let status = last.child.wait()?;
    assert!(status.success(), "{status}");
    assert_not_mounted(&lab)
}

fn assert_not_mounted(lab: &Path) -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    assert!(!mounts.contains(&lab.display().to_string()), "{mounts}");
    Ok(())
}

#[test]
fn a_child_that_dies_ends_the_rest() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut up = Up::start(&dir.path().join("lab"))?;
    let pids = up.pids();
    let edge = up.line["pids"]["edge"].to_string();
    assert!(Command::new("kill").args(["-KILL", &edge]).status()?.success());
    let status = up.child.wait()?;
    assert!(!status.success(), "{status}");
    assert!(pids.iter().all(|pid| gone(*pid)), "{pids:?}");
    Ok(())
}
