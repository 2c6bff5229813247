//! The operator's rules: which files they are in, and what is changed in them before they run.
//!
//! Two things are changed. A chain has its variables set by its first rule, because the engine performs those of the first alone,
//! and the Core Rule Set writes its scores into the last. And each rule with a score notes that it matched, because the
//! engine's own list has chains that did not match to their end.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::path::{Path, PathBuf};

use zentinel_modsec::parser::{
    Action, DataAction, Directive, FlowAction, MetadataAction, OperatorName, Parser, SetVarSpec, SetVarValue,
};

use crate::error::EngineError;
use crate::pattern;

/// Rules that a policy may leave out, the published bounds.
pub(crate) const EXCLUDABLE: std::ops::RangeInclusive<u64> = 900_000..=999_999;
/// Most files of rules.
const FILES_MAX: usize = 1_000;
/// Part of the names of variables that scores are summed in.
const SCORE: &str = "anomaly_score";
/// Begins the name of the variable that a matched rule sets.
pub(crate) const MATCHED: &str = "ebbgate_matched_";
/// Begins the name of the variable that leaves out a rule.
pub(crate) const EXCLUDED: &str = "ebbgate_excluded_";
/// The variable that says that some rule is left out.
pub(crate) const EXCLUDES: &str = "ebbgate_excludes";
/// Number of the first rule of ours; the Core Rule Set has none below 900,000.
const OWN_IDS: u64 = 10_000_000;

/// The directives of a directory or file, ready to be compiled.
pub(crate) fn read(path: &Path) -> Result<Vec<Directive>, EngineError> {
    let files = files(path)?;
    if files.len() > FILES_MAX {
        return Err(EngineError(format!("{}: more than {FILES_MAX} files of rules", path.display())));
    }
    let mut parser = Parser::new();
    for file in &files {
        read_file(&mut parser, file)?;
    }
    let directives = parser.into_directives();
    let mut directives = part_from_markers(directives)?;
    score_chains_by_their_first(&mut directives);
    translate_patterns(&mut directives);
    note_matches(&mut directives);
    let mut first = parsed(&exclusions(&directives))?;
    first.append(&mut directives);
    // What the rules say is a judgement; the policy decides what follows.
    first.append(&mut parsed("SecRuleEngine DetectionOnly\n")?);
    Ok(first)
}

/// Reads a file directive by directive, so that an error has its line.
fn read_file(parser: &mut Parser, file: &Path) -> Result<(), EngineError> {
    let text = std::fs::read_to_string(file).map_err(|error| unreadable(file, &error))?;
    let mut skips_chain = false;
    for (line, directive) in directives_of(&text) {
        let wrong = |why: &dyn Display| EngineError(format!("{}:{line}: {why}", file.display()));
        let word = directive.split_whitespace().next().unwrap_or_default();
        if word.to_ascii_lowercase().starts_with("include") {
            return Err(wrong(&"a file of rules includes no other file"));
        }
        // Rules of the log's phase judge nothing and are not run.
        if skips_chain || has_action(&directive, "phase:5") {
            skips_chain = has_action(&directive, "chain");
            continue;
        }
        parser.parse_with_location(&directive, Some(file)).map_err(|error| match &error {
            zentinel_modsec::Error::Parse { message, .. } => wrong(message),
            error => wrong(error),
        })?;
    }
    Ok(())
}

/// Whether a directive has this action.
fn has_action(directive: &str, action: &str) -> bool {
    directive.split([',', '"']).any(|part| part.trim() == action)
}

/// The directives of a text, each with the number of its first line. A line goes on behind a backslash at its end.
fn directives_of(text: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut goes_on = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        let (part, more) = line.strip_suffix('\\').map_or((line, false), |part| (part, true));
        match found.last_mut().filter(|_| goes_on) {
            // A line of its own that is a comment is one inside a directive too.
            Some((_, directive)) => directive.push_str(if part.starts_with('#') { "" } else { part }),
            None if part.is_empty() || part.starts_with('#') => continue,
            None => found.push((index + 1, part.to_owned())),
        }
        goes_on = more;
    }
    found
}

fn parsed(text: &str) -> Result<Vec<Directive>, EngineError> {
    let mut parser = Parser::new();
    parser.parse(text).map_err(|error| EngineError(error.to_string()))?;
    Ok(parser.into_directives())
}

/// The files in the order they are read.
fn files(path: &Path) -> Result<Vec<PathBuf>, EngineError> {
    if path.is_dir() {
        let setup = path.join("crs-setup.conf");
        let mut files = Vec::new();
        if setup.is_file() {
            files.push(setup);
        } else {
            let why = "no crs-setup.conf in it; copy crs-setup.conf.example of the rule set there, or name a file that \
                includes the rules";
            return Err(EngineError(format!("{}: {why}", path.display())));
        }
        let rules = path.join("rules");
        files.extend(listed(&if rules.is_dir() { rules } else { path.to_owned() })?);
        files.dedup();
        return Ok(files);
    }
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
    let mut files = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((word, target)) = line.split_once(char::is_whitespace) else {
            return Ok(vec![path.to_owned()]);
        };
        let optional = word.eq_ignore_ascii_case("includeoptional");
        if !optional && !word.eq_ignore_ascii_case("include") {
            return Ok(vec![path.to_owned()]);
        }
        let target = Path::new(target.trim().trim_matches('"'));
        let target = path.parent().unwrap_or(Path::new("/")).join(target);
        if target.file_name().is_some_and(|name| name == "*.conf") {
            files.extend(listed(target.parent().unwrap_or(Path::new("/")))?);
        } else if target.is_file() {
            files.push(target);
        } else if !optional {
            let why = format!("{}:{}: there is no {}", path.display(), index + 1, target.display());
            return Err(EngineError(why));
        }
    }
    Ok(files)
}

/// The files `*.conf` of a directory, by name.
fn listed(dir: &Path) -> Result<Vec<PathBuf>, EngineError> {
    let entries = std::fs::read_dir(dir).map_err(|error| unreadable(dir, &error))?;
    let mut files = Vec::new();
    for entry in entries {
        let file = entry.map_err(|error| unreadable(dir, &error))?.path();
        if file.extension().is_some_and(|extension| extension == "conf")
            && file.file_name() != Some("crs-setup.conf".as_ref())
        {
            files.push(file);
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(EngineError(format!("{}: no rules in it, that is, no file *.conf", dir.display())));
    }
    Ok(files)
}

fn unreadable(path: &Path, error: &std::io::Error) -> EngineError {
    EngineError(format!("{}: {error}", path.display()))
}

/// Whether these actions are those of a rule that finds something and adds to a score.
fn scores(actions: &[Action]) -> bool {
    let adds = |action: &Action| match action {
        Action::Data(DataAction::SetVar(set)) => {
            let increases = match &set.value {
                SetVarValue::Increment(_) => true,
                SetVarValue::Macro(value) => value.starts_with('+'),
                _ => false,
            };
            increases && set.key.to_ascii_lowercase().contains(SCORE)
        }
        _ => false,
    };
    let has_severity = |action: &Action| matches!(action, Action::Metadata(MetadataAction::Severity(_)));
    actions.iter().any(adds) && actions.iter().any(has_severity)
}

/// Has patterns in the engine's syntax. A variable in one gets its value of the setup here: the engine reads the pattern before
/// it fills the variable in, and a rule with a pattern that it cannot read would match what it should not.
fn translate_patterns(directives: &mut [Directive]) {
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    for action in directives.iter().flat_map(actions_of) {
        if let Action::Data(DataAction::SetVar(SetVarSpec {
            key, value: SetVarValue::String(value), ..
        })) = action
        {
            values.entry(key.to_ascii_lowercase()).or_insert_with(|| value.clone());
        }
    }
    for directive in directives {
        let Directive::SecRule(rule) = directive else { continue };
        if rule.operator.name == OperatorName::Rx {
            let mut pattern = rule.operator.argument.clone();
            for (name, value) in &values {
                if pattern.contains("%{") {
                    pattern = pattern.replace(&format!("%{{tx.{name}}}"), &format!("(?:{value})"));
                }
            }
            rule.operator.argument = pattern::translated(&pattern);
        }
    }
}

fn actions_of(directive: &Directive) -> &[Action] {
    match directive {
        Directive::SecRule(rule) => &rule.actions,
        Directive::SecAction(action) => &action.actions,
        _ => &[],
    }
}

/// Puts a rule that does nothing between a marker and a rule right before it that skips to it: the engine would skip all the
/// rest of the phase.
fn part_from_markers(directives: Vec<Directive>) -> Result<Vec<Directive>, EngineError> {
    let mut parted = Vec::with_capacity(directives.len());
    let mut last: BTreeMap<u8, Option<String>> = BTreeMap::new();
    for directive in directives {
        match &directive {
            Directive::SecRule(rule) if rule.id().is_some() => {
                last.insert(rule.phase(), skips_to(&rule.actions));
            }
            Directive::SecMarker(marker) => {
                for (phase, to) in &mut last {
                    if to.take_if(|to| *to == marker.name).is_some() {
                        parted.append(&mut parsed(&format!("SecAction \"phase:{phase},pass,nolog\"\n"))?);
                    }
                }
            }
            _ => {}
        }
        parted.push(directive);
    }
    Ok(parted)
}

fn skips_to(actions: &[Action]) -> Option<String> {
    actions.iter().find_map(|action| match action {
        Action::Flow(FlowAction::SkipAfter(marker)) => Some(marker.clone()),
        _ => None,
    })
}

fn score_chains_by_their_first(directives: &mut [Directive]) {
    let mut first = None;
    for index in 0..directives.len() {
        let Some(Directive::SecRule(rule)) = directives.get_mut(index) else { continue };
        let goes_on = rule.is_chained();
        match first {
            None if goes_on => first = Some(index),
            None => {}
            Some(head) => {
                let is_set = |action: &mut Action| matches!(action, Action::Data(DataAction::SetVar(_)));
                let mut moved: Vec<Action> = rule.actions.extract_if(.., is_set).collect();
                if let Some(Directive::SecRule(rule)) = directives.get_mut(head) {
                    rule.actions.append(&mut moved);
                }
                if !goes_on {
                    first = None;
                }
            }
        }
    }
}

fn note_matches(directives: &mut [Directive]) {
    for directive in directives {
        let Directive::SecRule(rule) = directive else { continue };
        let Some(id) = rule.id().filter(|id| EXCLUDABLE.contains(id)) else { continue };
        if scores(&rule.actions) {
            rule.actions.push(Action::Data(DataAction::SetVar(SetVarSpec {
                collection: "TX".into(),
                key: format!("{MATCHED}{id}"),
                value: SetVarValue::Int(1),
            })));
        }
    }
}

/// Rules that run first and leave out those that the message's policy names.
fn exclusions(directives: &[Directive]) -> String {
    let mut text = format!(
        "SecRule &TX:{EXCLUDES} \"@eq 0\" \"id:{OWN_IDS},phase:1,pass,nolog,skipAfter:EBBGATE-RULES\"\n"
    );
    let ids = directives.iter().filter_map(|directive| match directive {
        Directive::SecRule(rule) => rule.id(),
        _ => None,
    });
    for id in ids.filter(|id| EXCLUDABLE.contains(id)) {
        let own = OWN_IDS + id;
        // Writing to a text does not fail.
        let _ = writeln!(
            text,
            "SecRule TX:{EXCLUDED}{id} \"@eq 1\" \"id:{own},phase:1,pass,nolog,ctl:ruleRemoveById={id}\""
        );
    }
    text + "SecMarker EBBGATE-RULES\n"
}
