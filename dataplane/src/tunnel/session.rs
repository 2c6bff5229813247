//! What every shard may know of an agent's session, and how an endpoint names its agent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ebbgate_model::{EndpointId, TunnelSessionId};
use ebbgate_policy::TlsSettings;
use tokio::time::{Duration, Instant, timeout};

use super::carrier::QuicWay;
use super::health::Health;
use super::idle::IdleStreams;
use super::life::{Ended, Life};
use super::liveness::Liveness;

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
    /// Whether its account lets the visitor's own TLS go without a second encryption.
    raw_allowed: AtomicBool,
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
            raw_allowed: AtomicBool::new(false),
            claims: AtomicU64::new(0),
            life: Life::new(in_flight_max),
            idle: IdleStreams::default(),
        }
    }

    /// Whether nothing is heard from the agent: new work should go elsewhere, where there is an elsewhere.
    pub fn is_silent(&self) -> bool {
        self.liveness.is_silent() || self.life.way().is_some_and(|way| way.session_is_silent())
    }

    /// The account may allow raw links and withdraw them again.
    pub fn allow_raw(&self, allowed: bool) {
        self.raw_allowed.store(allowed, Ordering::Relaxed);
    }

    /// Whether its account lets the visitor's own TLS go without a second encryption.
    pub fn takes_raw(&self) -> bool {
        self.raw_allowed.load(Ordering::Relaxed)
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
