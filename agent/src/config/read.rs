//! Strict reading of a located tree: typed values, unknown keys with a guess at what was meant, and every problem
//! with its place. Collects all problems of a file rather than stopping at the first.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ebbgate_model::parse_duration;
use ebbgate_policy::text::nearest;

use super::tree::{Entry, Node, Place, Value};

/// One thing wrong with, or worth saying about, an agent file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// File, line and column; none for what came from flags or the environment.
    pub place: Option<Place>,
    /// The key, as a path: `endpoints[0].upstream.url`.
    pub field: String,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

/// What reading has found so far.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) errors: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
}

impl Findings {
    pub(super) fn error(&mut self, place: &Place, field: &str, message: impl Into<String>) {
        self.errors.push(Problem {
            place: Some(place.clone()),
            field: field.to_owned(),
            message: message.into(),
        });
    }

    pub(super) fn warn(&mut self, place: &Place, field: &str, message: impl Into<String>) {
        self.warnings.push(Problem {
            place: Some(place.clone()),
            field: field.to_owned(),
            message: message.into(),
        });
    }
}

/// A present key: its path in the file and its value.
pub(super) struct Field {
    pub(super) path: String,
    pub(super) node: Node,
}

impl Field {
    /// Reports a defect of this value.
    pub(super) fn refuse(&self, found: &mut Findings, message: impl Into<String>) {
        found.error(&self.node.place, &self.path, message);
    }

    fn wrong_kind(&self, found: &mut Findings, expected: &str) {
        self.refuse(found, format!("expected {expected}, found {}", self.node.kind()));
    }

    /// Text; whole numbers count as their digits, since YAML guesses types.
    pub(super) fn text(&self, found: &mut Findings) -> Option<String> {
        match &self.node.value {
            Value::Text(text) => Some(text.clone()),
            Value::Int(number) => Some(number.to_string()),
            _ => {
                self.wrong_kind(found, "text");
                None
            }
        }
    }

    /// Text of at most `bytes_max` bytes.
    pub(super) fn text_within(&self, found: &mut Findings, bytes_max: usize) -> Option<String> {
        let text = self.text(found)?;
        if text.len() > bytes_max {
            self.refuse(found, format!("at most {bytes_max} bytes are allowed, found {}", text.len()));
            return None;
        }
        Some(text)
    }

    /// One of the listed words.
    pub(super) fn word<T: Copy>(&self, found: &mut Findings, words: &[(&str, T)]) -> Option<T> {
        let text = match &self.node.value {
            Value::Bool(v) => v.to_string(),
            _ => self.text(found)?,
        };
        let value = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if value.is_none() {
            let list = words.iter().map(|(word, _)| format!("`{word}`")).collect::<Vec<_>>().join(", ");
            self.refuse(found, format!("`{text}` is not one of {list}"));
        }
        value
    }

    pub(super) fn flag(&self, found: &mut Findings) -> Option<bool> {
        if let Value::Bool(v) = self.node.value {
            return Some(v);
        }
        self.wrong_kind(found, "true or false");
        None
    }

    /// A duration as `10s`, `1m30s` or `500ms`; must be positive.
    pub(super) fn duration(&self, found: &mut Findings) -> Option<Duration> {
        let text = self.text(found)?;
        let duration = parse_duration(&text).filter(|d| !d.is_zero());
        if duration.is_none() {
            self.refuse(
                found,
                format!("`{text}` is not a duration; write it with units, as in `10s` or `1m30s`"),
            );
        }
        duration
    }

    pub(super) fn list(self, found: &mut Findings) -> Option<Vec<Self>> {
        let Self { path, node } = self;
        let Value::List(items) = node.value else {
            Self { path, node }.wrong_kind(found, "a list");
            return None;
        };
        let fields =
            items.into_iter().enumerate().map(|(i, node)| Self { path: format!("{path}[{i}]"), node });
        Some(fields.collect())
    }

    pub(super) fn texts(self, found: &mut Findings) -> Option<Vec<String>> {
        self.list(found)?.iter().map(|item| item.text(found)).collect()
    }

    /// A mapping whose keys are then taken one by one. A bare `key:` is an empty mapping.
    pub(super) fn table(self, found: &mut Findings) -> Option<Table> {
        let Self { path, node } = self;
        let place = node.place.clone();
        match node.value {
            Value::Map(entries) => Some(Table { path, place, entries, known: Vec::new() }),
            Value::Null => Some(Table { path, place, entries: Vec::new(), known: Vec::new() }),
            _ => {
                Self { path, node }.wrong_kind(found, "a mapping");
                None
            }
        }
    }
}

/// A mapping being read; what is never taken is unknown.
pub(super) struct Table {
    pub(super) path: String,
    pub(super) place: Place,
    entries: Vec<Entry>,
    known: Vec<&'static str>,
}

impl Table {
    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The value of a key, unless absent or null.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Field> {
        self.take_entry(key).map(|(field, _)| field).filter(|f| !matches!(f.node.value, Value::Null))
    }

    /// The value of a key even when null, with the key's own place.
    pub(super) fn take_entry(&mut self, key: &'static str) -> Option<(Field, Place)> {
        self.known.push(key);
        let at = self.entries.iter().position(|entry| entry.key == key)?;
        let Entry { place, node, .. } = self.entries.remove(at);
        Some((Field { path: self.path_of(key), node }, place))
    }

    /// Reports a required key that is missing.
    pub(super) fn missing(&self, found: &mut Findings, key: &str, message: &str) {
        found.error(&self.place, &self.path_of(key), message);
    }

    /// Every key not taken is an error. `hints` names keys of older files and what became of them.
    pub(super) fn finish(self, found: &mut Findings, hints: &[(&str, &str)]) {
        for entry in &self.entries {
            let path = self.path_of(&entry.key);
            let advice = match hints.iter().find(|(old, _)| *old == entry.key) {
                Some((_, advice)) => format!("; {advice}"),
                None => match nearest(&entry.key, self.known.iter().copied()) {
                    Some(meant) => format!("; did you mean `{meant}`?"),
                    None => format!("; known here: {}", self.known.join(", ")),
                },
            };
            found.error(&entry.place, &path, format!("unknown key{advice}"));
        }
    }
}

/// Relative paths start at the file that names them, so that a service finds them from any directory.
pub(super) fn beside(place: &Place, path: &Path) -> PathBuf {
    place.file.parent().unwrap_or(Path::new("")).join(path)
}
