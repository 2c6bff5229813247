//! The registry behind `Presence`: one entry an edge, fed here or not, and what follows for the edges fed here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ebbgate_model::feed::{CommandOutcome, EdgeReach, EnforcementReport, SessionCommand};
use ebbgate_model::{AccountId, EdgeId, EndpointId, TunnelSessionId};
use tokio::sync::{Notify, mpsc, oneshot};

use super::head::{About, Enforced, Head};
use super::news::News;
use super::others::{Effect, Others, Sessions, Told};
use super::own::{OwnEdge, Untold};
use super::told::{SessionChange, SessionChangeKind, tell};
use crate::clock::UnixSecs;

/// A command on its way to an edge.
#[derive(Debug)]
pub struct Command {
    /// Session it is for.
    pub session: TunnelSessionId,
    /// What to do.
    pub command: SessionCommand,
    /// Where the agent's answer goes.
    pub answer: oneshot::Sender<CommandOutcome>,
}

/// A command to a session at an edge that another control feeds.
#[derive(Debug)]
pub struct RemoteCommand {
    /// Name of that control.
    pub control: String,
    /// The account of the session.
    pub account: AccountId,
    /// The command.
    pub command: Command,
}

/// What joins this control with others on the same store.
#[derive(Debug)]
pub(super) struct Joined {
    /// An edge began to be fed here.
    pub(super) began: Arc<Notify>,
    /// Commands to edges of others.
    pub(super) commands: mpsc::Sender<RemoteCommand>,
    /// Whether all that others tell has been read once.
    pub(super) is_read: bool,
}

#[derive(Debug, Default)]
pub(super) struct Edges {
    pub(super) entries: BTreeMap<EdgeId, Entry>,
    /// Edges that the operator took out of service, as far as they are fed here.
    pub(super) drained: BTreeSet<EdgeId>,
    /// Edges that get changes first, connected or not, as far as they are fed here.
    pub(super) canaries: BTreeSet<EdgeId>,
    /// Counts feeds, so that each hold is told from every other.
    pub(super) feeds: u64,
    /// Where sessions that begin and end are told; what finds no room there is not told.
    pub(super) told: Option<mpsc::Sender<SessionChange>>,
    /// None: this control is the only one.
    pub(super) joined: Option<Joined>,
    others: Others,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) version: String,
    pub(super) applied: u64,
    pub(super) refused: Option<(u64, String)>,
    pub(super) sessions: Sessions,
    /// Known of edges that are fed here alone.
    pub(super) enforcement: BTreeMap<EndpointId, EnforcementReport>,
    pub(super) address_data: BTreeSet<String>,
    pub(super) clock_ahead_secs: Option<UnixSecs>,
    pub(super) core_rule_set: bool,
    pub(super) reach: EdgeReach,
    pub(super) draining: bool,
    /// Number of its newest feed here; 0: there was none.
    pub(super) number: u64,
    pub(super) untold: Untold,
    pub(super) feed: Feed,
}

#[derive(Debug)]
pub(super) enum Feed {
    Open {
        commands: mpsc::Sender<Command>,
        news: News,
        wake: Arc<Notify>,
    },
    Broken {
        since: Instant,
    },
    /// Another control feeds it.
    Elsewhere(Arc<Head>),
}

impl Entry {
    /// Whether this control feeds it, or did a moment ago.
    pub(super) fn is_own(&self) -> bool {
        !matches!(self.feed, Feed::Elsewhere(_))
    }

    pub(super) fn is_connected(&self) -> bool {
        match &self.feed {
            Feed::Open { .. } => true,
            Feed::Broken { .. } => false,
            Feed::Elsewhere(head) => head.about.connected,
        }
    }

    /// How the edge enforces allowlists.
    pub(super) fn enforced(&self) -> Enforced {
        match &self.feed {
            Feed::Elsewhere(head) => head.about.enforcement,
            Feed::Open { .. } | Feed::Broken { .. } => Enforced::count(self.enforcement.values()),
        }
    }

    fn elsewhere(head: &Arc<Head>, sessions: Sessions) -> Self {
        let About { version, applied, refused, clock_ahead_secs, core_rule_set, .. } = head.about.clone();
        let About { address_data, reach, draining, .. } = head.about.clone();
        Self {
            version,
            applied,
            refused,
            sessions,
            enforcement: BTreeMap::new(),
            address_data,
            clock_ahead_secs,
            core_rule_set,
            reach: reach.checked(),
            draining,
            number: 0,
            untold: Untold::new(false),
            feed: Feed::Elsewhere(Arc::clone(head)),
        }
    }
}

/// Shared by `Presence` and all holds.
#[derive(Debug, Clone, Default)]
pub(super) struct Registry(Arc<Mutex<Edges>>);

impl Registry {
    pub(super) fn locked(&self) -> MutexGuard<'_, Edges> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Edges {
    /// Whether an edge is to get no new work.
    pub(super) fn is_draining(&self, id: EdgeId, entry: &Entry) -> bool {
        entry.draining || entry.is_own() && self.drained.contains(&id)
    }

    /// Something changed about an edge: all others are told.
    pub(super) fn edge_changed(&mut self, edge: EdgeId) {
        self.note(edge, |news| news.edge(edge));
        if let Some(entry) = self.entries.get_mut(&edge) {
            entry.untold.head();
        }
    }

    /// Something changed about sessions of an edge: all others are told.
    pub(super) fn sessions_changed(&mut self, edge: EdgeId, sessions: &[TunnelSessionId]) {
        if !sessions.is_empty() {
            self.note(edge, |news| sessions.iter().for_each(|session| news.session(edge, *session)));
        }
        if let Some(entry) = self.entries.get_mut(&edge) {
            entry.untold.sessions(sessions);
        }
    }

    fn note(&mut self, of: EdgeId, note: impl Fn(&mut News)) {
        for (edge, entry) in &mut self.entries {
            if let Feed::Open { news, wake, .. } = &mut entry.feed
                && *edge != of
            {
                note(news);
                wake.notify_one();
            }
        }
    }

    /// An edge is gone, and its sessions with it.
    pub(super) fn remove(&mut self, edge: EdgeId) {
        let Some(entry) = self.entries.remove(&edge) else { return };
        let sessions: Vec<_> = entry.sessions.keys().copied().collect();
        if entry.is_own() {
            // The control that feeds it tells events of the others.
            tell(self.told.as_ref(), entry.sessions, SessionChangeKind::Ended);
            entry.untold.wake.notify_one();
        }
        self.edge_changed(edge);
        self.sessions_changed(edge, &sessions);
    }

    /// The edge belongs no longer, fed here or not.
    pub(super) fn banish(&mut self, edge: EdgeId) {
        self.drained.remove(&edge);
        self.canaries.remove(&edge);
        self.others.remove(edge);
        self.remove(edge);
    }

    /// An edge that was fed here has been away too long: it is gone, unless another control feeds it.
    pub(super) fn lapse(&mut self, edge: EdgeId) {
        if self.others.head(edge).is_some() {
            self.follow_others(edge);
        } else {
            self.remove(edge);
        }
    }

    /// Takes in what another control told.
    pub(super) fn take(&mut self, told: Told) {
        match self.others.take(told) {
            Effect::Nothing => {}
            Effect::Edge(edge) => self.merge(edge),
            Effect::Sessions(edge, ids) => {
                let Some(entry) = self.entries.get_mut(&edge).filter(|entry| !entry.is_own()) else { return };
                let mut changed = Vec::new();
                for id in ids {
                    let now = self.others.session(edge, id);
                    if entry.sessions.get(&id) != now {
                        match now {
                            Some(report) => drop(entry.sessions.insert(id, Arc::clone(report))),
                            None => drop(entry.sessions.remove(&id)),
                        }
                        changed.push(id);
                    }
                }
                self.sessions_changed(edge, &changed);
            }
        }
    }

    /// Takes in all that other controls tell, in the place of what they told before.
    pub(super) fn replace_others(&mut self, told: Vec<Told>) {
        for edge in self.others.replace(told) {
            self.merge(edge);
        }
        if let Some(joined) = &mut self.joined {
            joined.is_read = true;
        }
        for entry in self.entries.values() {
            if let Feed::Open { wake, .. } = &entry.feed {
                wake.notify_one();
            }
        }
    }

    /// Brings the entry to what others tell. Of an edge that is fed here the store decides whether it still is: what writes its
    /// head finds out.
    fn merge(&mut self, edge: EdgeId) {
        match self.entries.get_mut(&edge).filter(|entry| entry.is_own()) {
            Some(own) => {
                if self.others.head(edge).is_some() {
                    own.untold.head();
                }
            }
            None => self.follow_others(edge),
        }
    }

    /// Makes the entry what others tell, whatever it was.
    fn follow_others(&mut self, edge: EdgeId) {
        let Some((_, head)) = self.others.head(edge) else {
            return self.remove(edge);
        };
        let now = Entry::elsewhere(head, self.others.sessions(edge));
        let before = self.entries.remove(&edge);
        let is_known = before.as_ref().is_some_and(|before| {
            before.reach == now.reach && self.is_draining(edge, before) == now.draining
        });
        let known = before.map(|before| {
            before.untold.wake.notify_one();
            before.sessions
        });
        let known = known.unwrap_or_default();
        let is_other = |id: &&TunnelSessionId| known.get(*id) != now.sessions.get(*id);
        let all: BTreeSet<_> = known.keys().chain(now.sessions.keys()).collect();
        let changed: Vec<_> = all.into_iter().filter(is_other).copied().collect();
        self.entries.insert(edge, now);
        if !is_known {
            self.edge_changed(edge);
        }
        self.sessions_changed(edge, &changed);
    }

    /// Another control has the edge by this revision of the store: follows it, unless the edge has come back here since the feed
    /// of this number. Gives whether that is settled; if not, what the other tells has not been read so far yet.
    pub(super) fn give_up(&mut self, edge: EdgeId, joined: u64, revision: u64) -> bool {
        let Some(entry) = self.entries.get(&edge).filter(|entry| entry.is_own()) else { return true };
        if entry.number != joined {
            return true;
        }
        if self.others.head(edge).is_none_or(|(known, _)| *known < revision) {
            return false;
        }
        self.follow_others(edge);
        true
    }

    /// An edge that is fed here, with what others have not been told of it, or all there is. None: it is not fed here.
    pub(super) fn own(&mut self, edge: EdgeId, everything: bool) -> Option<OwnEdge> {
        let is_drained = self.drained.contains(&edge);
        let entry = self.entries.get_mut(&edge).filter(|entry| entry.is_own())?;
        let about = About {
            version: entry.version.clone(),
            applied: entry.applied,
            refused: entry.refused.clone(),
            connected: entry.is_connected(),
            clock_ahead_secs: entry.clock_ahead_secs,
            core_rule_set: entry.core_rule_set,
            enforcement: entry.enforced(),
            address_data: entry.address_data.clone(),
            reach: entry.reach.clone(),
            draining: entry.draining || is_drained,
        };
        let Entry { number, sessions, untold, .. } = entry;
        Some(untold.take(*number, about.bounded(), sessions, everything))
    }
}
