//! QUIC (RFC 9000) as a transport, as far as the edge and the agent share it: limits, streams, headers, sockets.
//!
//! Built on quinn. Knows neither who may come in nor where connections go; nothing here waits without a limit of the
//! caller's.

mod header;
mod ids;
mod liveness;
mod port;
mod proxied;
mod socket;
mod stream;
mod transport;

pub use header::{ATTACHED, HEADER_SECS_MAX, StreamHeader, StreamHeaderError};
pub use ids::{IDENTIFIER_BYTES, Ids, ServerKeys};
pub use liveness::{LOOK_MS, PathLiveness, SILENT_MS};
pub use port::{Port, passage};
pub use proxied::{open_proxied, read_proxied};
pub use quinn::{Connection, Endpoint, Incoming};
pub use socket::{SOCKET_BYTES, bind, endpoint, server_endpoint};
pub use stream::{Stream, close};
pub use transport::{
    ALPN, CONNECTION_BYTES_MAX, ConfigError, IDLE_SECS_MAX, KEEP_ALIVE_SECS, PEER_STREAMS_MAX,
    SEND_BYTES_MAX, STRANGER_BYTES_MAX, STREAM_BYTES_MAX, STREAMS_MAX, admit, client, server,
};
