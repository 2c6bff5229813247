//! What one other edge may cost, and be given.

use ebbgate_wire::mux::Limits;

/// Connections to one other edge at most; each of so many shards keeps one.
pub(super) const WAYS_MAX: usize = 8;
/// Streams to one other edge at once, of all visitors.
pub(super) const WAY_STREAMS_MAX: usize = 16_384;
/// Of a stream, in the counts of an account's streams.
pub(super) const STREAM_PARTS: usize = 1;

/// What one connection between two edges may cost: at its other end is an edge, as an agent has it, and both may open as many
/// streams.
pub(super) const PEER_LIMITS: Limits = Limits { local_streams_max: 4_096, ..Limits::AGENT };
