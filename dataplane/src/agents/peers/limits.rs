//! What one other edge may cost, and be given.

use ebbgate_wire::mux::Limits;

/// Connections to one other edge at most; each of so many shards keeps one.
pub(super) const WAYS_MAX: usize = 8;
/// Streams to one other edge at once, of all visitors.
pub(super) const PEER_STREAMS_MAX: usize = 16_384;
/// Of a stream, in the counts of an account's streams.
pub(super) const STREAM_PARTS: usize = 1;

/// What one connection between two edges may cost.
pub(super) const PEER_LIMITS: Limits = Limits {
    peer_streams_max: 4_096,
    local_streams_max: 4_096,
    accept_max: 1_024,
    unread_bytes_max: 256 << 20,
    send_bytes_max: 64 << 10,
    linger_max: 32,
    noise_burst: 65_536,
    noise_per_sec: 16_384,
};
