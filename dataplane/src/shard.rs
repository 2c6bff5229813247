//! A shard: one thread, one runtime, its own listeners and connections. `Shard` is the handle to the one a task runs on,
//! `Edge` what all shards share.

use std::any::Any;
use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;

use ebbgate_model::event::RequestEvent;
use ebbgate_model::feed::FromEdge;
use ebbgate_model::{AccountId, EndpointUrl, Host, IpRestrictionKind, Scheme, TunnelSessionId};
use ebbgate_policy::KeySet;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::Duration;

use crate::agents::quic;
use crate::dispatch::gateway::Gateway;
use crate::l4;
use crate::log;
use crate::net::listen::{self, Listener};
use crate::net::ring::{self, Form};
use crate::net::tls::Configs;
use crate::state::edge::{Edge, Stage};
use crate::state::endpoint::{Endpoint, Kind};
use crate::state::metrics::StatusLabel;
use crate::state::pool::Pool;
use crate::tunnel::dialer::{AgentDialer, IdleLink};
use crate::tunnel::metrics::TunnelMetrics;
use crate::tunnel::origin::Origin;
use crate::tunnel::session::OpenError;
use crate::tunnel::stream::AgentStream;

/// What a shard is told by others.
pub enum Message {
    /// Accept connections here.
    Listen(Entrance, Listener),
    /// Serve agents that come over QUIC.
    Quic(UdpSocket),
    /// Stop accepting on a port.
    Close(u16),
    /// Keep a link ready here.
    Park(Box<IdleLink>),
    /// A session has ended: end its links.
    EndLinks(TunnelSessionId),
}

/// Where a connection came in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Entrance {
    /// HTTP in clear.
    Http,
    /// HTTPS and TLS endpoints.
    Tls,
    /// Agents.
    Connect,
    /// HTTPS and TLS endpoints, and agents: one address for both, because the operator asked for it.
    Shared,
    /// A TCP address.
    Tcp {
        /// Host part of its endpoints.
        host: Host,
        /// Its port.
        port: u16,
    },
}

impl Entrance {
    /// The name metrics use.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tls => "tls",
            Self::Connect => "connect",
            Self::Shared => "shared",
            Self::Tcp { .. } => "tcp",
        }
    }
}

/// The handle to the shard a task runs on. Cheap to clone; stays on its thread.
#[derive(Clone)]
pub struct Shard(Rc<Local>);

struct Local {
    index: usize,
    edge: Arc<Edge>,
    configs: RefCell<Configs>,
    dialer: AgentDialer,
    ports: RefCell<HashMap<u16, AbortHandle>>,
}

/// Runs one shard until the edge stops. Call on a thread of its own.
pub fn run(index: usize, form: Form, edge: Arc<Edge>, mailbox: mpsc::Receiver<Message>) -> io::Result<()> {
    let stop = edge.reached(Stage::Stopped);
    ring::run(index, form, async move {
        let shard = Shard::new(index, edge);
        tokio::select! {
            () = shard.work(mailbox) => {}
            () = stop => {}
        }
    })
}

impl Shard {
    /// A shard on this thread's runtime, without listeners.
    pub fn new(index: usize, edge: Arc<Edge>) -> Self {
        let metrics = &edge.metrics;
        let counters = TunnelMetrics {
            streams: metrics.streams.clone(),
            streams_failed: metrics.streams_failed.clone(),
            links_idle: metrics.links_idle.clone(),
            claims_unconfirmed: metrics.claims_unconfirmed.clone(),
            sessions_silent: metrics.sessions_silent.clone(),
        };
        let drain = Duration::from_millis(edge.waits.idle().half_closed_ms);
        Self(Rc::new(Local {
            index,
            dialer: AgentDialer::new(counters, drain),
            edge,
            configs: RefCell::default(),
            ports: RefCell::default(),
        }))
    }

    /// What all shards share.
    pub fn edge(&self) -> &Arc<Edge> {
        &self.0.edge
    }

    /// Which shard this is.
    pub fn index(&self) -> usize {
        self.0.index
    }

    /// This shard's ready TLS configurations.
    pub fn configs(&self) -> &RefCell<Configs> {
        &self.0.configs
    }

    /// Opens streams to agents.
    pub fn dialer(&self) -> &AgentDialer {
        &self.0.dialer
    }

    /// Serves its mailbox for ever.
    pub async fn work(&self, mailbox: mpsc::Receiver<Message>) {
        tokio::select! {
            () = self.read_mail(mailbox) => {}
            () = self.dialer().sweep() => {}
        }
    }

    async fn read_mail(&self, mut mailbox: mpsc::Receiver<Message>) {
        while let Some(message) = mailbox.recv().await {
            match message {
                Message::Listen(entrance, listener) => self.listen(entrance, listener),
                Message::Quic(socket) => self.listen_quic(socket),
                Message::Close(port) => {
                    if let Some(listener) = self.0.ports.borrow_mut().remove(&port) {
                        listener.abort();
                    }
                }
                Message::Park(mut link) => {
                    if link.attach().is_ok() {
                        self.dialer().park(*link);
                    }
                }
                Message::EndLinks(session) => self.dialer().end_links(session),
            }
        }
    }

    fn listen_quic(&self, socket: UdpSocket) {
        let serving = quic::serve(self.clone(), socket);
        spawn_local(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "agents cannot come over QUIC");
            }
        });
    }

    fn listen(&self, entrance: Entrance, listener: Listener) {
        let (shard, drain) = (self.clone(), self.edge().reached(Stage::Draining));
        let port = if let Entrance::Tcp { port, .. } = entrance { Some(port) } else { None };
        let task = spawn_local(async move {
            let accept = listen::accept(listener, |stream| l4::begin(&shard, &entrance, stream));
            tokio::select! {
                Err(error) = accept => tracing::error!(%error, ?entrance, "a listener failed"),
                () = drain => {}
            }
        });
        if let Some(port) = port {
            self.0.ports.borrow_mut().insert(port, task.abort_handle());
        }
    }

    /// Parks a link on the shard of its choice.
    pub fn park_at(&self, index: usize, mut link: IdleLink) {
        if index == self.index() {
            return self.dialer().park(link);
        }
        // The peer is gone, or the shard takes nothing: the link closes and the agent opens another.
        if link.detach().is_ok() {
            let _ = self.edge().send(index, Message::Park(Box::new(link)));
        }
    }
}

impl Gateway for Shard {
    type Stream = AgentStream;

    fn public(&self, scheme: Scheme, host: &Host, port: u16) -> Option<Pool> {
        self.edge().routes.public(scheme, host, port).map(|(_, pool)| pool)
    }

    fn internal(&self, account: AccountId, url: &EndpointUrl) -> Option<Pool> {
        self.edge().routes.internal(account, url)
    }

    async fn returned(&self, account: Option<AccountId>, scheme: Scheme, host: &Host, port: u16) {
        self.edge().routes.returned(account, &[scheme], host, port).await;
    }

    fn admits(&self, account: AccountId, source: IpAddr) -> bool {
        self.edge().tables.load().restrictions.admit(account, IpRestrictionKind::Endpoints, source)
    }

    async fn open(
        &self,
        endpoint: &Endpoint,
        client: SocketAddr,
        server: SocketAddr,
        proto: Scheme,
    ) -> Result<AgentStream, OpenError> {
        let Kind::Agent(agent) = &endpoint.kind else { return Err(OpenError::NoAgent(endpoint.id)) };
        self.dialer().open(agent, Origin { client, server, proto, passthrough: false, instead: 0 }).await
    }

    async fn is_heard(&self, endpoint: &Endpoint) -> bool {
        match &endpoint.kind {
            Kind::Cloud => true,
            Kind::Agent(agent) => self.dialer().hears(&agent.session).await,
        }
    }

    async fn silenced(&self, endpoint: &Endpoint) {
        match &endpoint.kind {
            Kind::Cloud => std::future::pending().await,
            Kind::Agent(agent) => agent.session.liveness.silenced().await,
        }
    }

    async fn keys(&self, account: AccountId, url: &str, fresh: bool) -> Result<Arc<KeySet>, String> {
        self.edge().keys.get(self.edge(), account, url, fresh).await
    }

    fn now_unix_ms(&self) -> i64 {
        self.edge().now_unix_ms()
    }

    fn rng_seed(&self) -> u64 {
        self.edge().random()
    }

    fn request_done(&self, mut event: RequestEvent) {
        self.edge().metrics.requests.get_or_create(&StatusLabel::of(event.status)).inc();
        log::shorten_policy_logs(&mut event.policy_logs);
        // A request that reached no endpoint is a stranger's, and there may be many.
        let source = event.client.parse::<SocketAddr>().ok().filter(|_| event.endpoint.is_none());
        let has_line = source.is_none_or(|client| self.edge().refusal_has_line(client.ip()));
        if has_line && !log::request(&event) {
            self.edge().metrics.log_lines_lost.inc();
        }
        self.edge().reports.event(FromEdge::Request(Box::new(event)));
    }

    fn left_http(&self) -> Box<dyn Any> {
        Box::new(l4::Open::count(&self.edge().metrics.http_tunnels_open))
    }

    fn draining(&self) -> impl Future<Output = ()> + 'static {
        self.edge().reached(Stage::Draining)
    }
}
