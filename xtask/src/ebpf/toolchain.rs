//! Finds a compiler with the sources of its own core library, and a linker for it; never mixes versions.
//!
//! In this order: what the operator says, rustup's nightly with `rust-src`, the project's toolchain with `rust-src`, Debian's
//! compiler in a private folder. What is made here is kept below `target/ebpf`; the system is not changed.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::prefix;
use crate::tools;
use crate::workspace::{run, said};

/// Operator's choice; both or none.
const CHOICE: [&str; 2] = ["EBBGATE_BPF_RUSTC", "EBBGATE_BPF_LINKER"];
/// The linker's release that takes the LLVM of the compiler as a shared library, and which LLVM that is.
const LINKER: (&str, &str) = ("0.10.3", "22");

/// A compiler and its linker.
pub(super) struct Toolchain {
    /// The compiler, or a script that starts it.
    pub(super) rustc: PathBuf,
    /// Where its own sources are below.
    pub(super) sysroot: PathBuf,
    /// The linker, or a script that starts it.
    pub(super) linker: PathBuf,
    /// First line of the compiler's version.
    pub(super) version: String,
    /// The linker's version.
    pub(super) linker_version: String,
}

impl Toolchain {
    /// The first that is there or can be made.
    pub(super) fn find(cache: &Path) -> Result<Self> {
        if let [Some(rustc), Some(linker)] = CHOICE.map(variable) {
            return Self::of(rustc.into(), linker.into());
        }
        for channel in ["nightly", ""] {
            if let Some(rustc) = with_sources(channel) {
                let linker = linker(cache, &rustc, &sysroot(&rustc)?.join("lib"))?;
                return Self::of(rustc, linker);
            }
        }
        let prefix = prefix::made(&cache.join("prefix")).context(
            "no compiler with the sources of its core library; `rustup component add rust-src` would be one",
        )?;
        let libraries = prefix::libraries(&prefix)?;
        let rustc = script(&cache.join("rustc"), &prefix.join("usr/bin/rustc"), &libraries)?;
        let linker = linker(cache, &rustc, &libraries)?;
        Self::of(rustc, linker)
    }

    fn of(rustc: PathBuf, linker: PathBuf) -> Result<Self> {
        let first = |program: &Path| -> Result<String> {
            let text = said(Command::new(program).arg("--version"))?;
            Ok(text.lines().next().unwrap_or_default().to_owned())
        };
        Ok(Self {
            sysroot: sysroot(&rustc)?,
            version: first(&rustc)?,
            linker_version: first(&linker)?,
            rustc,
            linker,
        })
    }
}

/// The compiler of a rustup channel, or of the project, if its sources are installed.
fn with_sources(channel: &str) -> Option<PathBuf> {
    let mut which = Command::new("rustup");
    which.args(["which", "rustc"]);
    if !channel.is_empty() {
        which.args(["--toolchain", channel]);
    }
    let rustc = PathBuf::from(said(&mut which).ok()?.trim());
    sysroot(&rustc).ok()?.join("lib/rustlib/src/rust/library/Cargo.lock").exists().then_some(rustc)
}

fn sysroot(rustc: &Path) -> Result<PathBuf> {
    Ok(said(Command::new(rustc).args(["--print", "sysroot"]))?.trim().into())
}

/// A linker that reads what this compiler writes: the one on the PATH for rustup's compilers, else one made for it.
fn linker(cache: &Path, rustc: &Path, libraries: &Path) -> Result<PathBuf> {
    let version = said(Command::new(rustc).arg("-vV"))?;
    let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: ")).unwrap_or_default();
    let (release, major) = LINKER;
    if llvm.split('.').next() != Some(major) {
        if tools::has("bpf-linker") {
            return Ok("bpf-linker".into());
        }
        bail!(
            "the compiler's LLVM is {llvm}: install a bpf-linker for it, or name both by {}",
            CHOICE.join(" and ")
        );
    }
    let root = cache.join(format!("bpf-linker-{release}"));
    let program = root.join("bin/bpf-linker");
    if !program.exists() {
        eprintln!("ebpf: making bpf-linker {release}, about two minutes, once");
        let mut install = Command::new("cargo");
        install
            .args(["install", "--quiet", "--locked", "--version", release, "bpf-linker", "--root"])
            .arg(&root);
        install.env("CARGO_TARGET_DIR", cache.join("linker-build"));
        install.env("CARGO_PROFILE_RELEASE_DEBUG", "0").env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
        install.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1");
        run(&mut install).context("make bpf-linker")?;
        fs::remove_dir_all(cache.join("linker-build"))?;
    }
    // This release loads the first LLVM along the library path; it has to be the compiler's own.
    script(&cache.join("bpf-linker"), &program, libraries)
}

/// A script that starts a program with its own shared libraries.
fn script(path: &Path, program: &Path, libraries: &Path) -> Result<PathBuf> {
    let text =
        format!("#!/bin/sh\nLD_LIBRARY_PATH='{}' exec '{}' \"$@\"\n", libraries.display(), program.display());
    if fs::read_to_string(path).ok().as_ref() != Some(&text) {
        fs::write(path, text)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(path.to_owned())
}

#[expect(clippy::disallowed_methods, reason = "the operator names a toolchain by variables")]
fn variable(name: &str) -> Option<String> {
    env::var(name).ok()
}
