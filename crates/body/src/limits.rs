//! Bounds that several parts keep, or that a [`Defect`](crate::Defect) names.

/// Memory of a decoder before it has seen a byte; one of gzip or deflate never has more.
pub(crate) const DECODER_BYTES: usize = 64 * 1024;
/// Most bytes of a decoded body.
pub const DECODED_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// Most decoded bytes for each byte that came.
pub const DECODED_RATIO_MAX: u64 = 200;
/// Longest event, before and after it is changed.
pub const EVENT_BYTES_MAX: usize = 256 * 1024;
/// Longest body of which a pattern without a longest match sees all.
pub const HELD_BYTES_MAX: usize = 1024 * 1024;
/// Work of one [`Pipeline::pull`](crate::Pipeline::pull), in bytes that come, go or are looked at. Then others are let run.
pub const WORK_BYTES_MAX: usize = 256 * 1024;
