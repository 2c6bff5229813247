//! QUIC (RFC 9000) as a carrier, as far as the edge and the agent share it: limits, streams, first words, sockets.
//!
//! Built on quinn. Knows neither who may come in nor where connections go; nothing here waits without a limit of the
//! caller's.

pub mod hearing;
mod opening;
mod proxied;
mod socket;
mod stream;
mod transport;

pub use opening::{ATTACHED, OPENING_SECS_MAX, Opening, OpeningError};
pub use proxied::{open_proxied, read_proxied};
pub use quinn::{Connection, Endpoint, Incoming};
pub use socket::{ResetKey, SOCKET_BYTES, bind, endpoint};
pub use stream::{Stream, StreamError, close};
pub use transport::{
    CONNECTION_BYTES_MAX, ConfigError, IDLE_SECS_MAX, KEEP_ALIVE_SECS, PEER_STREAMS_MAX, SEND_BYTES_MAX,
    STRANGER_BYTES_MAX, STREAM_BYTES_MAX, STREAMS_MAX, admit, client, server,
};

/// What both ends name by ALPN (RFC 7301).
pub const ALPN: &[u8] = b"ebbgate-quic/1";
