//! Programs that are not ours: `cargo xtask install` finds or brings them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use ebbgate_lab::workspace;

/// Makes sure of a program and returns its file. The error is the last line of what the installation said.
pub(crate) fn installed(name: &str) -> Result<PathBuf> {
    let mut command = Command::new("cargo");
    command.args(["xtask", "install", name]).current_dir(workspace::root()).stdin(Stdio::null());
    let output = command.output().context("run cargo")?;
    let said = |bytes: &[u8]| {
        String::from_utf8_lossy(bytes).trim_end().lines().last().unwrap_or_default().to_owned()
    };
    if !output.status.success() {
        bail!("{name}: {}", said(&output.stderr));
    }
    Ok(said(&output.stdout).into())
}

/// What a program says of its version, on one line, for the record.
pub(crate) fn version(program: &Path, flag: &str) -> String {
    let output = Command::new(program).arg(flag).output();
    let Ok(output) = output else { return "unknown".to_owned() };
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    let line = |line: &&str| line.chars().any(|letter| letter.is_ascii_digit());
    said.lines().find(line).unwrap_or("unknown").trim().to_owned()
}
