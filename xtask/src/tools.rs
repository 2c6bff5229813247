//! Programs that the verbs and tests need and that are not ours: finds them, and installs them where it may.
//!
//! Debian packages are installed by root only; everything from language registries goes below `target/tools`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace::run;

/// Whether we run as root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Where Debian keeps programs; looked at first, as a version manager's stand-ins need a whole search path.
const SYSTEM_DIRS: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

#[expect(clippy::disallowed_methods, reason = "the search path is where programs are")]
/// The file of a program: in the system's folders, else along `PATH`.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = SYSTEM_DIRS.iter().map(PathBuf::from);
    system
        .chain(std::env::split_paths(&path))
        .map(|dir| dir.join(program))
        .find(|file| rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok() && file.is_file())
}

/// Whether a program is on this machine.
pub(crate) fn has(program: &str) -> bool {
    find(program).is_some()
}

/// Installs Debian packages; a clear refusal when we are not root or this is no Debian.
pub(crate) fn apt_install(packages: &[&str]) -> Result<()> {
    let line = format!("apt-get install {}", packages.join(" "));
    if !has("apt-get") {
        bail!("this is not Debian: install what `{line}` would");
    }
    if !is_root() {
        bail!("not root: run `{line}` yourself, then try again");
    }
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(["-qq", "-o", "Dpkg::Use-Pty=0"]).args(args);
        run(&mut command)
    };
    let mut install = vec!["install", "-y", "--no-install-recommends"];
    install.extend(packages);
    if apt(&install).is_err() {
        // A fresh machine has no package lists yet.
        apt(&["update"])?;
        apt(&install).with_context(|| format!("`{line}` failed"))?;
    }
    Ok(())
}

/// A Python virtual environment at `dir` with one pinned package; made once. Returns its interpreter.
pub(crate) fn python_with(dir: &Path, requirement: &str) -> Result<PathBuf> {
    let python = dir.join("bin/python");
    let stamp = dir.join("installed");
    if std::fs::read_to_string(&stamp).is_ok_and(|text| text == requirement) {
        return Ok(python);
    }
    if run(Command::new("python3").args(["-m", "venv"]).arg(dir)).is_err() {
        apt_install(&["python3", "python3-venv"])?;
        run(Command::new("python3").args(["-m", "venv"]).arg(dir))?;
    }
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet", requirement]))?;
    std::fs::write(stamp, requirement)?;
    Ok(python)
}

/// A folder with pinned npm packages below `node_modules`; made once.
pub(crate) fn node_with(dir: &Path, packages: &[&str]) -> Result<()> {
    let stamp = dir.join("installed");
    let wanted = packages.join(" ");
    if std::fs::read_to_string(&stamp).is_ok_and(|text| text == wanted) {
        return Ok(());
    }
    if !has("npm") {
        apt_install(&["nodejs", "npm"])?;
    }
    std::fs::create_dir_all(dir)?;
    std::fs::write(dir.join("package.json"), "{ \"private\": true }\n")?;
    let quiet = ["install", "--no-audit", "--no-fund", "--loglevel=error"];
    run(Command::new("npm").args(quiet).args(packages).current_dir(dir))?;
    std::fs::write(stamp, wanted)?;
    Ok(())
}
