//! Why the operator is refused something about changes that not all edges have.

use ebbgate_model::EndpointId;

use crate::record::RecordError;
use crate::store::StoreError;

/// Why the operator is refused.
#[derive(Debug, thiserror::Error)]
pub enum RolloutError {
    /// All edges have the same of it.
    #[error("no change of {0} waits: `ebbgate-control rollout status` shows those that do")]
    NoRollout(String),
    /// It was taken back.
    #[error(
        "the change of {0} was taken back: `ebbgate-control rollout resume {0}` gives it to all edges all the same"
    )]
    Returned(EndpointId),
    /// A setting is out of bounds.
    #[error("{0}")]
    Setting(String),
    /// Another change came first.
    #[error("another change of the same object came first; repeat")]
    Conflict,
    /// A record.
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl From<StoreError> for RolloutError {
    fn from(error: StoreError) -> Self {
        Self::Record(error.into())
    }
}
