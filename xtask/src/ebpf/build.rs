//! Builds the object with a toolchain that was found, so that the same toolchain gives the same bytes anywhere.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::toolchain::Toolchain;
use crate::workspace::run;

/// Flags of the compiler; part of the stamp. Paths, which differ, are not among them.
pub(super) const FLAGS: [&str; 5] = [
    "--cfg=bpf_target_arch=\"x86_64\"",
    "-Cdebuginfo=2",
    "-Clink-arg=--btf",
    "-Ctarget-cpu=v3",
    // Packets are read in words at odd places; every architecture with native XDP can. Locals on the stack are aligned.
    "-Ctarget-feature=+allows-misaligned-mem-access",
];
/// Cargo's profile, whatever the workspace says for its programs; part of the stamp.
pub(super) const PROFILE: [(&str, &str); 5] = [
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3"),
    ("CARGO_PROFILE_RELEASE_LTO", "off"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "2"),
    ("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "false"),
];
const TARGET: &str = "bpfel-unknown-none";

/// The stripped object.
pub(super) fn object(root: &Path, cache: &Path, toolchain: &Toolchain) -> Result<Vec<u8>> {
    let target = cache.join("build");
    let mut cargo = Command::new("cargo");
    cargo.args([
        "build",
        "--quiet",
        "--locked",
        "--release",
        "--package",
        "ebbgate-ebpf",
        "--features",
        "program",
    ]);
    cargo.args(["--bin", "admit", "--target", TARGET, "-Zbuild-std=core", "--target-dir"]).arg(&target);
    for inherited in ["RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS"] {
        cargo.env_remove(inherited);
    }
    cargo.env("RUSTC", &toolchain.rustc).env("RUSTC_BOOTSTRAP", "1").envs(PROFILE);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags(root, toolchain)?).current_dir(root);
    run(&mut cargo).context("build the XDP program")?;
    let built = target.join(TARGET).join("release/admit");
    let stripped = cache.join("stripped.o");
    run(objcopy()?.arg("--strip-debug").arg(&built).arg(&stripped)).context("strip the XDP object")?;
    fs::read(&stripped).with_context(|| format!("read {}", stripped.display()))
}

fn flags(root: &Path, toolchain: &Toolchain) -> Result<String> {
    let mut flags: Vec<String> = FLAGS.map(str::to_owned).into();
    flags.push(format!("-Clinker={}", toolchain.linker.display()));
    for (from, to) in
        [(cargo_home()?, "cargo"), (toolchain.sysroot.clone(), "rust"), (root.to_owned(), "ebbgate")]
    {
        flags.push(format!("--remap-path-prefix={}=/{to}", from.display()));
    }
    Ok(flags.join("\u{1f}"))
}

#[expect(clippy::disallowed_methods, reason = "cargo says by these variables where its registry is")]
fn cargo_home() -> Result<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")))
        .context("no CARGO_HOME and no HOME")
}

/// The tool that rustup ships beside the compiler, or that of LLVM.
fn objcopy() -> Result<Command> {
    let output = Command::new("rustc").args(["--print", "sysroot"]).output().context("run rustc")?;
    let sysroot = PathBuf::from(String::from_utf8(output.stdout)?.trim());
    let version = Command::new("rustc").arg("-vV").output()?;
    let version = String::from_utf8(version.stdout)?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
    let shipped = sysroot.join("lib/rustlib").join(host).join("bin/rust-objcopy");
    if !shipped.exists() {
        return Ok(Command::new("llvm-objcopy"));
    }
    let mut command = Command::new(shipped);
    command.env("LD_LIBRARY_PATH", sysroot.join("lib"));
    Ok(command)
}
