//! The splicing driver over sockets that are made up: partial calls, blocking anywhere, errors at every call, ends and
//! silence, all drawn from one seed. Pipes are real; what goes through them is checked byte by byte.
//!
//! A failure prints the arguments that replay it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use rustix::io::{read, write};

use super::*;
use crate::pipe::{PIPE_BYTES, PIPES_MAX, Pipe};
use crate::state::{End, IdleLimits};

const IDLE: IdleLimits = IdleLimits { open_ms: 10_000, half_closed_ms: 5_000 };
/// Turns after which a relay that still runs hangs.
const TURNS_MAX: usize = 200_000;
/// Runs with peers of all kinds.
const SEEDS: u64 = 200;
/// Bytes a sender has, at most.
const SENT_BYTES_MAX: u64 = 400_000;

/// Small and seeded (`SplitMix64`).
#[derive(Clone)]
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    fn size(&mut self, max: usize) -> usize {
        usize::try_from(self.below(max as u64)).unwrap()
    }

    fn chance(&mut self, of_hundred: u64) -> bool {
        self.below(100) < of_hundred
    }
}

/// How the peer behind a socket behaves.
#[derive(Debug, Clone, Copy, Default)]
struct Habits {
    /// Bytes it sends in all.
    sends: u64,
    /// It sends a byte at a time.
    dribbles: bool,
    /// It ends its direction when it has sent all.
    ends: bool,
    /// It never reads.
    reads_not: bool,
    /// The socket fails at this call.
    fails_at: Option<u64>,
}

/// A socket and, behind it, its peer.
struct Fake {
    habits: Habits,
    dice: RefCell<Dice>,
    /// The byte the peer sends next is a function of its place.
    salt: u64,
    state: RefCell<State>,
    calls: Cell<u64>,
    failed: Cell<bool>,
    fills: Cell<u64>,
}

#[derive(Default)]
struct State {
    sent: u64,
    /// Received by the socket, not yet read from it.
    inbox: VecDeque<u8>,
    inbox_ended: bool,
    /// Written to the socket, not yet read by the peer.
    outbox: usize,
    /// What the peer got.
    got: Vec<u8>,
    got_end: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// Bytes a fake socket buffers either way.
const SOCKET_BYTES: usize = 100_000;

fn byte(salt: u64, at: u64) -> u8 {
    Dice(salt ^ at).next().to_le_bytes()[0]
}

impl Fake {
    fn new(habits: Habits, seed: u64) -> Self {
        let state = State { inbox_ended: habits.sends == 0 && habits.ends, ..State::default() };
        Self {
            habits,
            dice: RefCell::new(Dice(seed)),
            salt: seed,
            state: RefCell::new(state),
            calls: Cell::default(),
            failed: Cell::default(),
            fills: Cell::default(),
        }
    }

    /// The peer acts once; whether anything changed.
    fn act(&self) -> bool {
        let mut dice = self.dice.borrow_mut();
        let mut state = self.state.borrow_mut();
        let mut acted = false;
        if state.outbox > 0 && !self.habits.reads_not {
            state.outbox -= state.outbox.min(1 + dice.size(SOCKET_BYTES));
            state.writer.take().into_iter().for_each(Waker::wake);
            acted = true;
        }
        let left = self.habits.sends - state.sent;
        let room = SOCKET_BYTES - state.inbox.len();
        if left > 0 && room > 0 {
            let most = if self.habits.dribbles { 1 } else { 1 + dice.below(90_000) };
            let n = left.min(most).min(room as u64);
            for at in state.sent..state.sent + n {
                state.inbox.push_back(byte(self.salt, at));
            }
            state.sent += n;
            acted = true;
        }
        if self.habits.ends && state.sent == self.habits.sends && !state.inbox_ended {
            state.inbox_ended = true;
            acted = true;
        }
        if acted {
            state.reader.take().into_iter().for_each(Waker::wake);
        }
        acted
    }

    /// Counts a call; it may fail for good, or be blocked for no reason.
    fn call(&self) -> io::Result<()> {
        self.calls.set(self.calls.get() + 1);
        if self.failed.get() || self.habits.fails_at == Some(self.calls.get()) {
            self.failed.set(true);
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if self.dice.borrow_mut().chance(10) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(())
    }

    fn take(&self, most: usize) -> io::Result<Vec<u8>> {
        self.call()?;
        let mut state = self.state.borrow_mut();
        if state.inbox.is_empty() && !state.inbox_ended {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        // A kernel's read is whole unless there are not enough bytes; a splice may stop where it likes.
        let n = most.min(state.inbox.len());
        Ok(state.inbox.drain(..n).collect())
    }

    fn put(&self, bytes: impl FnOnce(usize) -> Vec<u8>, most: usize) -> io::Result<usize> {
        self.call()?;
        let mut state = self.state.borrow_mut();
        assert!(!state.got_end, "bytes after the end");
        let room = SOCKET_BYTES - state.outbox;
        let n = most.min(room).min(1 + self.dice.borrow_mut().size(SOCKET_BYTES));
        if n == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let bytes = bytes(n);
        assert_eq!(bytes.len(), n);
        state.outbox += n;
        state.got.extend(bytes);
        Ok(n)
    }
}

impl Kernel for Fake {
    fn is_connected(&self) -> bool {
        true
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state.borrow_mut();
        if self.failed.get() || !state.inbox.is_empty() || state.inbox_ended {
            // Ready without reason now and then, too.
            return Poll::Ready(Ok(()));
        }
        if self.dice.borrow_mut().chance(3) {
            return Poll::Ready(Ok(()));
        }
        state.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state.borrow_mut();
        if self.failed.get() || state.outbox < SOCKET_BYTES {
            return Poll::Ready(Ok(()));
        }
        state.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.take(buffer.len())?;
        buffer[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        self.put(|n| bytes[..n].to_vec(), bytes.len())
    }

    fn fill(&self, pipe: &Pipe) -> io::Result<usize> {
        self.fills.set(self.fills.get() + 1);
        let most = 1 + self.dice.borrow_mut().size(pipe.bytes_max());
        let bytes = self.take(most)?;
        let written = if bytes.is_empty() { 0 } else { write(pipe.write_end(), &bytes)? };
        assert_eq!(written, bytes.len(), "an empty pipe takes what it holds at most");
        Ok(written)
    }

    fn drain(&self, pipe: &Pipe, n: usize) -> io::Result<usize> {
        let out = |n| {
            let mut bytes = vec![0; n];
            let read = read(pipe.read_end(), &mut bytes).unwrap();
            bytes.truncate(read);
            bytes
        };
        self.put(out, n)
    }

    fn finish(&self) -> io::Result<()> {
        self.calls.set(self.calls.get() + 1);
        if self.failed.get() || self.habits.fails_at == Some(self.calls.get()) {
            self.failed.set(true);
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        self.state.borrow_mut().got_end = true;
        Ok(())
    }
}

/// Whether the relay asked to be polled. It is polled for no other reason, so a wake that gets lost shows as a hang.
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a run came to.
struct Outcome {
    ended: Option<Ended>,
    client: Fake,
    agent: Fake,
    first: [Vec<u8>; 2],
}

/// Runs one relay on a paused clock, polling it only when it was woken, until it is over or nothing happens any more.
fn run(client: Habits, agent: Habits, lifetime_ms: Option<u64>, seed: u64) -> Outcome {
    let mut dice = Dice(seed);
    let first: [Vec<u8>; 2] = std::array::from_fn(|_| {
        let n = if dice.chance(50) { dice.size(3_000) } else { 0 };
        (0..n).map(|at| byte(seed, at as u64)).collect()
    });
    let (client, agent) = (Fake::new(client, dice.next()), Fake::new(agent, dice.next()));
    let limits = Limits { idle: IDLE, lifetime_ms };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let ended = runtime.block_on(async {
        let [to_agent, to_client] = first.each_ref().map(|bytes| Bytes::copy_from_slice(bytes));
        let mut relay = pin!(splice(&client, &agent, First { to_agent, to_client }, limits));
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        let waker = Waker::from(Arc::clone(&woken));
        for _ in 0..TURNS_MAX {
            if woken.0.swap(false, Ordering::Relaxed)
                && let Poll::Ready(ended) = relay.as_mut().poll(&mut Context::from_waker(&waker))
            {
                return Some(ended);
            }
            let acted = [client.act(), agent.act()];
            if acted == [false, false] && !woken.0.load(Ordering::Relaxed) {
                tokio::time::advance(Duration::from_millis(50)).await;
            }
            tokio::task::yield_now().await;
        }
        None
    });
    Outcome { ended, client, agent, first }
}

/// The laws of every run, whatever happened.
fn check(outcome: &Outcome) {
    let Outcome { ended, client, agent, first } = outcome;
    let ended = ended.as_ref().expect("the relay ends");
    let (to_agent, to_client) = (agent.state.borrow(), client.state.borrow());
    for (sink, source, first, bytes) in
        [(&to_agent, client, &first[0], ended.bytes_up), (&to_client, agent, &first[1], ended.bytes_down)]
    {
        assert_eq!(sink.got.len() as u64, bytes, "the count is what arrived");
        let sent = (0..source.state.borrow().sent).map(|at| byte(source.salt, at));
        let expected: Vec<u8> = first.iter().copied().chain(sent).collect();
        assert!(expected.starts_with(&sink.got), "what arrived is what was sent, in order");
        if sink.got_end {
            assert_eq!(sink.got.len(), expected.len(), "an end comes after everything");
            assert!(source.habits.ends, "an end that nobody sent");
        }
    }
    assert!(!(to_agent.got_end && to_client.got_end), "the last end goes with the close");
    if ended.end == End::Finished {
        assert!(to_agent.got_end || to_client.got_end);
        assert!(client.habits.ends && agent.habits.ends);
        assert_eq!(ended.bytes_up, first[0].len() as u64 + client.habits.sends);
        assert_eq!(ended.bytes_down, first[1].len() as u64 + agent.habits.sends);
    }
    assert_eq!(matches!(ended.end, End::Failed(_)), ended.error.is_some());
    assert!(client.failed.get() || ended.end != End::Failed(Side::Client), "the client did not fail");
    assert!(agent.failed.get() || ended.end != End::Failed(Side::Agent), "the agent did not fail");
}

fn habits(dice: &mut Dice) -> Habits {
    let sends = match dice.below(4) {
        0 => 0,
        1 => dice.below(100),
        2 => dice.below(40_000),
        _ => dice.below(SENT_BYTES_MAX),
    };
    let dribbles = sends < 3_000 && dice.chance(30);
    Habits { sends, dribbles, ends: dice.chance(90), reads_not: dice.chance(5), fails_at: None }
}

/// Runs and, when a law is broken, names the seed.
fn replay(seed: u64, client: Habits, agent: Habits, lifetime_ms: Option<u64>) -> Outcome {
    let outcome = run(client, agent, lifetime_ms, seed);
    let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&outcome)));
    assert!(checked.is_ok(), "seed {seed}, client {client:?}, agent {agent:?}, lifetime {lifetime_ms:?}");
    outcome
}

#[test]
fn whatever_the_peers_do_bytes_arrive_in_order_or_the_relay_says_why() {
    for seed in 0..SEEDS {
        let mut dice = Dice(seed);
        let (client, agent) = (habits(&mut dice), habits(&mut dice));
        let outcome = replay(seed, client, agent, None);
        let all_end = client.ends && agent.ends && !client.reads_not && !agent.reads_not;
        let end = outcome.ended.unwrap().end;
        assert!(!all_end || end == End::Finished, "seed {seed}: {end:?}");
    }
}

#[test]
fn an_error_at_every_call_is_reported_and_nothing_is_lost_before_it() {
    for seed in 0..12 {
        let mut dice = Dice(seed);
        let (client, agent) = (habits(&mut dice), habits(&mut dice));
        let (client, agent) = (
            Habits { sends: client.sends % 150_000, ..client },
            Habits { sends: agent.sends % 150_000, ..agent },
        );
        let calm = replay(seed, client, agent, None);
        for at in 1..=calm.client.calls.get().min(60) {
            let broken = Habits { fails_at: Some(at), ..client };
            let ended = replay(seed, broken, agent, None).ended.unwrap();
            assert_eq!(ended.end, End::Failed(Side::Client), "seed {seed}, client at {at}");
        }
        for at in 1..=calm.agent.calls.get().min(60) {
            let broken = Habits { fails_at: Some(at), ..agent };
            let ended = replay(seed, client, broken, None).ended.unwrap();
            assert_eq!(ended.end, End::Failed(Side::Agent), "seed {seed}, agent at {at}");
        }
    }
}

#[test]
fn limits_hold_under_virtual_time() {
    let silent = Habits::default();
    let ended = replay(1, silent, silent, None).ended.unwrap();
    assert_eq!(ended.end, End::Idle);
    let ended = replay(2, silent, Habits { ends: true, ..silent }, None).ended.unwrap();
    assert_eq!(ended.end, End::Idle);
    let ended = replay(3, silent, silent, Some(2_000)).ended.unwrap();
    assert_eq!(ended.end, End::Expired);
}

#[test]
fn a_reader_that_never_reads_holds_a_bounded_number_of_bytes() {
    let writes = Habits { sends: SENT_BYTES_MAX, ends: true, ..Habits::default() };
    let deaf = Habits { reads_not: true, ends: true, ..Habits::default() };
    for seed in 0..20 {
        let outcome = replay(seed, writes, deaf, None);
        assert_eq!(outcome.ended.unwrap().end, End::Idle);
        let state = outcome.client.state.borrow();
        let held = usize::try_from(state.sent).unwrap() - state.inbox.len() + outcome.first[0].len()
            - outcome.agent.state.borrow().got.len();
        assert!(held <= PIPE_BYTES.max(READ_BYTES_MAX), "seed {seed}: {held} bytes held");
    }
}

#[test]
fn bulk_goes_through_pipes_and_where_none_is_to_be_had_through_the_buffer() {
    let bulk = Habits { sends: SENT_BYTES_MAX, ends: true, ..Habits::default() };
    let outcome = replay(7, bulk, bulk, None);
    assert!(outcome.client.fills.get() > 0 && outcome.agent.fills.get() > 0);
    let all: Vec<Loan> = std::iter::from_fn(|| Loan::take().ok()).take(PIPES_MAX + 1).collect();
    assert!(all.len() <= PIPES_MAX);
    let outcome = replay(7, bulk, bulk, None);
    assert_eq!(outcome.client.fills.get() + outcome.agent.fills.get(), 0);
    assert_eq!(outcome.ended.unwrap().end, End::Finished);
}

/// Always ready, moves any number of bytes: a bulk flow without a socket. Its peer never says a word.
struct Endless {
    speaks: bool,
    moved: Cell<usize>,
}

impl Kernel for Endless {
    fn is_connected(&self) -> bool {
        true
    }

    fn poll_readable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.speaks { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn poll_writable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(buffer.len())
    }

    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        self.moved.set(self.moved.get() + bytes.len());
        Ok(bytes.len())
    }

    fn fill(&self, pipe: &Pipe) -> io::Result<usize> {
        Ok(pipe.bytes_max())
    }

    fn drain(&self, _: &Pipe, n: usize) -> io::Result<usize> {
        self.moved.set(self.moved.get() + n);
        Ok(n)
    }

    fn finish(&self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_bulk_flow_leaves_other_sockets_their_turn() {
    use tokio::net::{TcpListener, TcpStream};
    const TURNS_BETWEEN_MAX: usize = 4;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let moved = tokio::task::LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let small = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (peer, _) = listener.accept().await.unwrap();
        let endless = |speaks| Endless { speaks, moved: Cell::default() };
        let bulk = std::rc::Rc::new((endless(true), endless(false)));
        let relay = std::rc::Rc::clone(&bulk);
        tokio::task::spawn_local(async move { splice(&relay.0, &relay.1, First::default(), IDLE).await });
        // The relay runs by the time this is polled again; then the small message comes.
        tokio::task::yield_now().await;
        let before = bulk.1.moved.get();
        peer.try_write(b"small").unwrap();
        small.readable().await.unwrap();
        bulk.1.moved.get() - before
    });
    let most = TURNS_BETWEEN_MAX * (TURN_BYTES_MAX + PIPE_BYTES);
    assert!(moved <= most, "{moved} bytes moved before the shard looked at its sockets");
}
