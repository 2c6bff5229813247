//! `AgentDialer`: opens streams to agents from one shard, whatever shard their sessions live on.
//!
//! Which transport a stream takes: the QUIC connection, if the session has one. Otherwise HTTP takes the session's mux, whose
//! frames share writes; everything else takes a link that waits on this shard, and the mux if none does. The client's own TLS
//! takes a raw link first; to an agent of another edge, a raw connection to that edge.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use ebbgate_model::TunnelSessionId;
use ebbgate_tunnel::{TunnelStream, driver};
use ebbgate_wire::link::raw::fits_claim;
use ebbgate_wire::mux::{self, Code};
use ebbgate_wire::rpc::StreamKind;
use tokio::io::AsyncWriteExt as _;
use tokio::task::spawn_local;
use tokio::time::{Duration, Instant, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::agent_liveness::{self, Look};
use super::claim::{Retry, resend};
use super::idle_links::IdleLinks;
use super::link::{Link, LinkStream};
use super::metrics::{CarrierLabel, TunnelMetrics};
use super::origin::Origin;
use super::peer::Elsewhere;
use super::peer_links::{OpenPool, PeerLinks};
use super::quic::QuicTransport;
use super::raw_link::{RawFailed, RawLink, RawStream};
use super::session::{AgentRef, OpenError, SessionState, Slot};
use super::stream::{AgentStream, Carried};
use crate::net::gauge::GaugeGuard;

/// Seconds a transport may take to accept what goes in front of a client's bytes.
const OPEN_SECS_MAX: u64 = 5;
/// Seconds between looks at idle links: one that ended meanwhile is closed.
const SWEEP_SECS: u64 = 5;

/// A link of either kind that waits for a claim.
pub enum IdleLink {
    /// A link with its own TLS.
    Link(Link),
    /// A raw link.
    Raw(RawLink),
}

impl IdleLink {
    /// Leaves this thread's runtime.
    pub fn detach(&mut self) -> io::Result<()> {
        match self {
            Self::Link(link) => link.detach(),
            Self::Raw(link) => link.detach(),
        }
    }

    /// Joins this thread's runtime.
    pub fn attach(&mut self) -> io::Result<()> {
        match self {
            Self::Link(link) => link.attach(),
            Self::Raw(link) => link.attach(),
        }
    }
}

/// See the module. Clones share one shard's links and stay on its thread.
#[derive(Clone)]
pub struct AgentDialer(Rc<Inner>);

struct Inner {
    links: IdleLinks<Link>,
    raw_links: IdleLinks<RawLink>,
    peer_links: PeerLinks,
    metrics: TunnelMetrics,
    /// How long a link may wait, after its stream, for the agent to hold no byte of it.
    drain: Duration,
}

impl AgentDialer {
    /// A dialer without links. `drain`: how long a used link may wait for its agent to be empty.
    pub fn new(metrics: TunnelMetrics, drain: Duration) -> Self {
        let idle = &metrics.links_idle;
        let (links, raw_links) = (IdleLinks::new(idle.clone()), IdleLinks::new(idle.clone()));
        let peer_links = PeerLinks::default();
        Self(Rc::new(Inner { links, raw_links, peer_links, metrics, drain }))
    }

    /// Keeps a link ready here; one whose session has ended closes.
    pub fn park(&self, link: IdleLink) {
        match link {
            IdleLink::Link(link) => self.0.links.park(link),
            IdleLink::Raw(link) => self.0.raw_links.park(link),
        }
    }

    /// A session has ended: its idle links close. Those in use end by themselves.
    pub fn end_links(&self, id: TunnelSessionId) {
        self.0.links.end(id);
        self.0.raw_links.end(id);
    }

    /// Closes idle links that ended, spoke or outlived their session, for ever.
    pub async fn sweep(&self) {
        let mut tick = interval(Duration::from_secs(SWEEP_SECS));
        loop {
            tick.tick().await;
            self.0.links.sweep();
            self.0.raw_links.sweep();
        }
    }

    /// Opens a stream, its header sent. No byte of the client was sent when this fails.
    pub async fn open(&self, agent: &AgentRef, origin: Origin) -> Result<AgentStream, OpenError> {
        self.watch(&agent.session);
        agent.session.make_room().await;
        let opened = self.open_best(agent, origin).await;
        let metrics = &self.0.metrics;
        match &opened {
            Ok(stream) => self.count(stream.transport()),
            Err(_) => drop(metrics.streams_failed.inc()),
        }
        opened
    }

    async fn open_best(&self, agent: &AgentRef, origin: Origin) -> Result<AgentStream, OpenError> {
        let slot = agent.session.slot()?;
        if let Some(quic) = agent.session.quic()
            && let Some(stream) = quic.open(&origin.header(agent), &origin.preamble(agent)).await
        {
            return Ok(finished(TunnelStream::Quic(stream), Some(quic), agent, slot));
        }
        // What comes in place of a claim is no claim itself.
        if origin.instead == 0
            && !origin.proto.is_http()
            && let Some(stream) = self.open_link(agent, origin).await
        {
            return Ok(finished(TunnelStream::Link(Box::new(stream)), None, agent, slot));
        }
        let stream = open_mux(&agent.session, agent, origin).await?;
        Ok(finished(TunnelStream::Mux(stream), None, agent, slot))
    }

    /// A stream on an idle link. None: there is none, or it was lost before a byte of the client was sent.
    async fn open_link(&self, agent: &AgentRef, origin: Origin) -> Option<LinkStream> {
        let link = self.0.links.take(agent.session.id)?;
        let mut stream = link.claim(self.0.links.clone(), self.0.drain, origin.header(agent))?;
        let preamble = origin.preamble(agent);
        if !preamble.is_empty() {
            let sent = timeout(Duration::from_secs(OPEN_SECS_MAX), stream.write_all(&preamble)).await;
            sent.ok()?.ok()?;
        }
        stream.confirm_or(|claim| self.another_way(agent, Origin { instead: claim, ..origin }));
        Some(stream)
    }

    /// How the client's bytes reach the agent if it does not confirm the claim of a link in time.
    fn another_way(&self, agent: &AgentRef, origin: Origin) -> Retry {
        let (dialer, agent) = (self.clone(), agent.clone());
        Box::new(move |sent| {
            Box::pin(async move {
                dialer.0.metrics.claims_unconfirmed.inc();
                resend(Box::new(dialer.open(&agent, origin).await.ok()?), sent).await
            })
        })
    }

    /// Claims a raw link, or a raw connection to the agent's edge, for a client. `hello`: the first bytes of the client's TLS.
    /// None: no raw link or connection is ready.
    pub async fn open_raw(
        &self,
        agent: &AgentRef,
        origin: Origin,
        hello: &[u8],
    ) -> Option<Result<RawStream, RawFailed>> {
        let claimed = match &agent.elsewhere {
            Some(at) => self.claim_across(agent, at, origin, hello).await?,
            None => self.claim_raw(agent, origin, hello).await?,
        };
        match &claimed {
            Ok(_) => agent.health.answered(Instant::now()),
            Err(RawFailed::Refused(Code::REFUSED)) => agent.health.refused(Instant::now()),
            Err(_) => {}
        }
        match &claimed {
            Ok(_) => self.count("raw"),
            Err(RawFailed::Lost) if agent.elsewhere.is_some() => {
                self.0.metrics.peer_raw_unconfirmed.inc();
            }
            Err(_) => drop(self.0.metrics.streams_failed.inc()),
        }
        Some(claimed)
    }

    async fn claim_raw(
        &self,
        agent: &AgentRef,
        origin: Origin,
        hello: &[u8],
    ) -> Option<Result<RawStream, RawFailed>> {
        let first = Bytes::from([&origin.preamble(agent), hello].concat());
        if !self.0.raw_links.has(agent.session.id) || !fits_claim(first.len()) {
            return None;
        }
        agent.session.make_room().await;
        let slot = agent.session.slot().ok()?;
        self.watch(&agent.session);
        Some(self.0.raw_links.take(agent.session.id)?.claim(slot, origin.header(agent), first).await)
    }

    async fn claim_across(
        &self,
        agent: &AgentRef,
        at: &Elsewhere,
        origin: Origin,
        hello: &[u8],
    ) -> Option<Result<RawStream, RawFailed>> {
        let may_pass = at.passes_bare && origin.passthrough && fits_claim(hello.len());
        if !may_pass || agent.session.is_silent() {
            return None;
        }
        let slot = agent.session.slot().ok()?;
        self.watch(&agent.session);
        let first = Bytes::copy_from_slice(hello);
        self.0.peer_links.claim(slot, agent.session.id, origin.peer_header(at), first).await
    }

    /// Has visitors' own TLS take raw connections beside a mux connection to another edge, which `ended` tells the end of.
    pub fn peer_pool(
        &self,
        way: &Arc<SessionState>,
        mux: driver::Session,
        ended: CancellationToken,
    ) -> OpenPool {
        self.0.peer_links.open(way, mux, ended)
    }

    fn count(&self, carrier: &'static str) {
        self.0.metrics.streams.get_or_create(&CarrierLabel { carrier }).inc();
    }

    /// Whether an agent is heard: known from just now, or asked.
    pub async fn hears(&self, session: &Arc<SessionState>) -> bool {
        if session.is_silent() {
            return false;
        }
        if session.liveness.is_fresh(Instant::now()) {
            return true;
        }
        self.watch(session);
        session.liveness.ask();
        session.liveness.answered().await
    }

    /// Something goes to the agent: while it stays unanswered, looks from time to time whether the agent is heard at all.
    pub fn watch(&self, session: &Arc<SessionState>) {
        if !session.liveness.sent(Instant::now()) {
            return;
        }
        let (session, silent) = (Arc::clone(session), self.0.metrics.sessions_silent.clone());
        spawn_local(async move {
            let mut counted = None;
            while session.is_alive() {
                sleep(agent_liveness::LOOK).await;
                match session.liveness.look(Instant::now()) {
                    Look::Heard => return,
                    Look::Wait => counted = None,
                    Look::Ask => {
                        counted = None;
                        session.liveness.ask();
                    }
                    Look::Silent if counted.is_none() => {
                        tracing::info!(session = %session.id, "nothing is heard from an agent");
                        counted = Some(GaugeGuard::new(&silent));
                    }
                    Look::Silent => {}
                }
            }
        });
    }
}

fn finished(stream: Carried, quic: Option<Arc<QuicTransport>>, agent: &AgentRef, slot: Slot) -> AgentStream {
    AgentStream::new(stream, quic, &agent.health, slot)
}

/// A stream of the session's mux, header and preamble sent (wire.md section 5).
async fn open_mux(
    session: &SessionState,
    agent: &AgentRef,
    origin: Origin,
) -> Result<driver::Stream, OpenError> {
    let ended = || OpenError::SessionEnded(session.id);
    let mux = session.mux().ok_or_else(ended)?;
    let mut stream = mux.open(StreamKind::Proxy).map_err(|error| match error {
        mux::OpenError::Full(_) => OpenError::SessionFull(session.id),
        _ => ended(),
    })?;
    let head = origin.head(agent);
    match timeout(Duration::from_secs(OPEN_SECS_MAX), stream.write_all(&head)).await {
        Ok(Ok(())) => Ok(stream),
        Ok(Err(_)) => Err(ended()),
        Err(_) => Err(OpenError::TimedOut(session.id)),
    }
}
