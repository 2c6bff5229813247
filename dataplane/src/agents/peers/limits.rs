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

/// Raw connections that have proven nothing yet, of all edges and strangers. Each has `HANDSHAKE_SECS_MAX` of the wire.
pub(super) const RAW_HANDSHAKES_MAX: usize = 256;
/// Raw connections beside one connection of another edge that wait for a visitor.
pub(super) const RAW_IDLE_MAX: usize = 128;
/// Raw connections beside one connection of another edge: with those in use as many as it may have streams.
pub(super) const RAW_OPEN_MAX: usize = 4_096;
/// Raw connections of one pool that are being made.
pub(super) const RAW_DIALS_MAX: usize = 8;
