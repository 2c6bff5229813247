//! How much, how long, how many: the transport's limits of both ends, and the configurations made of them.
//!
//! Datagrams, unidirectional streams and 0-RTT are off. MTU is left to discovery from 1,200 bytes up: a raised initial MTU
//! was seen to collapse throughput.

use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Connection, IdleTimeout, ServerConfig, TransportConfig, VarInt};

/// What both ends name by ALPN (RFC 7301).
pub const ALPN: &[u8] = b"ebbgate-quic/1";
/// Seconds a connection may hear nothing before it is dead: as long as an agent's TCP connection may leave bytes
/// unacknowledged.
pub const IDLE_SECS_MAX: u32 = 10;
/// Seconds of silence after which either end asks for a sign of life. Three are lost before the connection is.
pub const KEEP_ALIVE_SECS: u64 = 3;
/// Streams that the edge may have open to one agent at once.
pub const STREAMS_MAX: u32 = 256;
/// Streams that an agent may have open to the edge at once: the session, or the attachment.
pub const PEER_STREAMS_MAX: u32 = 1;
/// Bytes of one stream on the way to a reader who does not read.
pub const STREAM_BYTES_MAX: u32 = 512 << 10;
/// The same for a whole connection: every stream may be full, so that none that nobody reads holds up another.
pub const CONNECTION_BYTES_MAX: u32 = (STREAMS_MAX + PEER_STREAMS_MAX) * STREAM_BYTES_MAX;
/// The same before the agent is known.
pub const STRANGER_BYTES_MAX: u32 = 64 << 10;
/// Bytes sent on one connection and not yet acknowledged.
pub const SEND_BYTES_MAX: u64 = 8 << 20;
/// Incomplete handshakes a server keeps waiting for its attention; later ones are refused.
const INCOMING_MAX: usize = 1_024;
/// Bytes kept of one of those.
const INCOMING_BYTES_MAX: u64 = 8 << 10;
/// Bytes kept of all of those.
const INCOMING_TOTAL_BYTES_MAX: u64 = 4 << 20;
/// Seconds within which a source proves its address by the token of a Retry.
const RETRY_SECS_MAX: u64 = 10;

/// A TLS configuration cannot serve QUIC.
#[derive(Debug, thiserror::Error)]
#[error("TLS for QUIC cannot be set up: {0}")]
pub struct ConfigError(#[from] NoInitialCipherSuite);

/// The edge's side. The configuration's certificates and verification are the caller's; ALPN and 0-RTT are set here.
pub fn server(mut tls: rustls::ServerConfig) -> Result<ServerConfig, ConfigError> {
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.max_early_data_size = 0;
    tls.send_tls13_tickets = 0;
    let mut transport = transport();
    transport.max_concurrent_bidi_streams(PEER_STREAMS_MAX.into()).receive_window(STRANGER_BYTES_MAX.into());
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config
        .transport_config(Arc::new(transport))
        .retry_token_lifetime(Duration::from_secs(RETRY_SECS_MAX))
        .migration(true)
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(INCOMING_BYTES_MAX)
        .incoming_buffer_size_total(INCOMING_TOTAL_BYTES_MAX);
    Ok(config)
}

/// The agent's side. The configuration's trust is the caller's; ALPN and 0-RTT are set here.
pub fn client(mut tls: rustls::ClientConfig) -> Result<ClientConfig, ConfigError> {
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.enable_early_data = false;
    tls.resumption = rustls::client::Resumption::disabled();
    let mut transport = transport();
    transport.max_concurrent_bidi_streams(STREAMS_MAX.into()).receive_window(CONNECTION_BYTES_MAX.into());
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// Gives a connection room once the edge knows whose it is.
pub fn admit(connection: &Connection) {
    connection.set_receive_window(CONNECTION_BYTES_MAX.into());
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    let idle = VarInt::from_u32(IDLE_SECS_MAX * 1_000);
    transport
        .max_idle_timeout(Some(IdleTimeout::from(idle)))
        .keep_alive_interval(Some(Duration::from_secs(KEEP_ALIVE_SECS)))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(STREAM_BYTES_MAX.into())
        .send_window(SEND_BYTES_MAX);
    transport
}
