//! What is written down beside the committed object: which sources and tools it came from, how large it is, and what the
//! kernel's verifier made of it. A change of size or cost is a change of this file.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::build;

/// The stamp.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    /// SHA-256 of sources, flags and locked dependencies.
    pub(super) sources: String,
    /// First line of the compiler's version.
    pub(super) rustc: String,
    /// The linker's version.
    pub(super) linker: String,
    /// SHA-256 of the object.
    pub(super) sha256: String,
    /// Its size.
    pub(super) bytes: usize,
    /// What a kernel said; none if it was never asked.
    pub(super) verified: Option<Verified>,
}

/// What the kernel's verifier made of the object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Verified {
    /// The kernel's release; others count differently.
    pub(super) kernel: String,
    /// Instructions that the verifier walked; a million is its limit.
    pub(super) instructions: u32,
    /// Bytes of the program as the kernel keeps it.
    pub(super) translated_bytes: u32,
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kernel, instructions, translated_bytes } = self;
        write!(f, "kernel {kernel} walks {instructions} instructions and keeps {translated_bytes} bytes")
    }
}

impl Stamp {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is no stamp", path.display()))
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(path, text).with_context(|| format!("write {}", path.display()))
    }

    /// For people, with what it was before.
    pub(super) fn told(&self, before: Option<&Self>) -> String {
        let cost =
            |stamp: &Self| stamp.verified.as_ref().map_or("not verified".to_owned(), Verified::to_string);
        let was = before.map_or(String::new(), |b| format!(" (before: {} bytes; {})", b.bytes, cost(b)));
        format!("{} bytes; {}{was}", self.bytes, cost(self))
    }
}

/// SHA-256 of everything of ours that decides what the object is: the crate, the flags, its locked dependencies.
pub(super) fn sources(root: &Path) -> Result<String> {
    let mut text = Vec::new();
    let listed = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
            "--",
            "ebpf/Cargo.toml",
            "ebpf/src",
        ])
        .current_dir(root)
        .output()
        .context("run git")?;
    let listed = String::from_utf8(listed.stdout)?;
    let files: BTreeSet<&str> = listed.split('\0').filter(|path| !path.is_empty()).collect();
    if files.is_empty() {
        bail!("git lists no sources of the XDP program");
    }
    for file in files {
        let content = match fs::read(root.join(file)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            read => read.with_context(|| format!("read {file}"))?,
        };
        text.extend(format!("{file} {}\n", content.len()).into_bytes());
        text.extend(content);
    }
    text.extend(build::FLAGS.join(" ").into_bytes());
    text.extend(build::PROFILE.iter().flat_map(|(name, value)| format!("\n{name}={value}").into_bytes()));
    let lock = fs::read_to_string(root.join("Cargo.lock")).context("read Cargo.lock")?;
    for package in locked(&lock, "ebbgate-ebpf") {
        text.extend(format!("\n{package}").into_bytes());
    }
    sha256(&text)
}

/// `name version checksum` of everything below a package in a lock file, without the package itself.
fn locked(lock: &str, package: &str) -> BTreeSet<String> {
    let field = |block: &str, name: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
        line.unwrap_or_default().trim_matches('"').to_owned()
    };
    let blocks: Vec<&str> = lock.split("[[package]]\n").skip(1).collect();
    let mut found = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut left = vec![package.to_owned()];
    while let Some(name) = left.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        // `name`, or `name version` where there are several.
        let (name, version) = name.split_once(' ').unwrap_or((&name, ""));
        let is_it = |block: &&&str| {
            field(block, "name") == name && (version.is_empty() || field(block, "version") == version)
        };
        for block in blocks.iter().filter(is_it) {
            if name != package {
                found.insert(format!("{name} {} {}", field(block, "version"), field(block, "checksum")));
            }
            let dependencies = block.lines().filter_map(|line| line.strip_prefix(" \"")?.strip_suffix("\","));
            left.extend(dependencies.map(str::to_owned));
        }
    }
    found
}

/// SHA-256 in hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> Result<String> {
    let mut program = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("run sha256sum")?;
    program.stdin.take().context("a piped stdin")?.write_all(bytes)?;
    let output = program.wait_with_output()?;
    let text = String::from_utf8(output.stdout)?;
    match text.split_whitespace().next() {
        Some(sum) if output.status.success() => Ok(sum.to_owned()),
        _ => bail!("sha256sum failed ({})", output.status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_below_a_package_counts() {
        let lock = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1\"\ndependencies = [\n \"b 2\",\n]\n\n\
                    [[package]]\nname = \"b\"\nversion = \"1\"\nchecksum = \"x\"\n\n\
                    [[package]]\nname = \"b\"\nversion = \"2\"\nchecksum = \"y\"\ndependencies = [\n \"c\",\n]\n\n\
                    [[package]]\nname = \"c\"\nversion = \"3\"\nchecksum = \"z\"\n";
        let found: Vec<_> = locked(lock, "a").into_iter().collect();
        assert_eq!(found, ["b 2 y", "c 3 z"]);
    }

    #[test]
    fn sha256_is_the_known_one() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sha256(b"").unwrap(), empty);
    }
}
