//! Files that no `mod` names: the compiler never sees them, and their tests never run.

use std::collections::BTreeMap;

/// Source files beside which stands a root or a parent module, none of which declares them.
pub(super) fn check(texts: &BTreeMap<String, String>) -> Vec<String> {
    texts
        .keys()
        .filter(|path| is_orphan(path, texts))
        .map(|path| format!("{path}: no `mod` names it"))
        .collect()
}

fn is_orphan(path: &str, texts: &BTreeMap<String, String>) -> bool {
    let Some((dir, name)) = path.strip_suffix(".rs").and_then(|path| path.rsplit_once('/')) else {
        return false;
    };
    if matches!(name, "main" | "lib") {
        return false;
    }
    let parents = [format!("{dir}.rs"), format!("{dir}/main.rs"), format!("{dir}/lib.rs")];
    let mut parents = parents.iter().filter_map(|parent| texts.get(parent)).peekable();
    // Without a parent the file is a target of its own: a program, a test, a bench.
    parents.peek().is_some() && !parents.any(|parent| declares(parent, name))
}

fn declares(parent: &str, name: &str) -> bool {
    let declared = |line: &str| {
        let line = line.trim_start();
        let line =
            line.strip_prefix("pub ").or_else(|| line.split_once(") ").map(|(_, rest)| rest)).unwrap_or(line);
        line.strip_prefix("mod ").is_some_and(|rest| rest.trim_end_matches([';', ' ']) == name)
    };
    parent.lines().any(declared)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_its_line_is_found_and_targets_are_not() {
        let files = [
            ("a/src/lib.rs", "mod one;\npub(crate) mod two;\npub mod three;\n// mod five;\n"),
            ("a/src/main.rs", "mod four;\n"),
            ("a/src/one.rs", "#[cfg(test)]\nmod tests;\n"),
            ("a/src/one/tests.rs", ""),
            ("a/src/one/lost.rs", ""),
            ("a/src/two.rs", ""),
            ("a/src/three.rs", ""),
            ("a/src/four.rs", ""),
            ("a/src/five.rs", ""),
            ("a/src/bin/program.rs", ""),
            ("a/tests/target.rs", ""),
            ("a/build.rs", ""),
            ("README.md", ""),
        ];
        let texts = files.map(|(path, text)| (path.to_owned(), text.to_owned())).into();
        assert_eq!(
            check(&texts),
            ["a/src/five.rs: no `mod` names it", "a/src/one/lost.rs: no `mod` names it"]
        );
    }
}
