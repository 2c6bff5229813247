//! Every wait and size of the HTTP half, by name. The defaults are the documented settings; tests pass smaller ones.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::net::listen::ConnLimits;

/// A whole head must have arrived this long after its first byte (or after the connection began), in seconds.
pub const HEAD_SECS_MAX: u64 = 30;
/// A kept connection may be without a request this long, in seconds.
pub const KEEP_ALIVE_SECS_MAX: u64 = 60;
/// How long a visitor that is waited for is watched before its pace is judged, in seconds.
pub const PACE_SECS: u64 = 30;
/// The same for a visitor that must read before more can be written: kernels report room late, in seconds.
pub const WRITE_PACE_SECS: u64 = 60;
/// Bytes a visitor that is waited for must move within [`PACE_SECS`] (or [`WRITE_PACE_SECS`]). With less it is slow: it has
/// [`IDLE_SECS_MAX`] for them, as long as its source has room for one more slow visitor; else it has stalled.
pub const PACE_BYTES_MIN: u64 = 1_024;
/// Slow bodies and slowly read answers of one IPv4 address or IPv6 /64 at a time.
pub const SLOW_OF_A_SOURCE_MAX: usize = 32;
/// Slow bodies and slowly read answers of all sources at a time.
pub const SLOW_MAX: usize = 8_192;
/// An exchange, stream or tunnel may rest this long with nothing moving either way, in seconds (surface.md section 3.8).
pub const IDLE_SECS_MAX: u64 = 300;
/// How long a visitor that has closed its side may be without a byte of its answer, in seconds.
pub const HALF_CLOSED_SECS_MAX: u64 = 60;
/// How long a body that is answered before its end is read on while less than [`LINGER_BYTES_MIN`] of it come, so that
/// the visitor can read the answer (RFC 9112 section 9.6), in seconds.
pub const LINGER_SECS_MAX: u64 = 2;
/// Bytes of such a body for which it is read on another [`LINGER_SECS_MAX`].
pub const LINGER_BYTES_MIN: u64 = 64 * 1024;
/// How long such a body is read on at most, in seconds.
pub const DRAIN_SECS_MAX: u64 = 30;
/// Bytes read ahead of a visitor whose last request is still being answered.
pub const READ_AHEAD_BYTES_MAX: usize = 8 * 1024;
/// Idle upstream connections that one shard keeps for one endpoint.
pub const IDLE_OF_ENDPOINT_MAX: usize = 1_024;
/// Idle upstream connections that one shard keeps for all endpoints.
pub const IDLE_OF_SHARD_MAX: usize = 4_096;
/// How long an upstream connection is kept unused, in seconds, and up to a quarter longer until it is noticed. Many
/// upstreams close theirs after five.
pub const KEPT_UPSTREAM_SECS_MAX: u64 = 4;
/// Concurrent streams of one HTTP/2 visitor.
pub const H2_STREAMS_MAX: u32 = 100;
/// Window of one HTTP/2 stream in bytes.
pub const H2_STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// Window of one HTTP/2 connection in bytes: what one visitor can make us hold.
pub const H2_CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// Concurrent requests on one HTTP/2 connection to an upstream, if the upstream allows as many.
pub const H2_UPSTREAM_STREAMS_MAX: u32 = 100;
/// Window of one HTTP/2 connection to an upstream in bytes: the windows of all its streams, so that visitors that do not
/// read their responses leave room for the others.
pub const H2_UPSTREAM_WINDOW_BYTES: u32 = H2_UPSTREAM_STREAMS_MAX * H2_STREAM_WINDOW_BYTES;
/// Header list of one HTTP/2 message in bytes, as RFC 9113 section 6.5.2 counts (surface.md section 3.8).
pub const H2_HEADER_LIST_BYTES_MAX: u32 = 1024 * 1024;
/// Bytes waiting to be sent on one HTTP/2 stream.
pub const H2_SEND_BUFFER_BYTES_MAX: usize = 256 * 1024;
/// Streams a visitor may take back before the edge has looked at them.
pub const H2_PENDING_RESETS_MAX: usize = 20;
/// Streams the edge resets for the visitor's errors before it closes the connection.
pub const H2_LOCAL_RESETS_MAX: usize = 100;

/// The limits of one connection's HTTP.
#[derive(Debug, Clone)]
pub struct Limits {
    /// See [`HEAD_SECS_MAX`].
    pub head: Duration,
    /// See [`KEEP_ALIVE_SECS_MAX`].
    pub keep_alive: Duration,
    /// See [`PACE_SECS`].
    pub pace: Duration,
    /// See [`WRITE_PACE_SECS`].
    pub write_pace: Duration,
    /// See [`PACE_BYTES_MIN`].
    pub pace_bytes_min: u64,
    /// See [`IDLE_SECS_MAX`].
    pub idle: Duration,
    /// See [`HALF_CLOSED_SECS_MAX`].
    pub half_closed: Duration,
    /// See [`SLOW_OF_A_SOURCE_MAX`]. Shared by all connections of the process, or by those of a test.
    pub slow: Arc<ConnLimits>,
    /// See [`LINGER_SECS_MAX`].
    pub linger: Duration,
    /// See [`DRAIN_SECS_MAX`].
    pub drain: Duration,
    /// See [`H2_STREAMS_MAX`].
    pub h2_streams_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(HEAD_SECS_MAX),
            keep_alive: Duration::from_secs(KEEP_ALIVE_SECS_MAX),
            pace: Duration::from_secs(PACE_SECS),
            write_pace: Duration::from_secs(WRITE_PACE_SECS),
            pace_bytes_min: PACE_BYTES_MIN,
            idle: Duration::from_secs(IDLE_SECS_MAX),
            half_closed: Duration::from_secs(HALF_CLOSED_SECS_MAX),
            slow: ConnLimits::new(SLOW_MAX, SLOW_OF_A_SOURCE_MAX),
            linger: Duration::from_secs(LINGER_SECS_MAX),
            drain: Duration::from_secs(DRAIN_SECS_MAX),
            h2_streams_max: H2_STREAMS_MAX,
        }
    }
}

impl Limits {
    /// The documented settings, with the slow visitors of this process counted together.
    pub(super) fn of_this_process() -> Self {
        static SLOW: OnceLock<Arc<ConnLimits>> = OnceLock::new();
        let own = Self::default();
        let slow = SLOW.get_or_init(|| own.slow.clone()).clone();
        Self { slow, ..own }
    }
}
