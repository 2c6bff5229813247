//! Descriptions against the code: keys that are read, defaults, limits, codes; the page against `docs/traffic-policy.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::action::seen::How;
use crate::action::{Config, Notes, Refs};
use crate::document::plain;
use crate::facts::Phase;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// All problems of all actions at once, so that one run tells everything that is to be written.
fn for_each(check: impl Fn(&Spec, &About, &mut Vec<String>)) {
    let mut problems = Vec::new();
    for (spec, about) in described() {
        let mut own = Vec::new();
        check(spec, about, &mut own);
        problems.extend(own.into_iter().map(|problem| format!("{}: {problem}", spec.kind)));
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn every_action_has_a_description() {
    let without = action::described().filter(|(_, about)| about.is_none()).map(|(spec, _)| spec.kind);
    let without: Vec<_> = without.collect();
    let how = "write `pub(super) const ABOUT: About` beside the action's `compile`, as in action/deny.rs, and a line \
               for it in `ABOUT` of action.rs; then run this crate's tests with EBBGATE_BLESS=1";
    assert!(without.is_empty(), "without a description: {without:?}; {how}");
}

/// What came of compiling one configuration.
struct Compiled {
    action: Option<String>,
    notes: Notes,
}

impl Compiled {
    fn has(&self, code: ebbgate_model::ErrorCode, path: &str) -> bool {
        self.notes.errors.iter().any(|error| error.code == code && error.path == format!("config.{path}"))
    }
}

fn compile(spec: &Spec, config: &Value, phase: Phase) -> Compiled {
    let scheme = spec.schemes.first().copied().unwrap_or(Scheme::Https);
    let mut notes = Notes::default();
    let mut config = Config::new(config, "config".into(), phase, Some(scheme), Refs::Unknown, &mut notes);
    let action = (spec.compile)(&mut config).map(|action| format!("{action:?}"));
    Compiled { action, notes }
}

/// The configurations that show an action: the one of its example, and the one with every field.
fn configs(spec: &Spec, about: &About) -> Vec<Value> {
    let example = plain(about.example).unwrap_or_default();
    let rules =
        example.as_object().into_iter().flatten().flat_map(|(_, rules)| rules.as_array().unwrap().clone());
    let actions = rules.flat_map(|rule| rule["actions"].as_array().unwrap().clone());
    let own = actions.filter(|action| action["type"] == spec.kind).map(|action| action["config"].clone());
    let all = (!about.all.is_empty()).then(|| plain(about.all).unwrap());
    all.into_iter().chain(own).collect()
}

/// `config.tokens[0].type` -> `tokens[].type`.
fn field_of(path: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for c in path.strip_prefix("config.").unwrap_or(path).chars() {
        match c {
            '[' => inside = true,
            ']' => {
                inside = false;
                out.push_str("[]");
            }
            c if !inside => out.push(c),
            _ => {}
        }
    }
    out
}

/// A field's path in a configuration: the first entry of each list on the way.
fn path_of(field: &Field) -> String {
    field.name.replace("[]", "[0]")
}

/// The value at a path, with what holds it and its key.
fn slot<'v>(config: &'v mut Value, path: &str) -> Option<(&'v mut serde_json::Map<String, Value>, String)> {
    let (parents, key) = path.rsplit_once('.').unwrap_or(("", path));
    let mut here = config;
    for step in parents.split(['.', '[', ']']).filter(|step| !step.is_empty()) {
        here = match step.parse::<usize>() {
            Ok(at) => here.get_mut(at)?,
            Err(_) => here.get_mut(step)?,
        };
    }
    Some((here.as_object_mut()?, key.to_owned()))
}

/// The configuration with another value at a field, or without one; None: what holds the field is not in it.
fn with(config: &Value, field: &Field, value: Option<Value>) -> Option<Value> {
    let mut config = config.clone();
    let (map, key) = slot(&mut config, &path_of(field))?;
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
    Some(config)
}

fn value_of(config: &Value, field: &Field) -> Option<Value> {
    let mut config = config.clone();
    let (map, key) = slot(&mut config, &path_of(field))?;
    map.get(&key).cloned()
}

#[test]
fn fields_are_those_that_are_read() {
    for_each(|spec, about, problems| {
        let mut seen: BTreeMap<String, Vec<How>> = BTreeMap::new();
        for config in configs(spec, about) {
            for phase in spec.phases {
                for read in compile(spec, &config, *phase).notes.seen {
                    seen.entry(field_of(&read.path)).or_default().push(read.how);
                }
            }
        }
        let told: BTreeSet<String> = about.fields.iter().map(|field| field.name.to_owned()).collect();
        assert_eq!(told.len(), about.fields.len(), "{}: a field is described twice", spec.kind);
        for name in seen.keys().filter(|name| !told.contains(*name)) {
            problems.push(format!("`{name}` is read, and its ABOUT has no field of that name"));
        }
        for field in about.fields {
            let Some(hows) = seen.get(field.name) else {
                problems.push(format!(
                    "`{}` is described, and nothing reads it in the example or in `all`",
                    field.name
                ));
                continue;
            };
            for how in hows {
                if let Some(problem) = disagreement(field, how) {
                    problems.push(format!("`{}` {problem}", field.name));
                }
            }
            let is_typed = hows.iter().any(|how| *how != How::Raw);
            if !is_typed
                && matches!(field.kind, Kind::Flag { .. } | Kind::Number { .. } | Kind::Choice { .. })
            {
                problems.push(format!("`{}` is not read as what it is said to be", field.name));
            }
        }
    });
}

/// How a key is read against what is said of it.
fn disagreement(field: &Field, how: &How) -> Option<String> {
    let agrees = match (how, &field.kind) {
        (How::Raw, _) => true,
        (How::Flag(read), Kind::Flag { default }) => read == default,
        (How::Number(first, last), Kind::Number { range, .. }) => {
            (first, last) == (range.start(), range.end())
        }
        (How::Choice(read), Kind::Choice { names, .. }) => {
            *read == names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>()
        }
        (How::List(read), Kind::List { max, .. } | Kind::OneOrMany { max })
        | (How::Map(read), Kind::Map { max, .. }) => read == max,
        _ => false,
    };
    (!agrees).then(|| format!("is read as {how:?}, and described as {:?}", field.kind))
}

/// The configuration of an action that has a field's surroundings, and a phase in which it compiles.
fn base(spec: &Spec, about: &About, field: &Field) -> Option<(Value, Phase)> {
    let ready = configs(spec, about).into_iter().filter(|config| with(config, field, None).is_some());
    let mut places = ready.flat_map(|config| spec.phases.iter().map(move |phase| (config.clone(), *phase)));
    places.find(|(config, phase)| compile(spec, config, *phase).notes.errors.is_empty())
}

#[test]
fn required_fields_are_missed_and_others_are_not() {
    for_each(|spec, about, problems| {
        for field in about.fields {
            let Some((config, phase)) = base(spec, about, field) else {
                problems.push(format!("no example compiles that has what holds `{}`", field.name));
                continue;
            };
            let without = compile(spec, &with(&config, field, None).unwrap(), phase);
            let is_missed = without.has(code::VALUE_MISSING, &path_of(field));
            // One of three lists must be there.
            let is_one_of = spec.kind == "restrict-ips";
            if is_missed != field.is_required && !is_one_of {
                problems.push(format!("`{}` without it: missed {is_missed}", field.name));
            }
        }
    });
}

#[test]
fn a_default_is_what_an_absent_field_means() {
    for_each(|spec, about, problems| {
        for field in about.fields {
            let default = match &field.kind {
                Kind::Text { default: Some(text), .. } | Kind::Choice { default: Some(text), .. } => {
                    json!(text)
                }
                Kind::Flag { default } => json!(default),
                Kind::Number { default: Some(number), .. } => json!(number),
                _ => continue,
            };
            let Some((config, phase)) = base(spec, about, field) else { continue };
            let run = |value| {
                let config = with(&config, field, value).unwrap();
                let compiled = compile(spec, &config, phase);
                (compiled.action, compiled.notes.errors)
            };
            let (absent, written) = (run(None), run(Some(default)));
            // A field may need another one; then it says so, and nothing is compared.
            if absent != written && written.1.is_empty() {
                problems.push(format!("`{}`: {absent:?} is not {written:?}", field.name));
            }
        }
    });
}

#[test]
fn limits_hold_at_below_and_above() {
    for_each(|spec, about, problems| {
        for field in about.fields {
            let Some((config, phase)) = base(spec, about, field) else { continue };
            let path = path_of(field);
            let mut check = |value: Value, refused: Option<ebbgate_model::ErrorCode>, what: &str| {
                let compiled = compile(spec, &with(&config, field, Some(value)).unwrap(), phase);
                let at = |code| compiled.has(code, &path);
                let good = match refused {
                    Some(code) => at(code),
                    None => !at(code::NUMBER_RANGE) && !at(code::ENTRIES_TOO_MANY) && !at(code::VALUE_BAD),
                };
                if !good {
                    problems.push(format!("`{}` {what}: {:?}", field.name, compiled.notes.errors));
                }
            };
            match &field.kind {
                Kind::Number { range, .. } => {
                    let (first, last) = (*range.start(), *range.end());
                    check(json!(first), None, "at its least");
                    check(json!(last), None, "at its most");
                    check(json!(last - 1), None, "below its most");
                    check(json!(last + 1), Some(code::NUMBER_RANGE), "above its most");
                    check(
                        json!(i128::from(first) - 1).as_i64().into(),
                        Some(code::NUMBER_RANGE),
                        "below its least",
                    );
                    check(json!(1.5), Some(code::NUMBER_RANGE), "as a fraction");
                }
                Kind::Text { bytes_max: Some(bytes), .. } => {
                    check(json!("x".repeat(*bytes)), None, "at its longest");
                    check(json!("x".repeat(bytes - 1)), None, "below its longest");
                    check(json!("x".repeat(bytes + 1)), Some(code::VALUE_BAD), "above its longest");
                }
                Kind::List { max, .. } => {
                    let Some(Value::Array(items)) = value_of(&config, field) else { continue };
                    let many =
                        |count: usize| Value::Array(items.iter().cycle().take(count).cloned().collect());
                    check(many(*max), None, "at its longest");
                    check(many(max - 1), None, "below its longest");
                    let too_many = match spec.kind {
                        "set-vars" => code::VARS_TOO_MANY,
                        _ => code::ENTRIES_TOO_MANY,
                    };
                    check(many(max + 1), Some(too_many), "above its longest");
                }
                Kind::Map { max, .. } => {
                    let many = |count: usize| {
                        Value::Object((0..count).map(|n| (format!("x{n}"), json!("v"))).collect())
                    };
                    check(many(*max), None, "at its largest");
                    check(many(max - 1), None, "below its largest");
                    check(many(max + 1), Some(code::ENTRIES_TOO_MANY), "above its largest");
                }
                _ => {}
            }
        }
    });
}

#[test]
fn computed_fields_and_no_others_take_expressions() {
    for_each(|spec, about, problems| {
        for field in about.fields {
            let Some((config, phase)) = base(spec, about, field) else { continue };
            let broken = json!("${1 +}");
            let value = match &field.kind {
                Kind::Text { .. } => broken,
                Kind::List { .. } => json!([broken]),
                Kind::Map { .. } => json!({ "x": broken }),
                _ => continue,
            };
            let compiled = compile(spec, &with(&config, field, Some(value)).unwrap(), phase);
            let errors = &compiled.notes.errors;
            let is_computed = errors.iter().any(|error| {
                error.code == code::INTERPOLATION_BAD
                    && error.path.starts_with(&format!("config.{}", path_of(field)))
            });
            if is_computed != field.is_computed {
                problems.push(format!("`{}`: an expression in it is taken: {is_computed}", field.name));
            }
        }
    });
}

#[test]
fn codes_are_those_of_the_source() {
    let sources = |file: &str| {
        let path = Path::new(ROOT).join(file);
        let mut files = vec![path.clone()];
        if let Ok(folder) = std::fs::read_dir(path.with_extension("")) {
            files.extend(
                folder
                    .map(|entry| entry.unwrap().path())
                    .filter(|path| path.is_file() && !path.ends_with("tests.rs")),
            );
        }
        files.into_iter().map(|path| std::fs::read_to_string(path).unwrap()).collect::<String>()
    };
    let mut told: BTreeMap<&str, BTreeSet<u32>> = BTreeMap::new();
    for (_, about) in described() {
        told.entry(about.file).or_default().extend(about.codes);
    }
    let mut problems = String::new();
    for (file, told) in told {
        let source = sources(file);
        for (code, name, _) in code::MEANINGS.iter().filter(|(code, ..)| code.number() >= 2300) {
            let number = code.number();
            let uses = source.match_indices(&format!("code::{name}")).any(|(at, found)| {
                !source[at + found.len()..].starts_with(|c: char| c == '_' || c.is_ascii_uppercase())
            });
            // A run-time number may stand in the text of a warning too.
            if uses && !told.contains(&number) {
                let _ = writeln!(problems, "{file} uses code::{name}; add {number} to `codes` of its ABOUT");
            }
        }
        for number in told {
            if !code::MEANINGS.iter().any(|(known, ..)| known.number() == number) {
                let _ = writeln!(problems, "{file}: {number} is no code of code.rs");
            }
        }
    }
    assert!(problems.is_empty(), "{problems}");
}

#[test]
fn every_example_is_executed() {
    for_each(|spec, about, problems| match executed(about) {
        Err(defect) => problems.push(defect),
        Ok(text) if !text.contains(&format!("    {}: ", spec.kind)) => {
            problems.push(format!("the action of the example does not run:\n{text}"));
        }
        Ok(_) => {}
    });
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test is told by its environment to write the page")]
fn the_page_is_what_the_code_says() {
    let path = Path::new(ROOT).join("docs/traffic-policy.md");
    if std::env::var_os("EBBGATE_BLESS").is_some() {
        std::fs::write(&path, page()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page(), "docs/traffic-policy.md is not current: run this test with EBBGATE_BLESS=1");
}

#[test]
fn keys_of_a_document_are_those_that_are_read() {
    let cx = CheckContext { scheme: Scheme::Https, binding: Binding::Public, owner: Owner::Agent };
    let rows = DOCUMENT.lines().filter(|line| line.starts_with("| `"));
    let keys: Vec<_> = rows
        .filter_map(|row| row.split('|').nth(1))
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .collect();
    for key in &keys {
        check(&format!("{key}: null"), &cx).unwrap_or_else(|problems| panic!("{key}: {problems:?}"));
    }
    let refused = check("qqqqqqqqqqqq: null", &cx).unwrap_err();
    let hint = refused[0].hint.clone().unwrap();
    let known = hint.strip_prefix("the keys are ").unwrap();
    for key in known.split(", ") {
        assert!(keys.contains(&key), "{key} is not described");
    }
}
