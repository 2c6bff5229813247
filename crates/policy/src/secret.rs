//! Secrets of vaults as policies see them: the name that `secrets.get` is given, the value behind it, and what keeps the
//! value out of messages and logs.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

/// What stands in a text for a secret's value.
const REDACTED: &str = "(secret)";
/// Shortest value that is looked for in texts, in bytes: a shorter one would be found in most of them by chance.
const REDACTED_BYTES_MIN: usize = 4;

/// A secret by the names that `secrets.get` is given.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretName {
    /// Name of the vault.
    pub vault: String,
    /// Name of the secret.
    pub name: String,
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "secrets.get('{}', '{}')", self.vault, self.name)
    }
}

/// The value of a secret. Its `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(Arc<str>);

impl SecretValue {
    /// Takes a value.
    #[must_use]
    pub fn new(value: &str) -> Self {
        Self(value.into())
    }

    /// The value itself, for an evaluation only.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(…)")
    }
}

/// Values that may stand in no message and no log entry, the longest first. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Redaction(Arc<[SecretValue]>);

impl Redaction {
    pub(crate) fn new<'v>(values: impl Iterator<Item = &'v SecretValue>) -> Self {
        let mut values: Vec<_> = values.filter(|v| v.0.len() >= REDACTED_BYTES_MIN).cloned().collect();
        values.sort_by_key(|value| std::cmp::Reverse(value.0.len()));
        Self(values.into())
    }

    /// The text with every value in it replaced.
    pub(crate) fn text(&self, text: String) -> String {
        let shown = self.0.iter().filter(|value| text.contains(value.expose())).collect::<Vec<_>>();
        shown.into_iter().fold(text, |text, value| text.replace(value.expose(), REDACTED))
    }

    /// The same in all texts and keys of a JSON value.
    pub(crate) fn json(&self, value: Value) -> Value {
        if self.0.is_empty() {
            return value;
        }
        match value {
            Value::String(text) => Value::String(self.text(text)),
            Value::Array(items) => items.into_iter().map(|item| self.json(item)).collect(),
            Value::Object(map) => {
                map.into_iter().map(|(key, value)| (self.text(key), self.json(value))).collect()
            }
            plain => plain,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_redacted_wherever_they_stand() {
        let values = ["hunter2", "hunter22", "abc"].map(SecretValue::new);
        let redaction = Redaction::new(values.iter());
        assert_eq!(redaction.text("a hunter22 b hunter2 abc".into()), "a (secret) b (secret) abc");
        let found = redaction.json(json!({"hunter2": ["x hunter2", 1, {"k": "hunter22"}]}));
        assert_eq!(found, json!({"(secret)": ["x (secret)", 1, {"k": "(secret)"}]}));
        assert!(!format!("{redaction:?} {values:?}").contains("hunter"));
    }
}
