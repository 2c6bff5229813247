//! The two free texts almost every object has, and their limits.

use super::failure::ApiError;
use super::given::Given;

/// Longest `description` in bytes.
pub(super) const DESCRIPTION_BYTES_MAX: usize = 255;
/// Longest `metadata` in bytes.
pub(super) const METADATA_BYTES_MAX: usize = 4096;

/// The codes by which a resource refuses texts that are too long.
pub(super) struct TextCodes {
    pub(super) description: u32,
    pub(super) metadata: u32,
}

impl TextCodes {
    /// Judges both texts of a body.
    pub(super) fn check(
        &self,
        description: &Given<String>,
        metadata: &Given<String>,
    ) -> Result<(), ApiError> {
        check_length("description", description, DESCRIPTION_BYTES_MAX, self.description)?;
        check_length("metadata", metadata, METADATA_BYTES_MAX, self.metadata)
    }
}

fn check_length(field: &str, text: &Given<String>, bytes_max: usize, code: u32) -> Result<(), ApiError> {
    let bytes = text.get().map_or(0, String::len);
    if bytes <= bytes_max {
        return Ok(());
    }
    let message = format!("`{field}` has {bytes} bytes; at most {bytes_max} are allowed");
    Err(ApiError::bad(code, message).detail("field", field))
}
