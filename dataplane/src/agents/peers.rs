//! The other edges of the installation, and the agents that are connected there.
//!
//! `directory` has what control tells of them and puts their agents' endpoints among the routes; to the rest of this edge
//! another edge is one session with many endpoints. `dial` keeps the ways there open, and `serve` is the other end. `raw_dial` and
//! `raw_serve` are the same for raw connections, which carry a visitor's own TLS without a second encryption.

mod dial;
pub(super) mod directory;
mod judge;
mod limits;
mod offered;
mod raw_dial;
pub(super) mod raw_keys;
mod raw_serve;
mod serve;
mod serving;
mod shown;

pub use dial::keep;
pub use directory::{Directory, GRACE_SECS, PEERS_MAX};
pub use serve::{serve, serve_newer};
