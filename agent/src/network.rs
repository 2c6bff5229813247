//! Notices when this host's addresses or routes change (rtnetlink(7)) and decides what a session does about it. The messages
//! themselves are not read: after each, the kernel is asked how it would reach the edge now.
//!
//! Knows nothing of dialling or of the session's protocol.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use socket2::SockRef;
use tokio::net::UnixDatagram;

/// Least time between two tries that a change brought forward, in milliseconds.
pub const EARLY_RETRY_MS_MIN: u64 = 1_000;
/// How long the session's own address may be missing before the session is given up, in milliseconds: a renewed lease may
/// take it off and put it back.
pub const ADDRESS_GRACE_MS: u64 = 1_000;
/// Bytes read of one message; the rest of it is dropped.
const MESSAGE_BYTES_MAX: usize = 4_096;
/// Groups of links, addresses and routes (`RTMGRP_LINK`, `RTMGRP_IPV4_IFADDR`, `RTMGRP_IPV4_ROUTE` and those of IPv6).
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;

/// A change under way.
pub type Changing<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// The host's network, as far as a session depends on it.
pub trait Network: Send {
    /// Resolves after addresses or routes may have changed. Cancel-safe.
    fn changed(&mut self) -> Changing<'_>;

    /// The address from which the host would send to `peer`; none: it has no route.
    fn source(&self, peer: SocketAddr) -> Option<IpAddr>;

    /// Whether the host has this address.
    fn owns(&self, address: IpAddr) -> bool;
}

/// A network that never changes.
pub struct Unwatched;

impl Network for Unwatched {
    fn changed(&mut self) -> Changing<'_> {
        Box::pin(std::future::pending())
    }

    fn source(&self, _: SocketAddr) -> Option<IpAddr> {
        None
    }

    fn owns(&self, _: IpAddr) -> bool {
        true
    }
}

/// Both ends of a session's TCP connection. Through a proxy, `peer` is the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// This host's end.
    pub local: SocketAddr,
    /// The other end.
    pub peer: SocketAddr,
}

/// What a session remembers of the way to its edge. Pure; time is a `Duration` since some start.
#[derive(Debug, Default)]
pub struct Footing {
    /// Of the session that is online over TCP. QUIC moves to another address by itself (RFC 9000 section 9).
    ends: Option<Ends>,
    peer: Option<SocketAddr>,
    source: Option<IpAddr>,
    gone_at: Option<Duration>,
    early_at: Option<Duration>,
}

impl Footing {
    /// A session begins.
    pub fn online(&mut self, ends: Option<Ends>) {
        self.ends = ends;
        self.peer = ends.map(|ends| ends.peer).or(self.peer);
        self.gone_at = None;
    }

    /// The session ended, or none came about; `source` is the answer to [`Footing::peer`] now.
    pub fn offline(&mut self, source: Option<IpAddr>) {
        self.ends = None;
        self.gone_at = None;
        self.source = source;
    }

    /// The last known other end.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// This host's end of the session, if it is online over TCP.
    pub fn local(&self) -> Option<IpAddr> {
        self.ends.map(|ends| ends.local.ip())
    }

    /// Something changed while offline: when to try again, if earlier than planned. A change that leaves the way to the edge
    /// as it was brings nothing forward.
    pub fn changed_offline(&mut self, now: Duration, source: Option<IpAddr>) -> Option<Duration> {
        if self.peer.is_some() && (source == self.source || source.is_none()) {
            self.source = source;
            return None;
        }
        self.source = source;
        let pause = Duration::from_millis(EARLY_RETRY_MS_MIN);
        let at = self.early_at.map_or(now, |last| now.max(last + pause));
        self.early_at = Some(at);
        Some(at)
    }

    /// Something changed while online; `owned` says whether the host still has the session's address.
    pub fn changed_online(&mut self, now: Duration, owned: bool) {
        let grace = Duration::from_millis(ADDRESS_GRACE_MS);
        self.gone_at = match (owned, self.gone_at) {
            (true, _) => None,
            (false, since) => since.or(Some(now + grace)),
        };
    }

    /// When the session is to be given up unless its address comes back.
    pub fn gone_at(&self) -> Option<Duration> {
        self.gone_at
    }
}

/// The network of this host.
pub struct HostNetwork {
    socket: Option<UnixDatagram>,
    interface: Option<Arc<str>>,
}

impl HostNetwork {
    /// Begins to watch; `interface` is the one that sessions leave by. Where the kernel allows no watching, nothing ever
    /// changes. Must be called within a runtime.
    pub fn watch(interface: Option<Arc<str>>) -> Self {
        Self { socket: open().ok(), interface }
    }
}

/// A netlink socket. Tokio has no type for it, and that of Unix datagrams only calls recv(2).
fn open() -> io::Result<UnixDatagram> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // No protocol is number 0, NETLINK_ROUTE.
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
    UnixDatagram::from_std(socket.into())
}

impl Network for HostNetwork {
    fn changed(&mut self) -> Changing<'_> {
        Box::pin(async {
            let Some(socket) = &self.socket else { return std::future::pending().await };
            let mut buffer = [0; MESSAGE_BYTES_MAX];
            match socket.recv(&mut buffer).await {
                // One change comes as several messages.
                Ok(_) => while socket.try_recv(&mut buffer).is_ok() {},
                // Messages were lost, so something changed.
                Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => {}
                Err(_) => std::future::pending().await,
            }
        })
    }

    fn source(&self, peer: SocketAddr) -> Option<IpAddr> {
        let any: IpAddr =
            if peer.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0)).ok()?;
        if let Some(interface) = &self.interface {
            SockRef::from(&socket).bind_device(Some(interface.as_bytes())).ok()?;
        }
        // Connecting a datagram socket sends nothing: the kernel looks up the route and picks the address.
        socket.connect(peer).ok()?;
        Some(socket.local_addr().ok()?.ip())
    }

    fn owns(&self, address: IpAddr) -> bool {
        match UdpSocket::bind((address, 0)) {
            Ok(_) => true,
            Err(error) => error.kind() != io::ErrorKind::AddrNotAvailable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const B: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn footing() -> Footing {
        let mut footing = Footing::default();
        let peer = "198.51.100.1:443".parse().unwrap();
        footing.online(Some(Ends { local: SocketAddr::new(A, 4711), peer }));
        footing
    }

    #[test]
    fn a_new_way_to_the_edge_brings_the_next_try_forward_and_the_old_one_does_not() {
        let mut footing = footing();
        footing.offline(Some(A));
        assert_eq!(footing.changed_offline(ms(10_000), Some(A)), None, "another interface changed");
        assert_eq!(footing.changed_offline(ms(10_000), None), None, "nothing to try without a route");
        assert_eq!(footing.changed_offline(ms(10_100), Some(A)), Some(ms(10_100)), "the route is back");
        assert_eq!(
            footing.changed_offline(ms(10_200), Some(B)),
            Some(ms(11_100)),
            "a flapping link is tried once a second"
        );
        assert_eq!(footing.changed_offline(ms(20_000), Some(B)), None);
        let mut stranger = Footing::default();
        assert_eq!(stranger.changed_offline(ms(5), None), Some(ms(5)), "the edge's address is not known yet");
    }

    #[test]
    fn a_session_whose_address_is_gone_is_given_up_after_a_second_unless_it_comes_back() {
        let mut footing = footing();
        footing.changed_online(ms(0), true);
        assert_eq!(footing.gone_at(), None);
        footing.changed_online(ms(500), false);
        footing.changed_online(ms(700), false);
        assert_eq!(footing.gone_at(), Some(ms(1_500)), "further changes do not prolong it");
        footing.changed_online(ms(900), true);
        assert_eq!(footing.gone_at(), None, "a renewed lease put it back");
        footing.changed_online(ms(1_000), false);
        footing.offline(None);
        assert_eq!((footing.gone_at(), footing.local()), (None, None));
    }

    #[tokio::test]
    async fn the_kernel_says_by_which_address_a_peer_is_reached_and_which_are_ours() {
        let network = HostNetwork::watch(None);
        assert!(network.socket.is_some(), "rtnetlink needs no privilege");
        let here: IpAddr = Ipv4Addr::LOCALHOST.into();
        assert_eq!(network.source(SocketAddr::new(here, 9)), Some(here));
        assert!(network.owns(here));
        assert!(!network.owns(A), "an address for documentation is nobody's");
    }
}
