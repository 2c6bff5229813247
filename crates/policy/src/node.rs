//! A parsed text before it means anything: scalars, lists and maps, each with its place. Made by `json` and `yaml`.

use serde_json::{Map, Number, Value};

use crate::diagnostic::Place;

/// Deepest nesting of a policy text.
pub(crate) const DEPTH_MAX: usize = 32;
/// Most nodes of a policy text, aliases expanded.
pub(crate) const NODES_MAX: usize = 50_000;

/// A value and where it begins.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Where it begins.
    pub place: Place,
    /// What it is.
    pub kind: Kind,
}

/// What a value is.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(Number),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// In document order; keys are unique.
    Map(Vec<(Key, Node)>),
}

/// A map key and where it begins.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// Where it begins.
    pub place: Place,
    /// The key itself.
    pub text: String,
}

/// Why a text has no tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError {
    /// Where the text goes wrong.
    pub place: Place,
    /// One sentence on the defect.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl SyntaxError {
    pub(crate) fn new(place: Place, message: impl Into<String>) -> Self {
        Self { place, message: message.into(), hint: None }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl Node {
    /// "a list", "text": for messages.
    #[must_use]
    pub fn noun(&self) -> &'static str {
        match self.kind {
            Kind::Null => "nothing",
            Kind::Bool(_) => "true or false",
            Kind::Number(_) => "a number",
            Kind::Text(_) => "text",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a map",
        }
    }

    /// The same value as JSON, without places.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match &self.kind {
            Kind::Null => Value::Null,
            Kind::Bool(b) => Value::Bool(*b),
            Kind::Number(n) => Value::Number(n.clone()),
            Kind::Text(text) => Value::String(text.clone()),
            Kind::List(items) => Value::Array(items.iter().map(Self::to_json).collect()),
            Kind::Map(entries) => {
                let entries = entries.iter().map(|(key, value)| (key.text.clone(), value.to_json()));
                Value::Object(entries.collect::<Map<_, _>>())
            }
        }
    }

    /// The node at `path` below this one, or the nearest ancestor that exists; a missing map value gives its key.
    #[must_use]
    pub fn place_of(&self, path: &str) -> Place {
        let mut here = self;
        let mut place = self.place;
        for step in path.split(['.', '[', ']']).filter(|step| !step.is_empty()) {
            let next = match &here.kind {
                Kind::List(items) => {
                    step.parse::<usize>().ok().and_then(|at| items.get(at)).map(|node| (node.place, node))
                }
                Kind::Map(entries) => {
                    entries.iter().find(|(key, _)| key.text == step).map(|(key, node)| (key.place, node))
                }
                _ => None,
            };
            let Some((found, node)) = next else { break };
            (place, here) = (found, node);
        }
        place
    }
}
