//! Why a request of an agent is refused, as agents read it.

use ebbgate_model::ErrorCode;
use ebbgate_policy::Diagnostic;
use ebbgate_wire::rpc::{BindError, error_text};

/// The bindings are not valid for the URL.
pub(super) const CODE_BINDING: ErrorCode = ErrorCode::new(18007);
/// An option asks for what this edge does not enforce.
pub(super) const CODE_OPTION: ErrorCode = ErrorCode::new(330);

/// Why a request of an agent is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: Option<ErrorCode>,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code: Some(code), message: message.into() }
    }

    /// The same refusal with more to say, if there is more.
    pub(super) fn and(mut self, more: Option<&str>) -> Self {
        if let Some(more) = more {
            self.message = format!("{}; {more}", self.message);
        }
        self
    }

    /// The text agents look for the code in.
    pub(super) fn text(&self) -> String {
        match self.code {
            Some(code) => error_text(&self.message, code.number()),
            None => self.message.clone(),
        }
    }
}

impl From<BindError> for Refusal {
    fn from(error: BindError) -> Self {
        let code = match &error {
            BindError::Url { source, .. } => Some(source.code()),
            BindError::Bindings(_) => Some(CODE_BINDING),
            BindError::Option(_) => Some(CODE_OPTION),
            _ => None,
        };
        Self { code, message: error.to_string() }
    }
}

impl From<Vec<Diagnostic>> for Refusal {
    fn from(problems: Vec<Diagnostic>) -> Self {
        let code = problems.first().map(|p| p.code);
        let words = problems.iter().map(|p| match (p.line, p.column) {
            (Some(line), Some(column)) => {
                format!("{} at {} (line {line}, column {column})", p.message, p.path)
            }
            _ => format!("{} at {}", p.message, p.path),
        });
        Self { code, message: format!("traffic policy: {}", words.collect::<Vec<_>>().join("; ")) }
    }
}
