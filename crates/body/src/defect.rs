//! `Defect`: why a body cannot be changed as it was asked for.

use std::sync::Arc;

use crate::Coding;
use crate::limits::{DECODED_BYTES_MAX, DECODED_RATIO_MAX, EVENT_BYTES_MAX, HELD_BYTES_MAX};

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Defect {
    /// The bytes are not what the head says.
    #[error("the body is not {0}, as its head says")]
    Malformed(Coding),
    /// The body ends inside a coding.
    #[error("the body ends before its {0} coding does")]
    Truncated(Coding),
    /// Bytes follow the end of the coding.
    #[error("bytes follow the end of the body's {0} coding")]
    Trailing(Coding),
    /// The coding makes few bytes into very many.
    #[error("the body's {0} coding makes more than {ratio} bytes of each byte", ratio = DECODED_RATIO_MAX)]
    Ratio(Coding),
    /// The decoded body is too long.
    #[error("the decoded body is longer than {bytes} bytes", bytes = DECODED_BYTES_MAX)]
    Decoded,
    /// A pattern without a longest match needs all of the body, and the body is too long.
    #[error("the body is longer than {bytes} bytes, the most that is held for a pattern without a longest match", bytes = HELD_BYTES_MAX)]
    Held,
    /// An event of an event stream is too long.
    #[error("an event of the stream is longer than {bytes} bytes", bytes = EVENT_BYTES_MAX)]
    Event,
    /// The rules for an event could not be judged.
    #[error("the rules for an event: {0}")]
    Rules(Arc<RulesFault>),
    /// An encoder failed.
    #[error("the body cannot be encoded as {0}")]
    Encoder(Coding),
}

/// Why the rules for an event could not be judged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RulesFault {
    /// Published number.
    pub code: u32,
    /// One sentence.
    pub message: String,
}
