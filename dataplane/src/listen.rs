//! Listening sockets and the accept loop: one `SO_REUSEPORT` socket per shard and address, sockets passed by the service
//! manager, and a loop that outlives a shortage of descriptors.
//!
//! Knows nothing of what is spoken on a connection.

mod cap;

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener};

use futures_util::FutureExt as _;
use socket2::{Domain, Protocol, Socket as RawSocket, Type};
use tokio::net::TcpStream;
use tokio::time::{Duration, sleep};

pub use cap::{Admitted, Caps, Comer, Refused};

use crate::ring;

/// Connections the kernel keeps ready for one socket.
const BACKLOG: i32 = 4096;
/// Connections turned away in one go when there is no descriptor for them.
const SHED_MAX: usize = 256;
/// Milliseconds to wait after a shortage before accepting again.
const SHORTAGE_PAUSE_MS: u64 = 100;
/// Names under which the service manager may pass sockets, in `FileDescriptorName=`.
const PASSED_NAMES: [&str; 3] = ["http", "https", "connect"];

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The kernel refuses.
    #[error("cannot listen on {address}: {source}; free the port or choose another address")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the kernel says.
        source: io::Error,
    },
    /// The service manager's variables are damaged.
    #[error("cannot read the sockets passed by the service manager: {0}")]
    Passed(#[source] io::Error),
}

/// One listening socket per shard, all on one address; port 0 takes a free one.
pub fn bind(address: SocketAddr, shards: usize) -> Result<(SocketAddr, Vec<TcpListener>), ListenError> {
    let failed = |source| ListenError::Bind { address, source };
    let first = bind_one(address).map_err(failed)?;
    let bound = first.local_addr().map_err(failed)?;
    let rest = (1..shards).map(|_| bind_one(bound));
    let listeners = std::iter::once(Ok(first)).chain(rest).collect::<io::Result<_>>().map_err(failed)?;
    Ok((bound, listeners))
}

fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = RawSocket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Sockets the service manager passed, by name. Connections wait in them while the edge restarts.
///
/// Call once, before anything else opens descriptors.
pub fn passed() -> Result<Vec<(String, TcpListener)>, ListenError> {
    let named = sd_notify::listen_fds_with_names().map_err(ListenError::Passed)?;
    let mut sockets = Vec::new();
    for (fd, name) in named {
        let listener = ring::adopt_listener(fd);
        if PASSED_NAMES.contains(&name.as_str()) {
            listener.set_nonblocking(true).map_err(ListenError::Passed)?;
            sockets.push((name, listener));
        } else {
            tracing::warn!(name, "the service manager passed a socket of an unknown name; closing it");
        }
    }
    Ok(sockets)
}

/// The same socket for every shard; they take turns on its queue.
pub fn share(listener: TcpListener, shards: usize) -> Result<(SocketAddr, Vec<TcpListener>), ListenError> {
    let bound = listener.local_addr().map_err(ListenError::Passed)?;
    let copies = (1..shards).map(|_| listener.try_clone()).collect::<io::Result<Vec<_>>>();
    let mut listeners = copies.map_err(ListenError::Passed)?;
    listeners.push(listener);
    Ok((bound, listeners))
}

/// Accepts for ever, handing every connection to `take`. Call on the shard that owns the socket; drop to stop.
pub async fn accept(listener: TcpListener, mut take: impl FnMut(TcpStream)) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut reserve = Reserve::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => take(stream),
            Err(error) if is_shortage(&error) => {
                let shed = reserve.shed(&listener);
                tracing::warn!(%error, shed, "out of descriptors; turning connections away");
                sleep(Duration::from_millis(SHORTAGE_PAUSE_MS)).await;
            }
            // The peer left while it waited; there may be more behind it.
            Err(error) => tracing::debug!(%error, "a connection was gone before it was accepted"),
        }
    }
}

fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// A descriptor kept so that there is always one to accept and close with: a full queue would otherwise stay full, wake
/// the loop for ever and leave its clients waiting.
struct Reserve(Option<File>);

impl Reserve {
    fn new() -> Self {
        Self(File::open("/dev/null").ok())
    }

    /// Accepts and closes what waits, and returns how many.
    fn shed(&mut self, listener: &tokio::net::TcpListener) -> usize {
        self.0 = None;
        let shed =
            (0..SHED_MAX).take_while(|_| matches!(listener.accept().now_or_never(), Some(Ok(_)))).count();
        *self = Self::new();
        shed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_share_one_free_port() {
        let (address, listeners) = bind("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        assert_ne!(address.port(), 0);
        assert!(listeners.len() == 3 && listeners.iter().all(|l| l.local_addr().unwrap() == address));
    }

    #[test]
    fn a_taken_port_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let message = bind(address, 1).unwrap_err().to_string();
        assert!(message.contains(&address.to_string()), "{message}");
    }
}
