//! Feeds between control and edges: when one breaks and comes back, and what each edge is told. What is told is `Presence`'s.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use ebbgate_control::presence::LEASE_SECS;
use ebbgate_model::feed::{BEAT_SECS, ToEdge};

use crate::ids;
use crate::settings::Broken;
use crate::world::{AGENTS_OF_ACCOUNT, Event, World};

/// Beats that are missed before a feed is given up.
const BEATS_MISSED_MAX: u64 = 3;
/// Longest wait of an edge before it looks for control again, in milliseconds.
const RETRY_MS_MAX: u64 = 2_000;
/// One of so many messages is lost where that rule is broken.
const BROKEN_PART: u64 = 1_000;

impl World {
    /// An edge looks for control, as long as either may be there.
    pub(crate) fn connect(&mut self, edge: usize) {
        let is_fed =
            self.edges[edge].fed == Some(self.edges[edge].incarnation) && self.control.is_connected(edge);
        if is_fed || !self.is_up(edge) || !self.control.is_up || self.from_control.is_cut(edge) {
            return;
        }
        let mut sessions = BTreeMap::new();
        for (slot, life) in self.slots_at(edge) {
            let report = self.session_report(slot, life, edge);
            sessions.insert(ids::session(slot, life), report);
        }
        self.edges[edge].fed = Some(self.edges[edge].incarnation);
        self.views.forget(edge);
        if let Some(witness) = self.witnesses.get(&edge) {
            witness.begin(edge);
        }
        let reach = self.reach(edge);
        self.control.join(edge, reach, sessions);
    }

    /// An edge will look for control in a moment.
    pub(crate) fn connect_soon(&mut self, edge: usize) {
        self.within_ms(RETRY_MS_MAX, Event::Connect { edge });
    }

    /// Nothing passes between control and an edge from now on.
    pub(crate) fn cut_feed(&mut self, edge: usize) {
        if self.from_control.cut(edge, self.now) {
            let since = self.now;
            self.after(Duration::from_secs(BEAT_SECS * BEATS_MISSED_MAX), Event::FeedSilent { edge, since });
        }
    }

    /// It passes again.
    pub(crate) fn heal_feed(&mut self, edge: usize) {
        if self.from_control.heal(edge, self.now) {
            if self.edges[edge].fed != Some(self.edges[edge].incarnation) || !self.is_up(edge) {
                self.break_feed(edge);
            }
            self.connect_soon(edge);
        }
    }

    /// Both notice.
    pub(crate) fn feed_silent(&mut self, edge: usize, since: Duration) {
        let cut = self.from_control.of(edge);
        if cut.count > 0 && cut.since == since {
            self.break_feed(edge);
        }
    }

    /// The feed of an edge is over; its lease begins.
    pub(crate) fn break_feed(&mut self, edge: usize) {
        self.edges[edge].fed = None;
        if self.control.is_connected(edge) {
            self.control.leave(edge);
            self.edges[edge].broken += 1;
            let broken = self.edges[edge].broken;
            self.after(Duration::from_secs(LEASE_SECS), Event::LeaseEnds { edge, broken });
        }
    }

    pub(crate) fn lease_ends(&mut self, edge: usize, broken: u32) {
        if self.edges[edge].broken == broken && !self.control.is_connected(edge) {
            self.control.lease_ends(edge);
        }
    }

    /// Control ends. Edges notice at once, or when they have not heard from it.
    pub(crate) fn crash_control(&mut self) {
        self.control.crash();
        for edge in &mut self.edges {
            edge.fed = None;
        }
    }

    /// Control is back.
    pub(crate) fn start_control(&mut self) {
        self.control.is_up = true;
        for edge in 0..self.edges.len() {
            self.control.set_drained(edge, self.edges[edge].drained);
            self.connect_soon(edge);
        }
    }

    /// Edges that hear control read all there is for them.
    pub(crate) fn tell(&mut self) -> Result<()> {
        for edge in 0..self.edges.len() {
            let hears = !self.from_control.is_cut(edge)
                && self.is_up(edge)
                && self.edges[edge].fed == Some(self.edges[edge].incarnation);
            while hears && let Some(message) = self.control.news(edge) {
                self.report.news += 1;
                self.hear(edge, message)?;
            }
        }
        Ok(())
    }

    fn hear(&mut self, edge: usize, message: ToEdge) -> Result<()> {
        match &message {
            ToEdge::Peer(peer) => {
                Arc::make_mut(&mut self.edges[edge].peers).insert(peer.edge, peer.clone());
            }
            ToEdge::PeerGone { edge: gone } => {
                Arc::make_mut(&mut self.edges[edge].peers).remove(gone);
            }
            ToEdge::PeerSession { session, report, .. } => {
                if self.settings.broken == Some(Broken::News) && self.random.below(BROKEN_PART) == 0 {
                    return Ok(());
                }
                let (slot, life) = ids::session_numbers(*session);
                let owner = ids::account(Self::agent_of(slot).0 / AGENTS_OF_ACCOUNT);
                ensure!(
                    report.account == owner,
                    "edge {edge} is told of a session of {owner} as one of {}",
                    report.account
                );
                // One that is within its lease may be told after the one that came in its place.
                if life > self.views.told(edge, slot) {
                    self.views.set_told(edge, slot, life);
                }
            }
            ToEdge::PeerSessionEnded { session, .. } => {
                let (slot, life) = ids::session_numbers(*session);
                if self.views.told(edge, slot) == life {
                    self.views.set_told(edge, slot, 0);
                }
            }
            _ => {}
        }
        if let Some(witness) = self.witnesses.get(&edge) {
            witness.take(message);
        }
        Ok(())
    }
}
