//! `cargo xtask tidy`: asserts the picture that ARCHITECTURE.md draws (who may import whom) and the habits of the files.
//!
//! Reads `cargo metadata` and the files that git tracks; changes nothing. A unit test runs it too.

mod files;
mod graph;
mod named;

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace;

/// Prints every finding and fails if there is one.
pub(crate) fn run() -> Result<()> {
    let findings = findings()?;
    for finding in &findings {
        eprintln!("tidy: {finding}");
    }
    if findings.is_empty() {
        return Ok(());
    }
    bail!("tidy: {} findings", findings.len())
}

fn findings() -> Result<Vec<String>> {
    let mut findings = graph::check(&workspace::metadata(false)?)?;
    let texts = sources()?;
    let for_tests: Vec<String> =
        texts.iter().flat_map(|(path, text)| files::test_modules(path, text)).collect();
    findings.extend(named::check(&texts));
    for (path, text) in &texts {
        let is_test = for_tests.iter().any(|test| test == path);
        findings.extend(files::check(path, text, is_test).into_iter().map(|what| format!("{path}:{what}")));
    }
    Ok(findings)
}

/// The text files that git tracks or would track: path from the root, and content. Binary files (corpora, pictures) and
/// files deleted but not yet committed are left out.
pub(crate) fn sources() -> Result<BTreeMap<String, String>> {
    let (root, _) = workspace::roots()?;
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(&root)
        .output()
        .context("run git")?;
    let names = String::from_utf8(output.stdout)?;
    Ok(names
        .lines()
        .filter_map(|path| Some((path.to_owned(), std::fs::read_to_string(root.join(path)).ok()?)))
        .collect())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_workspace_is_tidy() {
        assert_eq!(super::findings().unwrap(), Vec::<String>::new());
    }
}
