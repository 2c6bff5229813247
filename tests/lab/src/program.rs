//! Programs from outside (openssl, curl, psql, the SDKs' interpreters), and skipping visibly where one is missing.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// What a program printed and whether it succeeded.
#[derive(Debug)]
pub struct Ran {
    /// Exit status 0.
    pub ok: bool,
    /// Standard output and standard error.
    pub text: String,
}

/// Runs a program to its end with nothing on its standard input.
pub fn run(command: &mut Command) -> Result<Ran> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("run {command:?}"))?;
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    Ok(Ran { ok: output.status.success(), text })
}

/// Runs a command to its end; its output goes to our stderr, so that stdout stays ours. Fails unless it succeeds.
pub fn run_visibly(command: &mut Command) -> Result<()> {
    let shown = format!("{command:?}").replace('"', "");
    let status = command.stdout(io::stderr()).status().with_context(|| format!("run {shown}"))?;
    ensure!(status.success(), "{shown}: {status}");
    Ok(())
}

/// Whether we run as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A variable of the environment; the one place of the tests that reads it.
#[expect(
    clippy::disallowed_methods,
    reason = "cargo xtask test says by variables where tools and programs are"
)]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Where `cargo xtask test` put language tools.
pub fn tools() -> Option<PathBuf> {
    variable("EBBGATE_TOOLS").map(PathBuf::from).or_else(|| {
        let target = std::env::current_exe().ok()?.ancestors().nth(3)?.join("tools");
        target.exists().then_some(target)
    })
}

/// Says that a test is skipped and why: past the harness's capture, and in the summary of `cargo xtask test`.
pub fn skip(test: &str, reason: &str) {
    let line = format!("SKIPPED {test}: {reason}\n");
    // The test harness captures print macros only.
    let _ = io::stderr().write_all(line.as_bytes());
    if let Some(path) = variable("EBBGATE_SKIPS") {
        let file = OpenOptions::new().append(true).create(true).open(path);
        let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }
}
