//! `cargo xtask ci`: what the build machine does, here: a fresh clone of HEAD and `.ci/run` in it.

use std::process::{Command, Stdio};

use anyhow::Result;

use crate::workspace::{self, run};

/// Clones into `target/ci` (replacing an earlier clone, keeping its build) and runs the script there.
pub(crate) fn run_in_clone() -> Result<()> {
    let (root, target) = workspace::roots()?;
    let clone = target.join("ci");
    if clone.exists() {
        run(Command::new("git").args(["fetch", "--quiet", "origin", "HEAD"]).current_dir(&clone))?;
        run(Command::new("git").args(["reset", "--quiet", "--hard", "FETCH_HEAD"]).current_dir(&clone))?;
        run(Command::new("git").args(["clean", "--quiet", "-fd"]).current_dir(&clone))?;
    } else {
        run(Command::new("git").args(["clone", "--quiet"]).arg(&root).arg(&clone))?;
    }
    let mut script = Command::new("bash");
    script
        .arg(".ci/run")
        .current_dir(&clone)
        .env("CI", "true")
        .env_remove("CARGO_TARGET_DIR")
        .stdin(Stdio::null());
    run(&mut script)
}
