//! `Events`: what the parts of the process share that make, route and deliver events.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::{mpsc, oneshot};

use super::envelope::Event;
use super::sink::Surroundings;
use super::stats::AllStats;
use super::traffic::Traffic;
use crate::audit;

/// Traffic events that wait to be routed.
pub(super) const TRAFFIC_MAX: usize = 8_192;
/// Batches of other events that wait to be routed.
pub(super) const BATCHES_MAX: usize = 64;

/// Events that are to be on disk at their destinations before the sender is told.
pub(super) type Routed = (Vec<Event>, oneshot::Sender<()>);

/// Shared by everything that has to do with events.
#[derive(Debug, Default)]
pub struct Events {
    /// The audit log.
    pub audit: audit::Link,
    /// What is known of destinations.
    pub stats: AllStats,
    /// What sinks are given, set when control serves.
    around: OnceLock<Surroundings>,
    queues: OnceLock<Queues>,
    wants_traffic: AtomicBool,
    /// Traffic events that found no room on their way to the router.
    traffic_dropped: AtomicU64,
}

#[derive(Debug)]
struct Queues {
    traffic: mpsc::Sender<Traffic>,
    other: mpsc::Sender<Routed>,
}

impl Events {
    /// A connection has ended or a request was answered. Never waits; costs nothing while no subscription asks for it.
    pub fn traffic(&self, traffic: impl FnOnce() -> Traffic) {
        if !self.wants_traffic.load(Ordering::Relaxed) {
            return;
        }
        let sent = self.queues.get().map(|queues| queues.traffic.try_send(traffic()));
        if matches!(sent, Some(Err(_))) {
            self.traffic_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Brings events to the spools of their destinations; done when they are on disk there.
    pub async fn deliver(&self, events: Vec<Event>) {
        let (done, told) = oneshot::channel();
        let Some(queues) = self.queues.get() else { return };
        if queues.other.send((events, done)).await.is_ok() {
            // Without an answer the router is stopping, and so is the process.
            let _ = told.await;
        }
    }

    /// Traffic events dropped on their way to the router.
    pub fn traffic_dropped(&self) -> u64 {
        self.traffic_dropped.load(Ordering::Relaxed)
    }

    /// What sinks are given.
    pub fn around(&self) -> Surroundings {
        self.around.get().cloned().unwrap_or_default()
    }

    pub(super) fn want_traffic(&self, wanted: bool) {
        self.wants_traffic.store(wanted, Ordering::Relaxed);
    }

    /// Opens the queues, once.
    pub(super) fn open(
        &self,
        around: Surroundings,
    ) -> Option<(mpsc::Receiver<Traffic>, mpsc::Receiver<Routed>)> {
        let _ = self.around.set(around);
        let (traffic, traffics) = mpsc::channel(TRAFFIC_MAX);
        let (other, others) = mpsc::channel(BATCHES_MAX);
        self.queues.set(Queues { traffic, other }).ok().map(|()| (traffics, others))
    }
}
