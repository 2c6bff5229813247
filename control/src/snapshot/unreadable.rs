//! Why a record cannot be read.

use crate::secret::OpenError;

/// Why a record cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    /// The value is not what its key says.
    #[error(transparent)]
    Value(#[from] serde_json::Error),
    /// A private key does not open.
    #[error(transparent)]
    Sealed(#[from] OpenError),
}
