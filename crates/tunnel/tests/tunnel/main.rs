//! Sessions and links over in-memory pipes: what the user of a stream sees, and a foreign implementation of the mux.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail by panicking")]

mod driver;
mod foreign_peer;
#[path = "../../../wire/tests/wire/frames.rs"]
mod frames;
mod link;
