//! Reading an action's configuration: typed, with every defect noted at its path and every unread key reported.

use std::collections::BTreeSet;
use std::time::Duration;

use ebbgate_model::{ErrorCode, Scheme, parse_duration};
use serde_json::{Map, Value};

use super::{Notes, Refs};
use crate::code;
use crate::diagnostic::{Diagnostic, nearest};
use crate::expr::{ExprError, Expression, Template, ValueTemplate};
use crate::facts::Phase;
use crate::secret::Redaction;

/// Notes for tests how a key is read.
macro_rules! saw {
    ($config:ident, $key:expr, $how:expr) => {
        #[cfg(test)]
        {
            use super::seen::{How, Seen};
            let path = $config.at($key);
            $config.notes.seen.push(Seen { path, how: $how });
        }
    };
}

/// One map of an action's configuration, its place, and the notes of the whole document.
pub(crate) struct Config<'c> {
    map: Map<String, Value>,
    path: String,
    read: BTreeSet<&'static str>,
    pub(crate) phase: Phase,
    pub(crate) scheme: Option<Scheme>,
    pub(crate) refs: Refs<'c>,
    pub(crate) notes: &'c mut Notes,
}

impl<'c> Config<'c> {
    /// The configuration at `path`; an absent one reads as empty.
    pub(crate) fn new(
        value: &Value,
        path: String,
        phase: Phase,
        scheme: Option<Scheme>,
        refs: Refs<'c>,
        notes: &'c mut Notes,
    ) -> Self {
        let map = value.as_object().cloned().unwrap_or_default();
        Self { map, path, read: BTreeSet::new(), phase, scheme, refs, notes }
    }

    /// The path of a key.
    pub(crate) fn at(&self, key: &str) -> String {
        format!("{}.{key}", self.path)
    }

    /// The path of the map itself.
    pub(crate) fn path(&self) -> String {
        self.path.clone()
    }

    /// The map itself, as written.
    pub(crate) fn whole(&self) -> Value {
        Value::Object(self.map.clone())
    }

    /// Notes a defect.
    pub(crate) fn error(
        &mut self,
        code: ErrorCode,
        path: String,
        message: impl Into<String>,
    ) -> &mut Diagnostic {
        self.notes.errors.push(Diagnostic::new(code, path, message));
        self.notes.errors.last_mut().expect("a problem was pushed the line before")
    }

    /// Notes a doubt.
    pub(crate) fn warn(&mut self, code: ErrorCode, path: String, message: &str, hint: &str) {
        self.notes.warnings.push(Diagnostic::new(code, path, message).hint(hint));
    }

    /// The account's secrets, none of which may be logged.
    pub(crate) fn redaction(&self) -> Redaction {
        match self.refs {
            Refs::Unknown => Redaction::default(),
            Refs::Of(refs) => Redaction::new(refs.secrets.values()),
        }
    }

    /// How many defects were noted so far, in the whole document.
    pub(crate) fn errors(&self) -> usize {
        self.notes.errors.len()
    }

    /// A key's value as written; `null` counts as absent.
    pub(crate) fn raw(&mut self, key: &'static str) -> Option<Value> {
        self.read.insert(key);
        saw!(self, key, How::Raw);
        self.map.get(key).filter(|value| !value.is_null()).cloned()
    }

    /// A key's value, noting its absence.
    pub(crate) fn required(&mut self, key: &'static str) -> Option<Value> {
        let value = self.raw(key);
        if value.is_none() {
            let path = self.at(key);
            self.error(code::VALUE_MISSING, path, format!("`{key}` is required"));
        }
        value
    }

    fn mistyped(&mut self, path: String, wanted: &str, found: &Value) {
        self.error(code::VALUE_TYPE, path, format!("expected {wanted}, found {}", noun(found)));
    }

    /// Text.
    pub(crate) fn text(&mut self, key: &'static str) -> Option<String> {
        let value = self.raw(key)?;
        let path = self.at(key);
        self.text_of(value, path)
    }

    /// Text, noting its absence.
    pub(crate) fn required_text(&mut self, key: &'static str) -> Option<String> {
        let value = self.required(key)?;
        let path = self.at(key);
        self.text_of(value, path)
    }

    /// A value that must be text, not empty.
    pub(crate) fn text_of(&mut self, value: Value, path: String) -> Option<String> {
        match value {
            Value::String(text) if text.is_empty() => {
                self.error(code::VALUE_EMPTY, path, "this may not be empty");
                None
            }
            Value::String(text) => Some(text),
            other => {
                self.mistyped(path, "text", &other);
                None
            }
        }
    }

    /// True or false, with a default.
    pub(crate) fn flag(&mut self, key: &'static str, default: bool) -> bool {
        saw!(self, key, How::Flag(default));
        match self.raw(key) {
            None => default,
            Some(Value::Bool(value)) => value,
            Some(other) => {
                let path = self.at(key);
                self.mistyped(path, "true or false", &other);
                default
            }
        }
    }

    /// A whole number in a range, with a default. Numbers written as text are taken too.
    pub(crate) fn number(
        &mut self,
        key: &'static str,
        default: u64,
        range: std::ops::RangeInclusive<u64>,
    ) -> u64 {
        saw!(self, key, How::Number(*range.start(), *range.end()));
        let Some(value) = self.raw(key) else {
            return default;
        };
        let path = self.at(key);
        let number = value.as_u64().or_else(|| value.as_str().and_then(|text| text.parse().ok()));
        match number {
            Some(number) if range.contains(&number) => number,
            Some(number) => {
                let message = format!("{number} is out of range: {} to {}", range.start(), range.end());
                self.error(code::NUMBER_RANGE, path, message);
                default
            }
            None if value.is_number() => {
                let message = format!("{value} is out of range: {} to {}", range.start(), range.end());
                self.error(code::NUMBER_RANGE, path, message);
                default
            }
            None => {
                self.mistyped(path, "a number", &value);
                default
            }
        }
    }

    /// A length of time in a range of whole seconds, with a default.
    pub(crate) fn duration(
        &mut self,
        key: &'static str,
        default: Duration,
        range: std::ops::RangeInclusive<Duration>,
    ) -> Duration {
        let Some(text) = self.text(key) else { return default };
        let path = self.at(key);
        match parse_duration(&text) {
            Some(time) if range.contains(&time) => time,
            Some(_) => {
                let (first, last) = (range.start().as_secs(), range.end().as_secs());
                let message = format!("`{text}` is out of range: {first}s to {last}s");
                self.error(code::NUMBER_RANGE, path, message);
                default
            }
            None => {
                let message = format!("`{text}` is not a length of time");
                self.error(code::VALUE_BAD, path, message).hint =
                    Some("write it as `60s`, `10m` or `1h30m`".into());
                default
            }
        }
    }

    /// One of a few words.
    pub(crate) fn choice<T: Copy>(&mut self, key: &'static str, default: T, choices: &[(&str, T)]) -> T {
        saw!(self, key, How::Choice(choices.iter().map(|(name, _)| (*name).to_owned()).collect()));
        let value = match self.raw(key) {
            None => return default,
            // `min_version: 1.2` without quotes is a number in YAML.
            Some(Value::Number(number)) => number.to_string(),
            Some(value) => {
                let path = self.at(key);
                let Some(text) = self.text_of(value, path) else {
                    return default;
                };
                text
            }
        };
        if let Some((_, choice)) = choices.iter().find(|(name, _)| *name == value) {
            return *choice;
        }
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        let path = self.at(key);
        let message = format!("`{value}` is not one of {}", names.join(", "));
        let hint = nearest(&value, names).map(|name| format!("did you mean `{name}`?"));
        self.error(code::VALUE_BAD, path, message).hint = hint;
        default
    }

    /// A list, at most `max` long; absent reads as empty.
    pub(crate) fn list(&mut self, key: &'static str, max: usize) -> Vec<(String, Value)> {
        self.list_or(key, max, code::ENTRIES_TOO_MANY)
    }

    /// The same; `too_many`: the number where it is longer.
    pub(crate) fn list_or(
        &mut self,
        key: &'static str,
        max: usize,
        too_many: ErrorCode,
    ) -> Vec<(String, Value)> {
        saw!(self, key, How::List(max));
        let Some(value) = self.raw(key) else {
            return Vec::new();
        };
        let path = self.at(key);
        let Value::Array(items) = value else {
            self.mistyped(path, "a list", &value);
            return Vec::new();
        };
        if items.len() > max {
            self.error(too_many, path, format!("{} entries; at most {max} are allowed", items.len()));
            return Vec::new();
        }
        items.into_iter().enumerate().map(|(index, item)| (format!("{path}[{index}]"), item)).collect()
    }

    /// A list that must be there and not be empty.
    pub(crate) fn required_list(&mut self, key: &'static str, max: usize) -> Vec<(String, Value)> {
        let value = self.required(key);
        if value.is_some_and(|value| value.as_array().is_some_and(Vec::is_empty)) {
            let path = self.at(key);
            self.error(code::VALUE_EMPTY, path, "at least one entry is needed");
        }
        self.list(key, max)
    }

    /// A list of text that must be there and not be empty.
    pub(crate) fn required_texts(&mut self, key: &'static str, max: usize) -> Vec<(String, String)> {
        let items = self.required_list(key, max);
        self.all_text(items)
    }

    /// A list of text.
    pub(crate) fn texts(&mut self, key: &'static str, max: usize) -> Vec<(String, String)> {
        let items = self.list(key, max);
        self.all_text(items)
    }

    fn all_text(&mut self, items: Vec<(String, Value)>) -> Vec<(String, String)> {
        let text = |(path, item): (String, Value)| self.text_of(item, path.clone()).map(|text| (path, text));
        items.into_iter().filter_map(text).collect()
    }

    /// The entries of a map of text, at most `max`.
    pub(crate) fn entries(&mut self, key: &'static str, max: usize) -> Vec<(String, String, Value)> {
        saw!(self, key, How::Map(max));
        let Some(value) = self.raw(key) else {
            return Vec::new();
        };
        let path = self.at(key);
        let Value::Object(map) = value else {
            self.mistyped(path, "a map", &value);
            return Vec::new();
        };
        if map.len() > max {
            self.error(
                code::ENTRIES_TOO_MANY,
                path,
                format!("{} entries; at most {max} are allowed", map.len()),
            );
            return Vec::new();
        }
        map.into_iter().map(|(name, value)| (format!("{path}.{name}"), name, value)).collect()
    }

    /// The map at a key, read by `f`, which also reports its unread keys. A list of maps is merged when the key allows
    /// both forms (surface.md appendix D, `jws.keys`).
    pub(crate) fn child<T>(&mut self, key: &'static str, f: impl FnOnce(&mut Config) -> T) -> Option<T> {
        let value = self.required(key)?;
        let path = self.at(key);
        self.child_of(value, path, f)
    }

    /// A value that must be a map, or a list of maps.
    pub(crate) fn child_of<T>(
        &mut self,
        value: Value,
        path: String,
        f: impl FnOnce(&mut Config) -> T,
    ) -> Option<T> {
        let map = match value {
            Value::Object(map) => map,
            other => {
                self.mistyped(path, "a map", &other);
                return None;
            }
        };
        let mut child = Config {
            map,
            path,
            read: BTreeSet::new(),
            phase: self.phase,
            scheme: self.scheme,
            refs: self.refs,
            notes: self.notes,
        };
        let result = f(&mut child);
        child.finish();
        Some(result)
    }

    /// An expression, of any type.
    pub(crate) fn expression(&mut self, source: &str, path: &str) -> Option<Expression> {
        let compiled = Expression::compile(source, self.phase);
        self.compiled(compiled, path)
    }

    fn compiled(&mut self, compiled: Result<Expression, ExprError>, path: &str) -> Option<Expression> {
        match compiled {
            Ok(mut expression) => {
                self.notes.reads(path, expression.made_names());
                self.notes.secrets_of(path, code::EXPRESSION_BAD, self.refs, &mut expression);
                Some(expression)
            }
            Err(error) => {
                let number = if error.not_bool() { code::EXPRESSION_NOT_BOOL } else { code::EXPRESSION_BAD };
                let hint = error.hint();
                self.error(number, path.to_owned(), error.to_string()).hint = hint;
                None
            }
        }
    }

    /// An expression that must be true or false, and may read these names beside the variables.
    pub(crate) fn condition(&mut self, source: &str, path: &str, given: &[&str]) -> Option<Expression> {
        let compiled = Expression::compile_condition_given(source, self.phase, given);
        self.compiled(compiled, path)
    }

    /// A text with `${...}` in it.
    pub(crate) fn template(&mut self, text: &str, path: &str) -> Option<Template> {
        match Template::compile(text, self.phase) {
            Ok(mut template) => {
                self.notes.reads(path, template.made_names());
                for expression in template.expressions_mut() {
                    self.notes.secrets_of(path, code::INTERPOLATION_BAD, self.refs, expression);
                }
                Some(template)
            }
            Err(error) => self.interpolation_error(path, &error),
        }
    }

    /// A value with `${...}` in its texts.
    pub(crate) fn value_template(&mut self, value: &Value, path: &str) -> Option<ValueTemplate> {
        match ValueTemplate::compile(value, self.phase) {
            Ok(mut template) => {
                self.notes.reads(path, template.made_names());
                for expression in template.expressions_mut() {
                    self.notes.secrets_of(path, code::INTERPOLATION_BAD, self.refs, expression);
                }
                Some(template)
            }
            Err(error) => self.interpolation_error(path, &error),
        }
    }

    fn interpolation_error<T>(&mut self, path: &str, error: &ExprError) -> Option<T> {
        let hint = error.hint();
        self.error(code::INTERPOLATION_BAD, path.to_owned(), error.to_string()).hint = hint;
        None
    }

    /// Notes keys that were not read.
    pub(crate) fn finish(&mut self) {
        let unread: Vec<String> =
            self.map.keys().filter(|key| !self.read.contains(key.as_str())).cloned().collect();
        for key in unread {
            let hint = match nearest(&key, self.read.iter().copied()) {
                Some(name) => format!("did you mean `{name}`?"),
                None if self.read.is_empty() => "this action takes no configuration".to_owned(),
                None => format!("the keys are {}", self.read.iter().copied().collect::<Vec<_>>().join(", ")),
            };
            let path = self.at(&key);
            self.error(code::KEY_UNKNOWN, path, format!("there is no key `{key}` here")).hint = Some(hint);
        }
    }
}

/// "a list", "text": for messages.
fn noun(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}
