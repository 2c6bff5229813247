//! `Staying`: the sessions that stay with this process after another one has taken over, until when, and how many they are.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ebbgate_model::TunnelSessionId;
use tokio::time::{Duration, Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::session::AgentSession;

/// Seconds that an agent may take to serve at the other process, after it said that it connects there. A busy process asks for a
/// new try after 10 s, and an agent comes up to twice as late.
const MOVE_SECS_MAX: u64 = 30;
/// Milliseconds between looks at whether it does.
const MOVE_LOOK_MS: u64 = 20;

/// See the module.
#[derive(Default)]
pub struct Staying(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    /// Cancelled when no session stays any longer.
    over: CancellationToken,
    staying: usize,
    /// Whether the process that serves takes keys that agents brought.
    takes_keys: bool,
    /// Sessions of agents that serve all their endpoints at the other process.
    moved: BTreeSet<TunnelSessionId>,
}

impl Staying {
    /// Another process is to take over. Gives what is to be cancelled when no process can reach these sessions any more.
    pub(super) fn begin(&self) -> CancellationToken {
        let mut inner = self.locked();
        inner.over = CancellationToken::new();
        inner.takes_keys = false;
        inner.over.clone()
    }

    /// How many sessions stay.
    pub fn count(&self) -> usize {
        self.locked().staying
    }

    /// No session stays any longer.
    pub fn end(&self) {
        self.locked().over.cancel();
    }

    /// Whether the process that serves, or is about to, takes keys that agents brought.
    pub(super) fn takes_keys(&self) -> bool {
        self.locked().takes_keys
    }

    pub(super) fn set_takes_keys(&self, takes_keys: bool) {
        self.locked().takes_keys = takes_keys;
    }

    /// The agent serves all that it does at the other process.
    pub(super) fn moved(&self, session: TunnelSessionId) {
        self.locked().moved.insert(session);
    }

    /// Counts a session that stays, until the guard is dropped.
    pub(super) fn stay(&self) -> Stay {
        let mut inner = self.locked();
        inner.staying += 1;
        Stay { of: Arc::clone(&self.0), over: inner.over.clone() }
    }

    fn locked(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session that stays.
pub(super) struct Stay {
    of: Arc<Mutex<Inner>>,
    over: CancellationToken,
}

impl Stay {
    /// Completes when the session has ended, or is to stay no longer.
    pub(super) async fn over(&self, session: &AgentSession) {
        tokio::select! {
            () = self.over.cancelled() => {}
            () = session.state.has_ended() => {}
        }
    }

    /// Completes when the agent serves at the other process too, or has had the time.
    pub(super) async fn moved(&self, session: &AgentSession) {
        let deadline = Instant::now() + Duration::from_secs(MOVE_SECS_MAX);
        let id = session.state.id;
        let has_moved = || {
            let mut inner = self.of.lock().unwrap_or_else(PoisonError::into_inner);
            inner.moved.remove(&id) || Instant::now() >= deadline || session.bound_count() == 0
        };
        let moving = async {
            while !has_moved() {
                sleep(Duration::from_millis(MOVE_LOOK_MS)).await;
            }
        };
        tokio::select! {
            () = moving => {}
            () = self.over(session) => {}
        }
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        let mut inner = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        inner.staying = inner.staying.saturating_sub(1);
    }
}
