//! Moves the soak's connections: a few threads, each with an epoll of its own, its share of the visitors and its share of
//! the services. Bounded in connections open at once and in seconds without any progress.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use socket2::{Domain, Socket, Type};

use super::end::{End, Turn};
use super::plan::{Kind, Pattern, Plan, Role};
use super::tape::{BLOCK_BYTES_MAX, Tape};

/// Threads that move bytes. The programs under test need the processors more.
const WORKERS: usize = 2;
/// Seconds without a byte or an end anywhere until a run is given up.
const STALL_SECS_MAX: u64 = 60;
/// Milliseconds a worker sleeps at most.
const NAP_MILLIS: i64 = 50;
/// Connections the kernel keeps ready for one socket.
const BACKLOG: i32 = 4096;
/// Connections accepted in one go.
const ACCEPTS_MAX: usize = 64;
/// Events taken at a time.
const EVENTS_MAX: usize = 256;
/// Failures kept in words; all are counted.
const FAILURES_KEPT_MAX: usize = 20;
/// Sources of visitors, 127.2.0.1 and on: each has ports of its own.
const SOURCES: u64 = 250;
/// Epoll keys from here on are listeners.
const LISTENER_KEYS: u64 = 1 << 32;

/// Where visitors go.
pub(super) struct Target {
    /// Addresses, taken in turn.
    pub(super) fronts: Vec<SocketAddr>,
    /// Sent in front of everything; empty for plain TCP.
    pub(super) hello: &'static [u8],
}

/// What one run does.
pub(super) struct Load<'a> {
    pub(super) target: &'a Target,
    pub(super) kind: Kind,
    /// Visitors at a time.
    pub(super) parallel: usize,
    /// No new connection once so many were begun.
    pub(super) connections_max: u64,
    /// No new connection once so many bytes were checked.
    pub(super) bytes_max: u64,
    /// No new connection from then on.
    pub(super) until: Instant,
    pub(super) seed: u64,
}

/// What was moved and checked.
#[derive(Default)]
pub(super) struct Tally {
    /// By pattern.
    pub(super) patterns: BTreeMap<Pattern, Counts>,
    /// The first failures in words.
    pub(super) failures: Vec<String>,
}

/// Of one pattern.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub(super) struct Counts {
    /// Connections the visitors began.
    pub(super) connections: u64,
    /// Sides that ended as planned: two a connection.
    pub(super) sides_right: u64,
    /// Sides that did not.
    pub(super) sides_wrong: u64,
    /// Bytes received and compared.
    pub(super) bytes: u64,
}

impl Tally {
    fn of(&mut self, pattern: Pattern) -> &mut Counts {
        self.patterns.entry(pattern).or_default()
    }

    pub(super) fn add(&mut self, other: Self) {
        for (pattern, counts) in other.patterns {
            let sum = self.of(pattern);
            sum.connections += counts.connections;
            sum.sides_right += counts.sides_right;
            sum.sides_wrong += counts.sides_wrong;
            sum.bytes += counts.bytes;
        }
        let room = FAILURES_KEPT_MAX - self.failures.len().min(FAILURES_KEPT_MAX);
        self.failures.extend(other.failures.into_iter().take(room));
    }

    /// All patterns together.
    pub(super) fn sum(&self) -> Counts {
        self.patterns.values().fold(Counts::default(), |sum, counts| Counts {
            connections: sum.connections + counts.connections,
            sides_right: sum.sides_right + counts.sides_right,
            sides_wrong: sum.sides_wrong + counts.sides_wrong,
            bytes: sum.bytes + counts.bytes,
        })
    }

    /// Connections of which not both sides ended as planned.
    pub(super) fn mismatches(&self) -> u64 {
        let of = |c: &Counts| (2 * c.connections).saturating_sub(c.sides_right).max(c.sides_wrong);
        self.patterns.values().map(of).sum()
    }
}

/// The listeners of the services and the tape; lives through all runs.
pub(super) struct Engine {
    workers: Vec<Vec<(TcpListener, &'static [u8])>>,
    tape: Tape,
}

/// What workers share during a run.
struct Shared {
    begun: AtomicU64,
    checked: AtomicU64,
    /// Sides open on any worker.
    open: AtomicUsize,
    /// Workers that may still begin connections.
    beginning: AtomicUsize,
    progress: AtomicU64,
}

impl Engine {
    /// Knows the tape, serves nothing yet.
    pub(super) fn new(seed: u64) -> Self {
        Self { workers: (0..WORKERS).map(|_| Vec::new()).collect(), tape: Tape::new(seed) }
    }

    /// A service on a loopback address of its own; `hello` is what its visitors send first.
    pub(super) fn serve(&mut self, ip: Ipv4Addr, hello: &'static [u8]) -> Result<SocketAddr> {
        let mut address = SocketAddr::from((ip, 0));
        for worker in &mut self.workers {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.set_reuse_port(true)?;
            socket.set_nonblocking(true)?;
            socket.bind(&address.into()).with_context(|| format!("listen on {address}"))?;
            socket.listen(BACKLOG)?;
            let listener: TcpListener = socket.into();
            address = listener.local_addr()?;
            worker.push((listener, hello));
        }
        Ok(address)
    }

    /// Runs a load to its end.
    pub(super) fn run(&self, load: &Load) -> Result<Tally> {
        let shared = Shared {
            begun: AtomicU64::new(0),
            checked: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            beginning: AtomicUsize::new(self.workers.len()),
            progress: AtomicU64::new(0),
        };
        let shared = &shared;
        thread::scope(|scope| {
            let workers = self.workers.iter();
            let threads: Vec<_> = workers
                .map(|listeners| scope.spawn(move || Worker::new(load, shared, &self.tape, listeners)?.run()))
                .collect();
            let mut tally = Tally::default();
            for thread in threads {
                tally.add(thread.join().expect("a worker does not panic")?);
            }
            Ok(tally)
        })
    }
}

struct Worker<'a> {
    load: &'a Load<'a>,
    shared: &'a Shared,
    tape: &'a Tape,
    listeners: &'a [(TcpListener, &'static [u8])],
    epoll: OwnedFd,
    slots: Vec<Option<(End, &'static [u8])>>,
    free: Vec<usize>,
    ready: VecDeque<usize>,
    clients: usize,
    may_begin: bool,
    scratch: Vec<u8>,
    tally: Tally,
}

impl<'a> Worker<'a> {
    fn new(
        load: &'a Load<'a>,
        shared: &'a Shared,
        tape: &'a Tape,
        listeners: &'a [(TcpListener, &'static [u8])],
    ) -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (key, (listener, _)) in (LISTENER_KEYS..).zip(listeners) {
            epoll::add(&epoll, listener, epoll::EventData::new_u64(key), epoll::EventFlags::IN)?;
        }
        Ok(Self {
            load,
            shared,
            tape,
            listeners,
            epoll,
            slots: Vec::new(),
            free: Vec::new(),
            ready: VecDeque::new(),
            clients: 0,
            may_begin: true,
            scratch: vec![0; BLOCK_BYTES_MAX],
            tally: Tally::default(),
        })
    }

    fn run(mut self) -> Result<Tally> {
        let mut seen = (0, Instant::now());
        loop {
            self.begin_some()?;
            let nobody = self.shared.open.load(Ordering::SeqCst) == 0;
            if !self.may_begin && self.shared.beginning.load(Ordering::SeqCst) == 0 && nobody {
                return Ok(self.tally);
            }
            self.wait()?;
            for _ in 0..self.ready.len() {
                let Some(slot) = self.ready.pop_front() else { break };
                self.turn(slot);
            }
            let progress = self.shared.progress.load(Ordering::Relaxed);
            if progress != seen.0 {
                seen = (progress, Instant::now());
            } else if seen.1.elapsed() > Duration::from_secs(STALL_SECS_MAX) {
                let stuck: Vec<_> =
                    self.slots.iter().flatten().take(FAILURES_KEPT_MAX).map(|(end, _)| end.place()).collect();
                bail!("nothing moved for {STALL_SECS_MAX} s; open here: {stuck:?}");
            }
        }
    }

    /// Keeps this worker's share of visitors open for as long as the load wants more.
    fn begin_some(&mut self) -> Result<()> {
        let share = self.load.parallel.div_ceil(WORKERS);
        while self.may_begin && self.clients < share {
            let number = self.shared.begun.fetch_add(1, Ordering::Relaxed);
            let enough = number >= self.load.connections_max
                || self.shared.checked.load(Ordering::Relaxed) >= self.load.bytes_max
                || Instant::now() >= self.load.until;
            if enough {
                self.may_begin = false;
                self.shared.beginning.fetch_sub(1, Ordering::SeqCst);
                return Ok(());
            }
            let plan = Plan::new(self.load.seed, number, self.load.kind);
            let stream = connect(&self.load.target.fronts, number)?;
            self.tally.of(plan.pattern).connections += 1;
            self.clients += 1;
            self.add(End::client(stream, plan, self.load.target.hello), self.load.target.hello)?;
        }
        Ok(())
    }

    fn add(&mut self, end: End, hello: &'static [u8]) -> Result<()> {
        end.stream().set_nodelay(true)?;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        let events = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&self.epoll, end.stream(), epoll::EventData::new_u64(slot as u64), events)?;
        self.shared.open.fetch_add(1, Ordering::SeqCst);
        if let Some(place) = self.slots.get_mut(slot) {
            *place = Some((end, hello));
        }
        Ok(())
    }

    /// Sleeps until something can be done, unless something can be done already.
    fn wait(&mut self) -> Result<()> {
        let nanos = if self.ready.is_empty() { NAP_MILLIS * 1_000_000 } else { 0 };
        let limit = Timespec { tv_sec: 0, tv_nsec: nanos };
        let mut events = Vec::with_capacity(EVENTS_MAX);
        match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&limit)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events {
            let key = event.data.u64();
            match key.checked_sub(LISTENER_KEYS) {
                Some(listener) => self.accept(usize::try_from(listener)?)?,
                None => self.ready.push_back(usize::try_from(key)?),
            }
        }
        Ok(())
    }

    fn accept(&mut self, listener: usize) -> Result<()> {
        let Some((listener, hello)) = self.listeners.get(listener) else { return Ok(()) };
        for _ in 0..ACCEPTS_MAX {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(true)?;
                    self.add(End::server(stream, hello.len()), hello)?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error).context("accept"),
            }
        }
        Ok(())
    }

    fn turn(&mut self, slot: usize) {
        let Some(place) = self.slots.get_mut(slot) else { return };
        // An event may come late, for a connection that is over.
        let Some((end, hello)) = place else { return };
        let before = end.received();
        let turn = end.turn(self.tape, hello, &mut self.scratch);
        let moved = end.received() - before;
        self.shared.checked.fetch_add(moved, Ordering::Relaxed);
        if turn != Turn::Blocked {
            self.shared.progress.fetch_add(1, Ordering::Relaxed);
        }
        let pattern = end.plan().map(|plan| plan.pattern);
        let is_client = end.role() == Role::Client;
        if let Some(pattern) = pattern {
            self.tally.of(pattern).bytes += moved;
        }
        let wrong = match turn {
            Turn::Blocked => return,
            Turn::More => {
                self.ready.push_back(slot);
                return;
            }
            Turn::Done => None,
            Turn::Failed(why) => Some(why),
        };
        *place = None;
        self.free.push(slot);
        self.clients -= usize::from(is_client);
        self.shared.open.fetch_sub(1, Ordering::SeqCst);
        if let Some(pattern) = pattern {
            let counts = self.tally.of(pattern);
            *(if wrong.is_some() { &mut counts.sides_wrong } else { &mut counts.sides_right }) += 1;
        }
        if self.tally.failures.len() < FAILURES_KEPT_MAX {
            self.tally.failures.extend(wrong);
        }
    }
}

/// Begins to connect, from one of many sources.
fn connect(fronts: &[SocketAddr], number: u64) -> Result<TcpStream> {
    let front = usize::try_from(number % (fronts.len() as u64).max(1)).unwrap_or_default();
    let front = *fronts.get(front).context("a target has no address")?;
    let last = u8::try_from(number % SOURCES).unwrap_or_default() + 1;
    let socket = Socket::new(Domain::for_address(front), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 2, 0, last), 0)).into())?;
    match socket.connect(&front.into()) {
        Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
            Err(error).with_context(|| format!("connect to {front}"))
        }
        _ => Ok(socket.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::Shutdown;

    use super::super::plan::PLAN_BYTES;
    use super::*;

    fn load(target: &Target, kind: Kind, connections_max: u64) -> Load<'_> {
        Load {
            target,
            kind,
            parallel: 16,
            connections_max,
            bytes_max: u64::MAX,
            until: Instant::now() + Duration::from_mins(1),
            seed: 9,
        }
    }

    #[test]
    fn without_anything_between_every_pattern_comes_through() {
        for hello in [b"".as_slice(), b"a hello"] {
            let mut engine = Engine::new(1);
            let front = engine.serve(Ipv4Addr::LOCALHOST, hello).unwrap();
            let target = Target { fronts: vec![front], hello };
            for (kind, count) in [(Kind::Short, 400), (Kind::Bulk, 40)] {
                let tally = engine.run(&load(&target, kind, count)).unwrap();
                assert_eq!((tally.failures.as_slice(), tally.mismatches()), (&[][..], 0));
                assert_eq!((tally.sum().connections, tally.sum().sides_right), (count, 2 * count));
                assert_eq!(tally.patterns.len(), Pattern::ALL.len());
            }
        }
    }

    /// A gateway that does to the visitors' bytes what `damage` does.
    fn gateway(to: SocketAddr, damage: fn(&mut Vec<u8>)) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let copy = |mut from: TcpStream, mut to: TcpStream, damage: fn(&mut Vec<u8>)| {
            let mut bytes = Vec::new();
            let _ = from.read_to_end(&mut bytes);
            damage(&mut bytes);
            let _ = to.write_all(&bytes).and_then(|()| to.shutdown(Shutdown::Write));
        };
        thread::spawn(move || {
            for visitor in listener.incoming().flatten() {
                let Ok(service) = TcpStream::connect(to) else { continue };
                let (back_from, back_to) = (service.try_clone().unwrap(), visitor.try_clone().unwrap());
                thread::spawn(move || copy(visitor, service, damage));
                thread::spawn(move || copy(back_from, back_to, |_| ()));
            }
        });
        address
    }

    #[test]
    fn damage_is_noticed() {
        // Whole messages only: this gateway waits for the end of what it sends on, so only patterns that end first pass.
        let check = |damage: fn(&mut Vec<u8>), expect: &str| {
            let mut engine = Engine::new(1);
            let front = engine.serve(Ipv4Addr::LOCALHOST, b"").unwrap();
            let target = Target { fronts: vec![gateway(front, damage)], hello: b"" };
            // The first pattern is the one whose client ends first.
            let tally = engine.run(&load(&target, Kind::Short, 1)).unwrap();
            let seen = tally.failures.iter().any(|failure| failure.contains(expect));
            assert!(seen != expect.is_empty() && (tally.mismatches() > 0) == seen, "{:?}", tally.failures);
        };
        check(|_| (), "");
        check(|bytes| *bytes.last_mut().unwrap() ^= 1, "is another one");
        check(
            |bytes| {
                bytes.pop();
            },
            "it ended early",
        );
        check(|bytes| bytes.push(0), "more bytes came");
        check(
            |bytes| {
                bytes.remove(40);
            },
            "is another one",
        );
        check(|bytes| bytes.truncate(PLAN_BYTES - 1), "before its plan was whole");
    }
}
