//! Which file of ours imports which: every `use` and every path in code of every library and program of the workspace.
//!
//! An arrow goes from the file that names a thing to the file that defines it; re-exports are followed. A file that
//! re-exports or uses what its child defines has an arrow to the child; a child that names `super::Thing` has one to its
//! parent. Code under `#[cfg(test)]` is left out, and so are test and bench targets: they may import whatever they try.
//! Not seen: methods called on a value whose type is not named, and names that a macro of another file writes out.

mod modules;
mod resolve;

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

use super::circles::{self, Graph};
use modules::{Kind, Modules};

/// A library or program of the workspace.
struct Target {
    package: String,
    /// Its root file, from the root of the workspace.
    root: String,
    is_library: bool,
}

/// One file of ours that imports another: the first place where it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Arrow {
    pub(super) line: usize,
    pub(super) path: String,
}

/// All arrows between files of ours.
#[derive(Debug, Default)]
pub(super) struct Imports {
    /// From and to, as paths from the root of the workspace.
    pub(super) arrows: BTreeMap<(String, String), Arrow>,
    /// Every file that was read, with its package.
    pub(super) files: BTreeMap<String, String>,
}

impl Imports {
    /// Reads the sources of the packages in `metadata`.
    ///
    /// # Errors
    /// If the metadata is not cargo's, or a source is not Rust.
    pub(super) fn read(metadata: &Value, texts: &BTreeMap<String, String>) -> Result<Self> {
        let mut modules = Modules::default();
        let mut imports = Self::default();
        for target in targets(metadata)? {
            let first = modules.all.len();
            let library = target.is_library.then_some(target.package.as_str());
            modules.read(&target.root, library, texts)?;
            for module in modules.all.iter().skip(first) {
                imports.files.entry(module.file.clone()).or_insert_with(|| target.package.clone());
            }
        }
        imports.follow(&modules);
        Ok(imports)
    }

    fn follow(&mut self, modules: &Modules) {
        for (id, module) in modules.all.iter().enumerate() {
            for mention in &module.mentions {
                for target in resolve::resolve(modules, id, &mention.path) {
                    let to = &modules[target.module].file;
                    if *to == module.file || target.whole && mention.kind == Kind::Private {
                        continue;
                    }
                    let arrow = Arrow { line: mention.line, path: mention.path.join("::") };
                    let known = self.arrows.entry((module.file.clone(), to.clone())).or_insert(arrow.clone());
                    if arrow.line < known.line {
                        *known = arrow;
                    }
                }
            }
        }
    }

    /// Arrows between files of one package.
    pub(super) fn within<'a>(
        &'a self,
        package: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a str, &'a Arrow)> {
        let of = move |file: &String| self.files.get(file).is_some_and(|owner| owner == package);
        self.arrows
            .iter()
            .filter(move |((from, to), _)| of(from) && of(to))
            .map(|((from, to), arrow)| (from.as_str(), to.as_str(), arrow))
    }

    /// The files of a package, or of all, that reach one another: each knot with the circles to begin with.
    pub(super) fn knots(&self, package: Option<&str>) -> Vec<Vec<Vec<&str>>> {
        let mut graph = Graph::new();
        for (from, to) in self.arrows.keys() {
            if package.is_none_or(|package| self.files.get(from).is_some_and(|owner| owner == package)) {
                graph.entry(from).or_default().insert(to.as_str());
            }
        }
        circles::knots(&graph).iter().map(|knot| circles::of_knot(&graph, knot)).collect()
    }

    /// Says each arrow of a circle, with its place, and the way out.
    pub(super) fn explain(&self, circle: &[&str]) -> String {
        let next = circle.iter().cycle().skip(1);
        let arrows: Vec<String> = circle
            .iter()
            .zip(next)
            .filter_map(|(from, to)| {
                let arrow = self.arrows.get(&((*from).to_owned(), (*to).to_owned()))?;
                Some(format!("{from}:{}: imports `{}` of {to}", arrow.line, arrow.path))
            })
            .collect();
        format!(
            "{} (a circle of files: move what they share to a file that imports none of them)",
            arrows.join(", and ")
        )
    }
}

fn targets(metadata: &Value) -> Result<Vec<Target>> {
    let text = |value: &Value, key: &str| {
        value
            .get(key)
            .and_then(Value::as_str)
            .map(str::to_owned)
            .with_context(|| format!("no {key} in metadata"))
    };
    let list = |value: &Value, key: &str| {
        value.get(key).and_then(Value::as_array).cloned().with_context(|| format!("no {key} in metadata"))
    };
    let workspace = text(metadata, "workspace_root")?;
    let mut found = Vec::new();
    for package in list(metadata, "packages")? {
        for target in list(&package, "targets")? {
            let kinds = list(&target, "kind")?;
            let is = |kind: &str| kinds.iter().any(|k| k == kind);
            let path = text(&target, "src_path")?;
            let Some(root) = path.strip_prefix(&workspace) else { continue };
            if is("lib") || is("bin") {
                let root = root.trim_start_matches('/').to_owned();
                found.push(Target { package: text(&package, "name")?, root, is_library: is("lib") });
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Arrows of a small crate, as `from:line -> to`.
    fn arrows(files: &[(&str, &str)]) -> Vec<String> {
        let metadata = serde_json::json!({ "workspace_root": "", "packages": [{
            "name": "ebbgate-small",
            "targets": [
                { "kind": ["lib"], "src_path": "src/lib.rs" },
                { "kind": ["bin"], "src_path": "src/main.rs" },
                { "kind": ["test"], "src_path": "tests/all.rs" },
            ],
        }] });
        let texts = files.iter().map(|(path, text)| (format!("src/{path}.rs"), (*text).to_owned())).collect();
        let imports = Imports::read(&metadata, &texts).unwrap();
        let name = |file: &str| file.trim_start_matches("src/").trim_end_matches(".rs").to_owned();
        let shown = |((from, to), arrow): (&(String, String), &Arrow)| {
            format!("{}:{} -> {}", name(from), arrow.line, name(to))
        };
        imports.arrows.iter().map(shown).collect()
    }

    /// What file `a` of a crate imports; `b` defines `B` and has a child `c`, which defines `C` and `c`.
    fn of(text: &str) -> Vec<String> {
        let c = "pub struct C; pub fn c() {}";
        let b = "mod c;\npub use c::{C, c};\npub struct B;\npub mod inner { pub use super::c::C as D; pub fn f() {} }";
        let found = arrows(&[("lib", "mod a;\nmod b;"), ("a", text), ("b", b), ("b/c", c)]);
        found.into_iter().filter_map(|arrow| Some(arrow.strip_prefix("a:")?.to_owned())).collect()
    }

    #[test]
    fn each_form_of_a_use() {
        let none = Vec::<String>::new();
        assert_eq!(of("use crate::b::B;"), ["1 -> b"]);
        assert_eq!(of("use super::b::B;"), ["1 -> b"]);
        assert_eq!(of("\npub(crate) use crate::{\n  b::{B as X},\n};"), ["3 -> b"]);
        assert_eq!(of("use crate::b::*;"), ["1 -> b"]);
        assert_eq!(of("use std::fmt::Debug; use b::B; use ::b::B;"), none);
        // A module is not imported by its name alone, but by what is named through it; or if it is shown to others.
        assert_eq!(of("use crate::b;"), none);
        assert_eq!(of("use crate::b;\nfn f(_: b::B) {}"), ["2 -> b"]);
        assert_eq!(of("use crate::b::{self, inner};\nfn f() { inner::f() }"), ["2 -> b"]);
        assert_eq!(of("pub use crate::b;"), ["1 -> b"]);
        // In a block, for that block alone.
        assert_eq!(of("fn f() {\n use crate::b;\n b::inner::f() }\nfn g() { b::x() }"), ["3 -> b"]);
        assert_eq!(of("mod m { fn f(_: super::super::b::B) {} }"), ["1 -> b"]);
    }

    #[test]
    fn re_exports_are_followed() {
        let none = Vec::<String>::new();
        assert_eq!(of("use crate::b::C;"), ["1 -> b/c"]);
        assert_eq!(of("use crate::b::{B, c};"), ["1 -> b", "1 -> b/c"]);
        assert_eq!(of("use crate::b;\nfn f() { b::c(); }"), ["2 -> b/c"]);
        assert_eq!(of("use crate::b::inner::D;"), ["1 -> b/c"]);
        assert_eq!(of("pub use crate::b::C; use self::C as E; fn f(_: E::X) {}"), ["1 -> b/c"]);
        assert_eq!(of("use crate::b::*;\nfn f() { C::new() }"), ["1 -> b", "2 -> b/c"]);
        // Made by a macro: the deepest module that is there.
        assert_eq!(of("use crate::b::Made;"), ["1 -> b"]);
        // A circle of re-exports ends.
        let circle = [("lib", "mod a;"), ("a", "pub use self::b::X; mod b;"), ("a/b", "pub use super::X;")];
        assert_ne!(arrows(&circle), none);
    }

    #[test]
    fn what_is_no_import_is_no_arrow() {
        for text in [
            "// use crate::b::B;\n/* crate::b::B */ /// [`crate::b::B`]\nfn f() {}",
            "const A: &str = \"crate::b::B\"; const R: &str = r#\"use crate::b::B;\"#;",
            "pub(in crate::b) fn f() {}",
            "#[cfg(test)]\nmod tests { use crate::b::B; }",
            "#[cfg(test)] use crate::b::{B, C};\n#[cfg(all(test, unix))] fn f() { crate::b::f() }",
            "struct S { #[cfg(test)] b: crate::b::B, c: u8 }",
            "#![cfg(test)] use crate::b::B;",
            "fn f<'b>(b: &'b str) { b.c(); x.crate_b() }",
        ] {
            assert_eq!(of(text), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn paths_outside_a_use() {
        assert_eq!(of("fn f() -> crate::b::B { todo!() }"), ["1 -> b"]);
        assert_eq!(of("fn f() { println!(\"{}\", crate::b::inner::f()) }"), ["1 -> b"]);
        assert_eq!(of("macro_rules! m { () => { $crate::b::f() } }"), ["1 -> b"]);
        assert_eq!(of("#[serde(with = \"crate::b\")]\nstruct S;"), ["1 -> b"]);
        assert_eq!(of("#[cfg(not(test))]\nuse crate::b::B;"), ["2 -> b"]);
        assert_eq!(of("#[cfg(test)]\nfn f() {}\nuse crate::b::B;"), ["3 -> b"]);
    }

    #[test]
    fn parents_children_programs_and_tests() {
        let files = [
            ("lib", "pub mod a;\npub struct Root;"),
            ("main", "mod own;\nfn main() { ebbgate_small::a::run(own::X) }"),
            ("own", "pub struct X;"),
            ("a", "mod b;\nmod c;\npub use b::B;\npub fn run() { c::go() }"),
            ("a/b", "pub struct B;"),
            ("a/c", "use super::B;\npub fn go() { crate::Root; }"),
            ("all", "use ebbgate_small::a::B;"),
        ];
        assert_eq!(
            arrows(&files),
            ["a:3 -> a/b", "a:4 -> a/c", "a/c:1 -> a/b", "a/c:2 -> lib", "main:2 -> a", "main:2 -> own"]
        );
    }
}
