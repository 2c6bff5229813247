//! Why rules cannot be used or could not run.

/// Why rules cannot be used or could not run, in a sentence with file and line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EngineError(pub(crate) String);
