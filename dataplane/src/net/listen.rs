//! Listening sockets and the accept loop: one `SO_REUSEPORT` socket per shard and address, sockets passed by the service
//! manager, and a loop that outlives a shortage of descriptors. An address belongs to one listener, which claims it first.
//!
//! Knows nothing of what is spoken on a connection.

mod claim;
mod gate;
mod holder;
mod limits;

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use futures_util::FutureExt as _;
use socket2::{Domain, Protocol, Socket as RawSocket, Type};
use tokio::net::TcpStream;
use tokio::time::{Duration, sleep};

pub use claim::Claim;
pub use gate::AcceptGate;
pub use holder::{Transport, holder};
pub(crate) use limits::source;
pub use limits::{ConnLimits, ConnPermit, PeerKind, Refused};

use crate::net::ring;
use claim::NotClaimed;

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
    /// Another listener has the address.
    #[error(
        "cannot listen on {address} for {listener}: {by} already listens there; stop that, or give {listener} another \
         address"
    )]
    Taken {
        /// The address.
        address: SocketAddr,
        /// The listener that was to have it.
        listener: String,
        /// The listener or process that has it.
        by: Taker,
    },
    /// The service manager's variables are damaged.
    #[error("cannot read the sockets passed by the service manager: {0}")]
    Passed(#[source] io::Error),
}

/// The listener or process that has an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Taker {
    /// A listener of this edge.
    #[error("{0} of this edge")]
    Listener(String),
    /// Another edge.
    #[error("another edge, {0},")]
    Edge(String),
    /// Any other process.
    #[error("{0}")]
    Process(String),
    /// Not looked up; see [`ListenError::named`].
    #[error("another process")]
    Unknown,
}

impl ListenError {
    /// The same, with the process that has the address where the system tells. Looks at every process, so not for every
    /// try.
    #[must_use]
    pub fn named(self) -> Self {
        match self {
            Self::Taken { address, listener, by: Taker::Unknown } => {
                let by = Taker::Process(holder(Transport::Tcp, address));
                Self::Taken { address, listener, by }
            }
            other => other,
        }
    }
}

/// A listening socket of one shard, and the claim that keeps its address from others.
#[derive(Debug)]
pub struct Listener {
    /// The socket; goes before the claim.
    pub socket: TcpListener,
    /// The claim all shards' sockets share.
    pub claim: Arc<Claim>,
}

/// One listening socket per shard, all on one address, for a listener of this name; port 0 takes a free one.
///
/// An address on which anybody listens already is refused: a listener of this edge, another edge or any process.
pub fn bind(
    listener: &str,
    address: SocketAddr,
    shards: usize,
) -> Result<(SocketAddr, Vec<Listener>), ListenError> {
    let failed = |source| ListenError::Bind { address, source };
    let taken = |by| ListenError::Taken { address, listener: listener.to_owned(), by };
    let claim = (address.port() != 0).then(|| Claim::take(listener, address)).transpose();
    let claim = claim.map_err(|refused| match refused {
        NotClaimed::Listener(name) => taken(Taker::Listener(name)),
        NotClaimed::Edge(pid) => taken(Taker::Edge(holder::process(pid))),
        NotClaimed::InUse => taken(Taker::Unknown),
        NotClaimed::Refused(source) => failed(source),
    })?;
    let first = bind_one(address).map_err(failed)?;
    let bound = first.local_addr().map_err(failed)?;
    let claim = claim.unwrap_or_else(|| Claim::note(listener, bound));
    let rest = (1..shards).map(|_| bind_one(bound));
    let sockets: Vec<_> =
        std::iter::once(Ok(first)).chain(rest).collect::<io::Result<_>>().map_err(failed)?;
    Ok((bound, claimed(sockets, &claim)))
}

fn claimed(sockets: Vec<TcpListener>, claim: &Arc<Claim>) -> Vec<Listener> {
    sockets.into_iter().map(|socket| Listener { socket, claim: Arc::clone(claim) }).collect()
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

/// The same socket, which the service manager opened for the listener of this name, for every shard; they take turns on
/// its queue.
pub fn share(
    listener: &str,
    socket: TcpListener,
    shards: usize,
) -> Result<(SocketAddr, Vec<Listener>), ListenError> {
    let bound = socket.local_addr().map_err(ListenError::Passed)?;
    let copies = (1..shards).map(|_| socket.try_clone()).collect::<io::Result<Vec<_>>>();
    let mut sockets = copies.map_err(ListenError::Passed)?;
    sockets.push(socket);
    Ok((bound, claimed(sockets, &Claim::note(listener, bound))))
}

/// Sockets of a listener that another process had and handed over, at least one for every shard: a socket may be of several
/// shards, and a shard may have several, so that no socket's queue is left.
///
/// # Errors
/// There are none, or the kernel refuses copies.
pub fn adopt(
    listener: &str,
    sockets: &[TcpListener],
    lock: Option<UnixListener>,
    shards: usize,
) -> io::Result<(SocketAddr, Vec<Listener>)> {
    let first = sockets.first().ok_or(io::ErrorKind::NotFound)?;
    let bound = first.local_addr()?;
    let all = sockets.iter().cycle().take(sockets.len().max(shards));
    let copies = all.map(TcpListener::try_clone).collect::<io::Result<Vec<_>>>()?;
    Ok((bound, claimed(copies, &Claim::adopt(listener, bound, lock))))
}

/// Accepts for ever while `gate` is open, handing every connection to `take`. Call on the shard that owns the socket; drop to
/// stop.
pub async fn accept(
    listener: Listener,
    gate: &AcceptGate,
    mut take: impl FnMut(TcpStream),
) -> io::Result<()> {
    // Goes after the socket, as locals do.
    let _claim = listener.claim;
    let listener = tokio::net::TcpListener::from_std(listener.socket)?;
    let mut reserve = Reserve::new();
    let mut is_open = gate.looks();
    loop {
        // An error means that the gate is gone, and with it the process's other parts.
        let _ = is_open.wait_for(|is_open| *is_open).await;
        let _accepting = gate.enter();
        while *is_open.borrow_and_update() {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = is_open.changed() => continue,
            };
            match accepted {
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
        let (address, listeners) = bind("--http", "127.0.0.1:0".parse().unwrap(), 3).unwrap();
        assert_ne!(address.port(), 0);
        assert!(listeners.len() == 3 && listeners.iter().all(|l| l.socket.local_addr().unwrap() == address));
    }

    #[test]
    fn a_taken_port_is_named_and_so_is_its_process() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let message = bind("--http", address, 1).unwrap_err().named().to_string();
        assert!(
            message.contains(&format!("{address} for --http: process {} (", std::process::id())),
            "{message}"
        );
    }

    #[test]
    fn two_listeners_of_one_edge_never_share_an_address() {
        let (address, listeners) = bind("--https", "127.0.0.1:0".parse().unwrap(), 2).unwrap();
        let everywhere = SocketAddr::new("0.0.0.0".parse().unwrap(), address.port());
        for other in [address, everywhere] {
            let message = bind("--connect", other, 2).unwrap_err().to_string();
            assert!(
                message.contains("for --connect: --https of this edge already listens there"),
                "{message}"
            );
        }
        drop(listeners);
        bind("--connect", address, 2).unwrap();
    }

    #[test]
    fn a_socket_with_reuseport_of_another_process_is_seen() {
        // Not claimed, as a socket of another process is not.
        let other = bind_one("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = other.local_addr().unwrap();
        assert!(matches!(bind("--http", address, 2), Err(ListenError::Taken { by: Taker::Unknown, .. })));
    }

    #[tokio::test]
    async fn a_closed_gate_leaves_connections_in_the_queue_and_every_queue_has_a_shard() {
        let (address, listeners) = bind("--http", "127.0.0.1:0".parse().unwrap(), 3).unwrap();
        let sockets: Vec<_> = listeners.into_iter().map(|listener| listener.socket).collect();
        for shards in [1, 3, 5] {
            let (again, copies) = adopt("--http", &sockets, None, shards).unwrap();
            assert_eq!((again, copies.len()), (address, shards.max(3)));
        }
        assert!(adopt("--http", &[], None, 1).is_err());
        let (_, copies) = adopt("--http", &sockets, None, 3).unwrap();
        let gate = Arc::new(AcceptGate::new(false));
        let (sender, mut accepted) = tokio::sync::mpsc::unbounded_channel();
        let loops: Vec<_> = copies
            .into_iter()
            .map(|copy| {
                let (gate, sender) = (Arc::clone(&gate), sender.clone());
                tokio::spawn(async move { accept(copy, &gate, |stream| sender.send(stream).unwrap()).await })
            })
            .collect();
        let dial = || TcpStream::connect(address);
        let early = [dial().await.unwrap(), dial().await.unwrap(), dial().await.unwrap()];
        tokio::task::yield_now().await;
        assert!(accepted.try_recv().is_err());
        gate.open();
        for _ in &early {
            accepted.recv().await.unwrap();
        }
        gate.close().await;
        let _late = dial().await.unwrap();
        tokio::task::yield_now().await;
        assert!(accepted.try_recv().is_err());
        gate.open();
        accepted.recv().await.unwrap();
        loops.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[test]
    fn a_listener_that_is_being_closed_may_open_again_at_once() {
        let (address, listeners) = bind("tcp", "127.0.0.1:0".parse().unwrap(), 2).unwrap();
        assert!(matches!(bind("tcp", address, 2), Err(ListenError::Taken { .. })));
        listeners[0].claim.release();
        let (_, again) = bind("tcp", address, 2).unwrap();
        drop(listeners);
        assert!(matches!(bind("tcp", address, 2), Err(ListenError::Taken { by: Taker::Listener(_), .. })));
        drop(again);
    }
}
