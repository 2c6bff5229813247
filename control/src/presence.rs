//! `Presence`: which edges are connected, what they hold, and which agents are online at them. In memory only.
//!
//! Filled by `push` from what edges report, read by `api`. One entry per edge: nothing is written to the store for an agent.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ebbgate_model::feed::{AgentEndpointReport, SessionCommand, SessionReport};
use ebbgate_model::{AccountId, EdgeId, EndpointId, TunnelSessionId};
use tokio::sync::mpsc;

/// Seconds an edge's sessions stay listed after its feed broke, so that a reconnect does not make them flicker.
pub const LEASE_SECS: u64 = 15;
/// Commands waiting for one edge.
pub const COMMANDS_MAX: usize = 64;

/// A session as an edge reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveSession {
    /// Identifier.
    pub id: TunnelSessionId,
    /// Edge it is connected to.
    pub edge: EdgeId,
    /// What the edge says about it.
    pub report: Arc<SessionReport>,
}

/// An agent endpoint as an edge reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveEndpoint {
    /// Identifier.
    pub id: EndpointId,
    /// Session that bound it; its report has the credential.
    pub session: LiveSession,
    /// What the edge says about it.
    pub report: AgentEndpointReport,
}

/// A connected edge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveEdge {
    /// Identifier.
    pub id: EdgeId,
    /// Version of its program.
    pub version: String,
    /// Generation in force there; 0 before the first.
    pub applied: u64,
    /// Generation it refused last, with its reason.
    pub refused: Option<(u64, String)>,
    /// Sessions online there.
    pub sessions: usize,
    /// Whether its feed is open now.
    pub connected: bool,
}

/// Why a command did not reach a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The account has no such session online.
    #[error("the session is not online")]
    Offline,
    /// The edge does not take commands at the moment.
    #[error("the edge of this session cannot be reached now; try again in a few seconds")]
    Unreachable,
}

/// A command on its way to an edge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Session it is for.
    pub session: TunnelSessionId,
    /// What to do.
    pub command: SessionCommand,
}

/// The live registry. Cheap to clone; all clones see the same.
#[derive(Debug, Clone, Default)]
pub struct Presence(Arc<Mutex<BTreeMap<EdgeId, Entry>>>);

#[derive(Debug)]
struct Entry {
    version: String,
    applied: u64,
    refused: Option<(u64, String)>,
    sessions: BTreeMap<TunnelSessionId, Arc<SessionReport>>,
    feed: Feed,
}

#[derive(Debug)]
enum Feed {
    Open { number: u64, commands: mpsc::Sender<Command> },
    Broken { since: Instant },
}

/// An open feed's hold on its edge's entry. Reports of a feed that was replaced by a newer one are ignored.
#[derive(Debug)]
pub struct Hold {
    presence: Presence,
    edge: EdgeId,
    number: u64,
}

impl Presence {
    /// An edge has connected. A feed of the same edge that is still open loses its hold.
    ///
    /// Sessions reported before stay listed until the edge reports anew or its lease ends.
    pub fn join(&self, edge: EdgeId, version: String, applied: u64) -> (Hold, mpsc::Receiver<Command>) {
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let mut edges = self.edges_locked();
        let before = edges.remove(&edge);
        let number = match &before {
            Some(Entry { feed: Feed::Open { number, .. }, .. }) => number + 1,
            _ => 0,
        };
        let sessions = before.map(|entry| entry.sessions).unwrap_or_default();
        let feed = Feed::Open { number, commands };
        edges.insert(edge, Entry { version, applied, refused: None, sessions, feed });
        (Hold { presence: self.clone(), edge, number }, receiver)
    }

    /// Drops edges whose feed broke more than [`LEASE_SECS`] ago.
    pub fn expire(&self, now: Instant) {
        let lease = Duration::from_secs(LEASE_SECS);
        self.edges_locked().retain(|_, entry| match entry.feed {
            Feed::Open { .. } => true,
            Feed::Broken { since } => now.saturating_duration_since(since) < lease,
        });
    }

    /// Edges known, connected or within their lease.
    pub fn edges(&self) -> Vec<LiveEdge> {
        let live = |(id, entry): (&EdgeId, &Entry)| LiveEdge {
            id: *id,
            version: entry.version.clone(),
            applied: entry.applied,
            refused: entry.refused.clone(),
            sessions: entry.sessions.len(),
            connected: matches!(entry.feed, Feed::Open { .. }),
        };
        self.edges_locked().iter().map(live).collect()
    }

    /// Generation that every connected edge has in force; None when no edge is connected.
    pub fn live_generation(&self) -> Option<u64> {
        self.edges().iter().filter(|edge| edge.connected).map(|edge| edge.applied).min()
    }

    /// Sessions of an account, oldest first.
    pub fn sessions(&self, account: AccountId) -> Vec<LiveSession> {
        let edges = self.edges_locked();
        let all = edges.iter().flat_map(|(edge, entry)| {
            entry.sessions.iter().map(|(id, report)| LiveSession {
                id: *id,
                edge: *edge,
                report: report.clone(),
            })
        });
        let mut sessions: Vec<_> = all.filter(|session| session.report.account == account).collect();
        sessions.sort_by_key(|session| session.id);
        sessions
    }

    /// One session of an account.
    pub fn session(&self, account: AccountId, id: TunnelSessionId) -> Option<LiveSession> {
        self.sessions(account).into_iter().find(|session| session.id == id)
    }

    /// Agent endpoints of an account, oldest first.
    pub fn endpoints(&self, account: AccountId) -> Vec<LiveEndpoint> {
        let of = |session: LiveSession| {
            let reports = session.report.endpoints.clone();
            reports.into_iter().map(move |(id, report)| LiveEndpoint { id, session: session.clone(), report })
        };
        let mut endpoints: Vec<_> = self.sessions(account).into_iter().flat_map(of).collect();
        endpoints.sort_by_key(|endpoint| endpoint.id);
        endpoints
    }

    /// Asks the edge of a session to pass a command to its agent. Success means handed to the edge's feed.
    pub fn command(
        &self,
        account: AccountId,
        session: TunnelSessionId,
        command: SessionCommand,
    ) -> Result<(), CommandError> {
        let edges = self.edges_locked();
        let owns = |entry: &&Entry| entry.sessions.get(&session).is_some_and(|r| r.account == account);
        match edges.values().find(owns).ok_or(CommandError::Offline)?.feed {
            Feed::Open { ref commands, .. } => {
                commands.try_send(Command { session, command }).map_err(|_| CommandError::Unreachable)
            }
            Feed::Broken { .. } => Err(CommandError::Unreachable),
        }
    }

    fn edges_locked(&self) -> MutexGuard<'_, BTreeMap<EdgeId, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hold {
    /// The edge has the generation in force.
    pub fn applied(&self, generation: u64) {
        self.change(|entry| {
            entry.applied = generation;
            if entry.refused.as_ref().is_some_and(|(refused, _)| *refused <= generation) {
                entry.refused = None;
            }
        });
    }

    /// The edge did not take the generation.
    pub fn refused(&self, generation: u64, reason: String) {
        self.change(|entry| entry.refused = Some((generation, reason)));
    }

    /// All sessions of the edge; replaces what was known.
    pub fn replace_sessions(&self, sessions: BTreeMap<TunnelSessionId, SessionReport>) {
        let sessions = sessions.into_iter().map(|(id, report)| (id, Arc::new(report))).collect();
        self.change(|entry| entry.sessions = sessions);
    }

    /// A session began or changed.
    pub fn session(&self, id: TunnelSessionId, report: SessionReport) {
        self.change(|entry| {
            entry.sessions.insert(id, Arc::new(report));
        });
    }

    /// A session ended.
    pub fn session_ended(&self, id: TunnelSessionId) {
        self.change(|entry| {
            entry.sessions.remove(&id);
        });
    }

    /// Whether no newer feed of the same edge has taken over.
    pub fn is_current(&self) -> bool {
        let mut current = false;
        self.change(|_| current = true);
        current
    }

    fn change(&self, change: impl FnOnce(&mut Entry)) {
        let mut edges = self.presence.edges_locked();
        if let Some(entry) = edges.get_mut(&self.edge)
            && matches!(entry.feed, Feed::Open { number, .. } if number == self.number)
        {
            change(entry);
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.change(|entry| entry.feed = Feed::Broken { since: Instant::now() });
    }
}
