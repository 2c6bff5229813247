//! `Directory`: what control tells of the other edges, over one feed after another, and what follows from it among the routes.
//!
//! Nothing is withdrawn because a feed breaks: an edge that lost control goes on with what it knows. A feed that begins names
//! everything anew. What it has not named [`GRACE_SECS`] after it named all it knew is withdrawn: so long a control that was
//! just started may not have heard of an edge.

mod older;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ebbgate_model::feed::{AgentEndpointReport, DrainReport, HealthState, PeerEdge, SessionReport, ToEdge};
use ebbgate_model::{AccountId, CredentialId, EdgeId, EndpointId, TunnelSessionId};
use tokio::time::{Duration, Instant, sleep};

use super::super::bind::Has;
use super::super::own_tls::OwnTls;
use super::super::session::ENDPOINTS_MAX;
use super::limits::{WAY_STREAMS_MAX, WAYS_MAX};
use super::offered::{self, Offer};
use super::shown::{self, Older, Shown};
use crate::state::edge::Edge;
use crate::state::endpoint::{Endpoint, Kind};
use crate::state::mailbox::Message;
use crate::state::peers::{PeerWay, Place};
use crate::state::random;
use crate::state::tables::{Effects, Tables};
use crate::tunnel::peer::Elsewhere;
use crate::tunnel::session::SessionState;

/// Other edges at most.
pub const PEERS_MAX: usize = 1024;
/// Sessions of one other edge at most.
const SESSIONS_MAX: usize = 100_000;
/// Seconds in which control hears of every edge that is there: the lease of an edge's feed.
pub const GRACE_SECS: u64 = 15;

/// See the module.
#[derive(Default)]
pub struct Directory(Mutex<Table>);

#[derive(Default)]
struct Table {
    own: Option<EdgeId>,
    /// Counts feeds.
    feed: u64,
    peers: BTreeMap<EdgeId, Peer>,
    by_account: BTreeMap<AccountId, BTreeSet<(EdgeId, TunnelSessionId)>>,
    by_credential: BTreeMap<CredentialId, BTreeSet<(EdgeId, TunnelSessionId)>>,
    /// By the names of agents' processes.
    by_process: BTreeMap<Box<str>, BTreeSet<(EdgeId, TunnelSessionId)>>,
}

struct Peer {
    about: PeerEdge,
    /// Not another edge, but a process of this one that has handed over: no feed names it.
    older: Option<Older>,
    /// The feed that named it last.
    named: u64,
    /// All its agents are reached over this one.
    way: Arc<PeerWay>,
    /// Whether shards keep connections to it: not before it has an agent.
    has_ways: bool,
    sessions: BTreeMap<TunnelSessionId, Session>,
}

struct Session {
    named: u64,
    report: Arc<SessionReport>,
    /// Endpoints with their agents' own certificates, of a session at an older process.
    own_tls: BTreeMap<EndpointId, OwnTls>,
    served: BTreeMap<EndpointId, Served>,
    /// Under which names of processes it is found.
    processes: BTreeSet<Box<str>>,
    /// What this edge tells control of it, if it is at an older process.
    shown: Shown,
}

/// An endpoint that is among the routes.
struct Served {
    endpoint: Arc<Endpoint>,
    lent_port: Option<u16>,
    /// What it was made from.
    from: Arc<SessionReport>,
}

impl Served {
    /// Whether what is said now differs in nothing that it was made from.
    fn is_as(&self, said: &AgentEndpointReport, session: &SessionReport) -> bool {
        let agent = |session: &SessionReport| {
            (session.metadata.clone(), session.agent_version.clone(), session.os.clone())
        };
        let Some(before) = self.from.endpoints.get(&self.endpoint.id) else { return false };
        let AgentEndpointReport { upstream_refused, health, drain, .. } = said;
        let (health, drain) = (health.clone(), drain.clone());
        let before =
            AgentEndpointReport { upstream_refused: *upstream_refused, health, drain, ..before.clone() };
        before == *said && agent(&self.from) == agent(session)
    }
}

impl Directory {
    /// A feed begins. `own`: this edge, of which nothing is to be told here.
    pub fn begin(&self, own: EdgeId) {
        let mut table = self.table();
        table.feed += 1;
        table.own = Some(own);
    }

    /// Takes what control tells; other messages are not for this. Gives the members on which it has an operator's word that is
    /// news.
    pub fn take(self: &Arc<Self>, edge: &Arc<Edge>, message: ToEdge) -> Vec<String> {
        match message {
            ToEdge::Peer(peer) => self.table().peer(edge, peer),
            ToEdge::PeerGone { edge: gone } => self.table().gone(edge, gone),
            ToEdge::PeerSession { edge: at, session, report } => {
                return self.table().session(edge, (at, session), &report, BTreeMap::new());
            }
            ToEdge::PeerSessionEnded { edge: at, session } => self.table().ended(edge, (at, session)),
            ToEdge::PeersTold => {
                let (directory, told, of) = (Arc::clone(self), self.table().feed, Arc::clone(edge));
                edge.background.spawn(async move {
                    sleep(Duration::from_secs(GRACE_SECS)).await;
                    directory.table().sweep(&of, told);
                });
            }
            _ => {}
        }
        Vec::new()
    }

    /// Whether a process is known by this name at another edge, under the same credential. A client that comes from there cannot
    /// prove its name by a cookie, as only the edge that sealed it can open it.
    pub fn knows(&self, credential: CredentialId, process: &str) -> bool {
        let table = self.table();
        let mut sessions = table.by_process.get(process).into_iter().flatten();
        sessions.any(|(edge, session)| {
            let session = table.peers.get(edge).and_then(|peer| peer.sessions.get(session));
            session.is_some_and(|session| session.report.credential == credential)
        })
    }

    /// There is an operator's word on a member of a pool: it holds for what of it is served here.
    pub fn drained(&self, edge: &Edge, account: AccountId, member: &str) {
        let table = self.table();
        for (at, session) in table.by_account.get(&account).into_iter().flatten() {
            let session = table.peers.get(at).and_then(|peer| peer.sessions.get(session));
            for (id, served) in session.iter().flat_map(|session| &session.served) {
                if let Some(said) = served.from.endpoints.get(id).and_then(|said| said.drain.as_ref())
                    && said.member == member
                {
                    take_word(edge, &served.endpoint, said);
                }
            }
        }
    }

    /// After a change of the Tables: judges anew what it concerns.
    pub fn recheck(&self, edge: &Edge, effects: &Effects, old: &Tables, new: &Tables) {
        let mut table = self.table();
        if table.by_account.is_empty() {
            return;
        }
        let mut concerned = BTreeSet::new();
        if effects.settings || effects.names.iter().any(|name| name.host.is_wildcard()) {
            concerned.extend(table.by_account.values().flatten().copied());
        } else {
            concerned.extend(effects.accounts.iter().filter_map(|id| table.by_account.get(id)).flatten());
            let credentials = effects.credentials.iter();
            concerned.extend(credentials.filter_map(|id| table.by_credential.get(id)).flatten());
            // The session that had the name, and the session that has it now.
            let owners = effects.names.iter().flat_map(|name| {
                [old, new].map(|tables| match name.port {
                    Some(port) => tables.address(&name.host, port).map(|address| address.account),
                    None => tables.domain(&name.host).map(|domain| domain.account),
                })
            });
            let owners: BTreeSet<AccountId> = owners.flatten().collect();
            concerned.extend(owners.iter().filter_map(|id| table.by_account.get(id)).flatten());
        }
        let has = Has::of(edge);
        for at in concerned {
            table.serve(edge, at, new, &has, &|before| {
                let references = |tables: &Tables| tables.references(before.account);
                !Arc::ptr_eq(&references(old), &references(new))
            });
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn peer(&mut self, edge: &Edge, about: PeerEdge) {
        let (id, named) = (about.edge, self.feed);
        if self.own == Some(id) {
            return tracing::warn!("control tells this edge of itself as of another; ignored");
        }
        let is_full = self.peers.len() >= PEERS_MAX;
        match self.peers.get_mut(&id) {
            Some(peer) if peer.about.reach == about.reach => {
                peer.named = named;
                peer.about.draining = about.draining;
                peer.way.session.prefer_others(about.draining);
                return edge.peers.put(about);
            }
            // Another process, or somewhere else: nothing of what was there is known to be there. The edge stays named, so
            // that what its ways carry goes on, both those to it and those from it.
            Some(_) => self.withdraw(edge, id),
            None if is_full => {
                return tracing::error!(peer = %id, "there are more than {PEERS_MAX} edges; this one is left out");
            }
            None => {}
        }
        let place = Place::Address(about.reach.peers.clone());
        tracing::info!(peer = %id, address = %place, agents = about.reach.agents, "another edge is there");
        let way = self.insert(about.clone(), place, None);
        edge.peers.put(about);
        edge.peers.set_way(id, Some(way));
    }

    /// A peer without sessions; the way to it.
    fn insert(&mut self, about: PeerEdge, place: Place, older: Option<Older>) -> Arc<PeerWay> {
        let session = SessionState::of_peer(TunnelSessionId::new(random::ksuid()), WAY_STREAMS_MAX);
        session.prefer_others(about.draining);
        let way = Arc::new(PeerWay { edge: about.edge, place, session: Arc::new(session) });
        let (named, has_ways, sessions) = (self.feed, false, BTreeMap::new());
        self.peers
            .insert(about.edge, Peer { about, older, named, way: Arc::clone(&way), has_ways, sessions });
        way
    }

    fn gone(&mut self, edge: &Edge, gone: EdgeId) {
        if self.peers.contains_key(&gone) {
            edge.peers.remove(gone);
            self.withdraw(edge, gone);
        }
    }

    /// Forgets the process of an edge: no visitor is sent there any more.
    fn withdraw(&mut self, edge: &Edge, gone: EdgeId) {
        let Some(peer) = self.peers.get(&gone) else { return };
        tracing::info!(peer = %gone, "another edge is gone");
        let sessions: Vec<_> = peer.sessions.keys().copied().collect();
        for session in sessions {
            self.ended(edge, (gone, session));
        }
        if let Some(peer) = self.peers.remove(&gone) {
            peer.way.session.end();
        }
        edge.peers.set_way(gone, None);
    }

    /// A session elsewhere is reported. Gives the members on which it has an operator's word that is news.
    fn session(
        &mut self,
        edge: &Edge,
        at: (EdgeId, TunnelSessionId),
        report: &Arc<SessionReport>,
        own_tls: BTreeMap<EndpointId, OwnTls>,
    ) -> Vec<String> {
        let feed = self.feed;
        let Some(peer) = self.peers.get_mut(&at.0) else { return Vec::new() };
        if report.endpoints.len() > ENDPOINTS_MAX {
            tracing::error!(peer = %at.0, session = %at.1, "a session elsewhere has more than {ENDPOINTS_MAX} endpoints; it is left out");
            return Vec::new();
        }
        if peer.older.is_none() && peer.about.reach.peers.is_empty() {
            return hear_drains(edge, report);
        }
        let is_full = peer.sessions.len() >= SESSIONS_MAX;
        match peer.sessions.get_mut(&at.1) {
            Some(session) => {
                session.named = feed;
                if session.report.account != report.account || session.report.credential != report.credential
                {
                    tracing::error!(peer = %at.0, session = %at.1, "a session elsewhere changed its owner; ignored");
                    return Vec::new();
                }
                session.own_tls = own_tls;
                if session.report == *report {
                    return Vec::new();
                }
                session.report = Arc::clone(report);
            }
            None if is_full => {
                tracing::error!(peer = %at.0, "another edge has more than {SESSIONS_MAX} sessions; one is left out");
                return Vec::new();
            }
            None => {
                self.by_account.entry(report.account).or_default().insert(at);
                self.by_credential.entry(report.credential).or_default().insert(at);
                let (served, processes, shown) = (BTreeMap::new(), BTreeSet::new(), Shown::default());
                let report = Arc::clone(report);
                let session = Session { named: feed, report, own_tls, served, processes, shown };
                peer.sessions.insert(at.1, session);
            }
        }
        if !std::mem::replace(&mut peer.has_ways, true) {
            open_ways(edge, &peer.way);
        }
        // Before visitors find what is drained.
        let news = hear_drains(edge, report);
        let tables = edge.tables.load();
        self.serve(edge, at, &tables, &Has::of(edge), &|_| false);
        news
    }

    fn ended(&mut self, edge: &Edge, at: (EdgeId, TunnelSessionId)) {
        let session = self.peers.get_mut(&at.0).and_then(|peer| peer.sessions.remove(&at.1));
        let Some(session) = session else { return };
        session.shown.hide(edge, at.1);
        for served in session.served.values() {
            withdraw(edge, served);
        }
        for process in &session.processes {
            forget(&mut self.by_process, process, at);
        }
        forget(&mut self.by_account, &session.report.account, at);
        forget(&mut self.by_credential, &session.report.credential, at);
    }

    /// Brings the routes to what the session offers. `is_stale`: whether an endpoint is to be made anew though nothing else
    /// is said of it.
    fn serve(
        &mut self,
        edge: &Edge,
        at: (EdgeId, TunnelSessionId),
        tables: &Tables,
        has: &Has,
        is_stale: &dyn Fn(&Endpoint) -> bool,
    ) {
        let Some(peer) = self.peers.get_mut(&at.0) else { return };
        let way = &peer.way.session;
        let Some(session) = peer.sessions.get_mut(&at.1) else { return };
        let report = Arc::clone(&session.report);
        session.served.retain(|id, served| {
            let stays = report.endpoints.contains_key(id);
            if !stays {
                withdraw(edge, served);
            }
            stays
        });
        for (id, said) in &report.endpoints {
            if session.shown.is_superseded(*id) {
                continue;
            }
            if let Some(served) = session.served.get_mut(id)
                && served.is_as(said, &report)
                && !is_stale(&served.endpoint)
                && offered::may_stay(tables, &report, &served.endpoint)
            {
                told_of_health(edge, &served.endpoint, said);
                served.from = Arc::clone(&report);
                continue;
            }
            let mut before = session.served.remove(id);
            let place = Elsewhere {
                edge: at.0,
                account: report.account,
                session: at.1,
                endpoint: *id,
                passes_bare: offered::passes_bare(tables, &report),
            };
            let endpoint = before.as_ref().map(|served| served.endpoint.as_ref());
            let own_tls = session.own_tls.get(id);
            let offer = Offer { way, at: place, session: &report, report: said, own_tls, before: endpoint };
            match offer.endpoint(tables, has) {
                Ok(endpoint) if peer.older.is_some() && shown::at_home(edge, &endpoint).is_some() => {
                    session.shown.supersede(endpoint);
                    if let Some(served) = before {
                        withdraw(edge, &served);
                    }
                }
                Ok(endpoint) => {
                    let mut lent_port = None;
                    match before.take() {
                        Some(served) if served.endpoint.url == endpoint.url => lent_port = served.lent_port,
                        Some(served) => {
                            withdraw(edge, &served);
                            edge.metrics.peer_endpoints.inc();
                        }
                        None => drop(edge.metrics.peer_endpoints.inc()),
                    }
                    let lent_port = lent_port.or_else(|| lend(edge, &endpoint, said, peer.older.is_some()));
                    told_of_health(edge, &endpoint, said);
                    edge.routes.put(Arc::clone(&endpoint));
                    edge.occupant_changed(&endpoint);
                    if let Some(process) = process_of(&endpoint) {
                        self.by_process.entry(process.clone()).or_default().insert(at);
                        session.processes.insert(process);
                    }
                    let from = Arc::clone(&report);
                    session.served.insert(*id, Served { endpoint, lent_port, from });
                }
                Err(refusal) => {
                    tracing::info!(peer = %at.0, endpoint = %id, url = %said.url, reason = refusal.message, "an endpoint elsewhere is not served here");
                    if let Some(served) = before {
                        withdraw(edge, &served);
                    }
                }
            }
        }
        // An agent may bind under ever new names, which are kept a while for when it comes back.
        if session.processes.len() > ENDPOINTS_MAX {
            let now: BTreeSet<_> =
                session.served.values().filter_map(|served| process_of(&served.endpoint)).collect();
            for gone in session.processes.difference(&now) {
                forget(&mut self.by_process, gone, at);
            }
            session.processes = now;
        }
    }

    /// Withdraws what the feed has not named, if no other feed has begun since.
    fn sweep(&mut self, edge: &Edge, feed: u64) {
        if self.feed != feed {
            return;
        }
        let unnamed: Vec<_> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.named != feed && peer.older.is_none())
            .map(|(id, _)| *id)
            .collect();
        for gone in unnamed {
            self.gone(edge, gone);
        }
        let edges = self.peers.iter().filter(|(_, peer)| peer.older.is_none());
        let sessions = edges.flat_map(|(id, peer)| {
            let unnamed = peer.sessions.iter().filter(|(_, session)| session.named != feed);
            unnamed.map(|(session, _)| (*id, *session))
        });
        let sessions: Vec<_> = sessions.collect();
        for at in sessions {
            self.ended(edge, at);
        }
    }
}

/// Keeps operators' words in a report that is accepted; gives the members on which they are news.
fn hear_drains(edge: &Edge, report: &SessionReport) -> Vec<String> {
    let said = report.endpoints.values().filter_map(|endpoint| endpoint.drain.as_ref());
    let news = said
        .filter(|said| said.word().is_some_and(|word| edge.drains.hear(report.account, &said.member, word)));
    news.map(|said| said.member.clone()).collect()
}

/// Has shards connect to the edge.
fn open_ways(edge: &Edge, way: &Arc<PeerWay>) {
    for shard in 0..edge.mailboxes.shards().min(WAYS_MAX) {
        if edge.mailboxes.send(shard, Message::Peer(Arc::clone(way))).is_err() {
            tracing::error!(shard, peer = %way.edge, "a shard does not connect to another edge");
        }
    }
}

fn forget<K: Ord>(
    index: &mut BTreeMap<K, BTreeSet<(EdgeId, TunnelSessionId)>>,
    key: &K,
    at: (EdgeId, TunnelSessionId),
) {
    if let Some(all) = index.get_mut(key) {
        all.remove(&at);
        if all.is_empty() {
            index.remove(key);
        }
    }
}

fn withdraw(edge: &Edge, Served { endpoint, lent_port, .. }: &Served) {
    edge.metrics.peer_endpoints.dec();
    edge.routes.remove(endpoint);
    edge.occupant_changed(endpoint);
    if let Some(port) = lent_port {
        edge.give_port_back(*port);
    }
}

/// Opens the port that the other edge lent, so that visitors find the endpoint here too. None: it needs none, or another
/// endpoint has the port here.
fn lend(edge: &Edge, endpoint: &Endpoint, said: &AgentEndpointReport, is_older: bool) -> Option<u16> {
    let is_lent = said.elsewhere.as_ref().is_some_and(|elsewhere| elsewhere.lent_port);
    let port = Some(endpoint.url.port());
    let lend = || if is_older { edge.lend_port_again(port) } else { edge.lend_port(port) };
    is_lent.then(lend).flatten()
}

/// The name of the process that serves an endpoint.
fn process_of(endpoint: &Endpoint) -> Option<Box<str>> {
    let Kind::Agent(agent) = &endpoint.kind else { return None };
    agent.process().map(Into::into)
}

/// Takes over what the agent's own edge knows of its upstream, as far as the agent or an operator says it: that it is not reached, that
/// checks fail, that it is drained. An ejection is the judgement of the edge that made it; this one makes its own.
fn told_of_health(edge: &Edge, endpoint: &Endpoint, said: &AgentEndpointReport) {
    let Kind::Agent(agent) = &endpoint.kind else { return };
    let now = Instant::now();
    match (said.upstream_refused, agent.health.is_aside()) {
        (true, false) => agent.health.refused(now),
        (false, true) => agent.health.answered(now),
        _ => {}
    }
    let fails_checks = said.drain.as_ref().is_some_and(|said| said.unhealthy);
    agent.health.told(now, said.health.state != HealthState::Unhealthy && !fails_checks);
    if let Some(said) = &said.drain {
        take_word(edge, endpoint, said);
    }
}

/// Takes over the operator's last word that this edge has heard on a member.
fn take_word(edge: &Edge, endpoint: &Endpoint, said: &DrainReport) {
    if let Kind::Agent(agent) = &endpoint.kind {
        agent.health.set_drain(Instant::now(), edge.drains.get(endpoint.account, &said.member));
    }
}
