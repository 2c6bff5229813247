//! Key sets as published for JWT verification (RFC 7517), filtered before any library sees a key.

use thiserror::Error;

/// Longest key set document.
pub const JWKS_BYTES_MAX: usize = 256 * 1024;

/// The usable keys of one document.
#[derive(Debug, Clone, Default)]
pub struct KeySet {}

/// Why a document is not a key set.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeySetError {
    /// Longer than [`JWKS_BYTES_MAX`].
    #[error("the key set is longer than {JWKS_BYTES_MAX} bytes")]
    TooLong,
    /// Not JSON, or not an object with `keys`.
    #[error("the key set is not a JSON object with a `keys` list")]
    Form,
}

impl KeySet {
    /// Parses a document and keeps the keys that are safe to verify signatures with.
    pub fn parse(document: &[u8]) -> Result<Self, KeySetError> {
        if document.len() > JWKS_BYTES_MAX {
            return Err(KeySetError::TooLong);
        }
        let value: serde_json::Value = serde_json::from_slice(document).map_err(|_| KeySetError::Form)?;
        value.get("keys").and_then(|keys| keys.as_array()).ok_or(KeySetError::Form)?;
        Ok(Self {})
    }
}
