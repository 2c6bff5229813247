//! A filter as a tree, the values it computes with, and its refusal.

use time::OffsetDateTime;

use crate::api::failure::ApiError;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expr {
    Literal(Val),
    /// `time.now`.
    Now,
    /// Steps below `obj`.
    Field(Vec<String>),
    List(Vec<Expr>),
    Not(Box<Expr>),
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    Compare(Comparison, Box<Expr>, Box<Expr>),
    In(Box<Expr>, Box<Expr>),
    Size(Box<Expr>),
    Timestamp(Box<Expr>),
    /// A time moved by seconds.
    Shift(Box<Expr>, i64),
    Text(TextTest, Box<Expr>, Box<Expr>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TextTest {
    StartsWith,
    EndsWith,
    Contains,
}

/// A value of an evaluation.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Val {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    Time(OffsetDateTime),
    List(Vec<Val>),
    /// An object, of which only fields can be asked.
    Object,
}

impl Val {
    /// What a copy of it takes, about.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::List(items) => items.iter().map(|item| 1 + item.bytes()).sum(),
            _ => 0,
        }
    }
}

/// The one refusal of filters.
pub(super) fn refused(why: impl std::fmt::Display) -> ApiError {
    ApiError::bad(250, format!("the filter cannot be used: {why}")).detail("field", "filter")
}
