//! One edge's feed: reads its lines, answers with Programs, diffs, commands and beats.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ebbgate_model::feed::{
    BEAT_SECS, CommandOutcome, FEED_VERSION, FromEdge, LineError, Lines, ToEdge, write_line,
};
use ebbgate_model::{AccountId, EdgeId, ObjectKey, ProgramDigest};
use http_body_util::BodyExt;
use hyper::body::Body;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at, timeout};

use super::clocks::EdgeClock;
use super::outbox::{Answered, Outbox, Unasked};
use super::planned::Planned;
use super::published::Published;
use super::tallies::Tallies;
use super::wanted::Wanted;
use crate::events::Events;
use crate::events::traffic::Traffic;
use crate::metrics::Metrics;
use crate::plan::overlay::Ring;
use crate::presence::{Command, Hold, Presence};
use crate::visitors::Told;

/// Seconds an edge may take to send its `Hello`.
const HELLO_SECS_MAX: u64 = 10;
/// Seconds without a line after which an edge counts as gone: three beats.
const SILENCE_SECS_MAX: u64 = 3 * BEAT_SECS;
/// Seconds an edge may take to apply or refuse a Program.
const ANSWER_SECS_MAX: u64 = 60;
/// Seconds an edge may take to read what it is sent.
const SEND_SECS_MAX: u64 = 60;
/// Time between comparisons of what an edge holds with what it should.
const COMPARE: Duration = Duration::from_mins(1);
/// Objects that are written down on the feed's own thread; more may take long.
const WRITTEN_HERE_MAX: usize = 16;
/// Refused objects of one message that have a line in the log.
const REFUSALS_LOGGED_MAX: usize = 10;
/// Most characters kept of a refusal's reason.
const REASON_CHARS_MAX: usize = 1024;

/// What all feeds share.
#[derive(Debug)]
pub struct Feeds {
    published: Arc<Published>,
    planned: watch::Receiver<Planned>,
    presence: Presence,
    metrics: Arc<Metrics>,
    events: Arc<Events>,
    /// Where secrets are asked for that agents' policies name; what finds no room is asked for again.
    wanted: Option<mpsc::Sender<Wanted>>,
    visitors: Option<mpsc::Sender<Told>>,
    tallies: Arc<Tallies>,
}

/// Why a feed ended.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The first line was not a greeting, or there was none in time.
    #[error("the edge did not say which one it is")]
    Hello,
    /// It says that it is another edge than its certificate does.
    #[error("an edge with the certificate of {expected} says that it is {edge}")]
    Foreign {
        /// What it says.
        edge: EdgeId,
        /// Its certificate's.
        expected: EdgeId,
    },
    /// The edge is of another release.
    #[error(
        "edge {edge} of release {version} speaks version {feed} of the feed, this control {FEED_VERSION}: install the same release of both"
    )]
    Version {
        /// Which edge.
        edge: EdgeId,
        /// Its release.
        version: String,
        /// Its version of the feed.
        feed: u32,
    },
    /// What the edge sent is no message.
    #[error("what the edge sent cannot be read: {0}")]
    Line(#[from] LineError),
    /// The connection broke.
    #[error("the connection to the edge broke: {0}")]
    Broken(String),
    /// No line for [`SILENCE_SECS_MAX`].
    #[error("the edge has been silent for 15 seconds")]
    Silent,
    /// The edge does not read.
    #[error("the edge does not read what it is sent")]
    Stalled,
    /// No answer within [`ANSWER_SECS_MAX`].
    #[error("the edge neither applied nor refused its Program within 60 seconds")]
    NoAnswer,
    /// A newer feed of the same edge took over.
    #[error("a newer connection of the same edge took over")]
    Replaced,
    /// Control is stopping.
    #[error("control is stopping")]
    Stopping,
}

impl Feeds {
    /// Feeds that serve what is published, whenever `planned` tells of news, and report to `presence`.
    pub fn new(
        published: Arc<Published>,
        planned: watch::Receiver<Planned>,
        presence: Presence,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            published,
            planned,
            presence,
            metrics,
            events: Arc::default(),
            wanted: None,
            visitors: None,
            tallies: Arc::default(),
        }
    }

    /// Gives what edges report of traffic to these.
    #[must_use]
    pub fn with_events(self, events: Arc<Events>) -> Self {
        Self { events, ..self }
    }

    /// Gives what edges ask for to this.
    #[must_use]
    pub fn with_wanted(self, wanted: mpsc::Sender<Wanted>) -> Self {
        Self { wanted: Some(wanted), ..self }
    }

    /// Where what edges tell of visitors' sessions goes.
    #[must_use]
    pub fn with_visitors(self, visitors: mpsc::Sender<Told>) -> Self {
        Self { visitors: Some(visitors), ..self }
    }

    /// Counts here what edges say of changes that not all of them have.
    #[must_use]
    pub fn with_tallies(self, tallies: Arc<Tallies>) -> Self {
        Self { tallies, ..self }
    }

    /// Serves one edge until it is gone. `out` takes whole lines and should hold few: its fullness is what slows us down.
    /// `expected`: which edge it must be; None: whichever it says.
    pub async fn serve<B>(
        &self,
        expected: Option<EdgeId>,
        body: B,
        out: mpsc::Sender<Bytes>,
    ) -> Result<(), FeedError>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        let mut messages = Messages { body, lines: Lines::default() };
        let hello = timeout(Duration::from_secs(HELLO_SECS_MAX), messages.next()).await;
        let Ok(Ok(Some(FromEdge::Hello {
            edge,
            feed,
            version,
            generation,
            digest,
            unix_secs,
            core_rule_set,
            handed_over,
            reach,
        }))) = hello
        else {
            return Err(FeedError::Hello);
        };
        if let Some(expected) = expected.filter(|expected| *expected != edge) {
            let error = FeedError::Foreign { edge, expected };
            tracing::warn!(%error, "an edge was refused");
            return Err(error);
        }
        if feed != FEED_VERSION {
            return refuse(&out, FeedError::Version { edge, version, feed }).await;
        }
        tracing::info!(%edge, version, generation, handed_over, "an edge connected");
        let (hold, commands) = if handed_over {
            self.presence.beside(edge)
        } else {
            self.presence.join(edge, version, generation)
        };
        let mut clock = EdgeClock::default();
        clock.hear(unix_secs, edge, &hold);
        hold.set_core_rule_set(core_rule_set);
        hold.set_reach(reach.checked());
        let outbox = Outbox::new(generation, digest);
        let now = Instant::now();
        let mut feed = Feed {
            shared: self,
            edge,
            hold,
            clock,
            outbox,
            waiting: None,
            said: now,
            asked: now,
            heard: now,
            asked_of_agents: 0,
            answers: BTreeMap::new(),
            in_force: 0,
        };
        let ended = feed.run(messages, &out, commands).await;
        match &ended {
            Ok(()) => tracing::info!(%edge, "an edge disconnected"),
            Err(error) => tracing::warn!(%edge, %error, "the feed of an edge ended"),
        }
        ended
    }
}

struct Feed<'a> {
    shared: &'a Feeds,
    edge: EdgeId,
    hold: Hold,
    clock: EdgeClock,
    outbox: Outbox,
    /// The line that goes out next.
    waiting: Option<Bytes>,
    /// Since when it has been waiting.
    said: Instant,
    /// When the Program under way was put in line.
    asked: Instant,
    /// When the edge last said anything.
    heard: Instant,
    /// Number of the last command.
    asked_of_agents: u64,
    /// Callers that wait for agents' answers, by the command's number.
    answers: BTreeMap<u64, oneshot::Sender<CommandOutcome>>,
    /// Generation of ours that the edge has; 0 until it is known.
    in_force: u64,
}

impl Feed<'_> {
    async fn run<B>(
        &mut self,
        mut messages: Messages<B>,
        out: &mpsc::Sender<Bytes>,
        mut commands: mpsc::Receiver<Command>,
    ) -> Result<(), FeedError>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        let mut planned = self.shared.planned.clone();
        let mut beat = interval(Duration::from_secs(BEAT_SECS));
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut compare = interval_at(Instant::now() + COMPARE, COMPARE);
        compare.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.say(greeting()).await?;
        loop {
            planned.mark_unchanged();
            if self.waiting.is_none()
                && let Some(message) = self.next().await
            {
                self.say(message).await?;
                self.asked = Instant::now();
            }
            // Between the answers of the edge there is room for this.
            if self.waiting.is_none()
                && let Some(message) = self.hold.news()
            {
                self.say(message).await?;
            }
            // Reading goes on while a line waits for the edge to read: two sides that only write would wait for ever.
            tokio::select! {
                message = messages.next() => {
                    let Some(message) = message? else { return Ok(()) };
                    self.heard = Instant::now();
                    self.take(message).await;
                }
                room = out.reserve(), if self.waiting.is_some() => {
                    let room = room.map_err(|_| FeedError::Broken("it no longer reads".into()))?;
                    if let Some(line) = self.waiting.take() {
                        room.send(line);
                    }
                }
                changed = planned.changed() => changed.map_err(|_| FeedError::Stopping)?,
                command = commands.recv(), if self.waiting.is_none() => {
                    let Command { session, command, answer } = command.ok_or(FeedError::Replaced)?;
                    self.asked_of_agents += 1;
                    let number = self.asked_of_agents;
                    // Callers wait for a bounded time, so those that are left are few.
                    self.answers.retain(|_, answer| !answer.is_closed());
                    self.answers.insert(number, answer);
                    self.say(ToEdge::Session { session, command, number }).await?;
                }
                () = self.hold.news_came(), if self.waiting.is_none() => {}
                _ = compare.tick() => self.outbox.look(),
                now = beat.tick() => {
                    self.check(now)?;
                    if self.waiting.is_none() {
                        self.say(ToEdge::Beat).await?;
                    }
                }
            }
        }
    }

    fn check(&self, now: Instant) -> Result<(), FeedError> {
        let passed = |since: Instant, secs| now.saturating_duration_since(since) > Duration::from_secs(secs);
        if passed(self.heard, SILENCE_SECS_MAX) {
            return Err(FeedError::Silent);
        }
        if self.waiting.is_some() && passed(self.said, SEND_SECS_MAX) {
            return Err(FeedError::Stalled);
        }
        if self.outbox.waits() && passed(self.asked, ANSWER_SECS_MAX) {
            return Err(FeedError::NoAnswer);
        }
        if self.hold.is_current() { Ok(()) } else { Err(FeedError::Replaced) }
    }

    /// What the edge is sent next.
    async fn next(&mut self) -> Option<ToEdge> {
        let state = self.shared.published.0.read().await;
        // Asked while the state stands: what an operator changed before, holds for what is sent now.
        self.outbox.set_ring(if self.hold.is_canary() { Ring::Canary } else { Ring::Rest });
        self.outbox.next(&state)
    }

    async fn take(&mut self, message: FromEdge) {
        match message {
            FromEdge::Applied { nonce, generation, digest, refused } => {
                self.applied(nonce, generation, digest);
                self.objects_refused(generation, &refused);
            }
            FromEdge::Refused { nonce, reason } => self.refused(nonce, &reason),
            FromEdge::Sessions { sessions } => self.hold.replace_sessions(sessions),
            FromEdge::Session { session, report } => self.hold.session(session, *report),
            FromEdge::SessionEnded { session } => self.hold.session_ended(session),
            FromEdge::CommandAnswer { number, outcome } => {
                if let Some(answer) = self.answers.remove(&number) {
                    // A caller that waits no more has been answered.
                    let _ = answer.send(outcome);
                }
            }
            FromEdge::Connection(event) => {
                self.shared.metrics.connections.inc();
                self.shared.tallies.connection(self.edge, self.in_force, &event);
                self.shared.events.traffic(|| Traffic::Connection(event));
            }
            FromEdge::Request(event) => {
                self.shared.metrics.requests.inc();
                self.shared.tallies.request(self.edge, self.in_force, &event);
                self.shared.events.traffic(|| Traffic::Request(event));
            }
            FromEdge::SecretsWanted { account, secrets } => {
                if let Some(wanted) = &self.shared.wanted
                    && wanted.try_send(Wanted { account, secrets }).is_err()
                {
                    tracing::warn!(edge = %self.edge, %account, "too many wait for secrets; the edge asks again");
                }
            }
            FromEdge::VisitorSession(report) => self.tell(report.account, Told::Began(report)),
            FromEdge::VisitorSessionEnded { account, session, expires_at } => {
                self.tell(account, Told::Ended { account, session, expires_at });
            }
            FromEdge::Draining => self.hold.drains(),
            FromEdge::Enforcement { endpoints } => self.hold.replace_enforcement(endpoints),
            FromEdge::AddressData { names } => self.hold.replace_address_data(names),
            FromEdge::Compared { nonce, generation, digest, buckets } => {
                let state = self.shared.published.0.read().await;
                let answered = self.outbox.compared(nonce, (generation, digest), &buckets, &state);
                drop(state);
                self.answered(generation, answered);
            }
            FromEdge::Beat { unix_secs } => self.clock.hear(unix_secs, self.edge, &self.hold),
            FromEdge::Hello { .. } | FromEdge::Unknown => {}
        }
    }

    fn tell(&self, account: AccountId, told: Told) {
        if let Some(visitors) = &self.shared.visitors
            && visitors.try_send(told).is_err()
        {
            tracing::warn!(edge = %self.edge, %account, "visitors sign in faster than that is kept; one was not");
        }
    }

    fn applied(&mut self, nonce: u64, generation: u64, digest: ProgramDigest) {
        let answered = self.outbox.applied(nonce, digest);
        self.answered(generation, answered);
    }

    fn answered(&mut self, generation: u64, answered: Result<Answered, Unasked>) {
        match answered {
            Ok(Answered::Holds(generation)) => {
                self.hold.applied(generation);
                self.in_force = generation;
                tracing::debug!(edge = %self.edge, generation, "in force");
            }
            Ok(Answered::Differs) => {
                tracing::warn!(edge = %self.edge, generation, "an edge holds something else than it should; it is mended");
            }
            Err(error) => tracing::warn!(edge = %self.edge, %error, "an answer was ignored"),
        }
    }

    /// Says which objects the edge cannot use.
    fn objects_refused(&self, generation: u64, refused: &BTreeMap<ObjectKey, String>) {
        let Some((first, reason)) = refused.first_key_value() else { return };
        for (object, reason) in refused.iter().take(REFUSALS_LOGGED_MAX) {
            let reason = shortened(reason);
            tracing::error!(edge = %self.edge, generation, %object, reason, "an edge refused an object");
        }
        for (object, reason) in refused {
            self.shared.tallies.refused(self.edge, object, &shortened(reason));
        }
        self.shared.metrics.refusals.inc();
        let told = format!("{} objects, the first is {first}: {}", refused.len(), shortened(reason));
        self.hold.refused(generation, told);
    }

    fn refused(&mut self, nonce: u64, reason: &str) {
        let reason = shortened(reason);
        match self.outbox.refused(nonce) {
            Ok(generation) => {
                tracing::error!(edge = %self.edge, generation, reason, "an edge refused a Program");
                self.shared.metrics.refusals.inc();
                self.hold.refused(generation, reason);
            }
            Err(error) => tracing::warn!(edge = %self.edge, %error, reason, "a refusal was ignored"),
        }
    }

    /// Puts a message in line; there is room for one.
    async fn say(&mut self, message: ToEdge) -> Result<(), FeedError> {
        let is_long = match &message {
            ToEdge::Part { objects: changes, .. } | ToEdge::Delta { changes, .. } => {
                changes.len() > WRITTEN_HERE_MAX
            }
            _ => false,
        };
        let write = move || {
            let mut line = Vec::new();
            write_line(&mut line, &message).expect("messages have string keys only");
            Bytes::from(line)
        };
        // Much takes long to write down, and others want this thread.
        let line = if is_long {
            tokio::task::spawn_blocking(write).await.map_err(|_| FeedError::Stopping)?
        } else {
            write()
        };
        self.waiting = Some(line);
        self.said = Instant::now();
        Ok(())
    }
}

fn greeting() -> ToEdge {
    ToEdge::Hello { feed: FEED_VERSION, version: env!("CARGO_PKG_VERSION").to_owned() }
}

/// Tells an edge of another version which one this is, and ends.
async fn refuse(out: &mpsc::Sender<Bytes>, error: FeedError) -> Result<(), FeedError> {
    tracing::error!(%error, "an edge is not served");
    let mut line = Vec::new();
    write_line(&mut line, &greeting()).expect("messages have string keys only");
    // An edge that is gone by now needs no answer.
    let _ = out.send(line.into()).await;
    Err(error)
}

fn shortened(reason: &str) -> String {
    reason.chars().take(REASON_CHARS_MAX).collect()
}

/// The messages of a body.
struct Messages<B> {
    body: B,
    lines: Lines,
}

impl<B> Messages<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    /// The next message; None at the end. Safe to drop half way: what was read stays in the lines.
    async fn next(&mut self) -> Result<Option<FromEdge>, FeedError> {
        loop {
            if let Some(message) = self.lines.message()? {
                return Ok(Some(message));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.lines.push(frame.data_ref().unwrap_or(&Bytes::new()))?,
                Some(Err(error)) => return Err(FeedError::Broken(error.to_string())),
                None => return Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests;
