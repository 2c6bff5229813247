//! Debian's newest compiler with the sources of its core library, unpacked into a folder of ours: no root, no change of
//! what is installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::tools;
use crate::workspace::{run, said};

/// The package with the compiler; the others are named after its version and dependencies.
const COMPILER: &str = "rustc-web";
const SOURCES: &str = "rust-web-src";

/// The folder, made once. An error says why it cannot be.
pub(super) fn made(prefix: &Path) -> Result<PathBuf> {
    let stamp = prefix.join("made");
    if stamp.exists() {
        return Ok(prefix.to_owned());
    }
    let packages = packages()?;
    eprintln!("ebpf: unpacking {} into {}, once", packages.join(" "), prefix.display());
    if prefix.exists() {
        fs::remove_dir_all(prefix)?;
    }
    let downloads = prefix.join("downloads");
    fs::create_dir_all(&downloads)?;
    let mut download = Command::new("apt-get");
    // apt's own user may not write here; said so on stderr, and root then fetches itself.
    download
        .args(["-qq", "-o", "APT::Sandbox::User=root", "download"])
        .args(&packages)
        .current_dir(&downloads);
    run(&mut download).context("download the compiler")?;
    for entry in fs::read_dir(&downloads)? {
        unpack(&entry?.path(), prefix)?;
    }
    fs::remove_dir_all(&downloads)?;
    fs::write(stamp, packages.join("\n"))?;
    Ok(prefix.to_owned())
}

/// Where the compiler's shared libraries are.
pub(super) fn libraries(prefix: &Path) -> Result<PathBuf> {
    let lib = prefix.join("usr/lib");
    let folders = fs::read_dir(&lib).with_context(|| format!("read {}", lib.display()))?;
    let mut folders = folders.filter_map(|entry| Some(entry.ok()?.path()));
    let has_llvm = |folder: &PathBuf| {
        let files = fs::read_dir(folder).into_iter().flatten().flatten();
        files.into_iter().any(|file| file.file_name().to_string_lossy().starts_with("libLLVM"))
    };
    folders.find(has_llvm).with_context(|| format!("no libLLVM below {}", lib.display()))
}

/// The compiler, its library, the LLVM it was made with, and the sources.
fn packages() -> Result<Vec<String>> {
    if !tools::has("apt-get") {
        bail!("this is no Debian, where the package {COMPILER} would be one");
    }
    let mut version = candidate();
    if version.is_none() && tools::is_root() {
        // A fresh machine has no package lists yet.
        run(Command::new("apt-get").args(["-qq", "update"]))?;
        version = candidate();
    }
    let version = version.with_context(|| format!("apt has no package {COMPILER}"))?;
    let mut numbers = version.split('.');
    let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) else {
        bail!("{COMPILER} has the odd version {version}");
    };
    let library = format!("libstd-rust-web-{major}.{minor}");
    let shown = said(Command::new("apt-cache").args(["show", "--no-all-versions", &library]))?;
    let llvm = shown.split([' ', ',']).find(|word| word.starts_with("libllvm"));
    let llvm = llvm.with_context(|| format!("{library} depends on no LLVM"))?;
    Ok([COMPILER, "libstd-rust-web-dev", &library, SOURCES, llvm].map(str::to_owned).into())
}

fn candidate() -> Option<String> {
    let policy = said(Command::new("apt-cache").args(["policy", COMPILER])).ok()?;
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then(|| version.to_owned())
}

/// Unpacks a package; of the sources only the libraries, which are a tenth of them.
fn unpack(package: &Path, prefix: &Path) -> Result<()> {
    let name = package.file_name().unwrap_or_default().to_string_lossy();
    if !name.starts_with(SOURCES) {
        return run(Command::new("dpkg-deb").arg("-x").arg(package).arg(prefix));
    }
    let script = "dpkg-deb --fsys-tarfile \"$0\" | tar -x -C \"$1\" --wildcards \
                  './usr/src/rustc-*/library' './usr/lib/rustlib/src/rust'";
    run(Command::new("bash").args(["-o", "pipefail", "-ec", script]).arg(package).arg(prefix))
}
