//! Debian's Chromium as a visitor, driven by a script of `conformance/`.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use ebbgate_lab::program::skip;
use ebbgate_lab::test_lab::TestLab;
use serde_json::{Value, json};

const PROGRAM: &str = "/usr/lib/chromium/chromium";

/// Whether it is installed; otherwise the test is named as skipped.
pub(crate) fn is_there(test: &str) -> bool {
    let is_there = Path::new(PROGRAM).exists();
    if !is_there {
        skip(test, "Debian's chromium is not installed: `cargo xtask test` installs it");
    }
    is_there
}

/// What a script saw at a host of the lab's edge. `more`: what it wants to know besides the host.
pub(crate) fn run(lab: &TestLab, host: &str, script: &str, more: &Value) -> Result<Value> {
    let dir = tempfile::tempdir()?;
    let mut want = json!({
        "host": host, "port": lab.ports().https(), "ca": std::fs::read_to_string(lab.ingress_ca())?,
        "dir": dir.path(),
    });
    if let (Some(want), Some(more)) = (want.as_object_mut(), more.as_object()) {
        want.extend(more.clone());
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance").join(script);
    let ran = Command::new("node").arg(script).arg(want.to_string()).output()?;
    if !ran.status.success() {
        lab.show_logs();
    }
    ensure!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    Ok(serde_json::from_slice(&ran.stdout)?)
}
