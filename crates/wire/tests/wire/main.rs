//! The agent protocol as a whole: two ends against each other, a hostile peer, the driver, and a foreign implementation.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail by panicking")]

mod attacks;
mod driver;
mod foreign_peer;
mod link;
mod messages;
mod rules;
mod simulation;
