//! `Socket`: an accepted TCP connection that counts its bytes, can give back bytes it was asked to look at, and can move
//! from one shard's runtime to another's.

mod tickets;

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Duration;

use crate::net::ring::{self, Polled};
use crate::relay::{Kernel, Pipe};
use tickets::Tickets;

/// Seconds of silence before the kernel asks whether a peer is still there.
const KEEPALIVE_SECS: u64 = 60;
/// Seconds between the kernel's questions.
const KEEPALIVE_INTERVAL_SECS: u64 = 15;
/// Questions without answer after which the connection is dead.
const KEEPALIVE_RETRIES: u32 = 4;
/// Seconds an agent's machine may leave bytes unacknowledged.
pub const UNACKNOWLEDGED_SECS_MAX: u64 = 10;
/// Bytes of a client's TLS that are acknowledged at once where an upstream ends it: room for the handshake.
const HANDSHAKE_BYTES_MAX: u64 = 16 << 10;
/// Bytes read at a time while looking.
const LOOK_BYTES: usize = 4 << 10;

/// Bytes of one connection so far.
#[derive(Debug, Default)]
pub struct Traffic {
    received: AtomicU64,
    sent: AtomicU64,
}

impl Traffic {
    /// Bytes received from the peer, encryption included.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Bytes sent to the peer, encryption included.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    fn add_received(&self, n: usize) {
        self.received.fetch_add(n as u64, Ordering::Relaxed);
    }

    fn add_sent(&self, n: usize) {
        self.sent.fetch_add(n as u64, Ordering::Relaxed);
    }
}

impl ebbgate_policy::Traffic for Traffic {
    fn bytes_in(&self) -> u64 {
        self.received()
    }

    fn bytes_out(&self) -> u64 {
        self.sent()
    }
}

/// An accepted connection.
#[derive(Debug)]
pub struct Socket {
    stream: Stream,
    peer: SocketAddr,
    local: SocketAddr,
    peeked: BytesMut,
    traffic: Arc<Traffic>,
    /// So many bytes received are acknowledged at once; later ones when the kernel likes.
    quick_ack_bytes: u64,
    tickets: Option<Box<Tickets>>,
}

#[derive(Debug)]
enum Stream {
    /// Known to this thread's runtime.
    Attached(TcpStream),
    /// On its way between runtimes.
    Detached(std::net::TcpStream),
    /// Lost on the way.
    Lost,
}

impl Socket {
    /// Takes an accepted connection: no delay, keep-alive. Fails when the peer is gone already.
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        let (peer, local) = (stream.peer_addr()?, stream.local_addr()?);
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_secs(KEEPALIVE_SECS))
            .with_interval(Duration::from_secs(KEEPALIVE_INTERVAL_SECS))
            .with_retries(KEEPALIVE_RETRIES);
        let socket = SockRef::from(&stream);
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_keepalive(&keepalive)?;
        Ok(Self {
            stream: Stream::Attached(stream),
            peer: canonical(peer),
            local: canonical(local),
            peeked: BytesMut::new(),
            traffic: Arc::default(),
            quick_ack_bytes: 0,
            tickets: None,
        })
    }

    /// Makes the connection fit for an agent's session.
    ///
    /// It is given up when bytes stay unacknowledged for [`UNACKNOWLEDGED_SECS_MAX`], because every new visitor of its
    /// endpoints waits behind them. And it acknowledges at once after every read: some agents leave Nagle's algorithm on
    /// and wait for our delayed acknowledgement otherwise (wire.md section 7.4). The kernel forgets that wish, so it is
    /// repeated.
    pub fn for_agent(mut self) -> io::Result<Self> {
        self.quick_ack_bytes = u64::MAX;
        self.for_link()
    }

    /// Acknowledges the client's part of a TLS handshake at once, where an upstream behind a relay ends it. See
    /// [`Socket::acknowledge_now`].
    pub fn for_handshake_behind(&mut self) {
        self.quick_ack_bytes = HANDSHAKE_BYTES_MAX;
    }

    /// Acknowledges what was read, if the kernel has delayed that.
    ///
    /// A TLS client ends the handshake with a small packet, and nothing need follow from us. Under Nagle's algorithm its
    /// first request would wait for the delayed acknowledgement, 40 ms.
    pub fn acknowledge_now(&self) {
        if let Stream::Attached(stream) = &self.stream {
            acknowledge(stream);
        }
    }

    /// Before a TLS handshake as server: session tickets wait for the first answer.
    pub fn hold_tickets(&mut self) {
        self.tickets = Some(Box::default());
    }

    /// After the handshake: the next bytes sent take the tickets along.
    pub fn send_tickets_with_the_next_bytes(&mut self) {
        if let Some(tickets) = &mut self.tickets {
            tickets.handshake_is_over();
        }
    }

    fn saw(&mut self, bytes: &[u8]) {
        if let Some(tickets) = &mut self.tickets {
            tickets.received(bytes);
        }
    }

    /// Sends held tickets and `bytes` after them, as one. How many of `bytes` went.
    fn poll_write_after(
        &mut self,
        mut tickets: Box<Tickets>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let both = [io::IoSlice::new(tickets.held()), io::IoSlice::new(bytes)];
        let n = match self.stream()?.poll_write_vectored(cx, &both) {
            Poll::Pending => {
                self.tickets = Some(tickets);
                return Poll::Pending;
            }
            Poll::Ready(sent) => sent?,
        };
        self.traffic.add_sent(n);
        let of_bytes = tickets.went(n);
        if tickets.held().is_empty() && tickets.is_over() {
            return if of_bytes > 0 {
                Poll::Ready(Ok(of_bytes))
            } else {
                Pin::new(self).poll_write(cx, bytes)
            };
        }
        tickets.sent(bytes.get(..of_bytes).unwrap_or_default());
        self.tickets = Some(tickets);
        match (n, of_bytes) {
            (0, _) => Poll::Ready(Ok(0)),
            (_, 0) => Pin::new(self).poll_write(cx, bytes),
            (_, of_bytes) => Poll::Ready(Ok(of_bytes)),
        }
    }

    /// Counts bytes read, and acknowledges them as far as they are to be at once.
    fn received(&self, n: usize) {
        self.traffic.add_received(n);
        if self.traffic.received() <= self.quick_ack_bytes {
            self.acknowledge_now();
        }
    }

    /// Makes the connection fit for an agent's link: given up like a session's. Our own agent has no delay to be spared.
    pub fn for_link(self) -> io::Result<Self> {
        self.give_up_on_silence(true)?;
        Ok(self)
    }

    /// Whether a link is given up when bytes stay unacknowledged. Not while it carries bulk: to the kernel a reader who
    /// pauses with his buffers full is as silent as a machine that is gone. That one's links end with its session.
    pub fn give_up_on_silence(&self, give_up: bool) -> io::Result<()> {
        if let Stream::Attached(stream) = &self.stream {
            let limit = give_up.then_some(Duration::from_secs(UNACKNOWLEDGED_SECS_MAX));
            SockRef::from(stream).set_tcp_user_timeout(limit)?;
        }
        Ok(())
    }

    /// Address of the client; IPv4-mapped addresses as IPv4. The peer's, or what [`Socket::came_from`] was told.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Where they connected to.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Takes the addresses that a trusted load balancer names in the place of the connection's own.
    pub fn came_from(&mut self, peer: SocketAddr, local: SocketAddr) {
        (self.peer, self.local) = (canonical(peer), canonical(local));
    }

    /// The running count of bytes.
    pub fn traffic(&self) -> Arc<Traffic> {
        Arc::clone(&self.traffic)
    }

    /// Bytes looked at and not yet read.
    pub fn peeked(&self) -> &[u8] {
        &self.peeked
    }

    /// Waits for more bytes to look at; 0 is the end of the stream. Reads return them later. Cancel-safe.
    pub async fn peek_more(&mut self) -> io::Result<usize> {
        let Stream::Attached(stream) = &mut self.stream else { return Err(lost()) };
        self.peeked.reserve(LOOK_BYTES);
        let n = stream.read_buf(&mut self.peeked).await?;
        self.traffic.add_received(n);
        Ok(n)
    }

    /// Whether it is open, and has nothing to be read.
    pub fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(self).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_pending()
    }

    /// Drops the first `n` bytes looked at: they were answered here.
    pub fn consume(&mut self, n: usize) {
        self.peeked.advance(n.min(self.peeked.len()));
    }

    /// Takes the bytes looked at and not yet read: for [`crate::relay::First`], since a spliced relay reads the kernel's
    /// socket alone.
    pub fn take_peeked(&mut self) -> Bytes {
        std::mem::take(&mut self.peeked).freeze()
    }

    /// Leaves this thread's runtime. Until [`Socket::attach`], reads and writes fail.
    pub fn detach(&mut self) -> io::Result<()> {
        self.stream = match std::mem::replace(&mut self.stream, Stream::Lost) {
            Stream::Attached(stream) => Stream::Detached(stream.into_std()?),
            other => other,
        };
        Ok(())
    }

    /// Joins this thread's runtime.
    pub fn attach(&mut self) -> io::Result<()> {
        self.stream = match std::mem::replace(&mut self.stream, Stream::Lost) {
            Stream::Detached(stream) => Stream::Attached(TcpStream::from_std(stream)?),
            other => other,
        };
        Ok(())
    }

    /// Makes the close that follows a reset, so that the peer sees an abort and not an end.
    pub fn abort_on_close(&self) {
        if let Stream::Attached(stream) = &self.stream {
            // A failure means that the peer is gone, which is what the abort is to tell it.
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }

    /// Makes its close one in order again.
    pub fn end_on_close(&self) {
        if let Stream::Attached(stream) = &self.stream {
            // It fails where the peer is gone, which every other call then says.
            let _ = SockRef::from(stream).set_linger(None);
        }
    }

    /// On a thread whose runtime is a ring: the connection as one whose readiness the ring reports, for a spliced relay.
    /// None: by epoll, as it is. Afterwards nothing else can use this socket.
    pub fn by_ring(&mut self) -> io::Result<Option<Ringed>> {
        if !ring::in_ring() {
            return Ok(None);
        }
        match std::mem::replace(&mut self.stream, Stream::Lost) {
            Stream::Attached(stream) => {
                let polled = Polled::new(stream.into_std()?);
                let (traffic, quick_ack_bytes) = (self.traffic(), self.quick_ack_bytes);
                Ok(Some(Ringed { polled, traffic, quick_ack_bytes, finished: Cell::new(false) }))
            }
            Stream::Detached(_) | Stream::Lost => Err(lost()),
        }
    }

    fn attached(&self) -> io::Result<&TcpStream> {
        match &self.stream {
            Stream::Attached(stream) => Ok(stream),
            Stream::Detached(_) | Stream::Lost => Err(lost()),
        }
    }

    fn stream(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        match &mut self.stream {
            Stream::Attached(stream) => Ok(Pin::new(stream)),
            Stream::Detached(_) | Stream::Lost => Err(lost()),
        }
    }
}

/// Counts what the kernel moves; bytes looked at are not its business ([`Socket::take_peeked`]).
impl Kernel for Socket {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.attached()?.poll_readable(cx)
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.attached()?.poll_writable(cx)
    }

    fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.attached()?.recv(buffer).inspect(|n| self.received(*n))
    }

    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        self.attached()?.send(bytes).inspect(|n| self.traffic.add_sent(*n))
    }

    fn fill(&self, pipe: &Pipe) -> io::Result<usize> {
        self.attached()?.fill(pipe).inspect(|n| self.received(*n))
    }

    fn drain(&self, pipe: &Pipe, n: usize) -> io::Result<usize> {
        self.attached()?.drain(pipe, n).inspect(|n| self.traffic.add_sent(*n))
    }

    fn finish(&self) -> io::Result<()> {
        self.attached()?.finish()
    }

    fn is_connected(&self) -> bool {
        self.attached().is_ok_and(Kernel::is_connected)
    }
}

/// A connection that this thread's ring watches. Its close is an abort unless its relay ended in order.
pub struct Ringed {
    polled: Polled,
    traffic: Arc<Traffic>,
    /// See [`Socket`].
    quick_ack_bytes: u64,
    finished: Cell<bool>,
}

impl Ringed {
    /// Both directions ended in order.
    pub fn finished(&self) {
        self.finished.set(true);
    }

    fn received(&self, n: usize) {
        self.traffic.add_received(n);
        if self.traffic.received() <= self.quick_ack_bytes {
            acknowledge(self.polled.socket());
        }
    }
}

impl Drop for Ringed {
    fn drop(&mut self) {
        if !self.finished.get() {
            // A failure means that the peer is gone, which is what the abort is to tell it.
            let _ = SockRef::from(self.polled.socket()).set_linger(Some(Duration::ZERO));
        }
    }
}

impl Kernel for Ringed {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.polled.poll_readable(cx)
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.polled.poll_writable(cx)
    }

    fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.polled.recv(buffer).inspect(|n| self.received(*n))
    }

    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        self.polled.send(bytes).inspect(|n| self.traffic.add_sent(*n))
    }

    fn fill(&self, pipe: &Pipe) -> io::Result<usize> {
        self.polled.fill(pipe).inspect(|n| self.received(*n))
    }

    fn drain(&self, pipe: &Pipe, n: usize) -> io::Result<usize> {
        self.polled.drain(pipe, n).inspect(|n| self.traffic.add_sent(*n))
    }

    fn finish(&self) -> io::Result<()> {
        self.polled.finish()
    }

    fn is_connected(&self) -> bool {
        self.polled.is_connected()
    }
}

/// Sends the acknowledgement that the kernel has delayed, and delays the next less.
fn acknowledge(socket: &impl AsFd) {
    // Only latency is lost when this fails.
    let _ = SockRef::from(socket).set_tcp_quickack(true);
}

fn lost() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the connection belongs to no runtime")
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.peeked.is_empty() {
            let n = self.peeked.len().min(buf.remaining());
            let peeked = self.peeked.split_to(n);
            self.saw(&peeked);
            buf.put_slice(&peeked);
            if self.peeked.is_empty() {
                self.peeked = BytesMut::new();
            }
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(self.stream()?.poll_read(cx, buf))?;
        let new = buf.filled().get(before..).unwrap_or_default();
        self.received(new.len());
        self.saw(new);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(mut tickets) = self.tickets.take() {
            if tickets.hold(bytes) {
                self.tickets = Some(tickets);
                return Poll::Ready(Ok(bytes.len()));
            }
            return self.poll_write_after(tickets, cx, bytes);
        }
        let n = ready!(self.stream()?.poll_write(cx, bytes))?;
        self.traffic.add_sent(n);
        Poll::Ready(Ok(n))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.tickets.is_some() {
            let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
            return self.poll_write(cx, first);
        }
        let n = ready!(self.stream()?.poll_write_vectored(cx, bufs))?;
        self.traffic.add_sent(n);
        Poll::Ready(Ok(n))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    /// Whether the kernel waits with acknowledgements on the connection between these IPv4 addresses (`pingpong` in
    /// `net/ipv4/tcp_ipv4.c`, `get_tcp4_sock`).
    pub(crate) fn delays_acknowledgements(local: SocketAddr, peer: SocketAddr) -> bool {
        let shown = |address: SocketAddr| match address {
            SocketAddr::V4(v4) => {
                format!("{:08X}:{:04X}", u32::from_ne_bytes(v4.ip().octets()), v4.port())
            }
            SocketAddr::V6(_) => panic!("{address} is not IPv4"),
        };
        let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
        let row = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let mut row = row.filter(|row| row[1] == shown(local) && row[2] == shown(peer));
        let row = row.next().expect("the connection is in the kernel's table");
        row[14].parse::<u32>().unwrap() & 1 == 1
    }

    #[tokio::test]
    async fn the_first_bytes_behind_a_handshake_are_acknowledged_at_once() {
        // Kernels differ in how many answers make them expect another, and wait for it.
        const ANSWERS: usize = 4;
        for quick in [false, true] {
            let (mut client, mut socket) = pair().await;
            if quick {
                socket.for_handshake_behind();
            }
            for _ in 0..ANSWERS {
                client.write_all(b"hello").await.unwrap();
                socket.read_exact(&mut [0; 5]).await.unwrap();
                socket.write_all(b"server hello").await.unwrap();
                client.read_exact(&mut [0; 12]).await.unwrap();
            }
            client.write_all(b"finished").await.unwrap();
            socket.read_exact(&mut [0; 8]).await.unwrap();
            assert_eq!(delays_acknowledgements(socket.local(), socket.peer()), !quick);
        }
    }

    async fn pair() -> (TcpStream, Socket) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, Socket::new(listener.accept().await.unwrap().0).unwrap())
    }

    #[tokio::test]
    async fn what_was_looked_at_is_read_again() {
        let (mut client, mut socket) = pair().await;
        client.write_all(b"preamble and more").await.unwrap();
        while socket.peeked().len() < 17 {
            assert_ne!(socket.peek_more().await.unwrap(), 0);
        }
        socket.consume(9);
        client.shutdown().await.unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).await.unwrap();
        assert_eq!((text.as_str(), socket.traffic().received()), ("and more", 17));
    }

    #[tokio::test]
    async fn a_spliced_relay_counts_its_bytes_and_first_carries_what_was_looked_at() {
        use crate::relay::{End, First, IdleLimits, splice};
        const MORE_BYTES: usize = 300_000;
        let ((mut client, mut near), (mut server, far)) = (pair().await, pair().await);
        client.write_all(b"hello").await.unwrap();
        near.peek_more().await.unwrap();
        let first = First { to_agent: near.take_peeked(), to_client: Bytes::new() };
        let (near_traffic, far_traffic) = (near.traffic(), far.traffic());
        // The last end goes with the close.
        let relay = async move {
            let ended =
                splice(&near, &far, first, IdleLimits { open_ms: 60_000, half_closed_ms: 60_000 }).await;
            assert_eq!(ended.end, End::Finished);
        };
        let talk = async {
            client.write_all(&vec![1; MORE_BYTES]).await.unwrap();
            client.shutdown().await.unwrap();
            let mut got = Vec::new();
            server.read_to_end(&mut got).await.unwrap();
            server.write_all(b"bye").await.unwrap();
            drop(server);
            let mut bye = Vec::new();
            client.read_to_end(&mut bye).await.unwrap();
            (got.len(), bye.len())
        };
        let ((), lengths) = tokio::join!(relay, talk);
        assert_eq!(lengths, (5 + MORE_BYTES, 3));
        let count = |traffic: &Traffic| (traffic.received(), traffic.sent());
        let whole = 5 + MORE_BYTES as u64;
        assert_eq!((count(&near_traffic), count(&far_traffic)), ((whole, 3), (3, whole)));
    }

    #[tokio::test]
    async fn moves_to_another_runtime_with_what_it_holds() {
        let (mut client, mut socket) = pair().await;
        client.write_all(b"he").await.unwrap();
        socket.peek_more().await.unwrap();
        socket.detach().unwrap();
        assert!(socket.read_u8().await.is_ok(), "what was looked at is still there");
        assert_eq!(socket.write_all(b"x").await.unwrap_err().kind(), io::ErrorKind::NotConnected);
        client.write_all(b"llo").await.unwrap();
        client.shutdown().await.unwrap();
        let moved = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                socket.attach().unwrap();
                let mut text = String::new();
                socket.read_to_string(&mut text).await.unwrap();
                text
            })
        });
        assert_eq!(moved.join().unwrap(), "ello");
    }
}
