//! The visitors: each has an edge of its own, which it comes back to when its connection is cut. One thread each.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::tally::{Kind, Tally, Told};
use crate::wait;

/// Milliseconds between two requests of a visitor, and two words on a stream.
const PACE_MS: u64 = 100;
/// Seconds a visitor waits for an answer.
pub(super) const ANSWER_SECS_MAX: u64 = 20;
/// Milliseconds until a visitor that was not served comes again.
const AGAIN_MS: u64 = 50;
/// Seconds until every visitor is served again: one that is not answered waits, then comes again.
const SETTLED_SECS_MAX: u64 = 3 * ANSWER_SECS_MAX;
/// One of so many clients opens a connection for each request.
const NEW_EACH: usize = 4;

/// Where visitors of one edge come in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) http: SocketAddr,
    pub(super) tcp: SocketAddr,
}

/// How many visitors there are, over all edges.
#[derive(Debug, Clone, Copy)]
pub struct Visitors {
    /// Those that ask one request after another; one in four opens a connection for each, others keep theirs.
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
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    tally: Tally,
    host: String,
    stop: AtomicBool,
    began: Instant,
    /// The edge of each visitor, and when he was served last: milliseconds from the beginning, 0 for never.
    served: Vec<(usize, AtomicU64)>,
}

/// One visitor.
#[derive(Clone, Copy)]
struct Visitor {
    number: usize,
    kind: Kind,
    edge: usize,
    place: Place,
}

/// What a visitor holds of its connection.
struct Open {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
    connected: Instant,
}

impl Load {
    /// Starts all visitors, spread over the edges.
    pub(super) fn start(places: &[Place], host: &str, visitors: Visitors) -> Result<Self> {
        let Visitors { clients, streams, websockets } = visitors;
        let requests = |number| if number % NEW_EACH == 0 { Kind::NewRequests } else { Kind::Requests };
        let kinds = (0..clients).map(requests);
        let kinds = kinds.chain((0..streams).map(|_| Kind::Stream));
        let kinds: Vec<_> = kinds.chain((0..websockets).map(|_| Kind::WebSocket)).collect();
        let at = || places.iter().copied().enumerate().cycle();
        let shared = Arc::new(Shared {
            tally: Tally::default(),
            host: host.to_owned(),
            stop: AtomicBool::new(false),
            began: Instant::now(),
            served: kinds.iter().zip(at()).map(|(_, (edge, _))| (edge, AtomicU64::new(0))).collect(),
        });
        let visitors = kinds.into_iter().enumerate().zip(at());
        let threads = visitors.map(|((number, kind), (edge, place))| {
            let (shared, visitor) = (Arc::clone(&shared), Visitor { number, kind, edge, place });
            Ok(thread::Builder::new().spawn(move || shared.visit(visitor))?)
        });
        let threads = threads.collect::<Result<_>>()?;
        let load = Self { shared, threads };
        load.settled()?;
        Ok(load)
    }

    /// Waits until every visitor was served once more.
    pub(super) fn settled(&self) -> Result<()> {
        self.settled_at(|_| true)
    }

    /// The same of the visitors of some edges.
    pub(super) fn settled_at(&self, is_meant: impl Fn(usize) -> bool) -> Result<()> {
        let now = self.shared.now();
        let limit = Duration::from_secs(SETTLED_SECS_MAX);
        wait::until(limit, "every visitor to be served", || {
            let mut served = self.shared.served.iter().filter(|(edge, _)| is_meant(*edge));
            Ok(served.all(|(_, at)| at.load(Ordering::SeqCst) > now).then_some(()))
        })
    }

    pub(super) fn tally(&self) -> &Tally {
        &self.shared.tally
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Milliseconds since the beginning, from 1 on.
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn visit(&self, visitor: Visitor) {
        while !self.stopped() {
            let began = Instant::now();
            let ended = match Open::to(visitor) {
                Ok(mut open) => self.serve(visitor, &mut open),
                Err(error) => {
                    self.tell(visitor, began, began, true, true);
                    Err(error)
                }
            };
            if ended.is_err() {
                thread::sleep(Duration::from_millis(AGAIN_MS));
            }
        }
    }

    fn tell(&self, visitor: Visitor, began: Instant, connected: Instant, failed: bool, refused: bool) {
        let Visitor { edge, kind, .. } = visitor;
        let ended = Instant::now();
        self.tally.tell(Told { edge, kind, began, ended, connected, failed, refused });
        if let Some((_, served)) = self.served.get(visitor.number).filter(|_| !failed) {
            served.store(self.now(), Ordering::SeqCst);
        }
    }

    /// Uses one connection until it ends; an error: it was not served to the end.
    fn serve(&self, visitor: Visitor, open: &mut Open) -> io::Result<()> {
        let mut number = 0_u64;
        while !self.stopped() {
            // What opens the connection counts with the first exchange.
            let began = if number == 0 { open.connected } else { Instant::now() };
            let exchanged = match visitor.kind {
                Kind::Requests => open.ask(&self.host, false),
                Kind::NewRequests => open.ask(&self.host, true),
                Kind::Stream => open.word(number).map(|()| true),
                Kind::WebSocket if number == 0 => open.upgrade(&self.host).map(|()| true),
                Kind::WebSocket => open.word(number).map(|()| true),
            };
            self.tell(visitor, began, open.connected, exchanged.is_err(), false);
            thread::sleep(Duration::from_millis(PACE_MS));
            if !exchanged? {
                break;
            }
            number += 1;
        }
        Ok(())
    }
}

impl Open {
    fn to(visitor: Visitor) -> io::Result<Self> {
        let at = match visitor.kind {
            Kind::Stream => visitor.place.tcp,
            Kind::Requests | Kind::NewRequests | Kind::WebSocket => visitor.place.http,
        };
        let connected = Instant::now();
        let limit = Duration::from_secs(ANSWER_SECS_MAX);
        let stream = TcpStream::connect_timeout(&at, limit)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_nodelay(true)?;
        Ok(Self { reader: BufReader::new(stream.try_clone()?), stream, connected })
    }

    /// Asks once; whether the connection may be used again.
    fn ask(&mut self, host: &str, last: bool) -> io::Result<bool> {
        let close = if last { "Connection: close\r\n" } else { "" };
        write!(self.stream, "GET / HTTP/1.1\r\nHost: {host}\r\n{close}\r\n")?;
        let (status, closes) = self.head()?;
        let mut body = [0; 2];
        if status != 200 {
            return Err(io::Error::other(format!("status {status}")));
        }
        self.reader.read_exact(&mut body)?;
        Ok(!closes)
    }

    fn upgrade(&mut self, host: &str) -> io::Result<()> {
        write!(
            self.stream,
            "GET /ws HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )?;
        match self.head()? {
            (101, _) => Ok(()),
            (status, _) => Err(io::Error::other(format!("status {status}"))),
        }
    }

    /// Says a word and hears it.
    fn word(&mut self, number: u64) -> io::Result<()> {
        let mut word = [0; 8];
        self.stream.write_all(&number.to_be_bytes())?;
        self.reader.read_exact(&mut word)?;
        if word == number.to_be_bytes() { Ok(()) } else { Err(io::Error::other("another word came back")) }
    }

    /// Reads an answer's head: its status, and whether the connection ends after it.
    fn head(&mut self) -> io::Result<(u16, bool)> {
        let (mut status, mut closes, mut line) = (None, false, String::new());
        loop {
            line.clear();
            if self.reader.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            if status.is_none() {
                status = line.split(' ').nth(1).and_then(|word| word.parse().ok());
            }
            closes |= line.eq_ignore_ascii_case("connection: close");
        }
        Ok((status.ok_or_else(|| io::Error::other("no status"))?, closes))
    }
}
