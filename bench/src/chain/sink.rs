//! The service at the end of every chain: sends bulk, echoes small messages, answers HTTP. One thread of this process, on epoll.
//!
//! It is never charged, but it takes its share of the machine. What a connection wants shows in its first byte; a TLS hello before
//! that (chains that carry a visitor's own TLS) is skipped, as a server of such a chain would read it.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fd::OwnedFd;

/// Bytes of one small message; its first byte says what it is for.
pub(super) const MESSAGE_BYTES: usize = 64;
/// First byte of a message that is wanted back.
pub(super) const ECHO: u8 = b'E';
/// First byte of a message that asks for a download; the number of bytes follows, big endian.
pub(super) const DOWNLOAD: u8 = b'D';
/// First byte of a TLS record that carries a hello.
const TLS_HANDSHAKE: u8 = 22;
const TLS_HEADER_BYTES: usize = 5;
/// Path answered with [`MESSAGE_BYTES`] bytes.
pub(super) const SMALL_PATH: &str = "/small";
/// Path answered with [`BULK_BODY_BYTES`] bytes.
pub(super) const BULK_PATH: &str = "/bulk";
/// Bytes of the large body: more than any load stays for, so that a load is one stream without turns.
pub(super) const BULK_BODY_BYTES: u64 = 64 << 30;

/// Connections served at the same time; more are closed at once. Two of these and a few make a process's 20,000 descriptors.
const CONNECTIONS_MAX: usize = 9_800;
/// Bytes a connection may send ahead of what it was answered.
const UNREAD_BYTES_MAX: usize = 64 << 10;
const READ_BYTES: usize = 16 << 10;
const EVENTS_MAX: usize = 256;
/// Bytes written at a time.
const BLOCK_BYTES: usize = 256 << 10;
static BLOCK: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];
/// Token of the listener; connections have their place in the table.
const LISTENER: u64 = u64::MAX;

/// What was served so far.
#[derive(Default)]
pub(crate) struct Served {
    requests: AtomicU64,
}

impl Served {
    /// HTTP requests answered so far.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

/// Serves on a free loopback port for as long as this process lives.
pub(crate) fn spawn() -> io::Result<(SocketAddr, Arc<Served>)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    // The standard library asks for a backlog of 128 only, which 256 connections at a time overrun.
    rustix::net::listen(&listener, 4096)?;
    listener.set_nonblocking(true)?;
    let addr = listener.local_addr()?;
    let served = Arc::new(Served::default());
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut sink =
        Sink { epoll, listener, peers: Vec::new(), free: Vec::new(), open: 0, served: Arc::clone(&served) };
    thread::Builder::new().name("sink".to_owned()).spawn(move || sink.run())?;
    Ok((addr, served))
}

struct Sink {
    epoll: OwnedFd,
    listener: TcpListener,
    peers: Vec<Option<Peer>>,
    free: Vec<usize>,
    open: usize,
    served: Arc<Served>,
}

/// One connection.
struct Peer {
    stream: TcpStream,
    unread: Vec<u8>,
    /// Bytes to write before zeros.
    head: Vec<u8>,
    zeros: u64,
    close: bool,
    waits_to_write: bool,
}

impl Sink {
    fn run(&mut self) {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                // Nothing is left to serve with; the loads notice every answer that is missing.
                Err(_) => return,
            }
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept(),
                    at => self.turn(usize::try_from(at).unwrap_or(usize::MAX)),
                }
            }
        }
    }

    fn accept(&mut self) {
        // One at a time: the listener stays readable while there are more.
        let Ok((stream, _)) = self.listener.accept() else { return };
        if self.open >= CONNECTIONS_MAX {
            return;
        }
        if stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true)).is_err() {
            return;
        }
        let at = self.free.pop().unwrap_or_else(|| {
            self.peers.push(None);
            self.peers.len() - 1
        });
        let added = epoll::add(&self.epoll, &stream, EventData::new_u64(at as u64), EventFlags::IN);
        let Some(place) = self.peers.get_mut(at) else { return };
        if added.is_err() {
            self.free.push(at);
            return;
        }
        self.open += 1;
        *place = Some(Peer {
            stream,
            unread: Vec::new(),
            head: Vec::new(),
            zeros: 0,
            close: false,
            waits_to_write: false,
        });
    }

    fn turn(&mut self, at: usize) {
        let Some(Some(peer)) = self.peers.get_mut(at) else { return };
        let waited = peer.waits_to_write;
        let alive = peer.turn(&self.served).unwrap_or(false);
        if alive && peer.waits_to_write == waited {
            return;
        }
        if alive {
            let flags = if peer.waits_to_write { EventFlags::OUT } else { EventFlags::IN };
            // A failure leaves the connection as it was; the load's deadline tells.
            let _ = epoll::modify(&self.epoll, &peer.stream, EventData::new_u64(at as u64), flags);
        } else if let Some(place) = self.peers.get_mut(at) {
            *place = None;
            self.free.push(at);
            self.open -= 1;
        }
    }
}

impl Peer {
    /// Writes what is owed, else reads and answers; whether the connection goes on.
    fn turn(&mut self, served: &Served) -> io::Result<bool> {
        if !self.waits_to_write {
            let mut chunk = [0; READ_BYTES];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(false),
                Ok(count) => self.unread.extend_from_slice(chunk.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        loop {
            self.waits_to_write = !self.write()?;
            if self.waits_to_write {
                return Ok(true);
            }
            if self.close {
                return Ok(false);
            }
            if !self.answer(served) {
                if self.unread.is_empty() {
                    self.unread = Vec::new();
                }
                return Ok(self.unread.len() < UNREAD_BYTES_MAX);
            }
        }
    }

    /// Whether all is written.
    fn write(&mut self) -> io::Result<bool> {
        while !self.head.is_empty() || self.zeros > 0 {
            let head = !self.head.is_empty();
            let zeros =
                usize::try_from(self.zeros).ok().and_then(|zeros| BLOCK.get(..zeros)).unwrap_or(&BLOCK);
            let wrote = match self.stream.write(if head { &self.head } else { zeros }) {
                Ok(wrote) => wrote,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            };
            if head {
                self.head.drain(..wrote);
            } else {
                self.zeros -= wrote as u64;
            }
        }
        self.head = Vec::new();
        Ok(true)
    }

    /// Takes one whole message, if there is one, and prepares its answer.
    fn answer(&mut self, served: &Served) -> bool {
        match self.unread.first() {
            None => false,
            Some(&TLS_HANDSHAKE) => {
                let length = self.unread.get(3..TLS_HEADER_BYTES).and_then(|bytes| bytes.first_chunk());
                let whole = length.map(|bytes| TLS_HEADER_BYTES + usize::from(u16::from_be_bytes(*bytes)));
                self.take(whole.unwrap_or(usize::MAX)).is_some()
            }
            Some(&(ECHO | DOWNLOAD)) => {
                let Some(message) = self.take(MESSAGE_BYTES) else { return false };
                if message.first() == Some(&ECHO) {
                    self.head = message;
                } else {
                    let count = message.get(1..).and_then(|rest| rest.first_chunk());
                    self.zeros = count.map_or(0, |bytes| u64::from_be_bytes(*bytes));
                }
                true
            }
            Some(_) => self.http(served),
        }
    }

    fn take(&mut self, count: usize) -> Option<Vec<u8>> {
        if self.unread.len() < count {
            return None;
        }
        let rest = self.unread.split_off(count);
        Some(std::mem::replace(&mut self.unread, rest))
    }

    /// A GET request without a body.
    fn http(&mut self, served: &Served) -> bool {
        let Some(end) = self.unread.windows(4).position(|window| window == b"\r\n\r\n") else { return false };
        let Some(request) = self.take(end + 4) else { return false };
        let request = String::from_utf8_lossy(&request).to_ascii_lowercase();
        let bulk = request.split(' ').nth(1).is_some_and(|path| path.starts_with(BULK_PATH));
        self.close = request.lines().any(|line| line == "connection: close");
        let length = if bulk { BULK_BODY_BYTES } else { MESSAGE_BYTES as u64 };
        let close = if self.close { "connection: close\r\n" } else { "" };
        self.head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\n{close}\r\n")
                .into_bytes();
        self.zeros = length;
        if !bulk {
            // One segment, one write.
            self.head.resize(self.head.len() + MESSAGE_BYTES, 0);
            self.zeros = 0;
        }
        served.requests.fetch_add(1, Ordering::Relaxed);
        true
    }
}
