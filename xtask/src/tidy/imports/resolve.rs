//! From a path to the files that define what it names, through re-exports.
//!
//! `crate::a::Item` leads to the file of the item, not to the file of `a` that re-exports it. A name that is not found (a
//! macro made it) belongs to the deepest module that was. Other people's crates lead nowhere.

use super::modules::{Id, Modules};

/// Re-exports that are followed from one path; more is a circle of re-exports.
const STEPS_MAX: usize = 24;

/// Where a path leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) module: Id,
    /// Whether it names the module itself and not something in it.
    pub(super) whole: bool,
}

/// The modules that define what `path` names when it stands in module `from`.
pub(super) fn resolve(modules: &Modules, from: Id, path: &[String]) -> Vec<Target> {
    let mut found = Vec::new();
    begin(modules, from, path, STEPS_MAX, &mut found);
    found
}

fn begin(modules: &Modules, from: Id, path: &[String], steps: usize, found: &mut Vec<Target>) {
    let Some((first, rest)) = path.split_first() else { return };
    match first.as_str() {
        "crate" => inside(modules, root(modules, from), rest, steps, found),
        "self" => inside(modules, from, rest, steps, found),
        "super" => {
            let mut module = modules[from].parent.unwrap_or(from);
            let mut rest = rest;
            while let Some(after) = rest.strip_prefix(&["super".to_owned()]) {
                module = modules[module].parent.unwrap_or(module);
                rest = after;
            }
            inside(modules, module, rest, steps, found);
        }
        name => {
            if named(modules, from, path, steps, found) {
                return;
            }
            if let Some(library) = modules.libraries.get(name) {
                inside(modules, *library, rest, steps, found);
            }
        }
    }
}

/// A path below a module that is known.
fn inside(modules: &Modules, module: Id, path: &[String], steps: usize, found: &mut Vec<Target>) {
    if path.is_empty() {
        add(found, Target { module, whole: true });
    } else if !named(modules, module, path, steps, found) {
        add(found, Target { module, whole: false });
    }
}

/// A path whose first name is looked for in a module. False if the module has no such name.
fn named(modules: &Modules, id: Id, path: &[String], steps: usize, found: &mut Vec<Target>) -> bool {
    let Some((name, rest)) = path.split_first() else { return false };
    let Some(steps) = steps.checked_sub(1) else { return false };
    let module = &modules[id];
    let mut known = false;
    if let Some(child) = module.children.get(name) {
        inside(modules, *child, rest, steps, found);
        known = true;
        if !rest.is_empty() {
            return true;
        }
    }
    if module.defined.contains(name) {
        add(found, Target { module: id, whole: false });
        known = true;
    }
    for import in module.imports.iter().filter(|import| import.name.as_ref() == Some(name)) {
        // `use name;` of a crate from outside, or of a child that was found above.
        if import.path == [name.as_str()] {
            continue;
        }
        let path: Vec<String> = import.path.iter().chain(rest).cloned().collect();
        begin(modules, id, &path, steps, found);
        known = true;
    }
    if known {
        return true;
    }
    for glob in module.imports.iter().filter(|import| import.name.is_none()) {
        let mut targets = Vec::new();
        begin(modules, id, &glob.path, steps, &mut targets);
        for target in targets.iter().filter(|target| target.whole && target.module != id) {
            known |= named(modules, target.module, path, steps, found);
        }
    }
    known
}

fn root(modules: &Modules, mut id: Id) -> Id {
    while let Some(parent) = modules[id].parent {
        id = parent;
    }
    id
}

fn add(found: &mut Vec<Target>, target: Target) {
    if !found.contains(&target) {
        found.push(target);
    }
}
