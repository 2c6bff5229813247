//! The feed from control: one HTTP/2 request, over a Unix socket or mutual TLS, that lasts as long as both do. Programs come down it;
//! acknowledgements, presence and events go up (`model::feed`).
//!
//! Without control the edge serves what it has; this keeps trying.

pub mod address;
mod control;
mod error;
pub mod fleet;
pub mod installer;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use ebbgate_model::feed::{BEAT_SECS, FEED_PATH, FEED_VERSION, FromEdge, Lines, ToEdge, write_line};
use ebbgate_model::{Changes, EdgeId, ProgramDigest};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{Duration, Instant, interval, sleep, sleep_until, timeout, timeout_at};

use crate::agents::Agents;
use crate::state::clock;
use crate::state::edge::{Edge, Stage};
use crate::state::objects::Objects;
use crate::state::random;
use crate::xdp::XdpHandle;
use address::Control;
pub use error::FeedError;
use fleet::Member;
use installer::{Installed, Installer};

/// Milliseconds before the first new attempt.
const RETRY_MS_MIN: u64 = 50;
/// Milliseconds between attempts at most.
const RETRY_MS_MAX: u64 = 2_000;
/// Seconds to connect and get a response header.
const CONNECT_SECS_MAX: u64 = 10;
/// Beats missed before control counts as gone.
const BEATS_MISSED_MAX: u32 = 3;
/// Lines waiting to be sent; one may be long.
const LINES_MAX: usize = 8;
/// Milliseconds from the first event that waits to its sending: what comes in between goes with it.
const GATHER_MS: u64 = 10;
/// Bytes of events sent as one piece, in round figures: the last event may end above it.
const PIECE_BYTES: usize = 64 << 10;
/// Objects that may come before they are put in force.
const OBJECTS_MAX: usize = 8_000_000;

/// What the feed needs from its process.
pub struct Feed {
    /// Any of which will do; the first that answers is asked.
    pub controls: Vec<Control>,
    /// What proves this edge to controls of other machines.
    pub member: Option<Member>,
    /// The id of this edge.
    pub id: EdgeId,
    /// The shards' common state.
    pub edge: Arc<Edge>,
    /// Agents' sessions.
    pub agents: Arc<Agents>,
    /// The kernel's filter.
    pub xdp: Arc<XdpHandle>,
    /// Puts in force what control tells.
    pub installer: Arc<Mutex<Installer>>,
    /// What has come and is not in force; of one feed, and empty for each.
    pub staging: Staging,
    /// Events to send.
    pub events: mpsc::Receiver<FromEdge>,
}

impl Feed {
    /// Keeps a feed open for ever: with each control in turn, and with growing pauses when none of them answers.
    pub async fn run(mut self) {
        let mut retry_ms = RETRY_MS_MIN;
        let mut tried = 0;
        loop {
            let began = Instant::now();
            let error = match self.once().await {
                Ok(never) => match never {},
                Err(error) => error,
            };
            self.edge.metrics.feed_connected.set(0);
            if matches!(error, FeedError::HandedOver) {
                continue;
            }
            if began.elapsed() > Duration::from_millis(RETRY_MS_MAX) {
                (retry_ms, tried) = (RETRY_MS_MIN, 0);
            }
            tried += 1;
            self.controls.rotate_left(1);
            if tried < self.controls.len() {
                tracing::warn!(%error, "no feed from this control; asking the next");
                continue;
            }
            tried = 0;
            tracing::warn!(%error, retry_ms, "no feed from control; serving the last program");
            sleep(Duration::from_millis(retry_ms / 2 + random::number() % (retry_ms / 2 + 1))).await;
            retry_ms = (retry_ms * 2).min(RETRY_MS_MAX);
        }
    }

    async fn once(&mut self) -> Result<std::convert::Infallible, FeedError> {
        self.staging = Staging::default();
        self.agents.peers.begin(self.id);
        let (lines, mut queue) = mpsc::channel::<Bytes>(LINES_MAX);
        let hello = FromEdge::Hello {
            edge: self.id,
            feed: FEED_VERSION,
            version: env!("CARGO_PKG_VERSION").into(),
            generation: self.edge.generation(),
            digest: self.digest(),
            unix_secs: clock::unix_secs(),
            core_rule_set: self.edge.waf.is_some(),
            handed_over: self.has_handed_over(),
            reach: self.edge.peers.own(),
        };
        send(&lines, &hello).await?;
        let body = StreamBody::new(futures_util::stream::poll_fn(move |cx| {
            queue.poll_recv(cx).map(|line| Some(Ok::<_, std::convert::Infallible>(Frame::data(line?))))
        }));
        let request = http::Request::post(format!("http://control{FEED_PATH}"))
            .body(body)
            .expect("a constant path makes a request");
        let control = self.controls.first().ok_or(FeedError::Nowhere)?.clone();
        let tls = self.member.as_ref().map(Member::tls);
        let opening = async { control::send(control::connect(&control, tls.as_ref()).await?, request).await };
        let deadline = Duration::from_secs(CONNECT_SECS_MAX);
        let (response, connection) = timeout(deadline, opening).await.map_err(|_| FeedError::Silent)??;
        let ended = AbortOnDrop(connection);
        tracing::info!(%control, "feed from control open");
        self.edge.metrics.feed_connected.set(1);
        if !self.has_handed_over() {
            send(&lines, &self.edge.reports.snapshot()).await?;
        }
        let result = self.exchange(response, &lines).await;
        drop(ended);
        result
    }

    async fn exchange(
        &mut self,
        mut response: Incoming,
        lines: &mpsc::Sender<Bytes>,
    ) -> Result<std::convert::Infallible, FeedError> {
        let mut beat = interval(Duration::from_secs(BEAT_SECS));
        // Whatever was published before counts as a change for a new feed.
        let mut enforcement = self.xdp.enforcement();
        let mut addresses = self.edge.addresses.names();
        let mut received = Lines::default();
        let mut deadline = Instant::now() + silence();
        let mut events = Gathered::default();
        let speaks = !self.has_handed_over();
        let handed_over = self.edge.reached(Stage::HandedOver);
        tokio::pin!(handed_over);
        let draining = self.edge.reached(Stage::Draining);
        tokio::pin!(draining);
        let mut drains = false;
        loop {
            tokio::select! {
                () = &mut handed_over, if speaks => return Err(FeedError::HandedOver),
                frame = timeout_at(deadline, response.frame()) => {
                    let frame = frame.map_err(|_| FeedError::Silent)?.ok_or(FeedError::Closed)??;
                    deadline = Instant::now() + silence();
                    received.push(&frame.into_data().unwrap_or_default())?;
                    while let Some(message) = received.message()? {
                        self.take(message, lines).await?;
                    }
                }
                change = self.edge.reports.change(), if speaks => send(lines, &change).await?,
                Ok(()) = enforcement.changed(), if speaks => {
                    let endpoints = enforcement.borrow_and_update().as_ref().clone();
                    send(lines, &FromEdge::Enforcement { endpoints }).await?;
                }
                Ok(()) = addresses.changed(), if speaks => {
                    let names = addresses.borrow_and_update().clone();
                    send(lines, &FromEdge::AddressData { names }).await?;
                }
                () = &mut draining, if !drains => {
                    drains = true;
                    send(lines, &FromEdge::Draining).await?;
                }
                // While this task waits for more events, a further one does not wake it.
                Some(event) = self.events.recv(), if events.due.is_none() => {
                    events.put(&event)?;
                    events.due = Some(Instant::now() + Duration::from_millis(GATHER_MS));
                }
                () = sleep_until(events.due.unwrap_or(deadline)), if events.due.is_some() => {
                    events.due = None;
                    self.send_events(&mut events, lines).await?;
                }
                _ = beat.tick() => {
                    self.edge.retry_ports();
                    send(lines, &here()).await?;
                }
            }
        }
    }

    /// Sends the events gathered and those that wait now, but none that come meanwhile: others want this task too.
    async fn send_events(
        &mut self,
        gathered: &mut Gathered,
        lines: &mpsc::Sender<Bytes>,
    ) -> Result<(), FeedError> {
        for _ in 0..self.events.len() {
            let Ok(event) = self.events.try_recv() else { break };
            gathered.put(&event)?;
            if gathered.text.len() >= PIECE_BYTES {
                send_piece(lines, gathered.take()).await?;
            }
        }
        if gathered.text.is_empty() { Ok(()) } else { send_piece(lines, gathered.take()).await }
    }

    async fn take(&mut self, message: ToEdge, lines: &mpsc::Sender<Bytes>) -> Result<(), FeedError> {
        let greeted = std::mem::replace(&mut self.staging.greeted, true);
        match message {
            ToEdge::Hello { feed, version } if feed != FEED_VERSION => {
                return Err(FeedError::Version { version, feed });
            }
            ToEdge::Hello { .. } => {}
            _ if !greeted => {
                return Err(FeedError::Version { version: "of an older release".into(), feed: 1 });
            }
            ToEdge::Begin { nonce, buckets } => {
                self.staging.staged = Some(Staged { nonce, buckets, told: Changes::default() });
            }
            ToEdge::Part { nonce, objects } => {
                let staged = self.staging.staged.as_mut().filter(|staged| staged.nonce == nonce);
                let staged = staged.ok_or(FeedError::OutOfPlace { what: "a part" })?;
                Objects::gather(&mut staged.told, *objects);
                if staged.told.len() > OBJECTS_MAX {
                    return Err(FeedError::TooMany(OBJECTS_MAX));
                }
            }
            ToEdge::End { nonce, generation, digest } => {
                let staged = self.staging.staged.take().filter(|staged| staged.nonce == nonce);
                let Staged { buckets, told, .. } = staged.ok_or(FeedError::OutOfPlace { what: "an end" })?;
                let replace =
                    move |installer: &mut Installer| installer.replace(buckets.as_ref(), told, generation);
                self.put_in_force(nonce, digest, lines, replace).await?;
            }
            ToEdge::Delta { nonce, from, to, digest, changes } => {
                if self.edge.generation() != from {
                    return Err(FeedError::OutOfPlace { what: "changes" });
                }
                let change = move |installer: &mut Installer| installer.change(&changes, to);
                self.put_in_force(nonce, digest, lines, change).await?;
            }
            ToEdge::Compare { nonce, buckets } => {
                // Answered at once: no change comes before the answer. What is found to be wrong is told the next time.
                let kept = self.work(lines, |installer| installer.digests()).await?;
                let (generation, digest) = (self.edge.generation(), kept.root());
                let buckets = if buckets { kept.buckets().to_vec() } else { Vec::new() };
                send(lines, &FromEdge::Compared { nonce, generation, digest, buckets }).await?;
                Installer::count_again(&self.installer, std::time::Instant::now());
            }
            ToEdge::Session { session, command, number } => self.agents.command(session, command, number),
            ToEdge::Drain { drain } => {
                tracing::info!(drain, "control drains this edge or puts it into service again");
                self.edge.set_drained(drain);
            }
            told @ (ToEdge::Peer(_)
            | ToEdge::PeerGone { .. }
            | ToEdge::PeerSession { .. }
            | ToEdge::PeerSessionEnded { .. }
            | ToEdge::PeersTold) => {
                // Policies are compiled, which may take long.
                let agents = Arc::clone(&self.agents);
                let work = spawn_blocking(move || agents.told_of_peer(told));
                alive(work, lines).await?.map_err(FeedError::Installer)?;
            }
            ToEdge::Beat | ToEdge::Unknown => {}
        }
        Ok(())
    }

    async fn put_in_force(
        &self,
        nonce: u64,
        expected: ProgramDigest,
        lines: &mpsc::Sender<Bytes>,
        install: impl FnOnce(&mut Installer) -> Installed + Send + 'static,
    ) -> Result<(), FeedError> {
        let Installed { generation, digest, refused } = self.work(lines, install).await?;
        // A generation is in force when the kernel has it too, and a long list takes seconds.
        alive(self.xdp.applied(), lines).await?;
        if digest != expected {
            tracing::error!(generation, "what is held is not what control says it is; control will mend it");
        }
        if !refused.is_empty() {
            self.edge.metrics.programs_refused.inc();
        }
        send(lines, &FromEdge::Applied { nonce, generation, digest, refused }).await
    }

    /// Has the installer work on another thread: this one has key sets to fetch and the admin port to serve.
    async fn work<T: Send + 'static>(
        &self,
        lines: &mpsc::Sender<Bytes>,
        work: impl FnOnce(&mut Installer) -> T + Send + 'static,
    ) -> Result<T, FeedError> {
        let (installer, changing) = (Arc::clone(&self.installer), Arc::clone(&self.edge.changing));
        let work = async move {
            let held = changing.lock_owned().await;
            spawn_blocking(move || {
                let done = work(&mut installer.lock().unwrap_or_else(PoisonError::into_inner));
                drop(held);
                done
            })
            .await
        };
        alive(work, lines).await?.map_err(FeedError::Installer)
    }

    /// Whether another process is the edge: this one hears what concerns its streams, and only tells of events.
    fn has_handed_over(&self) -> bool {
        self.edge.stage() >= Stage::HandedOver
    }

    /// What control may compare with its own; None while there is nothing.
    fn digest(&self) -> Option<ProgramDigest> {
        self.installer.lock().unwrap_or_else(PoisonError::into_inner).digest()
    }
}

/// Waits for what may take seconds; control must not think meanwhile that we are gone.
async fn alive<T>(work: impl Future<Output = T>, lines: &mpsc::Sender<Bytes>) -> Result<T, FeedError> {
    tokio::pin!(work);
    loop {
        match timeout(Duration::from_secs(BEAT_SECS), &mut work).await {
            Ok(done) => return Ok(done),
            Err(_) => send(lines, &here()).await?,
        }
    }
}

/// What has come on one feed and is not in force.
#[derive(Default)]
pub struct Staging {
    /// Whether control has said its version.
    greeted: bool,
    staged: Option<Staged>,
}

/// Objects that replace those of some buckets, or all, at the end.
struct Staged {
    nonce: u64,
    buckets: Option<BTreeSet<u16>>,
    told: Changes,
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Events on their way to one piece.
#[derive(Default)]
struct Gathered {
    text: Vec<u8>,
    /// When they are sent; none while there are none.
    due: Option<Instant>,
}

impl Gathered {
    fn put(&mut self, event: &FromEdge) -> Result<(), FeedError> {
        write_line(&mut self.text, event).map_err(FeedError::Unwritten)
    }

    fn take(&mut self) -> Bytes {
        std::mem::take(&mut self.text).into()
    }
}

async fn send(lines: &mpsc::Sender<Bytes>, message: &FromEdge) -> Result<(), FeedError> {
    let mut line = Vec::new();
    write_line(&mut line, message).map_err(FeedError::Unwritten)?;
    send_piece(lines, line.into()).await
}

async fn send_piece(lines: &mpsc::Sender<Bytes>, piece: Bytes) -> Result<(), FeedError> {
    let sent = timeout(silence(), lines.send(piece)).await.map_err(|_| FeedError::Silent)?;
    sent.map_err(|_| FeedError::Closed)
}

/// A sign of life, with this machine's clock for the operator to compare.
fn here() -> FromEdge {
    FromEdge::Beat { unix_secs: clock::unix_secs() }
}

/// How long control may be without a beat, or without reading.
fn silence() -> Duration {
    Duration::from_secs(BEAT_SECS) * BEATS_MISSED_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn control_that_does_not_read_is_left() {
        let (lines, _unread) = mpsc::channel(1);
        send(&lines, &here()).await.unwrap();
        let began = Instant::now();
        let stuck = timeout(Duration::from_hours(1), send(&lines, &here())).await;
        assert!(matches!(stuck, Ok(Err(FeedError::Silent))));
        assert_eq!(began.elapsed(), silence());
    }
}
