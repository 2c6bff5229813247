//! What other controls have not been told yet of an edge that this control feeds. Names alone, as in `news`: what is told is
//! the state at that time.

use std::collections::BTreeSet;
use std::sync::Arc;

use ebbgate_model::TunnelSessionId;
use ebbgate_model::feed::SessionReport;
use tokio::sync::Notify;

use super::head::About;
use super::others::Sessions;

/// See the module.
#[expect(clippy::struct_excessive_bools, reason = "each says whether one thing is new")]
#[derive(Debug)]
pub(super) struct Untold {
    /// Whether there are others. Without them nothing is noted.
    is_kept: bool,
    /// Whether nothing of it was given out yet.
    is_new: bool,
    is_head_changed: bool,
    is_applied_changed: bool,
    sessions: BTreeSet<TunnelSessionId>,
    /// Whether the edge has said on its newest feed which sessions it has.
    has_reported: bool,
    pub(super) wake: Arc<Notify>,
}

/// An edge that this control feeds, and what others have not been told of it.
#[expect(clippy::struct_excessive_bools, reason = "each says whether one thing is new")]
#[derive(Debug)]
pub struct OwnEdge {
    /// Number of its newest feed; grows.
    pub joined: u64,
    /// Whether nothing of the edge was given out since it began to be fed here.
    pub is_new: bool,
    /// Whether the edge has said on that feed which sessions it has.
    pub has_reported: bool,
    /// Whether `about` says something new, besides the generation.
    pub is_head_changed: bool,
    /// Whether another generation is in force there, or was refused.
    pub is_applied_changed: bool,
    /// How it is with the edge now.
    pub about: About,
    /// Sessions that began, changed or ended (None).
    pub sessions: Vec<(TunnelSessionId, Option<Arc<SessionReport>>)>,
}

impl Untold {
    /// Of an edge that has just connected. `is_kept`: whether there are others.
    pub(super) fn new(is_kept: bool) -> Self {
        Self {
            is_kept,
            is_new: true,
            is_head_changed: true,
            is_applied_changed: false,
            sessions: BTreeSet::new(),
            has_reported: false,
            wake: Arc::default(),
        }
    }

    /// The edge connects here again: it is to say anew which sessions it has.
    #[must_use]
    pub(super) fn again(self) -> Self {
        Self { has_reported: false, is_head_changed: true, ..self }
    }

    /// The edge has said which sessions it has.
    pub(super) fn reported(&mut self) {
        self.has_reported = true;
        self.wake.notify_one();
    }

    pub(super) fn head(&mut self) {
        self.is_head_changed = true;
        self.wake.notify_one();
    }

    pub(super) fn applied(&mut self) {
        self.is_applied_changed = true;
        self.wake.notify_one();
    }

    pub(super) fn sessions(&mut self, ids: &[TunnelSessionId]) {
        if self.is_kept && !ids.is_empty() {
            self.sessions.extend(ids);
            self.wake.notify_one();
        }
    }

    /// Gives out what is noted, of an edge as it is now. `everything`: all sessions instead of those that changed.
    pub(super) fn take(
        &mut self,
        joined: u64,
        about: About,
        sessions: &Sessions,
        everything: bool,
    ) -> OwnEdge {
        let mut ids = std::mem::take(&mut self.sessions);
        if everything {
            ids = sessions.keys().copied().collect();
        }
        OwnEdge {
            joined,
            is_new: std::mem::take(&mut self.is_new),
            has_reported: self.has_reported,
            is_head_changed: std::mem::take(&mut self.is_head_changed),
            is_applied_changed: std::mem::take(&mut self.is_applied_changed),
            about,
            sessions: ids.into_iter().map(|id| (id, sessions.get(&id).cloned())).collect(),
        }
    }
}
