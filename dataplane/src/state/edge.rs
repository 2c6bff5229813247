//! `Edge`: what all shards share. Tables, routes, sessions, counters, and the shards' mailboxes.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use aws_lc_rs::rand;
use ebbgate_model::event::ConnectionEvent;
use ebbgate_model::feed::{CommandOutcome, FromEdge, SessionCommand};
use ebbgate_model::{Binding, Host, Ksuid, Scheme, TunnelSessionId};
use ebbgate_wire::ticket::TicketKey;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use crate::agents::{self, AuthFailures, Sessions, WaitingLogins};
use crate::log::{self, Refusals, Sum};
use crate::net::listen::{Caps, Listener};
use crate::relay::IdleLimits;
use crate::shard::{Entrance, Message};
use crate::state::endpoint::{Endpoint, Kind};
use crate::state::jwks::Keys;
use crate::state::metrics::{CodeLabel, Metrics};
use crate::state::ports::{PortChange, Ports};
use crate::state::report::Reports;
use crate::state::route::RouteTable;
use crate::state::tables::Tables;
use crate::xdp::owned::{Listening, Occupant};
use crate::xdp::{Guard, Wanted};

/// Random bytes a thread draws at once.
const DRAWN_BYTES: usize = 512;
/// Messages waiting for one shard.
const MAILBOX_MAX: usize = 4096;
/// The shard that has the UDP socket: one, because a connection's packets would miss another when its address changes.
const QUIC_SHARD: usize = 0;

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
    /// Who is online.
    pub routes: RouteTable,
    /// Agents' sessions.
    pub sessions: Sessions,
    /// Sources that fail to authenticate.
    pub auth_failures: AuthFailures,
    /// Logins whose tokens are not known yet.
    pub waiting_logins: WaitingLogins,
    /// How many connections may be open.
    pub caps: Arc<Caps>,
    /// Counters.
    pub metrics: Metrics,
    /// The outbox to control.
    pub reports: Reports,
    /// Key sets of policies.
    pub keys: Keys,
    /// Seals cookies and bind tokens.
    pub tickets: TicketKey,
    /// Waits that an operator may set.
    pub waits: Waits,
    /// The kernel's filter, and the blocklist.
    pub guard: Guard,
    /// The runtime of everything that is no visitor's traffic.
    pub background: Handle,
    ports: Mutex<Ports>,
    refusals: Mutex<Refusals>,
    mailboxes: OnceLock<Vec<mpsc::Sender<Message>>>,
    quic: OnceLock<SocketAddr>,
    stage: watch::Sender<Stage>,
}

/// What [`Edge::new`] cannot make itself.
pub struct Parts {
    /// See [`Edge::caps`].
    pub caps: Arc<Caps>,
    /// See [`Edge::metrics`].
    pub metrics: Metrics,
    /// See [`Edge::reports`].
    pub reports: Reports,
    /// See [`Edge::keys`].
    pub keys: Keys,
    /// See [`Edge::tickets`].
    pub tickets: TicketKey,
    /// See [`Edge::waits`].
    pub waits: Waits,
    /// See [`Edge::guard`].
    pub guard: Guard,
    /// See [`Edge::background`].
    pub background: Handle,
    /// Reserved ports, none open.
    pub ports: Ports,
}

/// How far the edge has come towards its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Not at all.
    Serving,
    /// Nothing new is accepted; requests and connections in flight go on.
    Draining,
    /// Agents are told to go.
    Ending,
    /// Shards stop.
    Stopped,
}

impl Edge {
    /// An edge without Program, listeners and shards.
    pub fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self {
            tables: ArcSwap::default(),
            routes: RouteTable::default(),
            sessions: Sessions::default(),
            auth_failures: AuthFailures::default(),
            waiting_logins: WaitingLogins::default(),
            caps: parts.caps,
            metrics: parts.metrics,
            reports: parts.reports,
            keys: parts.keys,
            tickets: parts.tickets,
            waits: parts.waits,
            guard: parts.guard,
            background: parts.background,
            ports: Mutex::new(parts.ports),
            refusals: Mutex::default(),
            mailboxes: OnceLock::new(),
            quic: OnceLock::new(),
            stage: watch::Sender::new(Stage::Serving),
        })
    }

    /// Makes the mailboxes of the shards; once, before they start.
    pub fn mailboxes(&self, shards: usize) -> Vec<mpsc::Receiver<Message>> {
        let (senders, receivers) = (0..shards).map(|_| mpsc::channel(MAILBOX_MAX)).unzip();
        self.mailboxes.get_or_init(|| senders);
        receivers
    }

    /// Gives every shard its socket of an entrance.
    pub fn listen(&self, entrance: &Entrance, listeners: Vec<Listener>) {
        for (shard, listener) in listeners.into_iter().enumerate() {
            // Full only if the shard is stuck; then its share of the socket is closed and the others serve.
            if self.send(shard, Message::Listen(entrance.clone(), listener)).is_err() {
                tracing::error!(shard, ?entrance, "a shard does not take a listener");
            }
        }
    }

    /// Has the first shard serve agents that come over QUIC; once.
    pub fn listen_quic(&self, socket: UdpSocket) -> io::Result<SocketAddr> {
        let address = socket.local_addr()?;
        if self.send(QUIC_SHARD, Message::Quic(socket)).is_err() {
            return Err(io::Error::other("the first shard does not take the UDP socket"));
        }
        Ok(*self.quic.get_or_init(|| address))
    }

    /// Whether agents may come over QUIC.
    pub fn serves_quic(&self) -> bool {
        self.quic.get().is_some()
    }

    /// Leaves a message for a shard; gives it back when the shard is gone or its mailbox is full.
    pub fn send(&self, shard: usize, message: Message) -> Result<(), Message> {
        match self.mailboxes.get().and_then(|all| all.get(shard)) {
            None => Err(message),
            Some(mailbox) => mailbox.try_send(message).map_err(|e| match e {
                mpsc::error::TrySendError::Full(m) | mpsc::error::TrySendError::Closed(m) => m,
            }),
        }
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.mailboxes.get().map_or(0, Vec::len)
    }

    /// A session has ended: its links go on every shard. A shard that takes no message finds out by itself.
    pub fn end_links(&self, session: TunnelSessionId) {
        for shard in 0..self.shards() {
            let _ = self.send(shard, Message::EndLinks(session));
        }
    }

    /// Puts Tables in force: tables, ports, sessions and endpoints that may no longer be, and then what is new: nobody shares
    /// a URL with the account that had it before.
    pub fn install(self: &Arc<Self>, tables: Tables) {
        let old = self.tables.load_full();
        let new = Arc::new(tables);
        self.tables.store(Arc::clone(&new));
        self.sync_ports(&new);
        agents::recheck(self, &old, &new);
        let stays = |id, before: &Endpoint| {
            new.cloud.get(id).is_some_and(|now| now.url == before.url && now.binding == before.binding)
        };
        for (_, gone) in old.cloud.iter().filter(|(id, before)| !stays(*id, before)) {
            self.routes.remove(gone);
        }
        for (id, endpoint) in &new.cloud {
            if !old.cloud.get(id).is_some_and(|before| Arc::ptr_eq(before, endpoint)) {
                self.routes.put(Arc::clone(endpoint));
            }
        }
        self.guard.look();
        self.metrics.generation.set(i64::try_from(new.program.generation).unwrap_or(i64::MAX));
        self.metrics.objects_unserved.set(i64::try_from(new.unserved.len()).unwrap_or(i64::MAX));
        let fresh = new.unserved.iter().filter(|(object, reason)| old.unserved.get(*object) != Some(*reason));
        for (object, reason) in fresh {
            tracing::error!(object, reason, "this object cannot be served and is closed");
        }
    }

    /// Generation in force; 0 without a Program.
    pub fn generation(&self) -> u64 {
        self.tables.load().program.generation
    }

    /// Tries again to bind ports that were taken.
    pub fn retry_ports(&self) {
        self.sync_ports(&self.tables.load());
        self.guard.look();
    }

    fn sync_ports(&self, tables: &Tables) {
        let (changes, errors) = self.ports().sync(&tables.program);
        for change in changes {
            self.change_port(change);
        }
        for error in errors {
            tracing::error!(%error, "a reserved address is not served");
        }
    }

    /// Lends an agent a port; see [`Ports::lend`]. None: none is configured or free.
    pub fn lend_port(&self, wanted: Option<u16>) -> Option<u16> {
        let tables = self.tables.load();
        let settings = &tables.program.settings;
        let (range, host) = (settings.random_tcp_ports.clone()?, settings.tcp_host.clone()?);
        let (port, change) = self.ports().lend(range, &host, wanted, self.random()).ok()?;
        self.change_port(change);
        self.guard.look();
        Some(port)
    }

    /// Takes a lent port back.
    pub fn give_port_back(&self, port: u16) {
        let change = self.ports().give_back(port);
        if let Some(change) = change {
            self.change_port(change);
            self.guard.look();
        }
    }

    fn ports(&self) -> MutexGuard<'_, Ports> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the kernel guards what this edge listens on; `shared` are its fixed listeners.
    pub fn begin_guard(self: &Arc<Self>, shared: Vec<SocketAddr>) {
        let edge = Arc::downgrade(self);
        self.guard.begin(move || edge.upgrade()?.wanted(shared.clone()));
    }

    /// An agent's endpoint came or went: who stands alone at a port may be another now.
    pub fn occupant_changed(&self, endpoint: &Endpoint) {
        if endpoint.url.scheme() == Scheme::Tcp && endpoint.binding == Binding::Public {
            self.guard.look();
        }
    }

    fn wanted(&self, shared: Vec<SocketAddr>) -> Option<Wanted> {
        let tables = self.tables.load_full();
        if tables.program.generation == 0 {
            return None;
        }
        let ports = self.ports();
        let tcp = ports.open().map(|(port, host)| (port, self.occupant(host, port))).collect();
        let listening = Listening { shared, tcp_bind: ports.address(), tcp };
        Some(Wanted { tables, listening })
    }

    fn occupant(&self, host: &Host, port: u16) -> Occupant {
        let Some((_, pool)) = self.routes.public(Scheme::Tcp, host, port) else { return Occupant::Nobody };
        match pool.members() {
            [one] if matches!(one.kind, Kind::Cloud) && !one.pooling_enabled => Occupant::Alone(one.id),
            _ => Occupant::Others,
        }
    }

    fn change_port(&self, change: PortChange) {
        match change {
            PortChange::Open { host, port, listeners } => {
                self.listen(&Entrance::Tcp { host, port }, listeners);
            }
            PortChange::Close { port } => {
                for shard in 0..self.shards() {
                    if self.send(shard, Message::Close(port)).is_err() {
                        tracing::error!(shard, port, "a shard does not close a port");
                    }
                }
            }
        }
    }

    /// Asks an agent to do something, in the background, and tells control what it said.
    pub fn command(self: &Arc<Self>, session: TunnelSessionId, command: SessionCommand, number: u64) {
        let edge = Arc::clone(self);
        let found = self.sessions.get(session);
        self.background.spawn(async move {
            let outcome = if let Some(session) = found {
                agents::command(session, command).await
            } else {
                tracing::info!(%session, "a command for a session that is not here");
                CommandOutcome::Failed { reason: "the session has ended".into() }
            };
            edge.reports.event(FromEdge::CommandAnswer { number, outcome });
        });
    }

    /// Enters a stage of the end; never goes back.
    pub fn enter(&self, stage: Stage) {
        self.stage.send_if_modified(|now| {
            let later = stage > *now;
            *now = (*now).max(stage);
            later
        });
    }

    /// The stage the edge is in.
    pub fn stage(&self) -> Stage {
        *self.stage.borrow()
    }

    /// Completes when the edge has entered a stage.
    pub fn reached(&self, stage: Stage) -> impl Future<Output = ()> + 'static {
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
            let now_ms = self.now_unix_ms();
            let sums = refusals.take(now_ms);
            (refusals.count(source, now_ms), sums)
        };
        if !has_line {
            self.metrics.refusals_summed.inc();
        }
        log_sums(sums);
        has_line
    }

    /// Writes the sums of refusals without lines: those of a minute that is over, or `all`.
    pub fn log_refusals(&self, all: bool) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let sums = if all { refusals.take_all() } else { refusals.take(self.now_unix_ms()) };
        drop(refusals);
        log_sums(sums);
    }

    /// The record of a connection that has ended; `refused`: by the edge, before it reached an endpoint.
    pub fn connection_done(&self, mut event: ConnectionEvent, refused: bool) {
        let code = event.error.map_or_else(|| "none".to_owned(), |c| c.to_string());
        self.metrics.connections_ended.get_or_create(&CodeLabel { code }).inc();
        self.metrics.bytes_received.inc_by(event.bytes_in);
        self.metrics.bytes_sent.inc_by(event.bytes_out);
        log::shorten_policy_logs(&mut event.policy_logs);
        let source = event.client.parse::<SocketAddr>().ok().filter(|_| refused);
        let has_line = source.is_none_or(|client| self.refusal_has_line(client.ip()));
        if has_line && !log::connection(&event) {
            self.metrics.log_lines_lost.inc();
        }
        self.reports.event(FromEdge::Connection(Box::new(event)));
    }

    /// Milliseconds since the Unix epoch.
    pub fn now_unix_ms(&self) -> i64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
    }

    /// A fresh random number. Each thread draws many at once: every request's policies want one, and asking costs more
    /// than the number.
    pub fn random(&self) -> u64 {
        thread_local! {
            static DRAWN: RefCell<Vec<[u8; size_of::<u64>()]>> = const { RefCell::new(Vec::new()) };
        }
        DRAWN.with_borrow_mut(|drawn| {
            let number = drawn.pop().unwrap_or_else(|| {
                drawn.extend_from_slice(self.entropy::<DRAWN_BYTES>().as_chunks().0);
                self.entropy()
            });
            u64::from_ne_bytes(number)
        })
    }

    /// Fresh random bytes.
    pub fn entropy<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        rand::fill(&mut bytes).expect("the system's random source works once the process runs");
        bytes
    }

    /// A fresh identifier.
    pub fn ksuid(&self) -> Ksuid {
        Ksuid::new(u64::try_from(self.now_unix_ms() / 1000).unwrap_or(0), self.entropy())
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
