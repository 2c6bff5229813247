//! The UDP socket below an endpoint, and endpoints on it.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use quinn::{ConnectionIdGenerator, Endpoint, EndpointConfig, ServerConfig, TokioRuntime};
use socket2::{Domain, Protocol, Socket, Type};

use super::ids::{Generator, ServerKeys};
use super::port::Port;

/// Bytes the kernel is asked to keep for a socket, each way. It grants what `net.core.rmem_max` and `wmem_max` allow.
pub const SOCKET_BYTES: usize = 2 << 20;

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

/// An endpoint on this thread's tokio runtime that dials.
pub fn endpoint(socket: UdpSocket) -> io::Result<Endpoint> {
    Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime))
}

/// An endpoint on this thread's tokio runtime that is dialled. It reads the socket when `port` says so.
pub fn server_endpoint(
    socket: UdpSocket,
    mut server: ServerConfig,
    keys: &ServerKeys,
    port: &Port,
) -> io::Result<Endpoint> {
    let mut config = EndpointConfig::default();
    let ids = keys.ids();
    let generator = move || -> Box<dyn ConnectionIdGenerator> { Box::new(Generator(Arc::clone(&ids))) };
    config.reset_key(Arc::new(keys.reset.clone())).cid_generator(generator);
    server.token_key(Arc::clone(&keys.tokens));
    Endpoint::new_with_abstract_socket(config, Some(server), port.socket(socket)?, Arc::new(TokioRuntime))
}
