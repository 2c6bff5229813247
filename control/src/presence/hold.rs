//! `Hold`: an open feed's hold on its edge's entry: what the edge says goes in, what it is told of others comes out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use ebbgate_model::feed::{EdgeReach, EnforcementReport, PeerEdge, SessionReport, ToEdge};
use ebbgate_model::{EdgeId, EndpointId, TunnelSessionId};
use tokio::sync::{Notify, mpsc};

use super::edges::{Command, Edges, Entry, Feed, Registry};
use super::news::Item;
use super::told::{SessionChange, SessionChangeKind, tell, tell_health};
use crate::clock::UnixSecs;

/// An open feed's hold on its edge's entry. Reports of a feed that was replaced by a newer one are ignored.
#[derive(Debug)]
pub struct Hold {
    pub(super) edges: Registry,
    pub(super) edge: EdgeId,
    pub(super) number: u64,
    /// Of a feed beside the edge's own: nobody commands it.
    pub(super) uncommanded: Option<mpsc::Sender<Command>>,
    pub(super) wake: Arc<Notify>,
}

impl Hold {
    /// The edge has the generation in force.
    pub fn applied(&self, generation: u64) {
        self.change(|entry| {
            entry.untold.applied();
            entry.applied = generation;
            if entry.refused.as_ref().is_some_and(|(refused, _)| *refused <= generation) {
                entry.refused = None;
            }
        });
    }

    /// The edge did not take the generation.
    pub fn refused(&self, generation: u64, reason: String) {
        self.change(|entry| {
            entry.untold.applied();
            entry.refused = Some((generation, reason));
        });
    }

    /// All sessions of the edge; replaces what was known.
    pub fn replace_sessions(&self, sessions: BTreeMap<TunnelSessionId, SessionReport>) {
        let sessions: BTreeMap<_, _> =
            sessions.into_iter().map(|(id, report)| (id, Arc::new(report))).collect();
        self.change_sessions(|entry, told| {
            let new = sessions.iter().filter(|(id, _)| !entry.sessions.contains_key(id));
            entry.untold.reported();
            tell(told, new.map(|(id, report)| (*id, report.clone())).collect(), SessionChangeKind::Began);
            for (id, report) in &sessions {
                tell_health(told, *id, entry.sessions.get(id), report);
            }
            let mut before = std::mem::replace(&mut entry.sessions, sessions.clone());
            let is_changed = |(id, report): &(&TunnelSessionId, _)| before.get(id) != Some(*report);
            let mut changed: Vec<_> = sessions.iter().filter(is_changed).map(|(id, _)| *id).collect();
            before.retain(|id, _| !sessions.contains_key(id));
            changed.extend(before.keys());
            tell(told, before, SessionChangeKind::Ended);
            changed
        });
    }

    /// A session began or changed.
    pub fn session(&self, id: TunnelSessionId, report: SessionReport) {
        let report = Arc::new(report);
        self.change_sessions(|entry, told| {
            let before = entry.sessions.insert(id, report.clone());
            match &before {
                None => tell(told, [(id, report.clone())].into(), SessionChangeKind::Began),
                before => tell_health(told, id, before.as_ref(), &report),
            }
            if before.as_ref() == Some(&report) { Vec::new() } else { vec![id] }
        });
    }

    /// A session ended.
    pub fn session_ended(&self, id: TunnelSessionId) {
        self.change_sessions(|entry, told| {
            let Some(report) = entry.sessions.remove(&id) else { return Vec::new() };
            tell(told, [(id, report)].into(), SessionChangeKind::Ended);
            vec![id]
        });
    }

    /// Where the edge is reached.
    pub fn set_reach(&self, reach: EdgeReach) {
        self.change(|entry| entry.reach = reach);
        self.edge_changed();
    }

    /// The edge is about to end.
    pub fn drains(&self) {
        self.change(|entry| entry.draining = true);
        self.edge_changed();
    }

    fn edge_changed(&self) {
        self.edges.locked().edge_changed(self.edge);
    }

    /// What the edge is told next of the others. None: it knows all there is.
    pub fn news(&self) -> Option<ToEdge> {
        let mut edges = self.edges.locked();
        let knows_others = edges.joined.as_ref().is_none_or(|joined| joined.is_read);
        let entry = edges.entries.get_mut(&self.edge).filter(|entry| entry.number == self.number)?;
        let Feed::Open { news, .. } = &mut entry.feed else { return None };
        let item = news.next(knows_others)?;
        let other = |edge: EdgeId| edges.entries.get(&edge);
        Some(match item {
            Item::Own => ToEdge::Drain { drain: edges.drained.contains(&self.edge) },
            Item::Edge(edge) => match other(edge) {
                Some(entry) => {
                    let draining = edges.is_draining(edge, entry);
                    ToEdge::Peer(PeerEdge { edge, reach: entry.reach.clone(), draining })
                }
                None => ToEdge::PeerGone { edge },
            },
            Item::Session(edge, session) => {
                match other(edge).and_then(|entry| entry.sessions.get(&session)) {
                    Some(report) => ToEdge::PeerSession { edge, session, report: Arc::clone(report) },
                    None => ToEdge::PeerSessionEnded { edge, session },
                }
            }
            Item::Complete => ToEdge::PeersTold,
        })
    }

    /// Whether the edge gets changes before others.
    pub fn is_canary(&self) -> bool {
        self.edges.locked().canaries.contains(&self.edge)
    }

    /// Completes when there may be news. One that waits is woken for what came before, too.
    pub async fn news_came(&self) {
        self.wake.notified().await;
    }

    /// How the edge enforces the allowlist of every endpoint that has one; replaces what was known.
    pub fn replace_enforcement(&self, endpoints: BTreeMap<EndpointId, EnforcementReport>) {
        self.change(|entry| {
            let before = entry.enforced();
            entry.enforcement = endpoints;
            if entry.enforced() != before {
                entry.untold.head();
            }
        });
    }

    /// What the edge's databases of addresses have; replaces what was known.
    pub fn replace_address_data(&self, names: BTreeSet<String>) {
        self.change(|entry| {
            entry.untold.head();
            entry.address_data = names;
        });
    }

    /// By how much the edge's clock is ahead of ours, in seconds.
    pub fn clock_ahead(&self, secs: UnixSecs) {
        self.change(|entry| {
            entry.untold.head();
            entry.clock_ahead_secs = Some(secs);
        });
    }

    /// Whether the edge runs an OWASP Core Rule Set.
    pub fn set_core_rule_set(&self, loaded: bool) {
        self.change(|entry| {
            entry.untold.head();
            entry.core_rule_set = loaded;
        });
    }

    /// Whether no newer feed of the same edge has taken over.
    pub fn is_current(&self) -> bool {
        let mut current = self.uncommanded.is_some();
        self.change(|_| current = true);
        current
    }

    fn change(&self, change: impl FnOnce(&mut Entry)) {
        self.change_sessions(|entry, _| {
            change(entry);
            Vec::new()
        });
    }

    /// `change` gives the sessions that changed.
    fn change_sessions(
        &self,
        change: impl FnOnce(&mut Entry, Option<&mpsc::Sender<SessionChange>>) -> Vec<TunnelSessionId>,
    ) {
        let mut edges = self.edges.locked();
        let Edges { entries, told, .. } = &mut *edges;
        if let Some(entry) = entries.get_mut(&self.edge)
            && entry.number == self.number
            && matches!(entry.feed, Feed::Open { .. })
        {
            let changed = change(entry, told.as_ref());
            edges.sessions_changed(self.edge, &changed);
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.change(|entry| {
            entry.untold.head();
            entry.feed = Feed::Broken { since: Instant::now() };
        });
    }
}
