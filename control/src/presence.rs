//! `Presence`: which edges are connected, what they hold, and which agents are online at them. In memory only.
//!
//! Filled by `push` from what edges report, read by `api`. One entry per edge: nothing is written to the store for an agent.

mod news;
mod told;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ebbgate_model::feed::{
    AgentEndpointReport, CommandOutcome, EdgeReach, EnforcementReport, PeerEdge, SessionCommand,
    SessionReport, ToEdge,
};
use ebbgate_model::{AccountId, EdgeId, EndpointId, TunnelSessionId};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::clock::UnixSecs;
pub use told::{SessionChange, SessionChangeKind};

use news::{Item, News};
use told::{tell, tell_health};

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
    /// Where it is reached.
    pub reach: EdgeReach,
    /// Whether it is about to end.
    pub draining: bool,
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

/// The live registry. Cheap to clone; all clones see the same.
#[derive(Debug, Clone, Default)]
pub struct Presence(Arc<Mutex<Edges>>);

#[derive(Debug, Default)]
struct Edges {
    entries: BTreeMap<EdgeId, Entry>,
    /// Edges that the operator took out of service.
    drained: BTreeSet<EdgeId>,
    /// Edges that get changes first, connected or not.
    canaries: BTreeSet<EdgeId>,
    /// Counts feeds, so that each hold is told from every other.
    feeds: u64,
    /// Where sessions that begin and end are told; what finds no room there is not told.
    told: Option<mpsc::Sender<SessionChange>>,
}

#[derive(Debug)]
struct Entry {
    version: String,
    applied: u64,
    refused: Option<(u64, String)>,
    sessions: BTreeMap<TunnelSessionId, Arc<SessionReport>>,
    enforcement: BTreeMap<EndpointId, EnforcementReport>,
    address_data: BTreeSet<String>,
    clock_ahead_secs: Option<UnixSecs>,
    core_rule_set: bool,
    reach: EdgeReach,
    draining: bool,
    feed: Feed,
}

#[derive(Debug)]
enum Feed {
    Open { number: u64, commands: mpsc::Sender<Command>, news: News, wake: Arc<Notify> },
    Broken { since: Instant },
}

impl Edges {
    /// Something changed about an edge: all others are told.
    fn edge_changed(&mut self, edge: EdgeId) {
        self.note(edge, |news| news.edge(edge));
    }

    /// Something changed about sessions of an edge: all others are told.
    fn sessions_changed(&mut self, edge: EdgeId, sessions: &[TunnelSessionId]) {
        if !sessions.is_empty() {
            self.note(edge, |news| sessions.iter().for_each(|session| news.session(edge, *session)));
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
    fn remove(&mut self, edge: EdgeId) {
        let Some(entry) = self.entries.remove(&edge) else { return };
        let sessions: Vec<_> = entry.sessions.keys().copied().collect();
        tell(self.told.as_ref(), entry.sessions, SessionChangeKind::Ended);
        self.edge_changed(edge);
        self.sessions_changed(edge, &sessions);
    }
}

/// An open feed's hold on its edge's entry. Reports of a feed that was replaced by a newer one are ignored.
#[derive(Debug)]
pub struct Hold {
    presence: Presence,
    edge: EdgeId,
    number: u64,
    /// Of a feed beside the edge's own: nobody commands it.
    uncommanded: Option<mpsc::Sender<Command>>,
    wake: Arc<Notify>,
}

impl Presence {
    /// An edge has connected. A feed of the same edge that is still open loses its hold.
    ///
    /// Sessions reported before stay listed until the edge reports anew or its lease ends. How allowlists are enforced does
    /// not: the process may be another one, with less privilege.
    pub fn join(&self, edge: EdgeId, version: String, applied: u64) -> (Hold, mpsc::Receiver<Command>) {
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let mut edges = self.edges_locked();
        edges.feeds += 1;
        let number = edges.feeds;
        let before = edges.entries.remove(&edge);
        let (sessions, reach) = before.map(|entry| (entry.sessions, entry.reach)).unwrap_or_default();
        let (mut news, wake) = (News::default(), Arc::<Notify>::default());
        if edges.drained.contains(&edge) {
            news.own();
        }
        for (other, entry) in &edges.entries {
            news.edge(*other);
            entry.sessions.keys().for_each(|session| news.session(*other, *session));
        }
        let feed = Feed::Open { number, commands, news, wake: Arc::clone(&wake) };
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
            feed,
        };
        edges.entries.insert(edge, entry);
        edges.edge_changed(edge);
        (Hold { presence: self.clone(), edge, number, uncommanded: None, wake }, receiver)
    }

    /// A process of an edge has connected that only ends what it has, beside the one that serves. What it reports is not
    /// kept, it is told of no other edge, and the edge's own feed keeps its hold.
    pub fn beside(&self, edge: EdgeId) -> (Hold, mpsc::Receiver<Command>) {
        let (commands, receiver) = mpsc::channel(1);
        let (uncommanded, wake) = (Some(commands), Arc::default());
        // No feed has the number 0.
        (Hold { presence: self.clone(), edge, number: 0, uncommanded, wake }, receiver)
    }

    /// The edge belongs no longer: it is withdrawn at once, whatever its lease.
    pub fn remove(&self, edge: EdgeId) {
        let mut edges = self.edges_locked();
        edges.drained.remove(&edge);
        edges.canaries.remove(&edge);
        edges.remove(edge);
    }

    /// Tells sessions that begin and end from now on.
    pub fn tell(&self, told: mpsc::Sender<SessionChange>) {
        self.edges_locked().told = Some(told);
    }

    /// Drops edges with a feed that broke more than [`LEASE_SECS`] ago.
    pub fn expire(&self, now: Instant) {
        let lease = Duration::from_secs(LEASE_SECS);
        let mut edges = self.edges_locked();
        let is_over = |entry: &Entry| match entry.feed {
            Feed::Open { .. } => false,
            Feed::Broken { since } => now.saturating_duration_since(since) >= lease,
        };
        let over: Vec<_> =
            edges.entries.iter().filter(|(_, entry)| is_over(entry)).map(|(edge, _)| *edge).collect();
        for edge in over {
            edges.remove(edge);
        }
    }

    /// Edges known, connected or within their lease.
    pub fn edges(&self) -> Vec<LiveEdge> {
        let edges = self.edges_locked();
        let Edges { drained, canaries, .. } = &*edges;
        let live = |(id, entry): (&EdgeId, &Entry)| LiveEdge {
            id: *id,
            version: entry.version.clone(),
            applied: entry.applied,
            refused: entry.refused.clone(),
            sessions: entry.sessions.len(),
            connected: matches!(entry.feed, Feed::Open { .. }),
            clock_ahead_secs: entry.clock_ahead_secs,
            reach: entry.reach.clone(),
            draining: entry.draining || drained.contains(id),
            canary: canaries.contains(id),
            feed: match entry.feed {
                Feed::Open { number, .. } => Some(number),
                Feed::Broken { .. } => None,
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
        let edges = self.edges_locked();
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
        let edges = self.edges_locked();
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
        let edges = self.edges_locked();
        edges.entries.values().filter_map(|entry| entry.enforcement.get(&endpoint)).cloned().collect()
    }

    /// What the databases of addresses of any edge have, by the names that policies use below `conn.client_ip`.
    pub fn address_data(&self) -> BTreeSet<String> {
        self.edges_locked().entries.values().flat_map(|entry| entry.address_data.iter().cloned()).collect()
    }

    /// Whether any edge runs an OWASP Core Rule Set.
    pub fn has_core_rule_set(&self) -> bool {
        self.edges_locked().entries.values().any(|entry| entry.core_rule_set)
    }

    /// Asks the edge of a session to pass a command to its agent. Success means handed to the edge's feed; what the agent
    /// said comes later, or nothing when the feed breaks.
    pub fn command(
        &self,
        account: AccountId,
        session: TunnelSessionId,
        command: SessionCommand,
    ) -> Result<oneshot::Receiver<CommandOutcome>, CommandError> {
        let edges = self.edges_locked();
        let owns = |entry: &&Entry| entry.sessions.get(&session).is_some_and(|r| r.account == account);
        let entry = edges.entries.values().find(owns).ok_or(CommandError::Offline)?;
        if let Some(reason) = entry.sessions.get(&session).and_then(|report| report.refusals.of(&command)) {
            return Err(CommandError::Refused(reason.to_owned()));
        }
        match entry.feed {
            Feed::Open { ref commands, .. } => {
                let (answer, answered) = oneshot::channel();
                let sent = commands.try_send(Command { session, command, answer });
                sent.map(|()| answered).map_err(|_| CommandError::Unreachable)
            }
            Feed::Broken { .. } => Err(CommandError::Unreachable),
        }
    }

    fn edges_locked(&self) -> MutexGuard<'_, Edges> {
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
        let sessions: BTreeMap<_, _> =
            sessions.into_iter().map(|(id, report)| (id, Arc::new(report))).collect();
        self.change_sessions(|entry, told| {
            let new = sessions.iter().filter(|(id, _)| !entry.sessions.contains_key(id));
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
        self.presence.edges_locked().edge_changed(self.edge);
    }

    /// What the edge is told next of the others. None: it knows all there is.
    pub fn news(&self) -> Option<ToEdge> {
        let mut edges = self.presence.edges_locked();
        let entry = edges.entries.get_mut(&self.edge)?;
        let Feed::Open { number, news, .. } = &mut entry.feed else { return None };
        let item = if *number == self.number { news.next()? } else { return None };
        let other = |edge: EdgeId| edges.entries.get(&edge);
        Some(match item {
            Item::Own => ToEdge::Drain { drain: edges.drained.contains(&self.edge) },
            Item::Edge(edge) => match other(edge) {
                Some(Entry { reach, draining, .. }) => {
                    let draining = *draining || edges.drained.contains(&edge);
                    ToEdge::Peer(PeerEdge { edge, reach: reach.clone(), draining })
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
        self.presence.edges_locked().canaries.contains(&self.edge)
    }

    /// Completes when there may be news. One that waits is woken for what came before, too.
    pub async fn news_came(&self) {
        self.wake.notified().await;
    }

    /// How the edge enforces the allowlist of every endpoint that has one; replaces what was known.
    pub fn replace_enforcement(&self, endpoints: BTreeMap<EndpointId, EnforcementReport>) {
        self.change(|entry| entry.enforcement = endpoints);
    }

    /// What the edge's databases of addresses have; replaces what was known.
    pub fn replace_address_data(&self, names: BTreeSet<String>) {
        self.change(|entry| entry.address_data = names);
    }

    /// By how much the edge's clock is ahead of ours, in seconds.
    pub fn clock_ahead(&self, secs: UnixSecs) {
        self.change(|entry| entry.clock_ahead_secs = Some(secs));
    }

    /// Whether the edge runs an OWASP Core Rule Set.
    pub fn set_core_rule_set(&self, loaded: bool) {
        self.change(|entry| entry.core_rule_set = loaded);
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
        let mut edges = self.presence.edges_locked();
        let Edges { entries, told, .. } = &mut *edges;
        if let Some(entry) = entries.get_mut(&self.edge)
            && matches!(entry.feed, Feed::Open { number, .. } if number == self.number)
        {
            let changed = change(entry, told.as_ref());
            edges.sessions_changed(self.edge, &changed);
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.change(|entry| entry.feed = Feed::Broken { since: Instant::now() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebbgate_model::feed::HealthState;
    use ebbgate_model::{Binding, CredentialId, Ksuid};

    fn ksuid(n: u8) -> Ksuid {
        Ksuid::new(1_700_000_000 + u64::from(n), [n; 16])
    }

    fn account(n: u8) -> AccountId {
        AccountId::new(ksuid(n))
    }

    fn session(n: u8) -> TunnelSessionId {
        TunnelSessionId::new(ksuid(n))
    }

    fn report(of: u8, endpoint: u8) -> SessionReport {
        let endpoint_report = AgentEndpointReport {
            url: format!("https://e{endpoint}.internal").parse().unwrap(),
            binding: Binding::Internal,
            name: String::new(),
            description: String::new(),
            metadata: String::new(),
            pooling_enabled: false,
            forwards_to: String::new(),
            upstream_protocol: "http1".into(),
            upstream_refused: false,
            health: ebbgate_model::feed::HealthReport::default(),
            elsewhere: None,
            traffic_policy: String::new(),
            created_at: 0,
        };
        SessionReport {
            account: account(of),
            credential: CredentialId::new(ksuid(9)),
            agent_version: String::new(),
            user_agent: String::new(),
            os: String::new(),
            ip: String::new(),
            metadata: String::new(),
            started_at: 0,
            transport: String::new(),
            refusals: ebbgate_model::feed::CommandRefusals::default(),
            endpoints: [(EndpointId::new(ksuid(endpoint)), endpoint_report)].into(),
        }
    }

    fn edge(n: u8) -> EdgeId {
        EdgeId::new(ksuid(n))
    }

    #[test]
    fn an_account_sees_its_own_sessions_and_endpoints_on_all_edges() {
        let presence = Presence::default();
        let (one, _commands) = presence.join(edge(1), "1".into(), 0);
        let (two, _commands) = presence.join(edge(2), "1".into(), 0);
        one.replace_sessions([(session(1), report(1, 11)), (session(2), report(2, 12))].into());
        two.session(session(3), report(1, 13));
        let ids = |n| presence.endpoints(account(n)).into_iter().map(|e| e.id).collect::<Vec<_>>();
        assert_eq!(ids(1), [11, 13].map(|n| EndpointId::new(ksuid(n))));
        assert_eq!(ids(2), [EndpointId::new(ksuid(12))]);
        assert!(presence.session(account(1), session(3)).is_some());
        assert!(presence.session(account(2), session(3)).is_none());
        one.replace_sessions(BTreeMap::new());
        assert_eq!(ids(1), [EndpointId::new(ksuid(13))]);
    }

    #[test]
    fn sessions_outlive_a_broken_feed_by_the_lease_and_no_longer() {
        let presence = Presence::default();
        let (hold, _commands) = presence.join(edge(1), "1".into(), 0);
        hold.session(session(1), report(1, 11));
        drop(hold);
        let now = Instant::now();
        let lease = Duration::from_secs(LEASE_SECS);
        presence.expire(now);
        assert_eq!(presence.sessions(account(1)).len(), 1);
        assert_eq!(presence.live_generation(), None, "a broken feed has nothing in force that we know of");
        let stop = || presence.command(account(1), session(1), SessionCommand::Stop).map(drop);
        assert_eq!(stop(), Err(CommandError::Unreachable));
        let (hold, _commands) = presence.join(edge(1), "1".into(), 7);
        assert_eq!(presence.sessions(account(1)).len(), 1, "listed until the edge reports anew");
        presence.expire(now + lease * 2);
        assert_eq!(presence.live_generation(), Some(7));
        drop(hold);
        presence.expire(Instant::now() + lease);
        assert_eq!(presence.edges(), []);
        assert_eq!(stop(), Err(CommandError::Offline));
    }

    /// All that an edge is told until it knows everything.
    fn told(hold: &Hold) -> Vec<ToEdge> {
        std::iter::from_fn(|| hold.news()).collect()
    }

    #[tokio::test]
    async fn an_edge_is_told_of_the_others_once_and_of_what_changes_after() {
        let presence = Presence::default();
        let (one, _commands) = presence.join(edge(1), "1".into(), 0);
        assert_eq!(told(&one), [ToEdge::PeersTold], "nobody else is there");
        one.session(session(1), report(1, 11));
        let reach = EdgeReach { peers: "one.test:4485".into(), ..EdgeReach::default() };
        one.set_reach(reach.clone());
        let (two, _commands) = presence.join(edge(2), "1".into(), 0);
        let peer = |draining| ToEdge::Peer(PeerEdge { edge: edge(1), reach: reach.clone(), draining });
        let has = |n: u8, endpoint| ToEdge::PeerSession {
            edge: edge(1),
            session: session(n),
            report: Arc::new(report(1, endpoint)),
        };
        let gone = |n: u8| ToEdge::PeerSessionEnded { edge: edge(1), session: session(n) };
        assert_eq!(told(&two), [peer(false), has(1, 11), ToEdge::PeersTold]);
        assert!(matches!(told(&one)[..], [ToEdge::Peer(PeerEdge { edge: of, .. })] if of == edge(2)));

        // What is as before costs nothing; changes that pile up become one.
        one.session(session(1), report(1, 11));
        assert_eq!(told(&two), []);
        one.session(session(1), report(1, 12));
        one.session(session(1), report(1, 13));
        one.replace_sessions([(session(1), report(1, 13)), (session(2), report(1, 14))].into());
        tokio::time::timeout(Duration::from_secs(30), two.news_came()).await.unwrap();
        assert_eq!(told(&two), [has(1, 13), has(2, 14)]);
        one.session_ended(session(1));
        one.drains();
        assert_eq!(told(&two), [peer(true), gone(1)]);

        // A feed that breaks withdraws nothing before its lease ends.
        drop(one);
        presence.expire(Instant::now());
        assert_eq!(told(&two), []);
        presence.expire(Instant::now() + Duration::from_secs(LEASE_SECS));
        assert_eq!(told(&two), [ToEdge::PeerGone { edge: edge(1) }, gone(2)]);
        let (_one, _commands) = presence.join(edge(1), "1".into(), 0);
        assert_eq!(told(&two).len(), 1);
        presence.remove(edge(1));
        assert_eq!(told(&two), [ToEdge::PeerGone { edge: edge(1) }], "one that is removed has no lease");
    }

    #[test]
    fn address_data_is_that_of_all_edges_that_are_there() {
        let presence = Presence::default();
        let (one, _commands) = presence.join(edge(1), "1".into(), 0);
        let (two, _commands) = presence.join(edge(2), "1".into(), 0);
        one.replace_address_data(["as.number".to_owned()].into());
        two.replace_address_data(["as.number".to_owned(), "is_tor_node".to_owned()].into());
        assert_eq!(presence.address_data(), ["as.number".to_owned(), "is_tor_node".to_owned()].into());
        assert!(!presence.has_core_rule_set());
        two.set_core_rule_set(true);
        assert!(presence.has_core_rule_set());
        let (_two, _commands) = presence.join(edge(2), "1".into(), 0);
        assert_eq!(presence.address_data(), ["as.number".to_owned()].into(), "it says anew what it has");
        assert!(!presence.has_core_rule_set(), "it says anew");
    }

    #[test]
    fn enforcement_is_known_of_every_edge_and_only_while_it_is_there() {
        use ebbgate_model::feed::Enforcer;
        let endpoint = EndpointId::new(ksuid(11));
        let report = |passed| EnforcementReport {
            by: Enforcer::Xdp,
            reason: String::new(),
            interfaces: BTreeMap::new(),
            passed,
            dropped: BTreeMap::new(),
        };
        let presence = Presence::default();
        let (one, _commands) = presence.join(edge(1), "1".into(), 0);
        let (two, _commands) = presence.join(edge(2), "1".into(), 0);
        one.replace_enforcement([(endpoint, report(1))].into());
        two.replace_enforcement([(endpoint, report(2))].into());
        let passed = || presence.enforcement(endpoint).iter().map(|report| report.passed).collect::<Vec<_>>();
        assert_eq!(passed(), [1, 2]);
        let (_one, _commands) = presence.join(edge(1), "1".into(), 0);
        assert_eq!(passed(), [2], "an edge that comes back says anew what holds");
        one.replace_enforcement([(endpoint, report(9))].into());
        assert_eq!(passed(), [2]);
        two.replace_enforcement([(endpoint, report(3))].into());
        assert_eq!(passed(), [3]);
        drop(two);
        presence.expire(Instant::now() + Duration::from_secs(LEASE_SECS));
        assert!(passed().is_empty());
    }

    #[test]
    fn a_replaced_feed_changes_nothing_any_more() {
        let presence = Presence::default();
        let (first, _commands) = presence.join(edge(1), "1".into(), 0);
        let (second, _commands) = presence.join(edge(1), "1".into(), 0);
        drop(second);
        let (third, _commands) = presence.join(edge(1), "1".into(), 3);
        first.applied(99);
        first.session(session(1), report(1, 11));
        assert!(!first.is_current() && third.is_current());
        drop(first);
        assert_eq!(presence.live_generation(), Some(3));
        assert!(presence.sessions(account(1)).is_empty());
    }

    #[test]
    fn a_process_that_drains_beside_its_edge_changes_nothing_and_is_not_replaced() {
        let presence = Presence::default();
        let (serving, _commands) = presence.join(edge(1), "2".into(), 5);
        let (draining, mut commands) = presence.beside(edge(1));
        draining.applied(99);
        draining.session(session(1), report(1, 11));
        assert!(draining.is_current() && serving.is_current());
        assert_eq!(presence.live_generation(), Some(5));
        assert!(presence.sessions(account(1)).is_empty());
        assert!(commands.try_recv().is_err_and(|error| error == mpsc::error::TryRecvError::Empty));
        drop(draining);
        assert!(serving.is_current() && presence.edges()[0].connected);
    }

    #[test]
    fn commands_nobody_takes_are_refused_not_queued_for_ever() {
        let presence = Presence::default();
        let (hold, commands) = presence.join(edge(1), "1".into(), 0);
        hold.session(session(1), report(1, 11));
        let stop = || presence.command(account(1), session(1), SessionCommand::Stop).map(drop);
        let taken = std::iter::repeat_with(stop).take_while(Result::is_ok).count();
        assert_eq!(taken, COMMANDS_MAX);
        drop(commands);
        assert_eq!(stop(), Err(CommandError::Unreachable));
    }

    #[test]
    fn sessions_that_begin_and_end_are_told_once() {
        let presence = Presence::default();
        let (sender, mut told) = mpsc::channel(10);
        presence.tell(sender);
        let mut seen = || {
            let mut all = Vec::new();
            while let Ok(change) = told.try_recv() {
                all.push((change.id, change.kind == SessionChangeKind::Began));
            }
            all
        };
        let (hold, commands) = presence.join(edge(1), "1".into(), 0);
        hold.session(session(1), report(1, 11));
        hold.session(session(1), report(1, 11));
        hold.session(session(2), report(1, 12));
        assert_eq!(seen(), [(session(1), true), (session(2), true)]);
        // The feed breaks and comes back within its lease: nothing happened.
        drop((hold, commands));
        let (hold, _commands) = presence.join(edge(1), "1".into(), 0);
        hold.replace_sessions([(session(2), report(1, 12)), (session(3), report(1, 13))].into());
        assert_eq!(seen(), [(session(3), true), (session(1), false)]);
        hold.session_ended(session(3));
        hold.session_ended(session(3));
        drop(hold);
        presence.expire(Instant::now() + Duration::from_secs(LEASE_SECS));
        assert_eq!(seen(), [(session(3), false), (session(2), false)]);
    }

    #[test]
    fn an_edge_that_is_drained_is_told_at_once_and_again_at_each_feed_and_so_are_the_others() {
        let presence = Presence::default();
        let told = |hold: &Hold| std::iter::from_fn(|| hold.news()).collect::<Vec<_>>();
        let drain = |drain| ToEdge::Drain { drain };
        let peer = |draining| ToEdge::Peer(PeerEdge { edge: edge(1), reach: EdgeReach::default(), draining });
        let (one, _commands) = presence.join(edge(1), "1".into(), 0);
        let (two, _commands) = presence.join(edge(2), "1".into(), 0);
        drop((told(&one), told(&two)));
        presence.set_drained(edge(1), true);
        presence.set_drained(edge(1), true);
        assert_eq!((told(&one), told(&two)), (vec![drain(true)], vec![peer(true)]));
        assert!(presence.edges()[0].draining && !presence.edges()[1].draining);
        drop(one);
        let (one, _commands) = presence.join(edge(1), "1".into(), 0);
        assert_eq!(told(&one).first(), Some(&drain(true)));
        told(&two);
        presence.set_drained(edge(1), false);
        assert_eq!((told(&one), told(&two)), (vec![drain(false)], vec![peer(false)]));
        presence.set_drained(edge(1), true);
        presence.remove(edge(1));
        let (one, _commands) = presence.join(edge(1), "1".into(), 0);
        assert!(!told(&one).contains(&drain(true)));
    }

    #[test]
    fn an_endpoint_that_gets_no_new_work_is_told_once_and_so_is_its_return() {
        let presence = Presence::default();
        let (told, mut changes) = mpsc::channel(8);
        presence.tell(told);
        let (hold, _commands) = presence.join(EdgeId::new(ksuid(1)), "1".into(), 0);
        let with = |state| {
            let mut report = report(1, 1);
            for endpoint in report.endpoints.values_mut() {
                endpoint.health.state = state;
            }
            report
        };
        hold.session(session(1), with(HealthState::Unknown));
        assert_eq!(changes.try_recv().unwrap().kind, SessionChangeKind::Began);
        for (state, expect) in [
            (HealthState::Healthy, None),
            (HealthState::Unhealthy, Some(HealthState::Healthy)),
            (HealthState::Ejected, None),
            (HealthState::Healthy, Some(HealthState::Ejected)),
        ] {
            hold.session(session(1), with(state));
            let before = match changes.try_recv().map(|change| change.kind) {
                Ok(SessionChangeKind::Health { before, .. }) => Some(before),
                _ => None,
            };
            assert_eq!(before, expect, "{state:?}");
        }
        hold.replace_sessions(BTreeMap::from([(session(1), with(HealthState::Unreachable))]));
        assert!(matches!(changes.try_recv().unwrap().kind, SessionChangeKind::Health { .. }));
    }
}
