//! The feed from control: one HTTP/2 request over a Unix socket that lasts as long as both do. Programs come down it;
//! acknowledgements, presence and events go up (`model::feed`).
//!
//! Without control the edge serves what it has; this keeps trying.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use ebbgate_model::feed::{
    BEAT_SECS, FEED_PATH, FEED_VERSION, FromEdge, LineError, Lines, ToEdge, write_line,
};
use ebbgate_model::{Digests, EdgeId, Program, ProgramDigest};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant, interval, sleep, sleep_until, timeout, timeout_at};

use crate::agents::Agents;
use crate::state::edge::Edge;
use crate::state::endpoint::Endpoint;
use crate::state::random;
use crate::state::saved::{Saved, Written};
use crate::state::tables::{ProgramError, Tables};
use crate::xdp::XdpHandle;

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

/// Why a feed ended.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// There is no socket to ask.
    #[error("no control is configured")]
    Nowhere,
    /// The socket.
    #[error("cannot reach control at {path}: {source}")]
    Connect {
        /// Which socket.
        path: PathBuf,
        /// What the kernel says.
        source: std::io::Error,
    },
    /// HTTP/2.
    #[error("the feed broke: {0}")]
    Http(#[from] hyper::Error),
    /// A status other than 200.
    #[error("control answered {0} to the feed")]
    Status(http::StatusCode),
    /// What control sent is no message.
    #[error("what control sent cannot be read: {0}")]
    Line(#[from] LineError),
    /// A message of ours that has no JSON.
    #[error("a message cannot be written: {0}")]
    Unwritten(#[source] serde_json::Error),
    /// No beat from it, or it does not read.
    #[error("control is silent")]
    Silent,
    /// Control is of another release.
    #[error(
        "control {version} speaks version {feed} of the feed, this edge {FEED_VERSION}: install the same release of both"
    )]
    Version {
        /// Of control.
        version: String,
        /// Its version of the feed.
        feed: u32,
    },
    /// The other end closed in order.
    #[error("control closed the feed")]
    Closed,
    /// Changes for another generation, or parts of nothing: a new feed tells control what is here.
    #[error("control sent {what} that does not follow what it sent before")]
    OutOfPlace {
        /// What it sent.
        what: &'static str,
    },
}

/// What the feed needs from its process.
pub struct Feed {
    /// Where controls listen, any of which will do; the first that answers is asked.
    pub sockets: Vec<PathBuf>,
    /// The id of this edge.
    pub id: EdgeId,
    /// The shards' common state.
    pub edge: Arc<Edge>,
    /// Agents' sessions.
    pub agents: Arc<Agents>,
    /// The kernel's filter.
    pub xdp: Arc<XdpHandle>,
    /// Where Programs are kept.
    pub saved: Saved,
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
            if began.elapsed() > Duration::from_millis(RETRY_MS_MAX) {
                (retry_ms, tried) = (RETRY_MS_MIN, 0);
            }
            tried += 1;
            self.sockets.rotate_left(1);
            if tried < self.sockets.len() {
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
        let (lines, mut queue) = mpsc::channel::<Bytes>(LINES_MAX);
        let hello = FromEdge::Hello {
            edge: self.id,
            feed: FEED_VERSION,
            version: env!("CARGO_PKG_VERSION").into(),
            generation: self.edge.generation(),
            digest: self.digest(),
        };
        send(&lines, &hello).await?;
        let body = StreamBody::new(futures_util::stream::poll_fn(move |cx| {
            queue.poll_recv(cx).map(|line| Some(Ok::<_, std::convert::Infallible>(Frame::data(line?))))
        }));
        let request = http::Request::post(format!("http://control{FEED_PATH}"))
            .body(body)
            .expect("a constant path makes a request");
        let socket = self.sockets.first().ok_or(FeedError::Nowhere)?.clone();
        let opening = open(&socket, request);
        let deadline = Duration::from_secs(CONNECT_SECS_MAX);
        let (response, connection) = timeout(deadline, opening).await.map_err(|_| FeedError::Silent)??;
        let ended = AbortOnDrop(connection);
        tracing::info!(socket = %socket.display(), "feed from control open");
        self.edge.metrics.feed_connected.set(1);
        send(&lines, &self.edge.reports.snapshot()).await?;
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
        let mut received = Lines::default();
        let mut deadline = Instant::now() + silence();
        let mut events = Gathered::default();
        let mut staging = Staging::default();
        loop {
            tokio::select! {
                frame = timeout_at(deadline, response.frame()) => {
                    let frame = frame.map_err(|_| FeedError::Silent)?.ok_or(FeedError::Closed)??;
                    deadline = Instant::now() + silence();
                    received.push(&frame.into_data().unwrap_or_default())?;
                    while let Some(message) = received.message()? {
                        self.take(message, &mut staging, lines).await?;
                    }
                }
                change = self.edge.reports.change() => send(lines, &change).await?,
                Ok(()) = enforcement.changed() => {
                    let endpoints = enforcement.borrow_and_update().as_ref().clone();
                    send(lines, &FromEdge::Enforcement { endpoints }).await?;
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
                    send(lines, &FromEdge::Beat).await?;
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

    async fn take(
        &mut self,
        message: ToEdge,
        staging: &mut Staging,
        lines: &mpsc::Sender<Bytes>,
    ) -> Result<(), FeedError> {
        match message {
            ToEdge::Hello { feed, version } if feed != FEED_VERSION => {
                return Err(FeedError::Version { version, feed });
            }
            ToEdge::Hello { .. } => staging.greeted = true,
            _ if !staging.greeted => {
                return Err(FeedError::Version { version: "of an older release".into(), feed: 1 });
            }
            ToEdge::Begin { nonce, buckets } => {
                let (mut program, mut digests) = (Program::default(), Program::default().digests());
                if let Some(buckets) = buckets {
                    program = self.edge.tables.load().program.clone();
                    digests = program.digests();
                    program.clear(&buckets, &mut digests);
                }
                staging.staged = Some(Staged { nonce, program, digests });
            }
            ToEdge::Part { nonce, objects } => {
                let staged = staging.staged.as_mut().filter(|staged| staged.nonce == nonce);
                let staged = staged.ok_or(FeedError::OutOfPlace { what: "a part" })?;
                staged.program.apply(&objects, &mut staged.digests);
            }
            ToEdge::End { nonce, generation, digest } => {
                let staged = staging.staged.take().filter(|staged| staged.nonce == nonce);
                let mut staged = staged.ok_or(FeedError::OutOfPlace { what: "an end" })?;
                staged.program.generation = generation;
                self.put_in_force(staged, digest, lines).await?;
            }
            ToEdge::Delta { nonce, from, to, digest, changes } => {
                let mut program = self.edge.tables.load().program.clone();
                if program.generation != from {
                    return Err(FeedError::OutOfPlace { what: "a delta" });
                }
                let mut digests = program.digests();
                program.apply(&changes, &mut digests);
                program.generation = to;
                self.put_in_force(Staged { nonce, program, digests }, digest, lines).await?;
            }
            ToEdge::Compare { nonce, buckets } => {
                let tables = self.edge.tables.load_full();
                let digests = tables.program.digests();
                let of_buckets = if buckets { digests.buckets().to_vec() } else { Vec::new() };
                let generation = tables.program.generation;
                let digest = digests.root();
                send(lines, &FromEdge::Compared { nonce, generation, digest, buckets: of_buckets }).await?;
            }
            ToEdge::Session { session, command, number } => self.agents.command(session, command, number),
            ToEdge::Beat | ToEdge::Unknown => {}
        }
        Ok(())
    }

    async fn put_in_force(
        &self,
        staged: Staged,
        expected: ProgramDigest,
        lines: &mpsc::Sender<Bytes>,
    ) -> Result<(), FeedError> {
        let Staged { nonce, program, digests } = staged;
        let (generation, digest) = (program.generation, digests.root());
        if digest != expected {
            tracing::error!(generation, "the program is not what control says it is; control will mend it");
        }
        let reply = match self.apply(program) {
            Ok(()) => {
                self.wait_for_xdp(lines).await?;
                FromEdge::Applied { nonce, generation, digest, refused: BTreeMap::new() }
            }
            Err(error) => {
                tracing::error!(generation, %error, "program refused; the last good one stays in force");
                self.edge.metrics.programs_refused.inc();
                FromEdge::Refused { nonce, reason: error.to_string() }
            }
        };
        send(lines, &reply).await
    }

    /// A generation is in force when the kernel has it too. A long list takes seconds; control must not think meanwhile
    /// that we are gone.
    async fn wait_for_xdp(&self, lines: &mpsc::Sender<Bytes>) -> Result<(), FeedError> {
        let applied = self.xdp.applied();
        tokio::pin!(applied);
        loop {
            match timeout(Duration::from_secs(BEAT_SECS), &mut applied).await {
                Ok(()) => return Ok(()),
                Err(_) => send(lines, &FromEdge::Beat).await?,
            }
        }
    }

    /// What control may compare with its own; None while there is no Program.
    fn digest(&self) -> Option<ProgramDigest> {
        let tables = self.edge.tables.load();
        (tables.program.generation > 0).then(|| tables.program.digests().root())
    }

    fn apply(&self, program: Program) -> Result<(), ProgramError> {
        let generation = program.generation;
        let tables = Tables::compile(program, &self.edge.tables.load())?;
        install(&self.agents, tables);
        let written = Written::new(&self.edge.tables.load().program);
        if let Err(error) = self.saved.put_program(&written) {
            tracing::error!(%error, "the program is in force but not on disk; a restart would need control");
        }
        tracing::info!(generation, "program in force");
        Ok(())
    }
}

/// Puts Tables in force: state, then sessions and endpoints of agents that may no longer be, and then what is new: nobody shares
/// a URL with the account that had it before. At last xdp hears of it.
pub fn install(agents: &Agents, tables: Tables) {
    let edge = agents.edge();
    let old = edge.tables.load_full();
    let new = Arc::new(tables);
    edge.tables.store(Arc::clone(&new));
    edge.sync_ports(&new);
    agents.recheck(&old, &new);
    let stays = |id, before: &Endpoint| {
        new.cloud.get(id).is_some_and(|now| now.url == before.url && now.binding == before.binding)
    };
    for (_, gone) in old.cloud.iter().filter(|(id, before)| !stays(*id, before)) {
        edge.routes.remove(gone);
    }
    for (id, endpoint) in &new.cloud {
        if !old.cloud.get(id).is_some_and(|before| Arc::ptr_eq(before, endpoint)) {
            edge.routes.put(Arc::clone(endpoint));
        }
    }
    edge.changes.note();
    edge.metrics.generation.set(i64::try_from(new.program.generation).unwrap_or(i64::MAX));
    edge.metrics.objects_unserved.set(i64::try_from(new.unserved.len()).unwrap_or(i64::MAX));
    let fresh = new.unserved.iter().filter(|(object, reason)| old.unserved.get(*object) != Some(*reason));
    for (object, reason) in fresh {
        tracing::error!(object, reason, "this object cannot be served and is closed");
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn open<B>(
    path: &Path,
    request: http::Request<B>,
) -> Result<(Incoming, tokio::task::JoinHandle<()>), FeedError>
where
    B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync,
{
    let connect = |source| FeedError::Connect { path: path.to_owned(), source };
    let stream = UnixStream::connect(path).await.map_err(connect)?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let task = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "feed connection ended");
        }
    });
    let response = sender.send_request(request).await?;
    if response.status() != http::StatusCode::OK {
        return Err(FeedError::Status(response.status()));
    }
    Ok((response.into_body(), task))
}

/// What has come on one feed and is not in force.
#[derive(Default)]
struct Staging {
    /// Whether control has said its version.
    greeted: bool,
    staged: Option<Staged>,
}

/// A Program that is being put together.
struct Staged {
    nonce: u64,
    program: Program,
    digests: Digests,
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
        send(&lines, &FromEdge::Beat).await.unwrap();
        let began = Instant::now();
        let stuck = timeout(Duration::from_hours(1), send(&lines, &FromEdge::Beat)).await;
        assert!(matches!(stuck, Ok(Err(FeedError::Silent))));
        assert_eq!(began.elapsed(), silence());
    }
}
