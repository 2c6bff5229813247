//! `cargo xtask dist`: release programs and what an installation needs beside them, in one archive below `target/dist`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::tools;
use crate::workspace::{self, PRODUCTS, Profile, run, shown};

/// The programs, and where they go below the archive's root.
const PROGRAMS: [&str; 5] = ["ebbgate-control", "ebbgate-edge", "ebbgate-admit", "ebbgate-waf", "ebbgate"];
/// Most bytes of the agent as it is shipped. It has 16.5 million; with its symbols it would have more than this.
const AGENT_BYTES_MAX: u64 = 20_000_000;
/// Files of the repository, and where they go.
const FILES: [(&str, &str); 18] = [
    ("dist/systemd/ebbgate-control.service", "usr/lib/systemd/system"),
    ("dist/systemd/ebbgate-edge.service", "usr/lib/systemd/system"),
    ("dist/systemd/ebbgate.sysusers.conf", "usr/lib/sysusers.d"),
    ("dist/systemd/ebbgate.tmpfiles.conf", "usr/lib/tmpfiles.d"),
    ("dist/systemd/ebbgate-edge-xdp.conf", "usr/share/doc/ebbgate/examples"),
    ("docs/addresses.md", "usr/share/doc/ebbgate/docs"),
    ("docs/agent.md", "usr/share/doc/ebbgate/docs"),
    ("docs/control.md", "usr/share/doc/ebbgate/docs"),
    ("docs/edge.md", "usr/share/doc/ebbgate/docs"),
    ("docs/guide.md", "usr/share/doc/ebbgate/docs"),
    ("docs/threat-model.md", "usr/share/doc/ebbgate/docs"),
    ("docs/waf.md", "usr/share/doc/ebbgate/docs"),
    ("docs/xdp.md", "usr/share/doc/ebbgate/docs"),
    ("README.md", "usr/share/doc/ebbgate"),
    ("ARCHITECTURE.md", "usr/share/doc/ebbgate"),
    ("CHANGELOG.md", "usr/share/doc/ebbgate"),
    ("LICENSE-APACHE", "usr/share/doc/ebbgate"),
    ("LICENSE-MIT", "usr/share/doc/ebbgate"),
];

/// Builds, gathers, checks the units and packs.
pub(crate) fn pack() -> Result<()> {
    let programs = workspace::build(Profile::Release, &PRODUCTS)?;
    let (root, target) = workspace::roots()?;
    let name = format!("ebbgate-{}-{}", version()?, std::env::consts::ARCH);
    let tree = target.join("dist").join(&name);
    if tree.exists() {
        fs::remove_dir_all(&tree)?;
    }
    for program in PROGRAMS {
        let built = programs.join(program);
        check_size(program, fs::metadata(&built)?.len())?;
        copy(&built, &tree.join("usr/bin"))?;
    }
    for (file, to) in FILES {
        copy(&root.join(file), &tree.join(to))?;
    }
    verify_units(&tree)?;
    let archive = target.join("dist").join(format!("{name}.tar.gz"));
    // The same tree gives the same bytes: names in order, no owner, one date.
    let reproducible = ["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0"];
    run(Command::new("tar")
        .arg("-C")
        .arg(target.join("dist"))
        .args(reproducible)
        .arg("-czf")
        .arg(&archive)
        .arg(&name))?;
    println!("{}", shown(&archive));
    Ok(())
}

/// The agent goes to machines behind slow lines.
fn check_size(program: &str, bytes: u64) -> Result<()> {
    if program == "ebbgate" && bytes > AGENT_BYTES_MAX {
        bail!(
            "{program} has {bytes} bytes, more than {AGENT_BYTES_MAX}: is it stripped (profile release in Cargo.toml)?"
        );
    }
    Ok(())
}

/// The workspace's version.
fn version() -> Result<String> {
    let metadata = workspace::metadata(false)?;
    let packages = metadata.get("packages").and_then(Value::as_array).context("packages")?;
    let version = packages.first().and_then(|package| package.get("version")).and_then(Value::as_str);
    version.map(str::to_owned).context("no version")
}

fn copy(file: &Path, into: &Path) -> Result<()> {
    fs::create_dir_all(into)?;
    let to = into.join(file.file_name().context("a file")?);
    fs::copy(file, &to).with_context(|| format!("copy {}", file.display()))?;
    Ok(())
}

/// `systemd-analyze verify` of the units in the tree, where that program is installed.
fn verify_units(tree: &Path) -> Result<()> {
    if !tools::has("systemd-analyze") {
        eprintln!("dist: systemd-analyze is not installed; units NOT verified");
        return Ok(());
    }
    let units: Vec<PathBuf> = ["control", "edge"]
        .iter()
        .map(|unit| tree.join(format!("usr/lib/systemd/system/ebbgate-{unit}.service")))
        .collect();
    let output = Command::new("systemd-analyze").arg("verify").args(&units).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    // The programs are in the archive, not on this machine.
    let findings: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("ebbgate-") && !line.contains("is not executable"))
        .collect();
    if !findings.is_empty() {
        bail!("systemd-analyze verify:\n{}", findings.join("\n"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shipped_carries_no_symbols_and_a_fat_agent_is_refused() {
        let manifest = include_str!("../../Cargo.toml");
        let (_, release) = manifest.split_once("[profile.release]\n").unwrap();
        let (release, _) = release.split_once("\n[").unwrap();
        assert!(release.lines().any(|line| line == "strip = true"), "{release}");
        check_size("ebbgate", AGENT_BYTES_MAX).unwrap();
        assert!(check_size("ebbgate", AGENT_BYTES_MAX + 1).unwrap_err().to_string().contains("stripped"));
        check_size("ebbgate-edge", AGENT_BYTES_MAX + 1).unwrap();
    }

    #[test]
    fn the_program_that_runs_rules_is_packed_beside_the_edge_and_may_confine_itself_there() {
        assert!(PROGRAMS.contains(&"ebbgate-edge") && PROGRAMS.contains(&"ebbgate-waf"));
        let unit = include_str!("../../dist/systemd/ebbgate-edge.service");
        let lines: Vec<&str> = unit.lines().collect();
        let at = |line: &str| lines.iter().position(|one| *one == line);
        // A later filter adds to those before it: capset is one of @privileged.
        assert!(at("SystemCallFilter=~@privileged").unwrap() < at("SystemCallFilter=capset").unwrap());
        // What crates/waf/src/confinement.rs asks for, and what the socket to the edge is.
        let has = |start: &str, word: &str| {
            lines.iter().any(|line| {
                line.strip_prefix(start).is_some_and(|rest| rest.split(' ').any(|one| one == word))
            })
        };
        assert!(has("SystemCallFilter=", "@system-service") && has("RestrictAddressFamilies=", "AF_UNIX"));
        // Rules are read from the system's folders, and the program is executed from them.
        assert!(at("ProtectSystem=strict").is_some() && !unit.contains("NoExecPaths"));
        assert!(
            !lines.iter().any(|line| line.starts_with("InaccessiblePaths") || line.starts_with("TasksMax"))
        );
    }
}
