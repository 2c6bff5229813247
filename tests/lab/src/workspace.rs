//! Where the workspace is, and how its programs are built.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::program::run_visibly;

/// The packages whose programs make a lab.
pub const PRODUCTS: [&str; 4] = ["ebbgate-control", "ebbgate-edge", "ebbgate-waf", "ebbgate-agent"];

/// The workspace's root directory, as it was when this crate was built.
pub fn root() -> &'static Path {
    let mut above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    above.nth(2).expect("this crate is two folders below the root")
}

/// The folder of this build's programs, as `target/debug`. A test's own program is in `deps` below it.
pub fn profile_dir() -> Result<PathBuf> {
    let me = std::env::current_exe()?;
    let folder = me.parent().context("a program is in a folder")?;
    let folder =
        if folder.ends_with("deps") { folder.parent().context("deps is in a folder")? } else { folder };
    Ok(folder.to_owned())
}

/// The target directory.
pub fn target_dir() -> Result<PathBuf> {
    Ok(profile_dir()?.parent().context("a profile has a folder in the target directory")?.to_owned())
}

/// Builds all programs of packages with one of cargo's profiles, and returns their folder.
pub fn build(profile: &str, packages: &[&str]) -> Result<PathBuf> {
    let mut command = cargo_build(profile);
    command.arg("--bins").args(packages.iter().flat_map(|package| ["--package", package]));
    run_visibly(&mut command)?;
    built(profile)
}

/// Builds single programs, each with its package, and returns their folder.
pub fn build_programs(profile: &str, programs: &[(&str, &str)]) -> Result<PathBuf> {
    let mut command = cargo_build(profile);
    for (package, program) in programs {
        command.args(["--package", package, "--bin", program]);
    }
    run_visibly(&mut command)?;
    built(profile)
}

fn cargo_build(profile: &str) -> Command {
    let mut command = Command::new("cargo");
    command.args(["build", "--quiet", "--locked", "--profile", profile]).current_dir(root());
    command
}

fn built(profile: &str) -> Result<PathBuf> {
    Ok(target_dir()?.join(if profile == "dev" { "debug" } else { profile }))
}

/// A program of this workspace in this build's folder, built now unless it is there.
pub fn program(package: &str, name: &str) -> Result<PathBuf> {
    let file = profile_dir()?.join(name);
    if !file.exists() {
        build_programs(&profile()?, &[(package, name)])?;
    }
    Ok(file)
}

/// The profile by which this program was built.
pub fn profile() -> Result<String> {
    let dir = profile_dir()?;
    let name = dir.file_name().and_then(|name| name.to_str()).context("a profile's folder has a name")?;
    Ok(if name == "debug" { "dev" } else { name }.to_owned())
}

/// A path as it reads best: relative to the current directory where it is below it.
pub fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(path).display().to_string()
}
