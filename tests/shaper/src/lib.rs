//! A path for UDP between clients and one server, in user space: it loses, delays, swallows and renames (as a NAT does that
//! forgot its table) as a test tells it to. For tests only; knows nothing of what the datagrams carry.
//!
//! Clients send to [`Shaper::address`]; every client address gets a socket of its own towards the server. Which datagram is
//! lost is drawn from a seed, so that a failure can be repeated as far as timing allows.

mod weather;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, spawn};
use tokio::time::{Instant, sleep_until};

use weather::Dice;
pub use weather::Weather;

/// Bytes of the largest datagram.
const DATAGRAM_BYTES_MAX: usize = 65_535;
/// Datagrams on their way at once, per client and direction; more are lost, as in a router.
const QUEUE_MAX: usize = 16_384;
/// Clients at once; the datagrams of more are lost.
const CLIENTS_MAX: usize = 256;

/// The path. It is gone when dropped.
pub struct Shaper {
    /// Where clients send to.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    front: JoinHandle<()>,
}

struct Shared {
    server: SocketAddr,
    sky: Mutex<Sky>,
    /// How often clients were renamed, and the address they have since.
    names: watch::Sender<(u64, IpAddr)>,
    carried: AtomicU64,
    lost: AtomicU64,
}

struct Sky {
    to_server: Weather,
    to_client: Weather,
    dice: Dice,
}

/// A datagram and when it arrives.
type Parcel = (Instant, Vec<u8>);

impl Shaper {
    /// A path to `server` in fair weather, on loopback. Call inside a tokio runtime.
    pub async fn start(server: SocketAddr, seed: u64) -> io::Result<Self> {
        let here: IpAddr =
            if server.is_ipv6() { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
        Self::start_at((here, 0).into(), server, seed).await
    }

    /// The same where clients are told to send to: beside a path for TCP on the same port, say.
    pub async fn start_at(address: SocketAddr, server: SocketAddr, seed: u64) -> io::Result<Self> {
        let here = address.ip();
        let front = Arc::new(UdpSocket::bind(address).await?);
        let shared = Arc::new(Shared {
            server,
            sky: Mutex::new(Sky {
                to_server: Weather::default(),
                to_client: Weather::default(),
                dice: Dice::new(seed),
            }),
            names: watch::Sender::new((0, here)),
            carried: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        });
        let address = front.local_addr()?;
        let front = spawn(carry(Arc::clone(&shared), front));
        Ok(Self { address, shared, front })
    }

    /// Changes the weather for every datagram from now on; those on their way arrive as they set out.
    pub fn set(&self, weather: Weather) {
        self.set_each(weather, weather);
    }

    /// The same, for each way.
    pub fn set_each(&self, to_server: Weather, to_client: Weather) {
        let mut sky = self.shared.lock();
        (sky.to_server, sky.to_client) = (to_server, to_client);
    }

    /// Gives every client another port towards the server, as a NAT does that forgot them. Nobody hears at the old one.
    pub fn rename(&self) {
        self.shared.names.send_modify(|(n, _)| *n += 1);
    }

    /// The same with another address: a client on another network. On loopback all of 127.0.0.0/8 will do.
    pub fn move_to(&self, address: IpAddr) {
        self.shared.names.send_modify(|(n, now)| (*n, *now) = (*n + 1, address));
    }

    /// Datagrams carried so far, both ways.
    pub fn carried(&self) -> u64 {
        self.shared.carried.load(Ordering::Relaxed)
    }

    /// Datagrams lost so far, both ways.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Shaper {
    fn drop(&mut self) {
        self.front.abort();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Sky> {
        self.sky.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a datagram on its way, or loses it.
    fn send(&self, way: Direction, queue: &mpsc::Sender<Parcel>, bytes: &[u8]) {
        let fate = {
            let Sky { to_server, to_client, dice } = &mut *self.lock();
            match way {
                Direction::ToServer => to_server.fate(dice),
                Direction::ToClient => to_client.fate(dice),
            }
        };
        let sent = fate.is_some_and(|delay| queue.try_send((Instant::now() + delay, bytes.to_vec())).is_ok());
        if sent { &self.carried } else { &self.lost }.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Clone, Copy)]
enum Direction {
    ToServer,
    ToClient,
}

/// Takes what clients send. Dropping the senders ends each client's tasks.
async fn carry(shared: Arc<Shared>, front: Arc<UdpSocket>) {
    let mut clients: HashMap<SocketAddr, mpsc::Sender<Parcel>> = HashMap::new();
    let mut bytes = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        // An error is a client's port that has closed meanwhile.
        let Ok((length, client)) = front.recv_from(&mut bytes).await else { continue };
        if !clients.contains_key(&client) && clients.len() >= CLIENTS_MAX {
            continue;
        }
        let queue = clients.entry(client).or_insert_with(|| {
            let (queue, parcels) = mpsc::channel(QUEUE_MAX);
            spawn(serve(Arc::clone(&shared), Arc::clone(&front), client, parcels));
            queue
        });
        shared.send(Direction::ToServer, queue, bytes.get(..length).unwrap_or_default());
    }
}

/// One client's datagrams: out under its present name, and back.
async fn serve(
    shared: Arc<Shared>,
    front: Arc<UdpSocket>,
    client: SocketAddr,
    mut parcels: mpsc::Receiver<Parcel>,
) {
    let mut names = shared.names.subscribe();
    let (back, homeward) = mpsc::channel(QUEUE_MAX);
    let mut home = Home(spawn(deliver(homeward, front, client)));
    let mut bytes = vec![0; DATAGRAM_BYTES_MAX];
    let mut next: Option<Parcel> = None;
    let name = names.borrow_and_update().1;
    let Ok(mut socket) = UdpSocket::bind((name, 0)).await else { return };
    loop {
        let due = next.as_ref().map(|(due, _)| *due);
        tokio::select! {
            parcel = parcels.recv(), if next.is_none() => match parcel {
                Some(parcel) => next = Some(parcel),
                None => return,
            },
            () = arrival(due) => {
                if let Some((_, bytes)) = next.take() {
                    // An error is what a router would not tell either.
                    let _ = socket.send_to(&bytes, shared.server).await;
                }
            }
            got = socket.recv_from(&mut bytes) => {
                if let Ok((length, _)) = got {
                    shared.send(Direction::ToClient, &back, bytes.get(..length).unwrap_or_default());
                }
            }
            Ok(()) = names.changed() => {
                let name = names.borrow_and_update().1;
                let Ok(renamed) = UdpSocket::bind((name, 0)).await else { return };
                socket = renamed;
            }
            _ = &mut home.0 => return,
        }
    }
}

/// The task that delivers to a client; it ends with whoever fills its queue.
struct Home(JoinHandle<()>);

impl Drop for Home {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn deliver(mut parcels: mpsc::Receiver<Parcel>, front: Arc<UdpSocket>, client: SocketAddr) {
    while let Some((due, bytes)) = parcels.recv().await {
        arrival(Some(due)).await;
        let _ = front.send_to(&bytes, client).await;
    }
}

/// Waits for a time; without one, for ever. A time that has come costs nothing.
async fn arrival(due: Option<Instant>) {
    match due {
        None => std::future::pending().await,
        Some(due) if due <= Instant::now() + Duration::from_micros(500) => {}
        Some(due) => sleep_until(due).await,
    }
}

#[cfg(test)]
mod tests;
