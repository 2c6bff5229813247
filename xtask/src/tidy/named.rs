//! Tests that pages name: each `path.rs::name` in a page is a function in that file, so a claim cannot outlive its test.

use std::collections::BTreeMap;
use std::path::Path;

/// Every reference in a Markdown page whose file or function is not there, with its line.
pub(super) fn check(texts: &BTreeMap<String, String>) -> Vec<String> {
    let is_page = |path: &str| Path::new(path).extension().is_some_and(|ending| ending == "md");
    let pages = texts.iter().filter(|(path, _)| is_page(path));
    pages.flat_map(|(page, text)| missing(page, text, texts)).collect()
}

fn missing(page: &str, text: &str, texts: &BTreeMap<String, String>) -> Vec<String> {
    let mut findings = Vec::new();
    for (line, words) in (1..).zip(text.lines()) {
        // Inline code stands between every second pair of backquotes.
        for code in words.split('`').skip(1).step_by(2) {
            let Some((path, name)) = code.split_once(".rs::") else { continue };
            let path = format!("{path}.rs");
            let there = texts.get(&path).is_some_and(|source| source.contains(&format!("fn {name}(")));
            if !there {
                findings.push(format!("{page}:{line}: {path} has no function {name}"));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_is_not_there_is_found() {
        let texts = [
            ("tests/it/pool.rs", "#[test]\nfn a_member_dies() {}\n"),
            (
                "docs/faults.md",
                "| x | `tests/it/pool.rs::a_member_dies` |\n`tests/it/pool.rs::gone`, `no/file.rs::x`",
            ),
        ];
        let texts = texts.map(|(path, text)| (path.to_owned(), text.to_owned())).into();
        assert_eq!(
            check(&texts),
            [
                "docs/faults.md:2: tests/it/pool.rs has no function gone",
                "docs/faults.md:2: no/file.rs has no function x"
            ]
        );
    }
}
