//! Where the workspace is and how its programs are built.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Which of cargo's profiles to build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Profile {
    /// Quick to build.
    Dev,
    /// Optimised, without what makes the release's link slow.
    Quick,
    /// What is shipped.
    Release,
}

impl Profile {
    /// The folder below the target directory.
    fn folder(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Quick => "quick",
            Self::Release => "release",
        }
    }
}

/// The packages whose programs make a lab.
pub(crate) const PRODUCTS: [&str; 4] = ["ebbgate-control", "ebbgate-edge", "ebbgate-waf", "ebbgate-agent"];

/// `cargo metadata` of the workspace we are in; with dependencies when `full`.
pub(crate) fn metadata(full: bool) -> Result<Value> {
    let mut command = Command::new("cargo");
    command.args(["metadata", "--format-version", "1", "--locked"]);
    if !full {
        command.arg("--no-deps");
    }
    let output = command.stderr(Stdio::inherit()).output().context("run cargo")?;
    if !output.status.success() {
        bail!("cargo metadata failed ({}); run it inside the workspace", output.status);
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The workspace's root directory and its target directory.
pub(crate) fn roots() -> Result<(PathBuf, PathBuf)> {
    let metadata = metadata(false)?;
    let path = |key: &str| {
        metadata.get(key).and_then(Value::as_str).map(PathBuf::from).with_context(|| key.to_owned())
    };
    Ok((path("workspace_root")?, path("target_directory")?))
}

/// Builds the programs of packages and says which folder they are in. Cargo's own output goes to stderr.
pub(crate) fn build(profile: Profile, packages: &[&str]) -> Result<PathBuf> {
    let mut command = Command::new("cargo");
    command.args(["build", "--locked", "--bins"]);
    if matches!(profile, Profile::Dev) {
        // With the features that the tests are built with, so that no dependency is built twice.
        command.arg("--workspace");
    } else {
        command.args(packages.iter().flat_map(|package| ["--package", package]));
    }
    match profile {
        Profile::Dev => {}
        Profile::Quick => drop(command.args(["--profile", "quick"])),
        Profile::Release => drop(command.arg("--release")),
    }
    run(&mut command)?;
    Ok(roots()?.1.join(profile.folder()))
}

/// Runs a command to its end; its output goes to our stderr, so that stdout stays ours.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = format!("{command:?}").replace('"', "");
    let status = command.stdout(std::io::stderr()).status().with_context(|| format!("run {shown}"))?;
    if !status.success() {
        bail!("{shown}: {status}");
    }
    Ok(())
}

/// What a program prints.
pub(crate) fn said(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// A path as it reads best: relative to the current directory where it is below it.
pub(crate) fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(path).display().to_string()
}
