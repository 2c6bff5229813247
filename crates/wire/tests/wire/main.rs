//! The agent protocol as a whole: two ends against each other, and a hostile peer.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail by panicking")]

mod attacks;
mod frames;
mod messages;
mod rules;
mod simulation;
