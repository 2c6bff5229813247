//! Keeps the links of one session as [`Links`] says: dials them, waits on each for visitors, hands those to the dispatcher. One
//! task per link; all of them end with the session, except that a link in use stays until its visitor is done.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ebbgate_model::Ksuid;
use ebbgate_tunnel::TunnelStream;
use ebbgate_tunnel::link::{HelloError, Waiting, say_hello};
use ebbgate_wire::link::Version;
use ebbgate_wire::link::raw::{self, AgentSide, Greeting, NONCE_BYTES, RawKey};
use ebbgate_wire::rpc::Secret;
use rustix::process::{Resource, getrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Random;
use super::delivery::StreamDispatcher;
use crate::dial::{Dial, DialError};
use crate::links::{LINK_STABLE_SECS, LINKS_IDLE_MIN, Links, PriorState, RAW_LINKS_IDLE_MIN};
use crate::stream::{Carrier, ClaimedLink, Proxied, RawStream, Stream};

/// Longest wait for the edge to take a link, in seconds.
pub(super) const LINK_HELLO_SECS_MAX: u64 = 10;
/// Seconds a raw link waits for its visitor at least, before it is replaced.
const RAW_PARKED_SECS_MIN: u64 = 180;
/// Seconds it may wait beyond that; together less than the edge waits.
const RAW_PARKED_SPREAD_SECS: u64 = 60;

/// What makes one kind of link.
#[derive(Clone)]
pub(super) enum Kind {
    /// Links of this version, shown this ticket.
    Link(Secret, Version),
    /// Raw links of this session, with this key.
    Raw(Ksuid, RawKey),
}

impl Kind {
    fn idle_min(&self) -> usize {
        match self {
            Self::Link(..) => LINKS_IDLE_MIN,
            Self::Raw(..) => RAW_LINKS_IDLE_MIN,
        }
    }
}

/// Counts visitors that came another way for want of a link; a handle to one [`run`].
#[derive(Clone)]
pub(super) struct Book {
    // One lock for all of a session's links of a kind, held for a few additions.
    links: Arc<Mutex<Links>>,
    wake: Arc<Notify>,
    start: Instant,
}

impl Book {
    pub(super) fn new(kind: &Kind, links_max: u16) -> Self {
        let links = Links::new(links_max.into(), kind.idle_min(), Duration::ZERO);
        Self { links: Arc::new(Mutex::new(links)), wake: Arc::default(), start: Instant::now() }
    }

    /// A visitor for which a link would do found none.
    pub(super) fn missed(&self) {
        self.note(Links::missed);
    }

    fn lock(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes something down, and wakes the dialling task only if there is something to dial, now or later.
    fn note(&self, write: impl FnOnce(&mut Links, Duration)) {
        let now = self.start.elapsed();
        let mut links = self.lock();
        write(&mut links, now);
        if links.is_news() {
            self.wake.notify_one();
        }
    }
}

/// Where one link is in its life; its end is written down wherever it comes.
struct Place {
    book: Book,
    was: Option<PriorState>,
    parked_at: Instant,
    random: u32,
}

impl Place {
    fn new(book: &Book, random: u32) -> Self {
        Self { book: book.clone(), was: Some(PriorState::Dialling), parked_at: Instant::now(), random }
    }

    fn parked(&mut self) {
        self.book.note(|links, _| links.parked());
        self.was = Some(PriorState::Fresh);
        self.parked_at = Instant::now();
    }

    fn claimed(&mut self) {
        self.book.note(Links::claimed);
        self.was = Some(PriorState::Busy);
    }

    fn returned(&mut self) {
        self.book.note(|links, _| links.returned());
        self.was = Some(PriorState::Idle);
    }

    /// The link did not come about. What is neither a refusal nor a matter of the dialler is told by the drop.
    fn failed(mut self, failed: &Failed) {
        match failed {
            Failed::Dial(DialError::Unsupported(_)) => self.book.note(|links, _| links.unsupported()),
            Failed::Hello(HelloError::Refused(_)) => self.book.note(Links::refused),
            _ => return,
        }
        self.was = None;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let stable = Duration::from_secs(LINK_STABLE_SECS);
        let was = match self.was {
            Some(PriorState::Fresh) if self.parked_at.elapsed() >= stable => PriorState::Idle,
            Some(was) => was,
            None => return,
        };
        let random = self.random;
        self.book.note(|links, now| links.gone(was, now, random));
    }
}

/// Keeps links until it is dropped.
pub(super) async fn run(
    kind: Kind,
    book: Book,
    dialer: Arc<dyn Dial>,
    dispatcher: StreamDispatcher,
    random: Random,
) {
    let (_session, over) = watch::channel(());
    let spare = Arc::new(Semaphore::new(0));
    loop {
        let (dials, surplus, due) = {
            let now = book.start.elapsed();
            let mut links = book.lock();
            links.bound(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX));
            (links.dial(now), links.surplus(), links.next_due())
        };
        // An edge of the first version would lose a claim that is under way.
        if !matches!(kind, Kind::Link(_, Version::One)) {
            spare.forget_permits(Semaphore::MAX_PERMITS);
            spare.add_permits(surplus);
        }
        for _ in 0..dials {
            let place = Place::new(&book, random());
            let (dialer, dispatcher, over) = (dialer.clone(), dispatcher.clone(), over.clone());
            let link = Link { dialer, dispatcher, over, spare: spare.clone(), place };
            match &kind {
                Kind::Link(ticket, version) => drop(tokio::spawn(link.live(ticket.clone(), *version))),
                Kind::Raw(session, key) => drop(tokio::spawn(link.live_raw(*session, key.clone()))),
            }
        }
        tokio::select! {
            () = book.wake.notified() => {}
            () = until(due.map(|due| book.start + due)) => {}
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// One link. Its task ends with the session while the link is idle; a visitor under way is served to its end.
struct Link {
    dialer: Arc<dyn Dial>,
    dispatcher: StreamDispatcher,
    over: watch::Receiver<()>,
    /// One idle link may hang up for each permit.
    spare: Arc<Semaphore>,
    place: Place,
}

impl Link {
    async fn live(mut self, ticket: Secret, version: Version) {
        let mut over = self.over.clone();
        let taken = tokio::select! {
            _ = over.changed() => None,
            taken = take(&*self.dialer, &ticket, version) => Some(taken),
        };
        let mut waiting = match taken {
            Some(Ok(io)) => Waiting::new(io, version),
            Some(Err(failed)) => return self.place.failed(&failed),
            None => return,
        };
        self.place.parked();
        loop {
            let claimed = tokio::select! {
                _ = over.changed() => return,
                claimed = waiting.accept() => claimed,
                () = hang_up(&self.spare) => return self.place.was = Some(PriorState::Idle),
            };
            let Ok((header, stream)) = claimed else { return };
            self.place.claimed();
            let (claimed, back) = ClaimedLink::new(stream);
            self.dispatcher
                .clone()
                .take(Proxied { header, stream: Stream::Tunnel(TunnelStream::Link(claimed)) })
                .await;
            // At once where an upstream had the visitor; a program may keep him longer.
            let Ok(idle) = back.await else { return };
            self.place.returned();
            // Not a byte of the visitor's is left here: the edge may claim the link for the next one.
            let Ok(freed) = Waiting::freed(idle, version).await else { return };
            waiting = freed;
        }
    }

    async fn live_raw(mut self, session: Ksuid, key: RawKey) {
        let mut over = self.over.clone();
        let parked = tokio::select! {
            _ = over.changed() => None,
            parked = park(&*self.dialer, session, &key) => Some(parked),
        };
        let (mut tcp, opening) = match parked {
            Some(Ok(parked)) => parked,
            Some(Err(failed)) => return self.place.failed(&failed),
            None => return,
        };
        self.place.parked();
        let lifetime = raw_lifetime(self.place.random);
        let sealed = tokio::select! {
            _ = over.changed() => return,
            // An edge that claims it this moment finds it gone, with nothing delivered, and takes another way.
            () = sleep(lifetime) => return,
            () = hang_up(&self.spare) => return self.place.was = Some(PriorState::Idle),
            sealed = read_claim(&mut tcp) => sealed,
        };
        // What does not open is no claim of our edge: the link ends, and nothing was dialled for it.
        let Some(claim) = sealed.ok().and_then(|sealed| opening.open(sealed).ok()) else { return };
        self.place.claimed();
        let stream = Stream::Raw(RawStream::new(tcp, claim.first));
        self.dispatcher.clone().take(Proxied { header: claim.header, stream }).await;
    }
}

/// Until this idle link is one too many.
async fn hang_up(spare: &Semaphore) {
    match spare.acquire().await {
        Ok(permit) => permit.forget(),
        // It is never closed.
        Err(_) => std::future::pending().await,
    }
}

/// Why a link did not come about.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Hello(#[from] HelloError),
    #[error("no answer in time")]
    Silence,
    #[error("there is no randomness")]
    Random,
}

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Self {
        Self::Hello(HelloError::Io(error))
    }
}

/// Dials a link and waits until the edge has taken it.
async fn take(dialer: &dyn Dial, ticket: &Secret, version: Version) -> Result<Box<dyn Carrier>, Failed> {
    let mut io = dialer.link().await?;
    let limit = Duration::from_secs(LINK_HELLO_SECS_MAX);
    timeout(limit, say_hello(&mut io, ticket, version)).await.map_err(|_| Failed::Silence)??;
    Ok(io)
}

/// Dials a raw link, greets, and answers the edge's nonce with the proof.
async fn park(
    dialer: &dyn Dial,
    session: Ksuid,
    key: &RawKey,
) -> Result<(TcpStream, raw::OpeningKey), Failed> {
    let mut tcp = dialer.raw().await?;
    let mut greeting = Greeting { session, nonce: [0; NONCE_BYTES] };
    crate::trust::provider().secure_random.fill(&mut greeting.nonce).map_err(|_| Failed::Random)?;
    let limit = Duration::from_secs(raw::HANDSHAKE_SECS_MAX);
    let opening = timeout(limit, prove(&mut tcp, &greeting, key)).await.map_err(|_| Failed::Silence)??;
    Ok((tcp, opening))
}

/// Links that were parked together are not replaced together.
fn raw_lifetime(random: u32) -> Duration {
    Duration::from_secs(RAW_PARKED_SECS_MIN + u64::from(random) % RAW_PARKED_SPREAD_SECS)
}

/// Greets, and answers the edge's nonce with the proof.
async fn prove(tcp: &mut TcpStream, greeting: &Greeting, key: &RawKey) -> std::io::Result<raw::OpeningKey> {
    tcp.write_all(&greeting.encode()).await?;
    let mut nonce = [0; NONCE_BYTES];
    tcp.read_exact(&mut nonce).await?;
    let (proof, opening) = AgentSide::new(key, greeting, &nonce).prove();
    tcp.write_all(&proof).await?;
    Ok(opening)
}

/// The sealed claim, once it comes.
async fn read_claim(tcp: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; raw::CLAIM_LENGTH_BYTES];
    tcp.read_exact(&mut length).await?;
    let malformed = |error| std::io::Error::new(std::io::ErrorKind::InvalidData, error);
    let mut sealed = vec![0; raw::claim_length(length).map_err(malformed)?];
    let limit = Duration::from_secs(raw::HANDSHAKE_SECS_MAX);
    timeout(limit, tcp.read_exact(&mut sealed)).await??;
    Ok(sealed)
}
