//! `Presence`: which edges are connected, what they hold, and which agents are online at them. In memory only.
//!
//! Filled by `push` from what edges report, and by `sharing` from what other controls tell of theirs; read by `api`. One entry
//! per edge, fed here or not.

mod edges;
mod head;
mod hold;
mod news;
mod others;
mod own;
#[cfg(test)]
pub(crate) mod tests;
mod told;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ebbgate_model::feed::{
    AgentEndpointReport, CommandOutcome, EdgeReach, EnforcementReport, SessionCommand, SessionReport,
};
use ebbgate_model::{AccountId, EdgeId, EndpointId, TunnelSessionId};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::clock::UnixSecs;
use crate::store::Revision;
pub use edges::{Command, RemoteCommand};
pub use head::{About, Enforced, Head};
pub use hold::Hold;
pub use others::{Sessions, Told};
pub use own::OwnEdge;
pub use told::{SessionChange, SessionChangeKind};

use edges::{Entry, Feed, Joined, Registry};
use news::News;
use own::Untold;

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
    /// Seconds by which its clock was ahead of this control's when it connected; None: it did not say.
    pub clock_ahead_secs: Option<UnixSecs>,
    /// How it enforces allowlists.
    pub enforcement: Enforced,
    /// Where it is reached.
    pub reach: EdgeReach,
    /// Whether it is about to end.
    pub draining: bool,
    /// What the control that feeds it says; None: this control feeds it.
    pub elsewhere: Option<Arc<Head>>,
    /// Whether it gets changes before others.
    pub canary: bool,
    /// Counts feeds of all edges: another number is another connection. None: it has none now.
    pub feed: Option<u64>,
}

/// Why a command did not reach a session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The account has no such session online.
    #[error("the session is not online")]
    Offline,
    /// The agent said at its hello that it does not take it.
    #[error("the agent does not take this: {0}")]
    Refused(String),
    /// The edge does not take commands at the moment.
    #[error("the edge of this session cannot be reached now; try again in a few seconds")]
    Unreachable,
}

/// The live registry. Cheap to clone; all clones see the same.
#[derive(Debug, Clone, Default)]
pub struct Presence(Registry);

impl Presence {
    /// An edge has connected. A feed of the same edge that is still open loses its hold.
    ///
    /// Sessions reported before stay listed until the edge reports anew or its lease ends. How allowlists are enforced does
    /// not: the process may be another one, with less privilege.
    pub fn join(&self, edge: EdgeId, version: String, applied: u64) -> (Hold, mpsc::Receiver<Command>) {
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let mut edges = self.0.locked();
        edges.feeds += 1;
        let number = edges.feeds;
        let before = edges.entries.remove(&edge);
        let is_shared = edges.joined.is_some();
        let (sessions, reach, untold) = match before {
            // Others hear of it by the name that it had here, if it was fed here before.
            Some(before) if before.is_own() => (before.sessions, before.reach, before.untold.again()),
            Some(before) => (before.sessions, before.reach, Untold::new(is_shared)),
            None => (Sessions::new(), EdgeReach::default(), Untold::new(is_shared)),
        };
        let (mut news, wake) = (News::default(), Arc::<Notify>::default());
        if edges.drained.contains(&edge) {
            news.own();
        }
        for (other, entry) in &edges.entries {
            news.edge(*other);
            entry.sessions.keys().for_each(|session| news.session(*other, *session));
        }
        let feed = Feed::Open { commands, news, wake: Arc::clone(&wake) };
        let (enforcement, address_data, core_rule_set) = (BTreeMap::new(), BTreeSet::new(), false);
        let entry = Entry {
            version,
            applied,
            refused: None,
            sessions,
            enforcement,
            address_data,
            clock_ahead_secs: None,
            core_rule_set,
            reach,
            draining: false,
            number,
            untold,
            feed,
        };
        edges.entries.insert(edge, entry);
        edges.edge_changed(edge);
        if let Some(joined) = &edges.joined {
            joined.began.notify_one();
        }
        drop(edges);
        (Hold { edges: self.0.clone(), edge, number, uncommanded: None, wake }, receiver)
    }

    /// A process of an edge has connected that only ends what it has, beside the one that serves. What it reports is not
    /// kept, it is told of no other edge, and the edge's own feed keeps its hold.
    pub fn beside(&self, edge: EdgeId) -> (Hold, mpsc::Receiver<Command>) {
        let (commands, receiver) = mpsc::channel(1);
        let (uncommanded, wake) = (Some(commands), Arc::default());
        // No feed has the number 0.
        (Hold { edges: self.0.clone(), edge, number: 0, uncommanded, wake }, receiver)
    }

    /// The edge belongs no longer: it is withdrawn at once, whatever its lease.
    pub fn remove(&self, edge: EdgeId) {
        self.0.locked().banish(edge);
    }

    /// Tells sessions that begin and end from now on.
    pub fn tell(&self, told: mpsc::Sender<SessionChange>) {
        self.0.locked().told = Some(told);
    }

    /// Drops edges with a feed that broke more than [`LEASE_SECS`] ago.
    pub fn expire(&self, now: Instant) {
        let lease = Duration::from_secs(LEASE_SECS);
        let mut edges = self.0.locked();
        let is_over = |entry: &Entry| match entry.feed {
            Feed::Open { .. } | Feed::Elsewhere(_) => false,
            Feed::Broken { since } => now.saturating_duration_since(since) >= lease,
        };
        let over: Vec<_> =
            edges.entries.iter().filter(|(_, entry)| is_over(entry)).map(|(edge, _)| *edge).collect();
        for edge in over {
            edges.lapse(edge);
        }
    }

    /// Edges known, connected or within their lease.
    pub fn edges(&self) -> Vec<LiveEdge> {
        let edges = self.0.locked();
        let live = |(id, entry): (&EdgeId, &Entry)| LiveEdge {
            id: *id,
            version: entry.version.clone(),
            applied: entry.applied,
            refused: entry.refused.clone(),
            sessions: entry.sessions.len(),
            connected: entry.is_connected(),
            clock_ahead_secs: entry.clock_ahead_secs,
            enforcement: entry.enforced(),
            reach: entry.reach.clone(),
            draining: edges.is_draining(*id, entry),
            elsewhere: match &entry.feed {
                Feed::Elsewhere(head) => Some(Arc::clone(head)),
                Feed::Open { .. } | Feed::Broken { .. } => None,
            },
            canary: edges.canaries.contains(id),
            feed: match entry.feed {
                Feed::Open { .. } => Some(entry.number),
                Feed::Broken { .. } | Feed::Elsewhere(_) => None,
            },
        };
        edges.entries.iter().map(live).collect()
    }

    /// Generation that every connected edge has in force; None when no edge is connected.
    pub fn live_generation(&self) -> Option<u64> {
        self.edges().iter().filter(|edge| edge.connected).map(|edge| edge.applied).min()
    }

    /// Sessions of an account, oldest first.
    pub fn sessions(&self, account: AccountId) -> Vec<LiveSession> {
        let edges = self.0.locked();
        let all = edges.entries.iter().flat_map(|(edge, entry)| {
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

    /// What agents have online: credentials by id, and endpoints by URL, each with its account.
    pub fn online(&self) -> BTreeSet<(AccountId, String)> {
        let edges = self.0.locked();
        let reports = edges.entries.values().flat_map(|entry| entry.sessions.values());
        let names = |report: &Arc<SessionReport>| {
            let urls = report.endpoints.values().map(|endpoint| endpoint.url.to_string());
            let account = report.account;
            urls.chain([report.credential.to_string()]).map(move |name| (account, name)).collect::<Vec<_>>()
        };
        reports.flat_map(names).collect()
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

    /// What each edge that serves an endpoint says of how its allowlist is enforced there.
    pub fn enforcement(&self, endpoint: EndpointId) -> Vec<EnforcementReport> {
        let edges = self.0.locked();
        edges.entries.values().filter_map(|entry| entry.enforcement.get(&endpoint)).cloned().collect()
    }

    /// What the databases of addresses of any edge have, by the names that policies use below `conn.client_ip`.
    pub fn address_data(&self) -> BTreeSet<String> {
        self.0.locked().entries.values().flat_map(|entry| entry.address_data.iter().cloned()).collect()
    }

    /// Whether any edge runs an OWASP Core Rule Set.
    pub fn has_core_rule_set(&self) -> bool {
        self.0.locked().entries.values().any(|entry| entry.core_rule_set)
    }

    /// Asks the edge of a session to pass a command to its agent. Success means handed to the edge's feed; what the agent
    /// said comes later, or nothing when the feed breaks.
    pub fn command(
        &self,
        account: AccountId,
        session: TunnelSessionId,
        command: SessionCommand,
    ) -> Result<oneshot::Receiver<CommandOutcome>, CommandError> {
        let edges = self.0.locked();
        let owns = |entry: &&Entry| entry.sessions.get(&session).is_some_and(|r| r.account == account);
        let entry = edges.entries.values().find(owns).ok_or(CommandError::Offline)?;
        if let Some(reason) = entry.sessions.get(&session).and_then(|report| report.refusals.of(&command)) {
            return Err(CommandError::Refused(reason.to_owned()));
        }
        let (answer, answered) = oneshot::channel();
        let asked = Command { session, command, answer };
        let sent = match &entry.feed {
            Feed::Open { commands, .. } => commands.try_send(asked).is_ok(),
            Feed::Elsewhere(head) if head.about.connected => edges.joined.as_ref().is_some_and(|joined| {
                let control = head.control.clone();
                joined.commands.try_send(RemoteCommand { control, account, command: asked }).is_ok()
            }),
            Feed::Elsewhere(_) | Feed::Broken { .. } => false,
        };
        if sent { Ok(answered) } else { Err(CommandError::Unreachable) }
    }

    /// The same for a session at an edge that is fed here, and no other.
    pub fn command_here(
        &self,
        account: AccountId,
        session: TunnelSessionId,
        command: SessionCommand,
    ) -> Result<oneshot::Receiver<CommandOutcome>, CommandError> {
        let is_here = |edge: &EdgeId| self.own_edges().contains(edge);
        match self.session(account, session) {
            Some(live) if is_here(&live.edge) => self.command(account, session, command),
            Some(_) | None => Err(CommandError::Offline),
        }
    }

    /// Other controls are on the same store: from now on what is new of edges that are fed here is noted for them, and edges
    /// are not told that they know all others before [`Presence::replace_others`]. `began` is woken when an edge begins to be
    /// fed here; `commands` takes commands to sessions at edges of other controls.
    pub fn share(&self, began: Arc<Notify>, commands: mpsc::Sender<RemoteCommand>) {
        self.0.locked().joined = Some(Joined { began, commands, is_read: false });
    }

    /// Edges that are fed here, or were a moment ago.
    pub fn own_edges(&self) -> Vec<EdgeId> {
        let edges = self.0.locked();
        edges.entries.iter().filter(|(_, entry)| entry.is_own()).map(|(edge, _)| *edge).collect()
    }

    /// What is woken when there is something new to tell others of an edge, or it is not fed here any more. None: it is not.
    pub fn own_wake(&self, edge: EdgeId) -> Option<Arc<Notify>> {
        let edges = self.0.locked();
        let entry = edges.entries.get(&edge).filter(|entry| entry.is_own())?;
        Some(Arc::clone(&entry.untold.wake))
    }

    /// An edge that is fed here, with what was not given out yet, or with all its sessions. None: it is not fed here.
    pub fn own_edge(&self, edge: EdgeId, everything: bool) -> Option<OwnEdge> {
        self.0.locked().own(edge, everything)
    }

    /// The store says that another control has the edge since `revision`: its sessions are now what that control tells. Nothing
    /// happens if the edge has connected here anew since the feed `joined`. Gives whether this is settled; if not, what
    /// the other tells has not come here yet.
    pub fn give_up(&self, edge: EdgeId, joined: u64, revision: Revision) -> bool {
        self.0.locked().give_up(edge, joined, revision)
    }

    /// Takes in what other controls told.
    pub fn take_others(&self, told: Vec<Told>) {
        let mut edges = self.0.locked();
        for one in told {
            edges.take(one);
        }
    }

    /// Takes in all that other controls tell; what they told before and tell no more is gone.
    pub fn replace_others(&self, told: Vec<Told>) {
        self.0.locked().replace_others(told);
    }
}
