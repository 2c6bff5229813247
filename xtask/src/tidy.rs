//! `cargo xtask tidy`: asserts who may import whom and the habits of the files, and prints the picture of imports.
//!
//! Reads `cargo metadata` and the files that git tracks; with `--write` it renews the picture in ARCHITECTURE.md, else it
//! changes nothing. A unit test runs it too.

mod circles;
mod files;
mod graph;
mod imports;
mod named;
mod order;
mod orphans;
mod picture;

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::workspace;
use imports::Imports;

/// What `cargo xtask tidy` takes.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Write the picture of imports into ARCHITECTURE.md
    #[arg(long)]
    write: bool,
}

/// Prints the picture, the figures and every finding; fails if there is a finding.
pub(crate) fn run(args: &Args) -> Result<()> {
    let (metadata, texts) = (workspace::metadata(false)?, sources()?);
    let imports = Imports::read(&metadata, &texts)?;
    let picture = picture::draw(&imports);
    if args.write {
        let page = texts.get(picture::PAGE).context("no ARCHITECTURE.md")?;
        let path = workspace::roots()?.0.join(picture::PAGE);
        std::fs::write(path, picture::placed(page, &picture)?)?;
        return Ok(());
    }
    println!("{picture}\n{}", picture::figures(&imports, &texts));
    let findings = findings(&metadata, &texts, &imports)?;
    for finding in &findings {
        eprintln!("tidy: {finding}");
    }
    if findings.is_empty() {
        return Ok(());
    }
    bail!("tidy: {} findings", findings.len())
}

/// What is wrong.
fn findings(metadata: &Value, texts: &BTreeMap<String, String>, imports: &Imports) -> Result<Vec<String>> {
    let mut findings = graph::check(metadata)?;
    findings.extend(picture::check(texts, &picture::draw(imports))?);
    findings.extend(arrows_that_are_wrong(imports));
    let for_tests: Vec<String> =
        texts.iter().flat_map(|(path, text)| files::test_modules(path, text)).collect();
    findings.extend(named::check(texts));
    findings.extend(orphans::check(texts));
    for (path, text) in texts {
        let is_test = for_tests.iter().any(|test| test == path);
        findings.extend(files::check(path, text, is_test).into_iter().map(|what| format!("{path}:{what}")));
    }
    Ok(findings)
}

/// Arrows that point up in dataplane, and circles of files in any crate.
fn arrows_that_are_wrong(imports: &Imports) -> Vec<String> {
    let circles = imports.knots(None).into_iter().flatten().map(|circle| imports.explain(&circle));
    order::check(imports).into_iter().chain(circles).collect()
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
    use super::*;

    /// What the sources below `folder` say when lines are added to some of them, on a copy in memory.
    fn with(folder: &str, added: &[(&str, &str)]) -> Imports {
        let mut texts = sources().unwrap();
        texts.retain(|path, _| path.starts_with(folder));
        for (path, lines) in added {
            let text = texts.entry((*path).to_owned()).or_default();
            let header =
                text.lines().take_while(|line| line.starts_with("//!")).map(|line| line.len() + 1).sum();
            text.insert_str(header, lines);
        }
        Imports::read(&workspace::metadata(false).unwrap(), &texts).unwrap()
    }

    /// The findings that added lines cause.
    fn caused(folder: &str, added: &[(&str, &str)]) -> Vec<String> {
        let before = arrows_that_are_wrong(&with(folder, &[]));
        let after = arrows_that_are_wrong(&with(folder, added));
        after.into_iter().filter(|finding| !before.contains(finding)).collect()
    }

    #[test]
    fn the_workspace_is_tidy() {
        let (metadata, texts) = (workspace::metadata(false).unwrap(), sources().unwrap());
        let imports = Imports::read(&metadata, &texts).unwrap();
        assert_eq!(findings(&metadata, &texts, &imports).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn an_arrow_that_points_up_is_found() {
        let found = caused("dataplane/", &[("dataplane/src/net.rs", "use crate::shard::run;\n")]);
        let named = found.iter().any(|finding| {
            finding.starts_with("dataplane/src/net.rs:")
                && finding
                    .contains("imports `crate::shard::run` of dataplane/src/shard.rs, but shard is above net")
                && finding.contains("pass what net needs down as an argument")
        });
        assert!(named, "{found:?}");
    }

    #[test]
    fn a_room_without_a_place_is_found() {
        let added =
            [("dataplane/src/lib.rs", "pub mod cellar;\n"), ("dataplane/src/cellar.rs", "//! What.\n")];
        let found = caused("dataplane/", &added);
        let named = found.iter().any(|finding| finding.starts_with("dataplane/src/cellar: has no place"));
        assert!(named, "{found:?}");
    }

    #[test]
    fn a_circle_of_rooms_is_found() {
        // Rooms of one step; `l4` imports `http`.
        let found = caused("dataplane/", &[("dataplane/src/http.rs", "use crate::l4::ConnLog;\n")]);
        let named =
            found.iter().any(|finding| finding.contains("rooms import each other in a circle: http, l4;"));
        assert!(named, "{found:?}");
    }

    #[test]
    fn a_circle_of_files_is_found() {
        // `url.rs` imports `prefix.rs` nowhere, nor the other way round.
        let found = caused(
            "crates/model/",
            &[
                ("crates/model/src/prefix.rs", "use crate::url::EndpointUrl;\n"),
                ("crates/model/src/url.rs", "fn f() { crate::prefix::Prefix::default(); }\n"),
            ],
        );
        let [finding] = &found[..] else { panic!("{found:?}") };
        for part in [
            "crates/model/src/prefix.rs:",
            "imports `crate::url::EndpointUrl` of crates/model/src/url.rs",
            "crates/model/src/url.rs:",
            "imports `crate::prefix::Prefix::default` of crates/model/src/prefix.rs",
            "move what they share to a file that imports none of them",
        ] {
            assert!(finding.contains(part), "{finding:?} lacks {part:?}");
        }
    }

    #[test]
    fn a_picture_that_is_not_the_sources_is_found() {
        let imports = with("crates/", &[("crates/relay/src/lib.rs", "pub use ebbgate_model::Prefix;\n")]);
        let stale = picture::check(&sources().unwrap(), &picture::draw(&imports)).unwrap();
        assert_eq!(stale.len(), 1);
    }
}
