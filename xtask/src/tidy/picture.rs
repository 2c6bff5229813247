//! The picture of who imports whom, drawn from what tidy read; ARCHITECTURE.md holds it between two marks.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::{Context, Result};

use super::imports::Imports;
use super::order;

/// The page that holds the picture.
pub(super) const PAGE: &str = "ARCHITECTURE.md";
const BEGIN: &str = "<!-- imports: written by `cargo xtask tidy --write` -->\n";
const END: &str = "<!-- end of imports -->";

/// Crates of ours and the rooms of dataplane, each with what it imports; what is above imports what is below.
pub(super) fn draw(imports: &Imports) -> String {
    let mut text = String::from("```\n");
    let crates = crates(imports);
    let mut names: Vec<&str> = crates.keys().copied().collect();
    names.sort_by_key(|name| (std::cmp::Reverse(height(&crates, name)), *name));
    for name in names {
        line(&mut text, name, crates.get(name).into_iter().flatten().copied());
    }
    text.push_str("```\n\nThe rooms of `dataplane`:\n\n```\n");
    let arrows = order::arrows(imports);
    let rooms = order::rooms(imports);
    for name in &rooms {
        let below = |room: &&str| arrows.iter().any(|arrow| arrow.from == *name && arrow.to == *room);
        line(&mut text, name, rooms.iter().copied().filter(below));
    }
    text.push_str("```\n");
    text
}

/// Figures for each crate: lines, files, arrows, circles; then dataplane's rooms.
pub(super) fn figures(imports: &Imports, texts: &BTreeMap<String, String>) -> String {
    let mut text = String::from("crate        files   lines  arrows  circles\n");
    let packages: BTreeSet<&str> = imports.files.values().map(String::as_str).collect();
    let mut sum = (0, 0, 0, 0);
    for package in packages {
        let files = imports.files.iter().filter(|(_, owner)| *owner == package);
        let lines =
            files.clone().filter_map(|(file, _)| texts.get(file)).map(|text| own_lines(text)).sum::<usize>();
        let (files, arrows) = (files.count(), imports.within(package).count());
        let circles = imports.knots(Some(package)).iter().map(Vec::len).sum::<usize>();
        let _ = writeln!(text, "{:10} {files:7} {lines:7} {arrows:7} {circles:8}", short(package));
        sum = (sum.0 + files, sum.1 + lines, sum.2 + arrows, sum.3 + circles);
    }
    let _ = writeln!(text, "{:10} {:7} {:7} {:7} {:8}", "all", sum.0, sum.1, sum.2, sum.3);
    let rooms = order::arrows(imports);
    let upward: Vec<usize> = order::upward(&rooms).map(|arrow| arrow.files).collect();
    let _ = write!(
        text,
        "dataplane's rooms: {} arrows, {} of them upward ({} between files)",
        rooms.len(),
        upward.len(),
        upward.iter().sum::<usize>()
    );
    text
}

/// The page with the picture in it.
///
/// # Errors
/// If the page has no marks.
pub(super) fn placed(page: &str, picture: &str) -> Result<String> {
    let (before, rest) = page.split_once(BEGIN).with_context(|| format!("{PAGE} has no line {BEGIN:?}"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("{PAGE} has no {END:?}"))?;
    Ok(format!("{before}{BEGIN}{picture}{END}{after}"))
}

/// Whether the page shows the picture.
pub(super) fn check(texts: &BTreeMap<String, String>, picture: &str) -> Result<Vec<String>> {
    let page = texts.get(PAGE).map(String::as_str).unwrap_or_default();
    let same = placed(page, picture)? == page;
    let stale =
        format!("{PAGE}: the picture of imports is not what the sources say; run `cargo xtask tidy --write`");
    Ok(if same { Vec::new() } else { vec![stale] })
}

fn crates(imports: &Imports) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut crates: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in imports.files.values() {
        crates.entry(short(package)).or_default();
    }
    for (from, to) in imports.arrows.keys() {
        if let (Some(from), Some(to)) = (imports.files.get(from), imports.files.get(to))
            && from != to
        {
            crates.entry(short(from)).or_default().insert(short(to));
        }
    }
    crates
}

/// Steps from a crate down to one that imports none of ours. Cargo allows no circle of crates.
fn height(crates: &BTreeMap<&str, BTreeSet<&str>>, name: &str) -> usize {
    let below = crates.get(name).into_iter().flatten();
    below.map(|name| height(crates, name) + 1).max().unwrap_or(0)
}

fn line<'a>(text: &mut String, name: &str, imported: impl Iterator<Item = &'a str>) {
    let imported: Vec<&str> = imported.collect();
    let arrow = format!("{name:10} -> {}", imported.join(", "));
    let shown = if imported.is_empty() { name } else { &arrow };
    let _ = writeln!(text, "{shown}");
}

fn short(package: &str) -> &str {
    package.strip_prefix("ebbgate-").unwrap_or(package)
}

/// Lines before the tests of a file.
fn own_lines(text: &str) -> usize {
    text.lines().take_while(|line| *line != "#[cfg(test)]").count()
}
