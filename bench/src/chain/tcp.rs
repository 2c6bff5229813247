//! Loads over plain TCP: downloads, small messages back and forth, short connections, and connections that stay silent. One
//! thread on epoll, so that 256 connections cost the machine little more than one.
//!
//! Every load has a fixed amount and a deadline; one that does not get through in time fails and gives no figure.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ebbgate_lab::http;
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::OwnedFd;
use socket2::{Domain, Socket, Type};

use super::load::{Kind, Load};
use super::sink::{DOWNLOAD, ECHO, MESSAGE_BYTES};
use crate::meter::{Latency, Meter, Moved, Sample};

/// Seconds one load may take.
pub(super) const LOAD_SECS_MAX: u64 = 15;
/// Seconds that opening silent connections may take for each thousand of them, and at least.
const OPEN_SECS_PER_THOUSAND: u64 = 4;
const READ_BYTES: usize = 256 << 10;
const EVENTS_MAX: usize = 256;
/// Bursts of visitors before a load, and milliseconds after each.
const BURSTS: u32 = 2;
const BURST_PAUSE_MS: u64 = 200;
/// Connections being opened at the same time ahead of a load.
const OPENING_MAX: usize = 64;
/// How often the deadline is looked at when nothing comes.
const POLL: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// Where a chain takes TCP, and what a visitor says first.
#[derive(Clone)]
pub(super) struct Front {
    /// Where bulk goes; elsewhere than other TCP only for HAProxy.
    pub(super) bulk: SocketAddr,
    pub(super) small: SocketAddr,
    /// Sent before anything else: nothing, or a TLS hello that the sink skips.
    pub(super) preface: Vec<u8>,
}

/// Runs one load of the relay and tunnel tables.
pub(super) fn run(front: &Front, load: &Load, meter: &Meter) -> Result<Sample> {
    let count = load.connections as usize;
    let left = load.amount / u64::from(load.connections);
    let pool = match load.kind {
        Kind::Bulk => Pool::on(open(front.bulk, &front.preface, count)?, Task::Download { left })?,
        Kind::Requests | Kind::Idle => {
            Pool::on(open(front.small, &front.preface, count)?, Task::Echo { left })?
        }
        Kind::Connections => Pool::opening(front.small, &front.preface, Task::Short, load.amount, count)?,
    };
    pool.measure(meter)
}

/// As many visitors at once as a load will have, twice, each for one echo and an orderly end.
pub(super) fn burst(front: &Front, count: u32) -> Result<()> {
    for _ in 0..BURSTS {
        drop(open(front.small, &front.preface, count as usize)?);
        thread::sleep(Duration::from_millis(BURST_PAUSE_MS));
    }
    Ok(())
}

/// Opens connections, each proven by one echo, and keeps them.
pub(super) fn open(front: SocketAddr, preface: &[u8], count: usize) -> Result<Vec<TcpStream>> {
    let mut pool = Pool::opening(front, preface, Task::Silent, count as u64, OPENING_MAX)?;
    let secs = LOAD_SECS_MAX.max(OPEN_SECS_PER_THOUSAND * count as u64 / 1_000);
    pool.run(Duration::from_secs(secs)).with_context(|| format!("open {count} connections to {front}"))?;
    Ok(pool.kept)
}

/// One short connection with blocking calls; an error while the chain is not up yet.
pub(crate) fn one_echo(front: SocketAddr, preface: &[u8]) -> Result<()> {
    let mut stream = http::connect(front)?;
    stream.set_read_timeout(Some(Duration::from_secs(LOAD_SECS_MAX)))?;
    let mut message = [ECHO; MESSAGE_BYTES];
    stream.write_all(&[preface, &message].concat())?;
    stream.read_exact(&mut message).context("read an echo")?;
    ensure!(message == [ECHO; MESSAGE_BYTES], "the echo is another message");
    stream.shutdown(Shutdown::Write)?;
    ensure!(stream.read(&mut [0])? == 0, "a byte came after the last echo");
    Ok(())
}

/// What a connection is for.
#[derive(Clone, Copy)]
enum Task {
    /// Reads so many bytes.
    Download { left: u64 },
    /// Sends a message when the last one is back.
    Echo { left: u64 },
    /// One echo, then an orderly end.
    Short,
    /// One echo, then it is kept.
    Silent,
}

/// Where a connection is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Opening,
    Working,
    /// Our end is said; the peer's is awaited.
    Ending,
}

struct Peer {
    stream: TcpStream,
    task: Task,
    stage: Stage,
    /// Bytes of the echo that are here.
    got: usize,
    /// When the connection, or the last message, began.
    since: Instant,
}

/// Connections on one epoll instance.
struct Pool {
    epoll: OwnedFd,
    peers: Vec<Option<Peer>>,
    busy: usize,
    front: Option<SocketAddr>,
    preface: Vec<u8>,
    task: Task,
    /// Connections still to be begun.
    to_open: u64,
    tally: Tally,
    kept: Vec<TcpStream>,
}

/// What came of the work so far.
struct Tally {
    buffer: Vec<u8>,
    moved: Moved,
    latencies: Vec<Duration>,
}

impl Pool {
    fn new(task: Task) -> Result<Self> {
        let tally = Tally { buffer: vec![0; READ_BYTES], moved: Moved::default(), latencies: Vec::new() };
        let (epoll, preface) = (epoll::create(CreateFlags::CLOEXEC)?, Vec::new());
        let (peers, kept) = (Vec::new(), Vec::new());
        Ok(Self { epoll, peers, busy: 0, front: None, preface, task, to_open: 0, tally, kept })
    }

    /// Works on connections that are open.
    fn on(streams: Vec<TcpStream>, task: Task) -> Result<Self> {
        let mut pool = Self::new(task)?;
        for stream in streams {
            let data = EventData::new_u64(pool.peers.len() as u64);
            epoll::add(&pool.epoll, &stream, data, EventFlags::IN)?;
            let (stage, since) = (Stage::Working, Instant::now());
            pool.peers.push(Some(Peer { stream, task, stage, got: 0, since }));
            pool.busy += 1;
        }
        Ok(pool)
    }

    /// Opens `count` connections for the work, some at a time.
    fn opening(front: SocketAddr, preface: &[u8], task: Task, count: u64, at_once: usize) -> Result<Self> {
        let mut pool = Self::new(task)?;
        (pool.front, pool.preface, pool.to_open) = (Some(front), preface.to_vec(), count);
        pool.peers.resize_with(at_once, || None);
        Ok(pool)
    }

    fn measure(mut self, meter: &Meter) -> Result<Sample> {
        meter.measure(|| {
            self.run(Duration::from_secs(LOAD_SECS_MAX))?;
            Ok((self.tally.moved, Latency::of(self.tally.latencies)))
        })
    }

    fn run(&mut self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        for at in 0..self.peers.len() {
            match self.peers.get_mut(at) {
                Some(Some(peer)) => peer.begin()?,
                _ => self.open_next(at)?,
            }
        }
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS_MAX);
        while self.busy > 0 {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&POLL)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if Instant::now() > deadline {
                bail!("not through in {} s: {} connections had work left", limit.as_secs(), self.busy);
            }
            for event in &events {
                self.turn(usize::try_from(event.data.u64())?)?;
            }
        }
        Ok(())
    }

    fn turn(&mut self, at: usize) -> Result<()> {
        let Some(Some(peer)) = self.peers.get_mut(at) else { return Ok(()) };
        if peer.stage == Stage::Opening {
            peer.opened(&self.preface)?;
            let data = EventData::new_u64(at as u64);
            epoll::modify(&self.epoll, &peer.stream, data, EventFlags::IN)?;
            return Ok(());
        }
        if !peer.readable(&mut self.tally)? {
            return Ok(());
        }
        let Some(peer) = self.peers.get_mut(at).and_then(Option::take) else { return Ok(()) };
        self.busy -= 1;
        if matches!(peer.task, Task::Silent) {
            epoll::delete(&self.epoll, &peer.stream)?;
            self.kept.push(peer.stream);
        }
        self.open_next(at)
    }

    /// Begins a connection in an empty place, if there is one to be made.
    fn open_next(&mut self, at: usize) -> Result<()> {
        let (Some(front), Some(left)) = (self.front, self.to_open.checked_sub(1)) else { return Ok(()) };
        self.to_open = left;
        let since = Instant::now();
        let stream = connect(front)?;
        epoll::add(&self.epoll, &stream, EventData::new_u64(at as u64), EventFlags::OUT)?;
        if let Some(place) = self.peers.get_mut(at) {
            *place = Some(Peer { stream, task: self.task, stage: Stage::Opening, got: 0, since });
            self.busy += 1;
        }
        Ok(())
    }
}

impl Peer {
    /// First words on a connection that was open before.
    fn begin(&mut self) -> Result<()> {
        self.since = Instant::now();
        match self.task {
            Task::Download { left } => {
                let mut message = vec![DOWNLOAD];
                message.extend(left.to_be_bytes());
                message.resize(MESSAGE_BYTES, 0);
                self.send(&message)
            }
            _ => self.send(&[ECHO; MESSAGE_BYTES]),
        }
    }

    fn opened(&mut self, preface: &[u8]) -> Result<()> {
        if let Some(error) = self.stream.take_error()? {
            return Err(error).context("connect");
        }
        self.stage = Stage::Working;
        self.send(&[preface, &[ECHO; MESSAGE_BYTES]].concat())
    }

    /// A few bytes, which an idle connection's buffer always takes.
    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let sent = self.stream.write(bytes).context("send")?;
        ensure!(sent == bytes.len(), "{sent} of {} bytes were taken", bytes.len());
        Ok(())
    }

    /// Reads once; whether the connection's work is done.
    fn readable(&mut self, tally: &mut Tally) -> Result<bool> {
        let count = match self.stream.read(&mut tally.buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error).context("read"),
        };
        if self.stage == Stage::Ending {
            ensure!(count == 0, "a byte came after the last echo");
            return Ok(true);
        }
        ensure!(count > 0, "the connection ended early");
        tally.moved.bytes += count as u64;
        if let Task::Download { left } = &mut self.task {
            *left = left.checked_sub(count as u64).context("more bytes came than were asked for")?;
            tally.moved.count += u64::from(*left == 0);
            return Ok(*left == 0);
        }
        self.got += count;
        let good = tally.buffer.iter().take(count).all(|byte| *byte == ECHO);
        ensure!(good && self.got <= MESSAGE_BYTES, "the echo is another message");
        if self.got < MESSAGE_BYTES {
            return Ok(false);
        }
        self.got = 0;
        tally.moved.count += 1;
        tally.latencies.push(self.since.elapsed());
        match &mut self.task {
            Task::Echo { left } if *left > 1 => {
                *left -= 1;
                self.begin()?;
                Ok(false)
            }
            Task::Short => {
                self.stage = Stage::Ending;
                self.stream.shutdown(Shutdown::Write)?;
                Ok(false)
            }
            _ => Ok(true),
        }
    }
}

/// A connection under way.
fn connect(front: SocketAddr) -> Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(front), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&front.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
        Err(error) => return Err(error).with_context(|| format!("connect to {front}")),
    }
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::super::load::{Table, plan};
    use super::super::sink;
    use super::*;

    #[test]
    fn every_load_gets_through_to_the_sink_itself() {
        let (sink, _) = sink::spawn().unwrap();
        for hello in [Vec::new(), vec![22, 3, 1, 0, 2, 9, 9]] {
            one_echo(sink, &hello).unwrap();
            let front = Front { bulk: sink, small: sink, preface: hello };
            for mut load in plan(&[Table::Relay], &Kind::IN_ROUNDS, &[1, 7]) {
                load.amount = if load.kind == Kind::Bulk { 7 << 20 } else { 70 };
                let sample = run(&front, &load, &Meter::default()).unwrap();
                let expect = if load.kind == Kind::Bulk { u64::from(load.connections) } else { 70 };
                assert_eq!(sample.moved.count, expect, "{load:?}");
                let bytes = if load.kind == Kind::Bulk { load.amount } else { 70 * MESSAGE_BYTES as u64 };
                assert_eq!(sample.moved.bytes, bytes, "{load:?}");
            }
        }
    }
}
