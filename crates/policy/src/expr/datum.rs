//! What a variable gives: its kind, known before anything runs, and its value as read from a context.

use std::borrow::Cow;

use serde_json::Value;

/// Kinds told apart before anything runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Number,
    Text,
    Bytes,
    List,
    Map,
    Null,
    Time,
}

impl Kind {
    /// "text", "a list": for messages.
    pub(super) fn noun(self) -> &'static str {
        match self {
            Self::Bool => "true or false",
            Self::Number => "a number",
            Self::Text => "text",
            Self::Bytes => "bytes",
            Self::List => "a list",
            Self::Map => "a map",
            Self::Null => "null",
            Self::Time => "a time",
        }
    }
}

/// A value read from a context, not yet the evaluator's.
#[derive(Debug)]
pub(super) enum Datum<'c> {
    Text(Cow<'c, str>),
    Int(i64),
    Bool(bool),
    Json(Value),
}

impl From<Datum<'_>> for Value {
    fn from(datum: Datum) -> Self {
        match datum {
            Datum::Text(text) => Self::String(text.into_owned()),
            Datum::Int(number) => number.into(),
            Datum::Bool(b) => b.into(),
            Datum::Json(json) => json,
        }
    }
}
