//! The UDP socket below an endpoint, and the secrets by which an endpoint is the same one after a restart.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::{hmac, rand};
use quinn::{ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, ServerConfig, TokioRuntime};
use socket2::{Domain, Protocol, Socket, Type};

/// Bytes the kernel is asked to keep for a socket, each way. It grants what `net.core.rmem_max` and `wmem_max` allow.
pub const SOCKET_BYTES: usize = 2 << 20;

/// Bytes of our connection identifiers; all of them random, so that nobody off the path guesses one.
const IDENTIFIER_BYTES: usize = 8;

/// What a server keeps over restarts. An endpoint that forgot its connections then resets them in words that their other
/// ends believe (RFC 9000 section 10.3), and agents come back at once instead of waiting for silence to be long enough.
pub struct ResetKey(hmac::Key);

impl ResetKey {
    /// From 32 secret bytes that are used for nothing else.
    pub fn new(secret: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }
}

/// Draws identifiers, and takes any for one that a predecessor may have drawn.
struct Identifiers;

impl ConnectionIdGenerator for Identifiers {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut bytes = [0; IDENTIFIER_BYTES];
        rand::fill(&mut bytes).expect("the system's random source works once the process runs");
        ConnectionId::new(&bytes)
    }

    fn cid_len(&self) -> usize {
        IDENTIFIER_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// A UDP socket for an endpoint, on both IP versions if the address is `[::]`. Port 0 takes a free one.
pub fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // The kernel's default holds 200 packets, a burst of one fast stream.
    socket.set_recv_buffer_size(SOCKET_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BYTES)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// An endpoint on this thread's tokio runtime; a server if it has a server's configuration.
pub fn endpoint(socket: UdpSocket, server: Option<(ServerConfig, ResetKey)>) -> io::Result<Endpoint> {
    let mut config = EndpointConfig::default();
    let server = server.map(|(server, key)| {
        config.reset_key(Arc::new(key.0)).cid_generator(|| Box::new(Identifiers));
        server
    });
    Endpoint::new(config, server, socket, Arc::new(TokioRuntime))
}
