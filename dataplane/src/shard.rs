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

use bytes::Bytes;
use ebbgate_model::event::RequestEvent;
use ebbgate_model::feed::FromEdge;
use ebbgate_model::{AccountId, EndpointUrl, Host, IpRestrictionKind, Scheme, TunnelSessionId};
use ebbgate_policy::KeySet;
use ebbgate_tunnel::reset_code;
use ebbgate_wire::link::raw::Sealing;
use ebbgate_wire::mux::Code;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{Duration, Instant, sleep, timeout};

use crate::agents::quic;
use crate::dispatch::gateway::Gateway;
use crate::l4::{self, Conn};
use crate::log;
use crate::net::listen::{self, Listener};
use crate::net::ring::{self, Form};
use crate::net::tls::Configs;
use crate::relay;
use crate::state::edge::{Edge, Stage};
use crate::state::endpoint::{Endpoint, Kind};
use crate::state::metrics::{CarrierLabel, StatusLabel};
use crate::state::pool::Pool;
use crate::tunnel::carrier::{
    self, Carrier, CarrierStream, Link, Origin, RawFailed, RawLink, RawStream, Retry, resend,
};
use crate::tunnel::crossing::{Crossing, crossing};
use crate::tunnel::links::Links;
use crate::tunnel::liveness::{self, Look};
use crate::tunnel::session::{AgentRef, OpenError, SessionState};
use crate::tunnel::stream::AgentStream;

/// Seconds a link may take to accept what goes in front of a visitor's bytes.
const CLAIM_SECS_MAX: u64 = 5;

/// What a shard is told by others.
pub enum Message {
    /// Accept connections here.
    Listen(Entrance, Listener),
    /// Serve agents that come over QUIC.
    Quic(UdpSocket),
    /// Stop accepting on a port.
    Close(u16),
    /// Serve a connection whose session lives here.
    Walk(Box<Conn>),
    /// Open a stream for a request that is handled elsewhere.
    Open(Box<OpenRequest>),
    /// Keep a link ready here.
    Park(Box<Link>),
    /// Keep a raw link ready here.
    ParkRaw(Box<RawLink>),
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

/// A stream wanted by another shard.
pub struct OpenRequest {
    agent: AgentRef,
    origin: Origin,
    reply: oneshot::Sender<Result<Crossing, OpenError>>,
}

/// The handle to the shard a task runs on. Cheap to clone; stays on its thread.
#[derive(Clone)]
pub struct Shard(Rc<Local>);

struct Local {
    index: usize,
    edge: Arc<Edge>,
    carriers: RefCell<HashMap<TunnelSessionId, Carrier>>,
    configs: RefCell<Configs>,
    links: RefCell<Links>,
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
        Self(Rc::new(Local {
            index,
            edge,
            carriers: RefCell::default(),
            configs: RefCell::default(),
            links: RefCell::default(),
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

    /// Agents' links on this shard.
    pub fn links(&self) -> &RefCell<Links> {
        &self.0.links
    }

    /// A session that lives here can take streams.
    pub fn add_carrier(&self, id: TunnelSessionId, carrier: Carrier) {
        self.0.carriers.borrow_mut().insert(id, carrier);
    }

    /// A session that lived here has ended.
    pub fn remove_carrier(&self, id: TunnelSessionId) {
        self.0.carriers.borrow_mut().remove(&id);
    }

    /// Serves its mailbox for ever.
    pub async fn work(&self, mailbox: mpsc::Receiver<Message>) {
        tokio::select! {
            () = self.read_mail(mailbox) => {}
            () = self.sweep_links() => {}
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
                Message::Walk(walk) => {
                    spawn_local(l4::go_on(self.clone(), walk));
                }
                Message::Open(request) => {
                    spawn_local(self.clone().open_for_another(request));
                }
                Message::Park(link) => self.park_arrived(*link),
                Message::ParkRaw(link) => self.park_raw_arrived(*link),
                Message::EndLinks(session) => self.end_links(session),
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

    /// Whether a stream to this agent can be opened on this shard; `raw`: the bytes are the visitor's own TLS.
    pub fn reaches(&self, agent: &AgentRef, raw: bool) -> bool {
        let (id, links) = (agent.session.id, self.links().borrow());
        let here = agent.session.shard == self.index() || agent.session.quic().is_some();
        here || links.has_idle(id) || raw && links.has_raw(id)
    }

    /// Claims a raw link for the visitor whose first bytes these are. None: there is none.
    pub async fn open_raw(
        &self,
        agent: &AgentRef,
        origin: Origin,
        hello: &[u8],
    ) -> Option<Result<RawStream, RawFailed>> {
        let first = Bytes::from([&origin.preamble(agent), hello].concat());
        if !self.links().borrow().has_raw(agent.session.id) || !Sealing::fits(first.len()) {
            return None;
        }
        let slot = carrier::slot(&agent.session).ok()?;
        self.watch(&agent.session);
        let claimed = self.take_raw(agent.session.id)?.claim(self, slot, origin.header(agent), first).await;
        match &claimed {
            Ok(_) => agent.health.answered(),
            Err(RawFailed::Refused(Code::REFUSED)) => agent.health.refused(Instant::now()),
            Err(_) => {}
        }
        let metrics = &self.edge().metrics;
        match &claimed {
            Ok(_) => metrics.streams.get_or_create(&CarrierLabel { carrier: "raw" }).inc(),
            Err(_) => metrics.streams_failed.inc(),
        };
        Some(claimed)
    }

    /// Opens a stream on this shard: over attached QUIC, on an idle link, else in the session if it lives here.
    pub async fn open_here(&self, agent: &AgentRef, origin: Origin) -> Result<CarrierStream, OpenError> {
        self.watch(&agent.session);
        let mut opened = match self.open_apart(agent, origin).await {
            Some(stream) => Ok(stream),
            None => self.open_carrier(agent, origin).await,
        };
        let metrics = &self.edge().metrics;
        match &mut opened {
            Ok(stream) => {
                stream.tell(&agent.health);
                metrics.streams.get_or_create(&CarrierLabel { carrier: stream.carrier() }).inc();
            }
            Err(_) => drop(metrics.streams_failed.inc()),
        }
        opened
    }

    /// Something goes to the agent: while it stays unanswered, looks from time to time whether the agent is heard at all.
    fn watch(&self, session: &Arc<SessionState>) {
        if !session.liveness.sent(Instant::now()) {
            return;
        }
        let (session, silent) = (Arc::clone(session), self.edge().metrics.sessions_silent.clone());
        spawn_local(async move {
            let mut counted = None;
            while session.is_alive() {
                sleep(liveness::LOOK).await;
                match session.liveness.look(Instant::now()) {
                    Look::Heard => return,
                    Look::Wait => counted = None,
                    Look::Ask => {
                        counted = None;
                        session.liveness.ask();
                    }
                    Look::Silent if counted.is_none() => {
                        tracing::info!(session = %session.id, "nothing is heard from an agent");
                        counted = Some(l4::Open::count(&silent));
                    }
                    Look::Silent => {}
                }
            }
        });
    }

    /// Whether an agent is heard: known from just now, or asked.
    pub async fn hears(&self, agent: &AgentRef) -> bool {
        let liveness = &agent.session.liveness;
        if agent.session.is_silent() {
            return false;
        }
        if liveness.is_fresh(Instant::now()) {
            return true;
        }
        self.watch(&agent.session);
        liveness.ask();
        liveness.answered().await
    }

    /// A stream beside the session, by the better of the ways there are. None: there is none.
    async fn open_apart(&self, agent: &AgentRef, origin: Origin) -> Option<CarrierStream> {
        match open_quic(agent, origin).await {
            Some(stream) => Some(stream),
            // What comes in place of a claim is no claim itself.
            None if origin.instead != 0 => None,
            None => self.open_link(agent, origin).await,
        }
    }

    async fn open_carrier(&self, agent: &AgentRef, origin: Origin) -> Result<CarrierStream, OpenError> {
        let id = agent.session.id;
        let carrier = self.0.carriers.borrow().get(&id).cloned().ok_or(OpenError::SessionEnded(id))?;
        carrier.open(agent, origin).await
    }

    /// A stream on an idle link. None: there is none, or it was lost before a byte of the visitor was sent.
    async fn open_link(&self, agent: &AgentRef, origin: Origin) -> Option<CarrierStream> {
        if !self.links().borrow().has_idle(agent.session.id) {
            return None;
        }
        let slot = carrier::slot(&agent.session).ok()?;
        let mut stream = self.take_link(agent.session.id)?.claim(self, origin.header(agent))?;
        let preamble = origin.preamble(agent);
        if !preamble.is_empty() {
            let sent = timeout(Duration::from_secs(CLAIM_SECS_MAX), stream.write_all(&preamble)).await;
            sent.ok()?.ok()?;
        }
        stream.confirm_or(|claim| self.another_way(agent, Origin { instead: claim, ..origin }));
        Some(CarrierStream::link(stream, slot))
    }

    /// How a visitor gets to the agent whose claim of a link is not confirmed in time.
    fn another_way(&self, agent: &AgentRef, origin: Origin) -> Retry {
        let (shard, agent) = (self.clone(), agent.clone());
        Box::new(move |sent| {
            Box::pin(async move {
                shard.edge().metrics.claims_unconfirmed.inc();
                resend(Box::new(shard.open_any(&agent, origin).await.ok()?), sent).await
            })
        })
    }

    /// Opens a stream on whatever shard reaches the agent.
    async fn open_any(&self, agent: &AgentRef, origin: Origin) -> Result<AgentStream, OpenError> {
        let session = &agent.session;
        if self.reaches(agent, false) {
            match self.open_here(agent, origin).await {
                // The last link is gone.
                Err(_) if session.shard != self.index() => {}
                opened => return opened.map(AgentStream::Here),
            }
        }
        let (reply, opened) = oneshot::channel();
        let request = OpenRequest { agent: agent.clone(), origin, reply };
        let sent = self.edge().send(session.shard, Message::Open(Box::new(request)));
        sent.map_err(|_| OpenError::SessionFull(session.id))?;
        opened.await.map_err(|_| OpenError::SessionEnded(session.id))?.map(AgentStream::Across)
    }

    async fn open_for_another(self, request: Box<OpenRequest>) {
        let OpenRequest { agent, origin, reply } = *request;
        match self.open_here(&agent, origin).await {
            Ok(mut stream) => {
                let (near, mut far) = crossing();
                if reply.send(Ok(near)).is_ok() {
                    let ended = relay::copy(&mut far, &mut stream, self.edge().waits.idle()).await;
                    if ended.error.as_ref().and_then(reset_code) == Some(Code::REFUSED) {
                        far.refuse();
                    }
                }
            }
            // Whoever asked is gone: nothing was opened.
            Err(error) => drop(reply.send(Err(error))),
        }
    }
}

/// A stream on the agent's QUIC connection. None: there is none that takes more.
async fn open_quic(agent: &AgentRef, origin: Origin) -> Option<CarrierStream> {
    let way = agent.session.quic()?;
    let slot = carrier::slot(&agent.session).ok()?;
    let stream = way.open(&origin.header(agent), &origin.preamble(agent)).await?;
    Some(CarrierStream::quic(stream, slot))
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
        self.open_any(agent, Origin { client, server, proto, passthrough: false, instead: 0 }).await
    }

    async fn is_heard(&self, endpoint: &Endpoint) -> bool {
        match &endpoint.kind {
            Kind::Cloud => true,
            Kind::Agent(agent) => self.hears(agent).await,
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

    fn retried(&self, members: u64) {
        self.edge().metrics.retries.inc_by(members);
    }

    fn left_http(&self) -> Box<dyn Any> {
        Box::new(l4::Open::count(&self.edge().metrics.http_tunnels_open))
    }

    fn draining(&self) -> impl Future<Output = ()> + 'static {
        self.edge().reached(Stage::Draining)
    }
}
