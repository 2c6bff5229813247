//! What the shards and the threads of the processes share, and what the operator set.

use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use ebbgate_waf::protocol::{Judgement, Loaded, Question};
use tokio::sync::oneshot;

use super::queue::Queue;

/// Seconds that a process may take to read the rules.
pub(super) const START_SECS_MAX: u64 = 120;

/// What the operator set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WafSettings {
    /// The file of `ebbgate-waf`.
    pub program: PathBuf,
    /// A directory of rules, or a file that includes them.
    pub rules: PathBuf,
    /// Processes.
    pub workers: usize,
    /// How long judging one message may take, with its wait.
    pub timeout: Duration,
    /// Whether policies refuse, and do not only detect.
    pub block: bool,
}

impl WafSettings {
    /// Says what was read.
    pub(super) fn log(&self, loaded: &Loaded) {
        let Loaded { rules, version, dead } = loaded;
        let (mode, path) = (if self.block { "block" } else { "detect only" }, self.rules.display());
        tracing::info!(%path, rules, version, mode, never_match = ?dead, "the Core Rule Set is loaded");
    }
}

/// Why the rules cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WafError {
    /// The rules were refused.
    #[error("{0}")]
    Rules(String),
    /// A process or its thread cannot be started.
    #[error("cannot start {}: {error}", program.display())]
    Start {
        /// Its file.
        program: PathBuf,
        /// Why.
        error: String,
    },
}

/// What the shards and the threads share.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    pub(super) changed: Condvar,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) queue: Queue<Job>,
    /// The threads are to end.
    pub(super) stopped: bool,
}

/// A question that waits.
pub(super) struct Job {
    pub(super) question: Question,
    pub(super) body: Bytes,
    pub(super) answer: oneshot::Sender<Result<Judgement, String>>,
}

impl Shared {
    /// The state, for a moment.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits; false: the threads are to end.
    pub(super) fn rest(&self, wait: Duration) -> bool {
        let stopped = self.changed.wait_timeout_while(self.lock(), wait, |state| !state.stopped);
        !stopped.unwrap_or_else(PoisonError::into_inner).0.stopped
    }
}
