//! One destination at work: a task that writes its events to its spool, and one that delivers from there.
//!
//! Nothing here waits for another destination. What hangs, lies or fills up costs its own spool, and no more than that.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use ebbgate_model::EventId;
use serde_json::json;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};

use super::envelope::Event;
use super::sink::{self, Limits, Sink, SinkError, Surroundings};
use super::spool::{Batch, Spool};
use super::stats::{AllStats, Stats};
use super::types::LOST;
use crate::clock::Clock;
use crate::record::events::EventDestination;
use crate::secret::{Entropy, ksuid};

/// Events on their way to the spool.
const QUEUE_MAX: usize = 4_096;
/// Events written at once.
const WRITE_MAX: usize = 512;
/// Seconds until a batch is tried again the first time; then twice as long each time.
const RETRY_SECS_MIN: u64 = 1;
/// Longest pause between two tries in seconds, unless the receiver asks for more.
const RETRY_SECS_MAX: u64 = 300;
/// Seconds that one attempt may take in all.
const ATTEMPT_SECS_MAX: u64 = 120;
/// Seconds between two looks into a spool that seems empty.
const LOOK_SECS: u64 = 30;

/// What a destination needs of its process.
#[derive(Clone)]
pub(super) struct Means {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Jitter and ids.
    pub entropy: Arc<dyn Entropy>,
    /// Where numbers go.
    pub stats: AllStats,
    /// For sinks.
    pub around: Surroundings,
}

/// An event on its way to the spool.
#[derive(Debug)]
struct Entry {
    body: Bytes,
    /// Told when the event is on disk, or counted as lost.
    settled: Option<oneshot::Sender<()>>,
}

/// A destination's spool, shared by its two tasks and by those that follow them when its record changes.
pub(super) type SharedSpool = Arc<Mutex<Spool>>;

/// A running destination; its tasks end with it.
pub(super) struct Running {
    queue: mpsc::Sender<Entry>,
    worker: Worker,
    _tasks: JoinSet<()>,
}

/// Makes the sink anew after a failure.
pub(super) type OpenSink = Arc<dyn Fn() -> Result<Box<dyn Sink>, SinkError> + Send + Sync>;

impl Running {
    /// Starts the tasks.
    pub(super) fn start(
        record: EventDestination,
        secrets: BTreeMap<String, String>,
        spool: SharedSpool,
        means: Means,
    ) -> Self {
        let around = means.around.clone();
        let destination = record.clone();
        let open: OpenSink = Arc::new(move || sink::open(&destination, &secrets, &around));
        Self::with(record, open, spool, means)
    }

    /// The same with any sink.
    pub(super) fn with(record: EventDestination, open: OpenSink, spool: SharedSpool, means: Means) -> Self {
        let (queue, events) = mpsc::channel(QUEUE_MAX);
        let worker = Worker { record: Arc::new(record), spool, means, written: Arc::default() };
        let mut tasks = JoinSet::new();
        tasks.spawn(worker.clone().write(events));
        tasks.spawn(worker.clone().deliver(open));
        Self { queue, worker, _tasks: tasks }
    }

    /// Queues an event if there is room. The receiver is told when it is on disk; None: it was dropped and counted.
    pub(super) fn push(&self, body: Bytes, wanted: bool) -> Option<oneshot::Receiver<()>> {
        let (settled, told) = oneshot::channel();
        let entry = Entry { body, settled: wanted.then_some(settled) };
        if self.queue.try_send(entry).is_err() {
            self.worker.dropped(1);
            return None;
        }
        Some(told)
    }
}

#[derive(Clone)]
struct Worker {
    record: Arc<EventDestination>,
    spool: SharedSpool,
    means: Means,
    written: Arc<Notify>,
}

impl Worker {
    fn stats(&self, change: impl FnOnce(&mut Stats)) {
        self.means.stats.change(self.record.id, self.record.account, change);
    }

    fn dropped(&self, events: u64) {
        let now = self.means.clock.unix_secs();
        self.stats(|stats| {
            stats.dropped += events;
            stats.dropped_at = Some(now);
        });
    }

    /// Works on the spool where blocking is allowed.
    async fn on_spool<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Spool) -> std::io::Result<T> + Send + 'static,
    ) -> std::io::Result<T> {
        let spool = self.spool.clone();
        let done = spawn_blocking(move || {
            let mut spool = spool.lock().unwrap_or_else(PoisonError::into_inner);
            let done = work(&mut spool);
            (done, spool.bytes(), spool.waiting(), spool.damaged())
        });
        let (done, bytes, waiting, damaged) = done.await.map_err(std::io::Error::other)?;
        let now = self.means.clock.unix_secs();
        self.stats(|stats| {
            (stats.spool_bytes, stats.waiting, stats.damaged) = (bytes, waiting, damaged);
            stats.waiting_since = if waiting == 0 { None } else { stats.waiting_since.or(Some(now)) };
        });
        done
    }

    /// Writes what is queued.
    async fn write(self, mut events: mpsc::Receiver<Entry>) {
        // Dropped and not told at the destination yet.
        let (mut untold, mut counted) = (0, self.dropped_so_far());
        loop {
            let mut entries = Vec::new();
            if events.recv_many(&mut entries, WRITE_MAX).await == 0 {
                return;
            }
            let bodies: Vec<_> = entries.iter().map(|entry| entry.body.clone()).collect();
            let count = bodies.len() as u64;
            let lost = self.on_spool(|spool| Ok(spool.take_lost())).await.unwrap_or(0);
            if lost > 0 {
                self.dropped(lost);
            }
            let all = self.dropped_so_far();
            untold += all - counted;
            counted = all;
            let told = (untold > 0).then(|| self.lost_event(untold));
            let bodies: Vec<_> = told.into_iter().chain(bodies).collect();
            match self.on_spool(move |spool| spool.append(&bodies)).await {
                Ok(()) => untold = 0,
                Err(error) => {
                    tracing::warn!(destination = %self.record.id, %error, "events cannot be kept on disk and are lost");
                    self.stats(|stats| stats.reason = format!("the spool cannot be written: {error}"));
                    self.dropped(count);
                }
            }
            for settled in entries.into_iter().filter_map(|entry| entry.settled) {
                // Whoever waited may have gone on.
                let _ = settled.send(());
            }
            self.written.notify_one();
        }
    }

    fn dropped_so_far(&self) -> u64 {
        let mut dropped = 0;
        self.stats(|stats| dropped = stats.dropped);
        dropped
    }

    fn lost_event(&self, count: u64) -> Bytes {
        let now = self.means.clock.unix_secs();
        let id = EventId::new(ksuid(&*self.means.entropy, now));
        let object = json!({ "destination_id": self.record.id, "events_lost": count });
        Event::new(id, LOST, now, Some(self.record.account), &object).body
    }

    /// Delivers what is on disk, in order, for ever.
    async fn deliver(self, open: OpenSink) {
        let mut sink: Option<Box<dyn Sink>> = None;
        let (mut failures, mut events_max) = (0, usize::MAX);
        loop {
            let limits = sink
                .as_ref()
                .map_or(Limits { events: 1, bytes: 1, linger: Duration::ZERO }, |sink| sink.limits());
            if let Some(batch) = self.next(limits, events_max).await {
                let count = batch.events.len();
                match self.attempt(&mut sink, &open, &batch).await {
                    Ok(refused) => {
                        self.done(batch, refused).await;
                        (failures, events_max) = (0, usize::MAX);
                    }
                    Err(SinkError::TooLarge(reason)) if count > 1 => {
                        tracing::debug!(destination = %self.record.id, reason, "trying fewer events at once");
                        events_max = count / 2;
                    }
                    Err(SinkError::TooLarge(reason)) => {
                        tracing::warn!(destination = %self.record.id, reason, "an event is dropped");
                        self.done(batch, 1).await;
                    }
                    Err(SinkError::Failed { reason, wait }) => {
                        sink = None;
                        failures += 1;
                        let pause = self.failed(reason, wait, failures);
                        sleep(pause).await;
                    }
                }
            }
        }
    }

    /// The next batch, once there is one and it has waited long enough. None: look again.
    async fn next(&self, limits: Limits, events_max: usize) -> Option<Batch> {
        let (events, bytes) = (limits.events.min(events_max), limits.bytes);
        let peeked = self.on_spool(move |spool| spool.peek(events, bytes)).await;
        let batch = match peeked {
            Ok(batch) => batch,
            Err(error) => {
                tracing::warn!(destination = %self.record.id, %error, "the spool cannot be read");
                sleep(Duration::from_secs(LOOK_SECS)).await;
                return None;
            }
        };
        if batch.events.is_empty() {
            let _ = timeout(Duration::from_secs(LOOK_SECS), self.written.notified()).await;
            return None;
        }
        let is_full = batch.events.len() >= events
            || batch.events.iter().map(Bytes::len).sum::<usize>() + super::spool::EVENT_BYTES_MAX / 8 > bytes;
        if limits.linger.is_zero() || is_full || self.has_waited(limits.linger) {
            return Some(batch);
        }
        sleep(Duration::from_secs(1).min(limits.linger)).await;
        None
    }

    fn has_waited(&self, linger: Duration) -> bool {
        let now = self.means.clock.unix_secs();
        let mut since = None;
        self.stats(|stats| since = stats.waiting_since);
        let linger = i64::try_from(linger.as_secs()).unwrap_or(i64::MAX);
        since.is_some_and(|since| now.saturating_sub(since) >= linger)
    }

    async fn attempt(
        &self,
        sink: &mut Option<Box<dyn Sink>>,
        open: &OpenSink,
        batch: &Batch,
    ) -> Result<u64, SinkError> {
        let sink = match sink {
            Some(sink) => sink,
            None => sink.insert(open()?),
        };
        let now = self.means.clock.unix_secs();
        match timeout(Duration::from_secs(ATTEMPT_SECS_MAX), sink.send(&batch.events, now)).await {
            Ok(sent) => sent,
            Err(_) => Err(SinkError::new(format_args!("no delivery within {ATTEMPT_SECS_MAX} seconds"))),
        }
    }

    async fn done(&self, batch: Batch, refused: u64) {
        let sent = batch.events.len() as u64;
        // A receiver may claim to have refused more than it was sent.
        let refused = refused.min(sent);
        if refused > 0 {
            tracing::warn!(destination = %self.record.id, refused, "events are refused for good");
            self.dropped(refused);
        }
        if let Err(error) = self.on_spool(move |spool| spool.delivered(batch.upto)).await {
            tracing::warn!(destination = %self.record.id, %error, "events may be delivered twice");
        }
        let now = self.means.clock.unix_secs();
        self.stats(|stats| {
            stats.delivered += sent - refused;
            stats.failing_since = None;
            stats.reason.clear();
            stats.waiting_since = (stats.waiting > 0).then_some(now);
        });
    }

    /// Notes a failure and says how long to wait: twice as long each time, with a quarter of jitter either way.
    fn failed(&self, reason: String, wait: Option<Duration>, failures: u32) -> Duration {
        let now = self.means.clock.unix_secs();
        if failures == 1 {
            tracing::warn!(destination = %self.record.id, reason, "events wait: the destination does not take them");
        }
        self.stats(|stats| {
            stats.retried += 1;
            stats.failing_since.get_or_insert(now);
            stats.reason = reason;
        });
        let mut byte = [0];
        self.means.entropy.fill(&mut byte);
        let pause = backoff(failures, byte[0]);
        wait.map_or(pause, |wait| wait.max(pause))
    }
}

/// The pause after so many failures in a row.
fn backoff(failures: u32, random: u8) -> Duration {
    let secs = RETRY_SECS_MIN.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(RETRY_SECS_MAX);
    let base = Duration::from_secs(secs);
    base * 3 / 4 + base / 2 * u32::from(random) / 255
}

#[cfg(test)]
mod tests;
