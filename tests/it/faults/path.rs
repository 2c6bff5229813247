//! A path for TCP that is long, narrow and unsteady: between an agent and its edge, in this process. The kernel here has no
//! netem; loss is made in namespaces (`network`), datagrams have a path of their own (`tests/shaper`).

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

/// Pieces on their way in one direction; whoever sends more waits.
const PIECES_MAX: usize = 512;

/// What the path does to bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weather {
    /// From end to end, one way.
    pub(super) delay: Duration,
    /// Bytes that go together; the next one goes with the next.
    pub(super) piece_bytes: usize,
    /// Every so many pieces, one takes as long again.
    pub(super) stall_every: usize,
}

/// The path; new connections on it end with it.
pub(super) struct Path {
    /// Where to dial instead of the other end.
    pub(super) address: SocketAddr,
    open: Arc<Mutex<Vec<TcpStream>>>,
    silent: Arc<AtomicBool>,
}

impl Path {
    /// A path to `to`.
    pub(super) fn open(to: SocketAddr, weather: Weather) -> Result<Self> {
        Self::open_at("127.0.0.1:0".parse()?, to, weather)
    }

    /// The same where agents are told to dial: beside a path for datagrams on the same port, say.
    pub(super) fn open_at(address: SocketAddr, to: SocketAddr, weather: Weather) -> Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let open = Arc::new(Mutex::new(Vec::new()));
        let (all, silent) = (Arc::clone(&open), Arc::<AtomicBool>::default());
        let is_silent = Arc::clone(&silent);
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                if is_silent.load(Ordering::Relaxed) {
                    all.lock().unwrap_or_else(PoisonError::into_inner).push(near);
                    continue;
                }
                let Ok(far) = TcpStream::connect(to) else { continue };
                // A connection that cannot be set up ends; its ends notice.
                let _ = join(near, far, weather, &all);
            }
        });
        Ok(Self { address, open, silent })
    }

    /// Whether new connections come to nothing, without a word: neither refused nor served.
    pub(super) fn set_silent(&self, silent: bool) {
        self.silent.store(silent, Ordering::Relaxed);
    }

    /// Everything on the path ends, from one moment to the next.
    pub(super) fn cut(&self) {
        for stream in self.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // One that has ended already cannot be cut.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn join(
    near: TcpStream,
    far: TcpStream,
    weather: Weather,
    all: &Mutex<Vec<TcpStream>>,
) -> std::io::Result<()> {
    for stream in [&near, &far] {
        stream.set_nodelay(true)?;
        all.lock().unwrap_or_else(PoisonError::into_inner).push(stream.try_clone()?);
    }
    let (near_too, far_too) = (near.try_clone()?, far.try_clone()?);
    for (from, to) in [(near, far_too), (far, near_too)] {
        let (send, receive) = mpsc::sync_channel(PIECES_MAX);
        thread::spawn(move || take(from, weather, &send));
        thread::spawn(move || give(to, &receive));
    }
    Ok(())
}

/// Reads pieces and says when each arrives.
fn take(mut from: TcpStream, weather: Weather, to: &mpsc::SyncSender<(Instant, Vec<u8>)>) {
    let mut piece = vec![0; weather.piece_bytes];
    for number in 1.. {
        let Ok(count) = from.read(&mut piece) else { return };
        let stall = if number % weather.stall_every == 0 { 2 } else { 1 };
        let arrives = Instant::now() + weather.delay * stall;
        if to.send((arrives, piece[..count].to_vec())).is_err() || count == 0 {
            return;
        }
    }
}

/// Writes pieces when they arrive; an empty one is the end.
fn give(mut to: TcpStream, pieces: &mpsc::Receiver<(Instant, Vec<u8>)>) {
    for (arrives, piece) in pieces {
        thread::sleep(arrives.saturating_duration_since(Instant::now()));
        let done = if piece.is_empty() { to.shutdown(Shutdown::Write) } else { to.write_all(&piece) };
        if done.is_err() {
            return;
        }
    }
}
