//! What the HTTP half and the connection half of the edge say to each other: endpoints, and the `Gateway` that finds
//! them, opens streams to agents and takes events.
//!
//! Types and a trait only. `shard::Shard` implements it over real sessions, tests in memory.

pub mod health;
pub mod idle;
pub mod life;
pub mod liveness;

use std::any::Any;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ebbgate_model::event::RequestEvent;
use ebbgate_model::{AccountId, Binding, EndpointId, EndpointUrl, Host, Scheme, TunnelSessionId};
use ebbgate_policy::{ConnFacts, EndpointFacts, Engine, KeySet, TlsSettings};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Duration, Instant, timeout};

pub use crate::pool::{Ask, Pool};

use self::health::Health;
use self::idle::IdleStreams;
use self::life::{Ended, Life};
use self::liveness::Liveness;
use crate::carrier::QuicWay;

/// Milliseconds that a stream's opener waits for pools to close an idle one.
pub const ROOM_MS_MAX: u64 = 1_000;

/// An endpoint that is online: a cloud endpoint of the Program, or one an agent has bound.
#[derive(Debug)]
pub struct Endpoint {
    /// Its id.
    pub id: EndpointId,
    /// Owner; forward-internal stays inside it.
    pub account: AccountId,
    /// Canonical URL.
    pub url: EndpointUrl,
    /// Who can reach it.
    pub binding: Binding,
    /// What expressions see of it.
    pub facts: Arc<EndpointFacts>,
    /// Its policy. None on a cloud endpoint: none was saved yet, or it does not compile here; answer with an explanation.
    /// None on an agent's: none.
    pub engine: Option<Arc<Engine>>,
    /// Where its traffic goes when the policy does not end it.
    pub kind: Kind,
    /// Whether the agent's upstream wants HTTP/2 with prior knowledge.
    pub upstream_http2: bool,
    /// Whether it shares its URL with others that also do.
    pub pooling_enabled: bool,
}

/// What stands behind an endpoint.
#[derive(Debug)]
pub enum Kind {
    /// Its policy alone.
    Cloud,
    /// An upstream of an agent.
    Agent(AgentRef),
}

/// How an endpoint's agent is reached.
#[derive(Debug, Clone)]
pub struct AgentRef {
    /// The session that bound it.
    pub session: Arc<SessionState>,
    /// Name of the bind in that session; agents find their upstream by it.
    pub bind: Box<str>,
    /// PROXY header the agent wants in front of every stream.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Certificate the agent gave for ending TLS at the edge.
    pub tls_termination: Option<Arc<TlsSettings>>,
    /// Whether the agent reaches its upstream.
    pub health: Arc<Health>,
    /// Whether a program behind the agent sees the client address of the stream, as programs with an SDK do.
    pub shows_client: bool,
}

/// Version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// What every shard may know of an agent's session: where it lives, whether it lives, how full it is.
#[derive(Debug)]
pub struct SessionState {
    /// Its id.
    pub id: TunnelSessionId,
    /// Index of the shard that owns it.
    pub shard: usize,
    /// Whether its agent is heard.
    pub liveness: Arc<Liveness>,
    unheard: AtomicBool,
    /// Claims of its links so far.
    claims: AtomicU64,
    /// The way, if it has one, is the QUIC connection that takes its streams.
    life: Life<QuicWay>,
    /// Its streams that upstream pools hold idle.
    pub idle: IdleStreams,
}

impl SessionState {
    /// A living session without streams.
    pub fn new(id: TunnelSessionId, shard: usize, in_flight_max: usize) -> Self {
        Self::heard_by(Arc::default(), id, shard, in_flight_max)
    }

    /// The same, whose agent was heard before it had a session.
    pub fn heard_by(
        liveness: Arc<Liveness>,
        id: TunnelSessionId,
        shard: usize,
        in_flight_max: usize,
    ) -> Self {
        Self {
            id,
            shard,
            liveness,
            unheard: AtomicBool::new(false),
            claims: AtomicU64::new(0),
            life: Life::new(in_flight_max),
            idle: IdleStreams::default(),
        }
    }

    /// Whether nothing is heard from the agent: new work should go elsewhere, where there is an elsewhere.
    pub fn is_silent(&self) -> bool {
        self.liveness.is_silent() || self.life.way().is_some_and(|way| way.session_is_silent())
    }

    /// Whether the session can take one more stream, at once or in place of an idle one.
    pub fn has_room(&self) -> bool {
        self.life.has_room() || self.is_alive() && self.idle.any()
    }

    /// Waits for room for one more stream while pools can close an idle one, [`ROOM_MS_MAX`] at most.
    pub async fn make_room(&self) {
        if self.life.has_room() {
            return;
        }
        let room = self.idle.make_room(|| self.life.has_room() || !self.is_alive());
        let _ = timeout(Duration::from_millis(ROOM_MS_MAX), room).await;
    }

    /// Whether the session lives.
    pub fn is_alive(&self) -> bool {
        self.life.is_alive()
    }

    /// Marks the session dead: no stream is opened on it any more.
    pub fn end(&self) {
        self.liveness.end();
        if let Some(way) = self.life.end() {
            way.session_ended();
        }
    }

    /// Lets new streams go over a QUIC connection from now on; one that was attached before takes no more. False: the
    /// session is dead.
    pub fn attach(&self, way: &Arc<QuicWay>) -> bool {
        match self.life.attach(Arc::clone(way)) {
            Ok(before) => {
                if let Some(before) = before {
                    before.detach();
                }
                true
            }
            Err(Ended) => false,
        }
    }

    /// Takes a QUIC connection out of use, if it is the one in use.
    pub fn detach(&self, way: &Arc<QuicWay>) {
        self.life.detach(way);
    }

    /// The QUIC connection new streams should take.
    pub fn quic(&self) -> Option<Arc<QuicWay>> {
        self.life.way().filter(|way| way.takes_streams())
    }

    /// Notes that the session died because the agent's machine acknowledged nothing any more.
    pub fn end_unheard(&self) {
        self.unheard.store(true, Ordering::Release);
        self.end();
    }

    /// Whether the session died so: what was sent last was not heard.
    pub fn is_unheard(&self) -> bool {
        self.unheard.load(Ordering::Acquire)
    }

    /// The number of the next claim of a link, from 1.
    pub fn next_claim(&self) -> u64 {
        self.claims.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Proxied streams open now.
    pub fn in_flight(&self) -> usize {
        self.life.in_flight()
    }

    /// Reserves room for one stream until the slot is dropped. None: dead or full.
    pub fn take_slot(self: Arc<Self>) -> Option<Slot> {
        self.life.take_room().then(|| Slot(self))
    }
}

/// Room for one stream on a session, given back on drop.
#[derive(Debug)]
pub struct Slot(Arc<SessionState>);

impl Slot {
    /// Something came from the agent.
    pub fn heard(&self) {
        self.0.liveness.heard(Instant::now());
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.life.give_room();
        self.0.idle.room_was_freed();
    }
}

/// Why no stream to an agent could be opened. No byte was sent: another member of the pool may be tried.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The endpoint is a cloud endpoint: it has no agent.
    #[error("endpoint {0} has no agent behind it")]
    NoAgent(EndpointId),
    /// The session ended.
    #[error("the agent's session {0} has ended")]
    SessionEnded(TunnelSessionId),
    /// The session has as many streams as it may.
    #[error("the agent's session {0} has no room for another stream")]
    SessionFull(TunnelSessionId),
    /// The session did not open a stream in time.
    #[error("the agent's session {0} did not open a stream in time")]
    TimedOut(TunnelSessionId),
}

/// What the HTTP half needs from the rest of the edge. Clones share one shard and stay on its thread.
pub trait Gateway: Clone + 'static {
    /// A stream to an agent. Dropping it before both ends finished resets it.
    type Stream: AsyncRead + AsyncWrite + Unpin + 'static;

    /// Members of the public endpoint for a host: exact before longest wildcard, online only.
    fn public(&self, scheme: Scheme, host: &Host, port: u16) -> Option<Pool>;

    /// Members of an internal endpoint of one account; exact before longest wildcard, online only.
    fn internal(&self, account: AccountId, url: &EndpointUrl) -> Option<Pool>;

    /// Waits a little, if an agent that served a URL before the edge started is on its way back. `account`: whose internal
    /// name is meant; None: a public one.
    fn returned(
        &self,
        account: Option<AccountId>,
        scheme: Scheme,
        host: &Host,
        port: u16,
    ) -> impl Future<Output = ()> {
        let _ = (account, scheme, host, port);
        std::future::ready(())
    }

    /// Whether the account of a public endpoint lets visitors in from this address (its IP restriction of type `endpoints`).
    fn admits(&self, account: AccountId, source: IpAddr) -> bool;

    /// Opens one proxied stream, header (and PROXY header, if the agent wants one) already sent.
    fn open(
        &self,
        agent: &Endpoint,
        client: SocketAddr,
        server: SocketAddr,
        proto: Scheme,
    ) -> impl Future<Output = Result<Self::Stream, OpenError>>;

    /// Whether an endpoint's agent is heard: known from just now, or asked. Cloud endpoints always are.
    fn is_heard(&self, endpoint: &Endpoint) -> impl Future<Output = bool> {
        let _ = endpoint;
        std::future::ready(true)
    }

    /// Completes when nothing is heard from an endpoint's agent any more.
    fn silenced(&self, endpoint: &Endpoint) -> impl Future<Output = ()> {
        let _ = endpoint;
        std::future::pending()
    }

    /// The key set at a URL of an account's policy, fetched or cached; or a sentence on why not. `fresh`: the cached one
    /// lacks a token's key.
    fn keys(
        &self,
        account: AccountId,
        url: &str,
        fresh: bool,
    ) -> impl Future<Output = Result<Arc<KeySet>, String>>;

    /// Milliseconds since the Unix epoch.
    fn now_unix_ms(&self) -> i64;

    /// A fresh random number.
    fn rng_seed(&self) -> u64;

    /// Takes the record of an answered request.
    fn request_done(&self, event: RequestEvent);

    /// A connection has left HTTP, until this is dropped.
    fn left_http(&self) -> Box<dyn Any> {
        Box::new(())
    }

    /// Completes when the edge begins to stop: finish what is in flight, take nothing new.
    fn draining(&self) -> impl Future<Output = ()> + 'static;
}

/// A connection handed to the HTTP half, TLS (if any) already done.
#[derive(Debug, Clone)]
pub struct HttpConn {
    /// The connection as policies see it.
    pub facts: Arc<ConnFacts>,
    /// `Http` or `Https`: what the listener speaks.
    pub scheme: Scheme,
    /// Port visitors use in URLs: 80 or 443, whatever the socket is bound to.
    pub port: u16,
    /// Server name of the handshake.
    pub sni: Option<Host>,
    /// Whether the handshake chose HTTP/2.
    pub alpn_h2: bool,
    /// What TLS ended with.
    pub tls_settings: Option<Arc<TlsSettings>>,
    /// The endpoint whose `on_tcp_connect` ran (and chose the TLS settings). None: run it when the first request names
    /// one.
    pub first_endpoint: Option<Arc<Endpoint>>,
}

/// How an HTTP connection ended, for its event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpOutcome {
    /// Requests answered.
    pub requests: u64,
    /// One word or sentence.
    pub outcome: String,
    /// Whether the last answer broke off although its end is the end of the connection: that must not be an orderly one.
    pub broken: bool,
}

/// Endpoints for tests.
#[cfg(test)]
pub(crate) mod fixture {
    use super::*;
    use ebbgate_model::Ksuid;

    /// Streams a fixture's session takes.
    pub(crate) const IN_FLIGHT_MAX: usize = 4;

    pub(crate) fn account(n: u8) -> AccountId {
        AccountId::new(Ksuid::new(1_700_000_000, [n; 16]))
    }

    pub(crate) fn endpoint(n: u8, url: &str, kind: Kind, engine: Option<Arc<Engine>>) -> Arc<Endpoint> {
        let id = EndpointId::new(Ksuid::new(1_700_000_000, [n; 16]));
        let url: EndpointUrl = url.parse().unwrap();
        Arc::new(Endpoint {
            id,
            account: account(1),
            binding: url.implied_binding(),
            facts: Arc::new(EndpointFacts { id: id.to_string(), url: url.clone() }),
            url,
            engine,
            kind,
            upstream_http2: false,
            pooling_enabled: true,
        })
    }

    pub(crate) fn cloud(n: u8, url: &str) -> Arc<Endpoint> {
        endpoint(n, url, Kind::Cloud, None)
    }

    pub(crate) fn agent(n: u8, url: &str) -> Arc<Endpoint> {
        let id = TunnelSessionId::new(Ksuid::new(1_700_000_000, [n; 16]));
        let session = Arc::new(SessionState::new(id, 0, IN_FLIGHT_MAX));
        let bind = format!("bind-{n}").into();
        endpoint(
            n,
            url,
            Kind::Agent(AgentRef {
                session,
                bind,
                proxy_protocol: None,
                tls_termination: None,
                health: Arc::default(),
                shows_client: false,
            }),
            None,
        )
    }
}
