//! `Control`: the control process and the feeds that it has open, around its own `Presence`.
//!
//! A lease ends by the clock of the machine in `Presence`; here it ends when the simulation's clock says so. Feeds break one
//! after the other in both clocks, so that an edge's lease is ended by its own moment.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ebbgate_control::presence::{Command, Hold, LEASE_SECS, Presence};
use ebbgate_model::TunnelSessionId;
use ebbgate_model::feed::{EdgeReach, SessionReport, ToEdge};
use tokio::sync::mpsc;

use crate::ids;

/// An open feed.
struct Open {
    hold: Hold,
    _commands: mpsc::Receiver<Command>,
}

/// See the module.
pub(crate) struct Control {
    pub(crate) is_up: bool,
    presence: Presence,
    feeds: Vec<Option<Open>>,
    /// When feeds broke, by this machine's clock.
    broken: BTreeMap<usize, Instant>,
}

impl Control {
    pub(crate) fn new(edges: usize) -> Self {
        let feeds = (0..edges).map(|_| None).collect();
        Self { is_up: true, presence: Presence::default(), feeds, broken: BTreeMap::new() }
    }

    /// The process ends; the next one knows nothing.
    pub(crate) fn crash(&mut self) {
        self.is_up = false;
        self.feeds.iter_mut().for_each(|feed| *feed = None);
        self.broken.clear();
        self.presence = Presence::default();
    }

    pub(crate) fn is_connected(&self, edge: usize) -> bool {
        self.feeds[edge].is_some()
    }

    /// An edge connects and says what it has.
    pub(crate) fn join(
        &mut self,
        edge: usize,
        reach: EdgeReach,
        sessions: BTreeMap<TunnelSessionId, SessionReport>,
    ) {
        let (hold, commands) = self.presence.join(ids::edge(edge), "1".into(), 1);
        hold.set_reach(reach);
        hold.replace_sessions(sessions);
        self.broken.remove(&edge);
        self.feeds[edge] = Some(Open { hold, _commands: commands });
    }

    /// The feed of an edge breaks. A lease begins.
    pub(crate) fn leave(&mut self, edge: usize) {
        if self.feeds[edge].take().is_some() {
            self.broken.insert(edge, Instant::now());
        }
    }

    /// The lease that began when the feed of an edge broke is over, unless the edge came back.
    pub(crate) fn lease_ends(&mut self, edge: usize) {
        if let Some(since) = self.broken.remove(&edge) {
            self.presence.expire(since + Duration::from_secs(LEASE_SECS));
        }
    }

    pub(crate) fn session(&self, edge: usize, id: TunnelSessionId, report: SessionReport) {
        if let Some(open) = &self.feeds[edge] {
            open.hold.session(id, report);
        }
    }

    pub(crate) fn session_ended(&self, edge: usize, id: TunnelSessionId) {
        if let Some(open) = &self.feeds[edge] {
            open.hold.session_ended(id);
        }
    }

    pub(crate) fn set_drained(&self, edge: usize, drained: bool) {
        self.presence.set_drained(ids::edge(edge), drained);
    }

    /// What an edge is told next.
    pub(crate) fn news(&self, edge: usize) -> Option<ToEdge> {
        self.feeds[edge].as_ref()?.hold.news()
    }
}
