//! What every shard may know of an agent's session, and how an endpoint names its agent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ebbgate_model::{EndpointId, TunnelSessionId};
use ebbgate_policy::TlsSettings;
use ebbgate_tunnel::driver::SessionHandle;
use tokio::time::{Duration, Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::agent_liveness::AgentLiveness;
use super::health::Health;
use super::idle::IdleStreams;
use super::load::Load;
use super::muxes::Muxes;
use super::peer::Elsewhere;
use super::quic::QuicTransport;
use super::session_liveness::{Ended, SessionLiveness};

/// Milliseconds that a stream's opener waits for pools to close an idle one.
pub const ROOM_MS_MAX: u64 = 1_000;

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
    /// By what the agent's process is known again when it comes back with the same bind.
    pub identity: Box<str>,
    /// Connections and requests of the endpoint, under whatever policy it is served.
    pub load: Arc<Load>,
    /// Where the agent is connected, if not here: the session is that of this edge with the other one.
    pub elsewhere: Option<Box<Elsewhere>>,
}

impl AgentRef {
    /// Whether both are of one process, be it connected to two edges.
    pub fn is_same_process(&self, other: &Self) -> bool {
        self.process().is_some() && self.process() == other.process()
    }

    /// By what its process is known, at whatever edge.
    pub fn process(&self) -> Option<&str> {
        self.identity.rsplit_once('/').map(|(process, _)| process)
    }
}

/// Version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// What every shard may know of an agent's session: whether it is alive, how full it is, and how to open streams on it.
#[derive(Debug)]
pub struct SessionState {
    /// Its id.
    pub id: TunnelSessionId,
    /// Whether its agent is heard.
    pub liveness: Arc<AgentLiveness>,
    muxes: Muxes,
    timed_out: AtomicBool,
    /// Whether new work had better go elsewhere, as its other end is about to end.
    yields: AtomicBool,
    /// Whether raw links may be claimed.
    raw_allowed: AtomicBool,
    /// Claims of its links so far.
    claims: AtomicU64,
    /// Cancelled when the session ends.
    ended: CancellationToken,
    /// The transport, if there is one, is the QUIC connection that takes its streams.
    life: SessionLiveness<QuicTransport>,
    /// Its streams that upstream pools hold idle.
    pub idle: IdleStreams,
}

impl SessionState {
    /// A session that is alive and has no streams yet.
    pub fn new(
        id: TunnelSessionId,
        mux: SessionHandle,
        liveness: Arc<AgentLiveness>,
        in_flight_max: usize,
    ) -> Self {
        Self::with(id, Muxes::new(Some(mux)), liveness, in_flight_max)
    }

    /// The session of this edge with another one, without a connection yet.
    pub fn of_peer(id: TunnelSessionId, in_flight_max: usize) -> Self {
        Self::with(id, Muxes::new(None), Arc::default(), in_flight_max)
    }

    fn with(id: TunnelSessionId, muxes: Muxes, liveness: Arc<AgentLiveness>, in_flight_max: usize) -> Self {
        Self {
            id,
            liveness,
            muxes,
            timed_out: AtomicBool::new(false),
            yields: AtomicBool::new(false),
            raw_allowed: AtomicBool::new(false),
            claims: AtomicU64::new(0),
            ended: CancellationToken::new(),
            life: SessionLiveness::new(in_flight_max),
            idle: IdleStreams::default(),
        }
    }

    /// Opens streams of one of its muxes. None: there is none now.
    pub(super) fn mux(&self) -> Option<Arc<SessionHandle>> {
        self.muxes.next()
    }

    /// Lets new streams use a further connection until the guard is dropped.
    pub fn carry(self: &Arc<Self>, mux: SessionHandle) -> Carrier {
        let mux = Arc::new(mux);
        self.muxes.add(&mux);
        Carrier { session: Arc::clone(self), mux }
    }

    /// Says whether new work had better go elsewhere, where there is an elsewhere.
    pub fn prefer_others(&self, yields: bool) {
        self.yields.store(yields, Ordering::Relaxed);
    }

    /// Whether new work had better go elsewhere.
    pub fn yields(&self) -> bool {
        self.yields.load(Ordering::Relaxed)
    }

    /// Connections that carry it now.
    pub fn carriers(&self) -> usize {
        self.muxes.count()
    }

    /// Completes when the session has ended.
    pub async fn has_ended(&self) {
        self.ended.cancelled().await;
    }

    /// Whether nothing is heard from the agent: new work should go to another session, if there is one.
    pub fn is_silent(&self) -> bool {
        self.liveness.is_silent() || self.life.transport().is_some_and(|quic| quic.session_is_silent())
    }

    /// Whether the session can take one more stream, at once or in place of an idle one.
    pub fn has_room(&self) -> bool {
        self.muxes.any() && (self.life.has_room() || self.is_alive() && self.idle.any())
    }

    /// Waits for room for one more stream while pools can close an idle one, [`ROOM_MS_MAX`] at most.
    pub async fn make_room(&self) {
        if self.life.has_room() {
            return;
        }
        let room = self.idle.make_room(|| self.life.has_room() || !self.is_alive());
        let _ = timeout(Duration::from_millis(ROOM_MS_MAX), room).await;
    }

    /// Whether the session is alive.
    pub fn is_alive(&self) -> bool {
        self.life.is_alive()
    }

    /// Ends the session: no stream is opened on it any more, and streams on links end.
    pub fn end(&self) {
        self.liveness.end();
        if let Some(quic) = self.life.end() {
            quic.session_ended();
        }
        self.ended.cancel();
    }

    /// Cancelled when the session ends.
    pub(super) fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// Lets new streams use a QUIC connection from now on; one that was attached before takes no more. False: the session
    /// has ended.
    pub fn attach(&self, quic: &Arc<QuicTransport>) -> bool {
        match self.life.attach(Arc::clone(quic)) {
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
    pub fn detach(&self, quic: &Arc<QuicTransport>) {
        self.life.detach(quic);
    }

    /// The QUIC connection that new streams should use.
    pub fn quic(&self) -> Option<Arc<QuicTransport>> {
        self.life.transport().filter(|quic| quic.takes_streams())
    }

    /// Ends the session because the agent's machine acknowledged nothing any more.
    pub fn end_timed_out(&self) {
        self.timed_out.store(true, Ordering::Release);
        self.end();
    }

    /// True if the session timed out; the last bytes may be undelivered.
    pub fn timed_out(&self) -> bool {
        self.timed_out.load(Ordering::Acquire)
    }

    /// Allows or forbids claims of raw links.
    pub fn allow_raw(&self, allowed: bool) {
        self.raw_allowed.store(allowed, Ordering::Relaxed);
    }

    /// Whether raw links may be claimed.
    pub fn takes_raw(&self) -> bool {
        self.raw_allowed.load(Ordering::Relaxed)
    }

    /// The number of the next claim of a link, from 1.
    pub fn next_claim(&self) -> u64 {
        self.claims.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Proxied streams open now.
    pub fn in_flight(&self) -> usize {
        self.life.in_flight()
    }

    /// Reserves room for one stream until the slot is dropped.
    pub fn slot(self: &Arc<Self>) -> Result<Slot, OpenError> {
        if self.life.take_room() {
            Ok(Slot(Arc::clone(self)))
        } else if self.is_alive() {
            Err(OpenError::SessionFull(self.id))
        } else {
            Err(OpenError::SessionEnded(self.id))
        }
    }
}

/// A connection that carries a session, until it is dropped.
#[derive(Debug)]
pub struct Carrier {
    session: Arc<SessionState>,
    mux: Arc<SessionHandle>,
}

impl Drop for Carrier {
    fn drop(&mut self) {
        self.session.muxes.remove(&self.mux);
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
