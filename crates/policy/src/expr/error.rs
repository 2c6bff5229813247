//! Why an expression does not compile, and why one has no value.

/// Why an expression does not compile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ExprError {
    message: String,
    hint: Option<String>,
    not_bool: bool,
}

impl ExprError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, not_bool: false }
    }

    /// A condition that is never true or false.
    pub(crate) fn never_bool(kind: &str) -> Self {
        Self { not_bool: true, ..Self::new(format!("this expression gives {kind}, not true or false")) }
    }

    #[must_use]
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn not_bool(&self) -> bool {
        self.not_bool
    }

    pub(crate) fn hint(&self) -> Option<String> {
        self.hint.clone()
    }
}

/// Why an expression has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// More work than all policies on the way may do, in units.
    #[error("the policies on the way need more than {0} units of work")]
    Cost(u64),
    /// More work than one evaluation may do, in units.
    #[error("one evaluation needs more than {0} units of work")]
    Evaluation(u64),
    /// More header bytes than one variable may be read from.
    #[error("a variable is read from more than {0} bytes of headers")]
    Headers(usize),
    /// More memory than one evaluation may hold, in bytes.
    #[error("the expression holds more than {0} bytes")]
    Memory(u64),
    /// A condition that is neither true nor false.
    #[error("the expression gives {0}, not true or false")]
    NotBool(String),
    /// The evaluation failed, as with a missing key.
    #[error("{0}")]
    Failed(String),
}
