//! A UDP socket that two processes have while one follows the other. The newer one reads it, and passes on what belongs to
//! connections of older ones; each sends by itself.
//!
//! A `Port` is the handle by which reading begins, stops, and is left to a successor. Packets travel between the processes
//! over a socket pair, each with its addresses; what finds no room there is lost, as a packet may be.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime as _, TokioRuntime, UdpPoller};
use rustix::io::{Errno, readv};
use rustix::net::{SendFlags, send};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::UnixDatagram as Watched;

use super::ids::{Foreign, Ids};

/// Bytes of addresses before a datagram: the sender's address, port and scope, whether ours is known, ours, and ECN.
const BEFORE_BYTES: usize = 16 + 2 + 4 + 1 + 16 + 1;

/// Bytes the kernel is asked to keep of a passage: as much as of the UDP socket.
const PASSAGE_BYTES: usize = 2 << 20;

/// Where datagrams come from.
enum Source {
    /// Nowhere, for now.
    Paused,
    /// The UDP socket.
    Socket,
    /// The process that reads the UDP socket now; watched once the endpoint's runtime has seen it.
    Successor(Result<Watched, Option<UnixDatagram>>),
}

struct State {
    source: Source,
    /// Older processes that still have connections, newest first.
    older: Vec<(u8, UnixDatagram)>,
    waker: Option<Waker>,
}

/// The handle to a socket's reading. Cheap to clone.
#[derive(Clone)]
pub struct Port {
    state: Arc<Mutex<State>>,
    ids: Arc<Ids>,
}

/// A pair of sockets for packets between two processes: the reader's end, and the older process's.
pub fn passage() -> io::Result<(UnixDatagram, UnixDatagram)> {
    // A pair has no limit on messages, which other Unix sockets for datagrams have, but on bytes alone.
    let (reader, older) = UnixDatagram::pair()?;
    for end in [&reader, &older] {
        end.set_nonblocking(true)?;
        SockRef::from(end).set_send_buffer_size(PASSAGE_BYTES)?;
    }
    Ok((reader, older))
}

impl Port {
    /// A port that is read from, unless `paused`, by the process with these identifiers. `older`: the reader's ends of passages
    /// to older processes and their generations, newest first.
    pub fn new(ids: Arc<Ids>, paused: bool, older: Vec<(u8, UnixDatagram)>) -> Self {
        let source = if paused { Source::Paused } else { Source::Socket };
        Self { state: Arc::new(Mutex::new(State { source, older, waker: None })), ids }
    }

    /// The generation of this process.
    pub fn generation(&self) -> u8 {
        self.ids.generation()
    }

    /// Reads no more; packets wait in the socket.
    pub fn pause(&self) {
        self.change(|state| state.source = Source::Paused);
    }

    /// Reads the socket, from now on or again.
    pub fn resume(&self) {
        self.change(|state| state.source = Source::Socket);
    }

    /// Leaves the socket to a successor, which sends what is ours over this end of a passage, and packets of older processes
    /// to them.
    pub fn leave(&self, passage: UnixDatagram) {
        self.change(|state| {
            state.older.clear();
            state.source = Source::Successor(Err(Some(passage)));
        });
    }

    /// Copies of the ends to older processes, newest first.
    pub fn older(&self) -> io::Result<Vec<(u8, UnixDatagram)>> {
        self.lock().older.iter().map(|(generation, socket)| Ok((*generation, socket.try_clone()?))).collect()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let waker = {
            let mut state = self.lock();
            change(&mut state);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The socket as an endpoint on this thread's tokio runtime reads it.
    pub(super) fn socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let is_v4 = socket.local_addr()?.is_ipv4();
        Ok(Arc::new(PortSocket { inner: TokioRuntime.wrap_udp_socket(socket)?, is_v4, port: self.clone() }))
    }
}

struct PortSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    is_v4: bool,
    port: Port,
}

impl fmt::Debug for PortSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PortSocket(..)")
    }
}

impl AsyncUdpSocket for PortSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        // The lock is held while reading: after a change of the source nothing more is read.
        let mut state = self.port.lock();
        if state.waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        let State { source, older, .. } = &mut *state;
        match source {
            Source::Paused => Poll::Pending,
            Source::Socket => {
                let count = ready!(self.inner.poll_recv(cx, bufs, meta))?;
                if !older.is_empty() {
                    for (buf, meta) in bufs.iter_mut().zip(meta.iter_mut()).take(count) {
                        sort(&self.port.ids, older, buf, meta);
                    }
                }
                Poll::Ready(Ok(count))
            }
            Source::Successor(passage) => {
                if let Err(unwatched) = passage {
                    let Some(socket) = unwatched.take() else { return Poll::Pending };
                    *passage = Ok(Watched::from_std(socket)?);
                }
                match passage {
                    Ok(passage) => poll_passage(passage, &self.port.ids, self.is_v4, cx, bufs, meta),
                    Err(_) => Poll::Pending,
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }
}

/// Passes on the datagrams of a buffer that are for older processes, and leaves the others in it. The kernel puts several
/// datagrams of one sender into a buffer, all of the stride's length but the last.
fn sort(ids: &Ids, older: &mut Vec<(u8, UnixDatagram)>, buf: &mut [u8], meta: &mut RecvMeta) {
    let stride = meta.stride.max(1);
    let (mut kept, mut at) = (0, 0);
    while at < meta.len {
        let end = (at + stride).min(meta.len);
        let Some(datagram) = buf.get(at..end) else { break };
        match ids.is_foreign(datagram) {
            Some(foreign) if !older.is_empty() => pass_on(older, foreign, datagram, meta),
            _ => {
                buf.copy_within(at..end, kept);
                kept += end - at;
            }
        }
        at = end;
    }
    meta.len = kept;
}

/// What is of no known generation goes to the newest of the older processes. One that has ended is forgotten.
fn pass_on(older: &mut Vec<(u8, UnixDatagram)>, foreign: Foreign, datagram: &[u8], meta: &RecvMeta) {
    let found = match foreign {
        Foreign::Of(generation) => older.iter().position(|(of, _)| *of == generation),
        Foreign::Unknown => (!older.is_empty()).then_some(0),
    };
    let Some((index, (_, socket))) = found.and_then(|index| Some((index, older.get(index)?))) else { return };
    let message = [&before(meta)[..], datagram].concat();
    let sent = send(socket, &message, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
    if matches!(sent, Err(Errno::PIPE | Errno::CONNREFUSED | Errno::CONNRESET | Errno::NOTCONN)) {
        older.remove(index);
    }
}

fn before(meta: &RecvMeta) -> [u8; BEFORE_BYTES] {
    let scope = if let SocketAddr::V6(peer) = meta.addr { peer.scope_id() } else { 0 };
    let mut bytes = [0; BEFORE_BYTES];
    let parts: [&[u8]; 6] = [
        &mapped(meta.addr.ip()).octets(),
        &meta.addr.port().to_be_bytes(),
        &scope.to_be_bytes(),
        &[u8::from(meta.dst_ip.is_some())],
        &mapped(meta.dst_ip.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED))).octets(),
        &[meta.ecn.map_or(0, |ecn| ecn as u8)],
    ];
    bytes.iter_mut().zip(parts.concat()).for_each(|(to, from)| *to = from);
    bytes
}

/// IPv4 addresses travel as IPv6 ones. A socket of `[::]` has them so anyway, one of an IPv4 address never has others.
fn mapped(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

/// What [`before`] wrote. `is_v4`: the socket has an IPv4 address, and so have its peers.
fn read_before(bytes: &[u8], is_v4: bool) -> Option<RecvMeta> {
    let (ip, rest) = bytes.split_first_chunk::<16>()?;
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let (scope, rest) = rest.split_first_chunk::<4>()?;
    let (known, rest) = rest.split_first_chunk::<1>()?;
    let (dst, rest) = rest.split_first_chunk::<16>()?;
    let ecn = *rest.first()?;
    let of = |octets: &[u8; 16]| {
        let ip = Ipv6Addr::from(*octets);
        if is_v4 { ip.to_canonical() } else { IpAddr::V6(ip) }
    };
    let port = u16::from_be_bytes(*port);
    let addr = match of(ip) {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), port),
        IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, u32::from_be_bytes(*scope)).into(),
    };
    let mut meta = RecvMeta::default();
    (meta.addr, meta.ecn) = (addr, EcnCodepoint::from_bits(ecn));
    meta.dst_ip = (*known == [1]).then(|| of(dst));
    Some(meta)
}

/// Reads datagrams that a successor passed on.
fn poll_passage(
    passage: &Watched,
    ids: &Ids,
    is_v4: bool,
    cx: &mut Context<'_>,
    bufs: &mut [IoSliceMut<'_>],
    metas: &mut [RecvMeta],
) -> Poll<io::Result<usize>> {
    loop {
        ready!(passage.poll_recv_ready(cx))?;
        let mut count = 0;
        let read = || {
            for (buf, meta) in bufs.iter_mut().zip(metas.iter_mut()) {
                match read_own(ids, passage, is_v4, buf, meta) {
                    Ok(()) => count += 1,
                    Err(error) if count > 0 && error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            Ok(count)
        };
        match passage.try_io(Interest::READABLE, read) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            count => return Poll::Ready(count),
        }
    }
}

/// Reads one datagram into a buffer and empties what is no connection's of ours: it would be reset.
fn read_own(
    ids: &Ids,
    socket: impl AsFd,
    is_v4: bool,
    buf: &mut [u8],
    meta: &mut RecvMeta,
) -> io::Result<()> {
    read_one(socket, is_v4, buf, meta)?;
    if buf.get(..meta.len).is_none_or(|datagram| ids.is_foreign(datagram).is_some()) {
        meta.len = 0;
    }
    Ok(())
}

/// Reads one datagram into a buffer.
fn read_one(socket: impl AsFd, is_v4: bool, buf: &mut [u8], meta: &mut RecvMeta) -> io::Result<()> {
    let mut before = [0; BEFORE_BYTES];
    let length = readv(socket, &mut [IoSliceMut::new(&mut before), IoSliceMut::new(buf)])?;
    // What is too short for its addresses is nothing that our own program sent.
    let length = length.checked_sub(BEFORE_BYTES).ok_or(io::ErrorKind::InvalidData)?;
    *meta = read_before(&before, is_v4).ok_or(io::ErrorKind::InvalidData)?;
    (meta.len, meta.stride) = (length, length);
    Ok(())
}

#[cfg(test)]
mod tests;
