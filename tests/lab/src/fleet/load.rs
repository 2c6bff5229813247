//! The visitors: each has an edge of its own, which it comes back to when its connection is cut. One thread each.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::tally::{Failed, Seen, Tally};
use crate::wait;

/// Milliseconds between two requests of a visitor, and two words on a stream.
const PACE_MS: u64 = 100;
/// Seconds a visitor waits for an answer.
const ANSWER_SECS_MAX: u64 = 20;
/// Milliseconds until a visitor that was not served comes again.
const AGAIN_MS: u64 = 50;

/// Where visitors of one edge come in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) http: SocketAddr,
    pub(super) tcp: SocketAddr,
}

/// How many visitors there are, over all edges.
#[derive(Debug, Clone, Copy)]
pub struct Visitors {
    /// Those that ask one request after another, each on one connection.
    pub clients: usize,
    /// Long TCP streams.
    pub streams: usize,
    /// Connections that became `WebSocket`s.
    pub websockets: usize,
}

impl Visitors {
    /// What the proof is about.
    pub const MANY: Self = Self { clients: 100, streams: 50, websockets: 20 };
    /// For a test beside others.
    pub const FEW: Self = Self { clients: 12, streams: 6, websockets: 6 };
}

/// See the module.
pub(super) struct Load {
    all: usize,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    tally: Tally,
    host: String,
    stop: AtomicBool,
    /// Visitors that are served now.
    served: AtomicUsize,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Requests,
    Stream,
    WebSocket,
}

impl Kind {
    fn failed(self) -> Failed {
        match self {
            Self::Requests => Failed::Request,
            Self::Stream => Failed::Stream,
            Self::WebSocket => Failed::WebSocket,
        }
    }
}

impl Load {
    /// Starts all visitors, spread over the edges.
    pub(super) fn start(places: &[Place], host: &str, visitors: Visitors) -> Result<Self> {
        let Visitors { clients, streams, websockets } = visitors;
        let shared = Arc::new(Shared {
            tally: Tally::default(),
            host: host.to_owned(),
            stop: AtomicBool::new(false),
            served: AtomicUsize::new(0),
        });
        let kinds = [(Kind::Requests, clients), (Kind::Stream, streams), (Kind::WebSocket, websockets)];
        let visitors = kinds.into_iter().flat_map(|(kind, count)| (0..count).map(move |_| kind));
        let threads =
            visitors.zip(places.iter().copied().enumerate().cycle()).map(|(kind, (edge, place))| {
                let shared = Arc::clone(&shared);
                Ok(thread::Builder::new().spawn(move || shared.visit(kind, edge, place))?)
            });
        let threads = threads.collect::<Result<_>>()?;
        let load = Self { all: clients + streams + websockets, shared, threads };
        load.settled()?;
        Ok(load)
    }

    /// Waits until every visitor is served.
    pub(super) fn settled(&self) -> Result<()> {
        wait::soon("every visitor to be served", || {
            Ok((self.shared.served.load(Ordering::SeqCst) == self.all).then_some(()))
        })
    }

    pub(super) fn reset(&self) {
        self.shared.tally.reset();
    }

    /// What visitors of some edges saw since a moment.
    pub(super) fn seen(&self, at: impl Fn(usize) -> bool, from: Instant) -> Seen {
        self.shared.tally.since(from, at)
    }

    /// Ends all visitors.
    pub(super) fn stop(self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn visit(&self, kind: Kind, edge: usize, place: Place) {
        while !self.stop.load(Ordering::SeqCst) {
            let mut served = false;
            let ended = match kind {
                Kind::Requests => self.requests(edge, place.http, &mut served),
                Kind::Stream => self.stream(place.tcp, &mut served),
                Kind::WebSocket => self.websocket(place.http, &mut served),
            };
            if served {
                self.served.fetch_sub(1, Ordering::SeqCst);
            }
            if ended.is_err() {
                self.tally.tell(edge, Some(kind.failed()));
                thread::sleep(Duration::from_millis(AGAIN_MS));
            }
        }
    }

    fn is_served(&self, served: &mut bool) {
        if !std::mem::replace(served, true) {
            self.served.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Asks on one connection until it is cut.
    fn requests(&self, edge: usize, at: SocketAddr, served: &mut bool) -> io::Result<()> {
        let mut stream = connect(at)?;
        let mut reader = BufReader::new(stream.try_clone()?);
        while !self.stop.load(Ordering::SeqCst) {
            write!(stream, "GET / HTTP/1.1\r\nHost: {}\r\n\r\n", self.host)?;
            let status = head(&mut reader)?;
            let mut body = [0; 2];
            if status != 200 {
                return Err(io::Error::other(format!("status {status}")));
            }
            reader.read_exact(&mut body)?;
            self.tally.tell(edge, None);
            self.is_served(served);
            pace();
        }
        Ok(())
    }

    fn stream(&self, at: SocketAddr, served: &mut bool) -> io::Result<()> {
        let stream = connect(at)?;
        let reader = stream.try_clone()?;
        self.echo(stream, reader, served)
    }

    fn websocket(&self, at: SocketAddr, served: &mut bool) -> io::Result<()> {
        let mut stream = connect(at)?;
        write!(
            stream,
            "GET /ws HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            self.host
        )?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let status = head(&mut reader)?;
        if status != 101 {
            return Err(io::Error::other(format!("status {status}")));
        }
        self.echo(stream, reader, served)
    }

    /// Says a word and hears it, until the stream is cut.
    fn echo(&self, mut stream: TcpStream, mut reader: impl io::Read, served: &mut bool) -> io::Result<()> {
        let mut word = [0; 8];
        for number in 0_u64.. {
            if self.stop.load(Ordering::SeqCst) {
                break;
            }
            stream.write_all(&number.to_be_bytes())?;
            reader.read_exact(&mut word)?;
            if word != number.to_be_bytes() {
                return Err(io::Error::other("another word came back"));
            }
            self.is_served(served);
            pace();
        }
        Ok(())
    }
}

fn pace() {
    thread::sleep(Duration::from_millis(PACE_MS));
}

fn connect(at: SocketAddr) -> io::Result<TcpStream> {
    let limit = Duration::from_secs(ANSWER_SECS_MAX);
    let stream = TcpStream::connect_timeout(&at, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Reads an answer's head, and gives its status.
fn head(reader: &mut BufReader<TcpStream>) -> io::Result<u16> {
    let (mut status, mut line) = (None, String::new());
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line.trim_end().is_empty() {
            break;
        }
        if status.is_none() {
            status = line.split(' ').nth(1).and_then(|word| word.parse().ok());
        }
    }
    status.ok_or_else(|| io::Error::other("no status"))
}
