//! Bounds of the two texts that almost every object has.

/// Longest `description` in bytes.
pub(super) const DESCRIPTION_BYTES_MAX: usize = 255;
/// Longest `metadata` in bytes.
pub(super) const METADATA_BYTES_MAX: usize = 4096;
