//! Every program that a test or a verb executes by name, with what brings it, in one table.
//!
//! `cargo xtask test` installs the table's packages and runs the tests with a search path of the table's programs alone
//! ([`search_path`]), so a test that executes anything else fails on every machine. A unit test compares the table with
//! the sources. Programs below `target/tools` are executed by path and stand in `test.rs`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::tools;

/// What brings a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// A Debian package, or several with blanks between.
    Debian(&'static str),
    /// The Rust toolchain.
    Rust,
}

/// A program and where it comes from.
#[derive(Debug)]
pub(crate) struct Program {
    /// The name by which it is executed.
    pub name: &'static str,
    /// What brings it.
    pub source: Source,
    /// Whether tests execute it; the others are for verbs only.
    pub tests: bool,
}

const fn debian(name: &'static str, package: &'static str, tests: bool) -> Program {
    Program { name, source: Source::Debian(package), tests }
}

const fn rust(name: &'static str) -> Program {
    Program { name, source: Source::Rust, tests: true }
}

/// The table. A test compares it with what the sources execute.
pub(crate) const PROGRAMS: &[Program] = &[
    rust("cargo"),
    rust("rustc"),
    // Used where it is there.
    rust("cargo-nextest"),
    // Cargo links with these when a test builds a program.
    debian("cc", "gcc", true),
    debian("as", "binutils", true),
    debian("ld", "binutils", true),
    debian("ar", "binutils", true),
    debian("git", "git", true),
    debian("curl", "curl", true),
    debian("ip", "iproute2", true),
    debian("nft", "nftables", true),
    debian("openssl", "openssl", true),
    debian("psql", "postgresql-client", true),
    debian("etcd", "etcd-server", true),
    debian("etcdctl", "etcd-client", true),
    debian("python3", "python3", true),
    debian("node", "nodejs", true),
    debian("chromium", "chromium", true),
    debian("pebble", "pebble", true),
    debian("named", "bind9", true),
    debian("nsupdate", "bind9-dnsutils", true),
    debian("dig", "bind9-dnsutils", true),
    debian("syslog-ng", "syslog-ng-core", true),
    debian("haproxy", "haproxy", true),
    debian("bash", "bash", true),
    debian("sh", "dash", true),
    debian("kill", "procps", true),
    debian("mount", "mount", true),
    debian("umount", "mount", true),
    debian("nsenter", "util-linux", true),
    debian("prlimit", "util-linux", true),
    debian("setpriv", "util-linux", true),
    debian("unshare", "util-linux", true),
    debian("cat", "coreutils", true),
    debian("cp", "coreutils", true),
    debian("date", "coreutils", true),
    debian("id", "coreutils", true),
    debian("mkdir", "coreutils", true),
    debian("sleep", "coreutils", true),
    debian("tr", "coreutils", true),
    debian("sed", "sed", true),
    debian("true", "coreutils", true),
    debian("sha256sum", "coreutils", true),
    // Verbs alone.
    debian("timeout", "coreutils", false),
    debian("taskset", "util-linux", false),
    debian("tar", "tar", false),
    debian("npm", "npm", false),
    debian("apt-get", "apt", false),
    debian("apt-cache", "apt", false),
    debian("dpkg-deb", "dpkg", false),
    debian("pg_config", "libpq-dev", false),
    debian("caddy", "caddy", false),
    debian("nginx", "nginx libnginx-mod-stream", false),
    debian("ssh-keygen", "openssh-client", false),
    debian("sshd", "openssh-server", false),
    debian("wrk", "wrk", false),
    debian("systemctl", "systemd", false),
    debian("systemd-analyze", "systemd", false),
    debian("llvm-objcopy", "llvm", false),
    debian("bpf-linker", "bpf-linker", false),
    debian("rustup", "rustup", false),
    // Opens a browser for `ebbgate login`.
    debian("xdg-open", "xdg-utils", false),
];

/// Files that tests read, below `/usr`, and the Debian packages that bring them.
const FILES: &[(&str, &str)] = &[
    ("share/modsecurity-crs/owasp-crs.load", "modsecurity-crs"),
    ("lib/x86_64-linux-gnu/libmodsecurity.so.3", "libmodsecurity3"),
];

/// Debian packages of the programs that tests execute, and of the files they read, that this machine lacks.
pub(crate) fn missing_packages() -> Vec<&'static str> {
    let lacks = |file: &str| !Path::new("/usr").join(file).exists();
    let files = FILES.iter().filter(|(file, _)| lacks(file)).map(|(_, package)| *package);
    let mut packages: Vec<&str> = PROGRAMS
        .iter()
        .filter(|program| program.tests && tools::find(program.name).is_none())
        .flat_map(|program| match program.source {
            Source::Debian(package) => package.split(' ').collect(),
            Source::Rust => Vec::new(),
        })
        .chain(files)
        .collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

/// Makes `dir` a folder of links to the programs that tests execute, and to nothing else. What is missing is left out:
/// the test that needs it skips or fails, by name.
pub(crate) fn search_path(dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display()))?;
    }
    fs::create_dir_all(dir)?;
    for program in PROGRAMS.iter().filter(|program| program.tests) {
        if let Some(file) = tools::find(program.name) {
            symlink(&file, dir.join(program.name))?;
        }
    }
    Ok(())
}

/// Makes sure of one program of the table, installing its package where it may.
pub(crate) fn installed(name: &str) -> Result<PathBuf> {
    if let Some(file) = tools::find(name) {
        return Ok(file);
    }
    let program = PROGRAMS.iter().find(|program| program.name == name);
    let program = program.with_context(|| format!("{name} is not in the table of programs"))?;
    let Source::Debian(package) = program.source else {
        bail!("{name} comes with the Rust toolchain: install it with rustup");
    };
    tools::apt_install(&package.split(' ').collect::<Vec<_>>())?;
    tools::find(name).with_context(|| format!("Debian's package {package} brought no {name}"))
}

/// Makes sure of PostgreSQL's server, which Debian keeps off the search path.
pub(crate) fn postgresql() -> Result<()> {
    if Path::new("/usr/lib/postgresql").exists() || tools::has("pg_config") {
        return Ok(());
    }
    tools::apt_install(&["postgresql", "postgresql-client"])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::tidy::sources;

    /// The literal after `marker` in each place where it stands, as in `Command::new("ip")`.
    fn literals<'a>(text: &'a str, marker: &'a str) -> impl Iterator<Item = &'a str> {
        text.split(marker).skip(1).filter_map(|rest| rest.split('"').next())
    }

    /// Whether it is a source file, and not this one.
    fn is_other_source(path: &str) -> bool {
        Path::new(path).extension().is_some_and(|ending| ending == "rs") && path != "xtask/src/programs.rs"
    }

    /// Programs that the sources execute by a literal name: directly, or in a network namespace (`at`, `exec`).
    fn executed() -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for (path, text) in sources().unwrap() {
            if !is_other_source(&path) {
                continue;
            }
            names.extend(literals(&text, "Command::new(\"").map(str::to_owned));
            for line in text.lines().filter(|line| line.contains("hosts.at(") || line.contains("\"exec\",")) {
                let quoted = line.split('"').skip(1).step_by(2);
                let program = quoted.filter(|word| *word != "exec" && *word != "netns");
                names.extend(program.take(1).map(str::to_owned));
            }
        }
        names
    }

    #[test]
    fn every_program_that_the_sources_execute_is_in_the_table() {
        let known: BTreeSet<&str> = PROGRAMS.iter().map(|program| program.name).collect();
        assert_eq!(known.len(), PROGRAMS.len(), "a program stands twice in the table");
        let unknown: Vec<String> =
            executed().into_iter().filter(|name| !known.contains(name.as_str())).collect();
        assert!(unknown.is_empty(), "not in the table of xtask/src/programs.rs: {unknown:?}");
    }

    #[test]
    fn the_table_names_nothing_that_no_source_mentions() {
        let texts: Vec<String> = sources()
            .unwrap()
            .into_iter()
            .filter(|(path, _)| is_other_source(path))
            .map(|(_, text)| text)
            .collect();
        // Cargo's linker, assembler and archiver are named by no source of ours.
        let by_cargo = ["cc", "as", "ld", "ar"];
        for program in PROGRAMS.iter().filter(|program| !by_cargo.contains(&program.name)) {
            let word = |text: &String| {
                text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_')
                    .any(|word| word == program.name)
            };
            assert!(texts.iter().any(word), "{} is executed nowhere", program.name);
        }
    }

    #[test]
    fn the_search_path_holds_the_programs_of_tests_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("path");
        for _ in 0..2 {
            search_path(&path).unwrap();
            let found: BTreeSet<String> = fs::read_dir(&path)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            assert!(found.contains("cargo") && found.contains("sh"), "{found:?}");
            assert!(!found.contains("apt-get") && !found.contains("ls"), "{found:?}");
        }
    }
}
