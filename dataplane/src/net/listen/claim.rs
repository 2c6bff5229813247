//! Ownership of listening addresses. `SO_REUSEPORT`, which gives every shard a socket, would also let two listeners of one
//! user share an address in silence, each with a part of the connections. So an address is claimed before it is bound.
//!
//! A claim is three things: a place in this process's table, a lock that other edges of the host see, and a probe that
//! binds without `SO_REUSEPORT`, which the kernel refuses while anybody listens there. Knows no routes.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::net::sockopt::socket_peercred;
use rustix::process::geteuid;
use socket2::{Domain, Protocol, Socket as RawSocket, Type};

/// Claims of this process.
static CLAIMS: Mutex<Vec<Weak<Claim>>> = Mutex::new(Vec::new());

/// An address that one listener of this process has. Free again when the last of its sockets and this are gone.
#[derive(Debug)]
pub struct Claim {
    address: SocketAddr,
    listener: String,
    /// Its sockets are being closed: the same process may claim the address again already.
    released: AtomicBool,
    lock: Option<Arc<UnixListener>>,
}

/// Why an address cannot be claimed.
#[derive(Debug)]
pub(super) enum NotClaimed {
    /// A listener of this process has it, or an address that overlaps.
    Listener(String),
    /// Another edge has it, in the process of this number.
    Edge(i32),
    /// The address has a listener.
    InUse,
    /// The kernel refuses for another reason.
    Refused(io::Error),
}

impl Claim {
    /// Claims an address with a port for a listener of this name.
    pub(super) fn take(listener: &str, address: SocketAddr) -> Result<Arc<Self>, NotClaimed> {
        let mut claims = lock_claims();
        let mut held =
            claims.iter().filter_map(Weak::upgrade).filter(|claim| overlap(claim.address, address));
        let (mut closing, mut other) = (None, None);
        for claim in held.by_ref() {
            if claim.address == address && claim.released.load(Ordering::Acquire) {
                closing = Some(claim);
            } else if !claim.released.load(Ordering::Acquire) {
                other = Some(claim);
            }
        }
        drop(held);
        if let Some(other) = other {
            return Err(NotClaimed::Listener(other.listener.clone()));
        }
        // Sockets of ours that are still being closed would fail the probe. Their lock keeps other edges away.
        let lock = if let Some(closing) = closing {
            closing.lock.clone()
        } else {
            let lock = lock(address)?;
            probe(address)?;
            lock
        };
        Ok(register(&mut claims, listener, address, lock))
    }

    /// Notes an address that the kernel has just given to this process alone.
    pub(super) fn note(listener: &str, address: SocketAddr) -> Arc<Self> {
        // No other process can have it: the lock is for later ones.
        let lock = lock(address).ok().flatten();
        register(&mut lock_claims(), listener, address, lock)
    }

    /// Takes over an address from another process, with its lock.
    pub(super) fn adopt(listener: &str, address: SocketAddr, lock: Option<UnixListener>) -> Arc<Self> {
        register(&mut lock_claims(), listener, address, lock.map(Arc::new))
    }

    /// A copy of the lock that other edges see, for a process that takes the address over.
    pub fn lock_copy(&self) -> Option<UnixListener> {
        self.lock.as_ref()?.try_clone().ok()
    }

    /// The listener closes its sockets from now on.
    pub fn release(&self) {
        self.released.store(true, Ordering::Release);
    }
}

fn register(
    claims: &mut Vec<Weak<Claim>>,
    listener: &str,
    address: SocketAddr,
    lock: Option<Arc<UnixListener>>,
) -> Arc<Claim> {
    let released = AtomicBool::new(false);
    let claim = Arc::new(Claim { address, listener: listener.to_owned(), released, lock });
    claims.retain(|claim| claim.strong_count() > 0);
    claims.push(Arc::downgrade(&claim));
    claim
}

fn lock_claims() -> MutexGuard<'static, Vec<Weak<Claim>>> {
    CLAIMS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A name in the abstract namespace of Unix sockets: one for each network namespace, as TCP ports are, and free when its
/// holder dies. None: the system allows no such socket, or another user's process has the name and cannot share our port.
fn lock(address: SocketAddr) -> Result<Option<Arc<UnixListener>>, NotClaimed> {
    let Ok(name) = UnixAddress::from_abstract_name(format!("ebbgate-edge listens on {address}")) else {
        return Ok(None);
    };
    match UnixListener::bind_addr(&name) {
        Ok(listener) => Ok(Some(Arc::new(listener))),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let holder = UnixStream::connect_addr(&name).and_then(|peer| Ok(socket_peercred(peer)?));
            match holder {
                Ok(holder) if holder.uid == geteuid() => {
                    Err(NotClaimed::Edge(holder.pid.as_raw_nonzero().get()))
                }
                _ => Ok(None),
            }
        }
        Err(_) => Ok(None),
    }
}

/// Asks the kernel whether anybody listens there, on this address or on one that covers it.
fn probe(address: SocketAddr) -> Result<(), NotClaimed> {
    let probe = || {
        let socket = RawSocket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // Connections that linger do not count.
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.bind(&address.into())
    };
    probe().map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => NotClaimed::InUse,
        _ => NotClaimed::Refused(error),
    })
}

/// Whether sockets on both addresses would compete for connections. `[::]` takes IPv4 connections too.
pub(super) fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let covers = |all: IpAddr, part: IpAddr| all.is_unspecified() && (all.is_ipv6() || part.is_ipv4());
    let (a, b) = (one.ip(), other.ip());
    one.port() == other.port() && (a == b || covers(a, b) || covers(b, a))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_that_is_about_to_listen_is_seen_by_its_lock() {
        // Taken by hand, as by a process that has not bound its port yet.
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let other = lock(address).unwrap();
        let refused = Claim::take("--http", address);
        let this = i32::try_from(std::process::id()).unwrap();
        assert!(matches!(refused, Err(NotClaimed::Edge(pid)) if pid == this), "{refused:?}");
        drop(other);
        Claim::take("--http", address).unwrap();
    }

    #[test]
    fn addresses_that_compete() {
        let check = |one: &str, other: &str, expect: bool| {
            let (one, other): (SocketAddr, SocketAddr) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!((overlap(one, other), overlap(other, one)), (expect, expect), "{one} {other}");
        };
        check("127.0.0.1:1", "127.0.0.1:1", true);
        check("127.0.0.1:1", "127.0.0.1:2", false);
        check("127.0.0.1:1", "127.0.0.2:1", false);
        check("0.0.0.0:1", "127.0.0.1:1", true);
        check("[::]:1", "127.0.0.1:1", true);
        check("[::]:1", "[::1]:1", true);
        check("0.0.0.0:1", "[::1]:1", false);
        check("0.0.0.0:1", "[::]:1", true);
    }
}
