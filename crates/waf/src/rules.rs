//! The operator's rules: which files they are in, read directive by directive.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use zentinel_modsec::parser::{Action, DataAction, Directive, OperatorName, Parser, SetVarSpec, SetVarValue};

use crate::error::EngineError;
use crate::exceptions;

/// Rules that a policy may leave out, the published bounds.
pub(crate) const EXCLUDABLE: std::ops::RangeInclusive<u64> = 900_000..=999_999;
/// Most files of rules.
const FILES_MAX: usize = 1_000;
/// Begin the names of directives that are about logs, limits and a server's own modules, and judge nothing.
const JUDGE_NOTHING: [&str; 22] = [
    "secargumentseparator",
    "secaudit",
    "seccollectiontimeout",
    "seccomponentsignature",
    "secconnengine",
    "seccookieformat",
    "secdatadir",
    "secdebuglog",
    "secgeolookupdb",
    "sechttpblkey",
    "secinterceptonerror",
    "secpcrematchlimit",
    "secrequestbody",
    "secresponsebody",
    "secruleperftime",
    "secsensorid",
    "secserversignature",
    "secstatusengine",
    "sectmpdir",
    "sectmpsaveuploadedfiles",
    "secunicodemapfile",
    "secupload",
];

/// The directives of a directory or file, ready to be compiled.
pub(crate) fn read(path: &Path) -> Result<Vec<Directive>, EngineError> {
    let files = files(path)?;
    if files.len() > FILES_MAX {
        return Err(EngineError(format!("{}: more than {FILES_MAX} files of rules", path.display())));
    }
    let (mut first, mut parser) = (Parser::new(), Parser::new());
    for file in &files {
        read_file(&mut first, &mut parser, file)?;
    }
    let mut directives = first.into_directives();
    directives.append(&mut parser.into_directives());
    fill_patterns(&mut directives);
    Ok(directives)
}

/// Reads a file directive by directive, so that an error has its line. `first` takes what runs before all others.
fn read_file(first: &mut Parser, parser: &mut Parser, file: &Path) -> Result<(), EngineError> {
    let text = std::fs::read_to_string(file).map_err(|error| unreadable(file, &error))?;
    let mut skips_chain = false;
    for (line, directive) in directives_of(&text) {
        let wrong = |why: &dyn Display| EngineError(format!("{}:{line}: {why}", file.display()));
        let word = directive.split_whitespace().next().unwrap_or_default().to_ascii_lowercase();
        if word.starts_with("include") {
            return Err(wrong(&"a file of rules includes no other file"));
        }
        if JUDGE_NOTHING.iter().any(|start| word.starts_with(start)) {
            continue;
        }
        // Rules of the log's phase judge nothing and are not run.
        if skips_chain || has_action(&directive, "phase:5") {
            skips_chain = has_action(&directive, "chain");
            continue;
        }
        if let Some(rule) = exceptions::as_rule(&directive).map_err(|why| wrong(&why))? {
            first.parse(&rule).map_err(|error| wrong(&error))?;
            continue;
        }
        let directive = with_backslashes(&directive);
        parser.parse_with_location(&directive, Some(file)).map_err(|error| match &error {
            zentinel_modsec::Error::Parse { message, .. } => wrong(message),
            error => wrong(error),
        })?;
        if let Some(Directive::Unknown(name)) = parser.directives().last() {
            return Err(wrong(&format!("the directive {name} is not known here")));
        }
    }
    Ok(())
}

/// The directive for a parser that makes one backslash of two, as Apache does. In a set of a pattern both are meant:
/// `[\\/]` is a backslash or a slash.
fn with_backslashes(directive: &str) -> String {
    let mut out = String::with_capacity(directive.len());
    let mut in_set = false;
    let mut chars = directive.chars();
    while let Some(char) = chars.next() {
        out.push(char);
        match char {
            '[' => in_set = true,
            ']' => in_set = false,
            '\\' => {
                let escaped = chars.next();
                out.extend(escaped);
                if in_set && escaped == Some('\\') {
                    out.push_str(r"\\");
                }
            }
            _ => {}
        }
    }
    out
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

/// The files of a directory or file of rules, in the order they are read; not those that rules name.
pub fn files(path: &Path) -> Result<Vec<PathBuf>, EngineError> {
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

/// Gives variables in patterns their values of the setup: patterns are compiled once.
fn fill_patterns(directives: &mut [Directive]) {
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
        let pattern = &mut rule.operator.argument;
        if rule.operator.name != OperatorName::Rx {
            continue;
        }
        for (name, value) in &values {
            if pattern.contains("%{") {
                *pattern = pattern.replace(&format!("%{{tx.{name}}}"), &format!("(?:{value})"));
            }
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
