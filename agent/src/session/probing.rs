//! The probes of a session's path: what they have shown so far, and the task that sends them.

use std::time::Duration;

use ebbgate_wire::rpc::Secret;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::path::Path;

/// Probes the session's path; dropping it ends the probes.
pub(super) struct Probing {
    pub(super) path: Path,
    pub(super) ticket: Secret,
    pub(super) start: Instant,
    pub(super) round_trips: mpsc::Receiver<Duration>,
    pub(super) task: JoinHandle<()>,
}

impl Drop for Probing {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The next probe's round trip; none where nothing is probed.
pub(super) async fn next_probe(probing: &mut Option<Probing>) -> Option<Duration> {
    probing.as_mut()?.round_trips.recv().await
}
