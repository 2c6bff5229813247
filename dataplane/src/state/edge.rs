//! `Edge`: what all shards share. Tables, routes, counters, ports, and the shards' mailboxes.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use ebbgate_model::event::{ConnectionEvent, NotEnforced};
use ebbgate_model::feed::FromEdge;
use ebbgate_model::{Binding, Scheme, TunnelSessionId};
use ebbgate_policy::identity::Endpoints;
use ebbgate_tunnel::quic::{Port, ServerKeys};
use ebbgate_wire::ticket::TicketKey;
use tokio::runtime::Handle;
use tokio::sync::{Mutex as AsyncMutex, mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::log::{self, Refusals, Sum};
use crate::net::handshakes::{Handshakes, OF_SHARD_PER_SEC};
use crate::net::hello::NoHello;
use crate::net::listen::{AcceptGate, ConnLimits};
use crate::relay::IdleLimits;
use crate::state::addresses::Addresses;
use crate::state::balancers::Balancers;
use crate::state::blocklist::Blocklist;
use crate::state::breakers::Breakers;
use crate::state::changes::Changes;
use crate::state::drains::Drains;
use crate::state::endpoint::Endpoint;
use crate::state::exchanges::Exchanges;
use crate::state::external_calls::ExternalCalls;
use crate::state::guesses::Guesses;
use crate::state::jwks::{Fetcher, Keys};
use crate::state::mailbox::{Entrance, Mailboxes, Message, QuicSocket};
use crate::state::metrics::{CodeLabel, Metrics, NotEnforcedLabel, ReasonLabel};
use crate::state::older::OlderProcesses;
use crate::state::peers::PeerEdges;
use crate::state::ports::{PortChange, Ports};
use crate::state::rate_limits::RateLimits;
use crate::state::report::Reports;
use crate::state::route::RouteTable;
use crate::state::shares::Shares;
use crate::state::tables::Tables;
use crate::state::waf::Waf;
use crate::state::{clock, random};
use crate::tunnel::health::{Health, OutlierLimits};

/// The shard that has the UDP socket: one, because a connection's packets would miss another when its address changes.
const QUIC_SHARD: usize = 0;

/// Requests that policies of all accounts may have on their way at a time, and those of one account.
pub const CALLS_MAX: usize = 8_192;
/// See [`CALLS_MAX`].
pub const CALLS_OF_ACCOUNT_MAX: usize = 512;
/// Bytes of bodies that may be held for policies of all accounts at a time, and for those of one account.
pub const HELD_BYTES_MAX: usize = 512 << 20;
/// See [`HELD_BYTES_MAX`].
pub const HELD_BYTES_OF_ACCOUNT_MAX: usize = 64 << 20;
/// Bytes of memory that decoders and encoders of changed bodies of all accounts may use at a time, and those of one account.
pub const CODER_BYTES_MAX: usize = 1 << 30;
/// See [`CODER_BYTES_MAX`].
pub const CODER_BYTES_OF_ACCOUNT_MAX: usize = 256 << 20;

/// Streams from other edges at a time, for all accounts and for one.
pub const PEER_STREAMS_MAX: usize = 65_536;
/// See [`PEER_STREAMS_MAX`].
pub const PEER_STREAMS_OF_ACCOUNT_MAX: usize = 8_192;

/// Waits that an operator may set, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waits {
    /// A relay may carry nothing for this long.
    pub relay_idle_secs: u64,
    /// A relay of which one direction has ended may carry nothing for this long.
    pub half_closed_secs: u64,
}

impl Waits {
    /// The relay's limits.
    pub fn idle(self) -> IdleLimits {
        IdleLimits { open_ms: self.relay_idle_secs * 1000, half_closed_ms: self.half_closed_secs * 1000 }
    }
}

/// What all shards share.
pub struct Edge {
    /// The Program in force.
    pub tables: ArcSwap<Tables>,
    /// Endpoints that are online.
    pub routes: RouteTable,
    /// The other edges of the installation.
    pub peers: PeerEdges,
    /// Processes of this edge that have handed over.
    pub older: OlderProcesses,
    /// Databases of addresses.
    pub addresses: Arc<Addresses>,
    /// How many connections may be open.
    pub limits: Arc<ConnLimits>,
    /// When handshakes of agents may begin.
    pub handshakes: Handshakes,
    /// Counters.
    pub metrics: Metrics,
    /// The outbox to control.
    pub reports: Reports,
    /// What operators said of members of pools.
    pub drains: Arc<Drains>,
    /// Key sets of policies.
    pub keys: Keys,
    /// Requests to identity providers, and for certificates of webhook senders.
    pub exchanges: Exchanges,
    /// Requests of policies to hosts of the internet. None: the operator does not allow them.
    pub external_calls: Option<ExternalCalls>,
    /// Makes requests to the internet on behalf of policies.
    pub fetcher: Arc<Fetcher>,
    /// What policies are told of this edge to make visitors' sessions with.
    pub visitors: Visitors,
    /// Requests of each bucket that policies limit.
    pub rate_limits: RateLimits,
    /// The Core Rule Set, if the operator gave one.
    pub waf: Option<Waf>,
    /// Circuits of policies.
    pub breakers: Breakers,
    /// Wrong passwords.
    pub guesses: Guesses,
    /// Requests that policies make.
    pub calls: Shares,
    /// Bytes of bodies that are held for policies.
    pub held: Shares,
    /// Bytes of memory that decoders and encoders of changed bodies use.
    pub coders: Shares,
    /// Streams of other edges' visitors to agents of this edge.
    pub peer_streams: Shares,
    /// Seals cookies and bind tokens.
    pub tickets: TicketKey,
    /// Waits that an operator may set.
    pub waits: Waits,
    /// The shards' mailboxes.
    pub mailboxes: Mailboxes,
    /// When endpoints are ejected for errors, and how slowly they come back.
    pub outliers: OutlierLimits,
    /// Whether listeners accept.
    pub gate: AcceptGate,
    /// Held while what control tells is put in force, and while another process reads what is on disk.
    pub changing: Arc<AsyncMutex<()>>,
    /// Load balancers before this edge.
    pub balancers: Balancers,
    /// Networks that no listener serves.
    pub blocklist: Arc<ArcSwap<Blocklist>>,
    /// Changes of what is served and where.
    pub changes: Arc<Changes>,
    /// The runtime of everything that is no visitor's traffic.
    pub background: Handle,
    ports: Mutex<Ports>,
    refusals: Mutex<Refusals>,
    ejecting: Mutex<()>,
    quic: OnceLock<QuicListener>,
    stage: watch::Sender<Stage>,
    drained: watch::Sender<bool>,
}

/// What policies are told of this edge to make visitors' sessions with.
#[derive(Debug, Clone, Default)]
pub struct Visitors {
    /// The edge's own name, the same after a restart.
    pub edge: String,
    /// Identity providers that the operator put in the place of published ones.
    pub providers: Arc<BTreeMap<String, Endpoints>>,
}

/// The UDP socket for agents.
pub struct QuicListener {
    /// Its address.
    pub address: SocketAddr,
    /// A copy of the socket, for a successor.
    pub socket: UdpSocket,
    /// When it is read.
    pub port: Port,
}

/// How far the edge has come towards its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Not at all.
    Serving,
    /// Another process accepts in its place; what has begun here goes on, and each connection of HTTP ends with its next answer.
    HandedOver,
    /// Nothing new is accepted; requests and connections in flight go on.
    Draining,
    /// Agents are asked to disconnect.
    Ending,
    /// Shards stop.
    Stopped,
}

impl Edge {
    /// An edge without Program, listeners and shards, and its events for control. `ports` are reserved ones, none open. Call
    /// inside the runtime of everything that is no visitor's traffic.
    pub fn new(
        limits: Arc<ConnLimits>,
        fetcher: Fetcher,
        tickets: TicketKey,
        waits: Waits,
        ports: Ports,
    ) -> (Self, mpsc::Receiver<FromEdge>) {
        let metrics = Metrics::new();
        let (reports, events) = Reports::new(metrics.events_dropped.clone());
        let background = Handle::current();
        let fetcher = Arc::new(fetcher);
        let edge = Self {
            tables: ArcSwap::default(),
            routes: RouteTable::default(),
            peers: PeerEdges::default(),
            older: OlderProcesses::default(),
            limits,
            handshakes: Handshakes::new(OF_SHARD_PER_SEC),
            keys: Keys::new(Arc::clone(&fetcher), background.clone(), &metrics),
            exchanges: Exchanges::new(Arc::clone(&fetcher), background.clone(), &metrics),
            external_calls: None,
            fetcher,
            visitors: Visitors::default(),
            breakers: Breakers::new(&metrics.circuits_opened),
            guesses: Guesses::default(),
            calls: Shares::new(CALLS_MAX, CALLS_OF_ACCOUNT_MAX, &metrics.calls_refused),
            held: Shares::new(HELD_BYTES_MAX, HELD_BYTES_OF_ACCOUNT_MAX, &metrics.bodies_refused),
            coders: Shares::told(
                CODER_BYTES_MAX,
                CODER_BYTES_OF_ACCOUNT_MAX,
                &metrics.coders_refused,
                &metrics.coder_bytes,
            ),
            peer_streams: Shares::new(
                PEER_STREAMS_MAX,
                PEER_STREAMS_OF_ACCOUNT_MAX,
                &metrics.peer_streams_refused,
            ),
            reports,
            drains: Arc::default(),
            metrics,
            rate_limits: RateLimits::default(),
            waf: None,
            tickets,
            waits,
            mailboxes: Mailboxes::default(),
            gate: AcceptGate::new(true),
            changing: Arc::default(),
            addresses: Arc::default(),
            outliers: OutlierLimits::default(),
            balancers: Balancers::default(),
            blocklist: Arc::default(),
            changes: Arc::default(),
            background,
            ports: Mutex::new(ports),
            refusals: Mutex::default(),
            ejecting: Mutex::default(),
            quic: OnceLock::new(),
            stage: watch::Sender::new(Stage::Serving),
            drained: watch::Sender::new(false),
        };
        (edge, events)
    }

    /// What a QUIC server of this edge keeps over restarts, for a process of this generation.
    pub fn quic_keys(&self, generation: u8) -> ServerKeys {
        ServerKeys::new(&self.tickets.derive("quic stateless reset"), generation)
    }

    /// Has the first shard serve agents that come over QUIC; once.
    pub fn listen_quic(&self, socket: UdpSocket, keys: ServerKeys, port: Port) -> io::Result<SocketAddr> {
        let address = socket.local_addr()?;
        let copy = socket.try_clone()?;
        let served = QuicSocket { socket, keys, port: port.clone() };
        if self.mailboxes.send(QUIC_SHARD, Message::Quic(Box::new(served))).is_err() {
            return Err(io::Error::other("the first shard does not take the UDP socket"));
        }
        Ok(self.quic.get_or_init(|| QuicListener { address, socket: copy, port }).address)
    }

    /// The UDP socket for agents, if they may come over QUIC.
    pub fn quic(&self) -> Option<&QuicListener> {
        self.quic.get()
    }

    /// Whether agents may come over QUIC.
    pub fn serves_quic(&self) -> bool {
        self.quic.get().is_some()
    }

    /// Whether the blocklist refuses a source.
    pub fn is_blocked(&self, source: IpAddr) -> bool {
        self.blocklist.load().contains(source)
    }

    /// Generation in force; 0 without a Program.
    pub fn generation(&self) -> u64 {
        self.tables.load().generation
    }

    /// Tries again to bind ports that were taken.
    pub fn retry_ports(&self) {
        if self.stage() > Stage::Serving {
            return;
        }
        let (changes, _) = self.ports().retry();
        self.change_ports(changes);
    }

    /// Opens and closes ports until they are those of the reserved addresses: these ports, of which some came or went.
    pub fn sync_ports(&self, tables: &Tables, ports: &BTreeSet<u16>) {
        // They are a successor's then.
        if self.stage() > Stage::Serving {
            return;
        }
        let host = |port: u16| tables.addresses_at(port).next().map(|address| address.host.clone());
        let (changes, errors) = self.ports().sync(ports.iter().map(|port| (*port, host(*port))));
        for error in errors {
            tracing::error!(%error, "a reserved address is not served");
        }
        self.change_ports(changes);
    }

    fn change_ports(&self, changes: Vec<PortChange>) {
        if changes.is_empty() {
            return;
        }
        for change in changes {
            self.change_port(change);
        }
        self.changes.note();
    }

    /// Lends an agent a port; see [`Ports::lend`]. None: none is configured or free.
    pub fn lend_port(&self, wanted: Option<u16>) -> Option<u16> {
        self.gate.is_open().then(|| self.lend_port_again(wanted)).flatten()
    }

    /// The same, also before the listeners accept: for the port of an endpoint that an older process goes on serving.
    pub fn lend_port_again(&self, wanted: Option<u16>) -> Option<u16> {
        if self.stage() > Stage::Serving {
            return None;
        }
        let tables = self.tables.load();
        let settings = &tables.settings;
        let (range, host) = (settings.random_tcp_ports.clone()?, settings.tcp_host.clone()?);
        let (port, change) = self.ports().lend(range, &host, wanted, random::number()).ok()?;
        self.change_port(change);
        self.changes.note();
        Some(port)
    }

    /// Takes a lent port back.
    pub fn give_port_back(&self, port: u16) {
        let change = self.ports().give_back(port);
        if let Some(change) = change {
            self.change_port(change);
            self.changes.note();
        }
    }

    /// The ports that are open.
    pub fn ports(&self) -> MutexGuard<'_, Ports> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An agent's endpoint was added or removed: a port may have another owner now.
    pub fn occupant_changed(&self, endpoint: &Endpoint) {
        if endpoint.url.scheme() == Scheme::Tcp && endpoint.binding == Binding::Public {
            self.changes.note();
        }
    }

    fn change_port(&self, change: PortChange) {
        match change {
            PortChange::Open { host, port, listeners } => {
                self.mailboxes.listen(&Entrance::Tcp { host, port }, listeners);
            }
            PortChange::Close { port } => self.mailboxes.close(port),
        }
    }

    /// Control takes the edge out of service, or puts it into service again.
    pub fn set_drained(&self, drained: bool) {
        self.drained.send_if_modified(|now| std::mem::replace(now, drained) != drained);
    }

    /// Whether control took the edge out of service; it serves what comes all the same.
    pub fn is_drained(&self) -> bool {
        *self.drained.borrow()
    }

    /// The same as it changes.
    pub fn drained(&self) -> watch::Receiver<bool> {
        self.drained.subscribe()
    }

    /// Enters a stage of the end; never goes back.
    pub fn enter(&self, stage: Stage) {
        self.stage.send_if_modified(|now| {
            let later = stage > *now;
            *now = (*now).max(stage);
            later
        });
        if stage > Stage::Serving {
            self.mailboxes.listening.clear();
        }
    }

    /// The stage the edge is in.
    pub fn stage(&self) -> Stage {
        *self.stage.borrow()
    }

    /// Completes when the edge has entered a stage.
    pub fn reached(&self, stage: Stage) -> impl Future<Output = ()> + use<> {
        let mut now = self.stage.subscribe();
        async move {
            // An error means that the edge is gone, which is later still.
            let _ = now.wait_for(|now| *now >= stage).await;
        }
    }

    /// Whether a refusal of this source may have a line in the log; counts it either way.
    pub fn refusal_has_line(&self, source: IpAddr) -> bool {
        let (has_line, sums) = {
            let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
            let now_ms = clock::unix_ms();
            let sums = refusals.take(now_ms);
            (refusals.count(source, now_ms), sums)
        };
        if !has_line {
            self.metrics.refusals_summed.inc();
        }
        log_sums(sums);
        has_line
    }

    /// Counts a stranger that introduced itself as a load balancer would.
    pub fn note_no_hello(&self, refusal: &NoHello) {
        if matches!(refusal, NoHello::ProxyHeader) {
            self.metrics.proxy_headers_refused.get_or_create(&ReasonLabel { reason: "stranger" }).inc();
        }
    }

    /// How an endpoint of a session fares has changed: control is told now, or a little later if it was told a moment ago.
    pub fn health_changed(self: &Arc<Self>, session: TunnelSessionId) {
        let Some(due) = self.reports.health_changed(session, Instant::now()) else { return };
        let edge = Arc::downgrade(self);
        self.background.spawn(async move {
            sleep_until(due).await;
            if let Some(edge) = edge.upgrade() {
                edge.reports.health_due(session, Instant::now());
            }
        });
    }

    /// Ejects a member that answered too many errors, unless as much of its pool is ejected as may be.
    pub fn eject(&self, endpoint: &Endpoint, health: &Arc<Health>) {
        let url = &endpoint.url;
        let pool = match endpoint.binding {
            Binding::Public => self.routes.public(url.scheme(), url.host(), url.port()).map(|(_, pool)| pool),
            _ => self.routes.internal(endpoint.account, url),
        };
        let Some(pool) = pool.filter(|pool| pool.members().len() > 1) else { return };
        let until = {
            // Two shards could each find room for the last member that may be ejected.
            let _one_at_a_time = self.ejecting.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            if !self.outliers.let_go(pool.members().len(), pool.ejected(now)) {
                self.metrics.ejections_held.inc();
                return;
            }
            health.eject(now, &self.outliers)
        };
        self.metrics.ejections.inc();
        let health = Arc::downgrade(health);
        self.background.spawn(async move {
            sleep_until(until).await;
            if let Some(health) = health.upgrade() {
                health.settle(Instant::now());
            }
        });
    }

    /// Writes the sums of refusals without lines: those of a minute that is over, or `all`.
    pub fn log_refusals(&self, all: bool) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let sums = if all { refusals.take_all() } else { refusals.take(clock::unix_ms()) };
        drop(refusals);
        log_sums(sums);
    }

    /// Counts what policies came to that are not enforced.
    pub fn count_not_enforced(&self, told: &[NotEnforced]) {
        for told in told {
            self.metrics.not_enforced.get_or_create(&NotEnforcedLabel::of(told)).inc();
        }
    }

    /// The record of a connection that has ended; `refused`: by the edge, before it reached an endpoint.
    pub fn connection_done(&self, mut event: ConnectionEvent, refused: bool) {
        let code = event.error.map_or_else(|| "none".to_owned(), |c| c.to_string());
        self.metrics.connections_ended.get_or_create(&CodeLabel { code }).inc();
        self.metrics.bytes_received.inc_by(event.bytes_in);
        self.metrics.bytes_sent.inc_by(event.bytes_out);
        self.count_not_enforced(&event.not_enforced);
        log::shorten_policy_logs(&mut event.policy_logs);
        let source = event.client.parse::<SocketAddr>().ok().filter(|_| refused);
        let has_line = source.is_none_or(|client| self.refusal_has_line(client.ip()));
        if has_line && !log::connection(&event) {
            self.metrics.log_lines_lost.inc();
        }
        self.reports.event(FromEdge::Connection(Box::new(event)));
    }
}

fn log_sums(sums: Vec<Sum>) {
    for Sum { source, refused } in sums {
        let source = source.map_or_else(|| "others".to_owned(), |source| source.to_string());
        tracing::info!(
            source,
            refused,
            "more connections or requests of a source were refused, without a line each"
        );
    }
}
