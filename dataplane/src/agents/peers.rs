//! The other edges of the installation, and the agents that are connected there.
//!
//! `directory` has what control tells of them and puts their agents' endpoints among the routes; to the rest of this edge
//! another edge is one session with many endpoints. `dial` keeps the ways there open, and `serve` is the other end.

mod dial;
pub(super) mod directory;
mod judge;
mod offered;
mod serve;

use ebbgate_wire::mux::Limits;

pub use dial::keep;
pub use directory::{Directory, GRACE_SECS, PEERS_MAX};
pub use serve::serve;

/// Connections to one other edge at most; each of so many shards keeps one.
pub const WAYS_MAX: usize = 8;
/// Streams to one other edge at once, of all visitors.
pub const PEER_STREAMS_MAX: usize = 16_384;
/// Of a stream, in the counts of an account's streams.
const STREAM_PARTS: usize = 1;

/// What one connection between two edges may cost.
const PEER_LIMITS: Limits = Limits {
    peer_streams_max: 4_096,
    local_streams_max: 4_096,
    accept_max: 1_024,
    unread_bytes_max: 256 << 20,
    send_bytes_max: 64 << 10,
    linger_max: 32,
    noise_burst: 65_536,
    noise_per_sec: 16_384,
};
