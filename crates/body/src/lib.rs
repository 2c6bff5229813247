//! Bodies of messages, changed as they pass: content codings, replacements, server-sent events.
//!
//! Bytes in, bytes out: a [`Pipeline`] is given chunks and asked for chunks, holds a bounded number of bytes, and does a
//! bounded amount of work at a time. No sockets, no clock, no policies, and of a message's head only the names of content
//! codings (RFC 9110 section 8.4).

mod accept;
mod coding;
mod counted;
mod decode;
mod defect;
mod edit;
mod encode;
mod events;
mod limits;
mod pipeline;
mod replace;
mod stage;

pub use accept::negotiate;
pub use coding::{Coding, UnknownCoding, codings_of};
pub use decode::RATIO_FREE_BYTES;
pub use defect::{Defect, RulesFault};
pub use edit::{CODINGS_MAX, Edit, Edits};
pub use events::{Event, EventField, EventReplacement, EventRules, Judge, Judged};
pub use limits::{DECODED_BYTES_MAX, DECODED_RATIO_MAX, EVENT_BYTES_MAX, HELD_BYTES_MAX, WORK_BYTES_MAX};
pub use pipeline::{Pipeline, Pulled};
pub use replace::{MATCH_BYTES_MAX, PATTERN_BYTES_MAX, Pattern, Replacement};
