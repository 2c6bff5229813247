//! Streams to agents, opened from a shard: over QUIC, on an idle link, in the session, or on another shard.

use std::sync::Arc;

use bytes::Bytes;
use ebbgate_tunnel::reset_code;
use ebbgate_wire::link::raw::Sealing;
use ebbgate_wire::mux::Code;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::oneshot;
use tokio::task::spawn_local;
use tokio::time::{Duration, Instant, sleep, timeout};

use super::mailbox::{Message, OpenRequest};
use super::metrics::{CarrierLabel, Open};
use super::shard::Shard;
use crate::relay;
use crate::tunnel::carrier::{self, CarrierStream, Origin, RawFailed, RawStream, Retry, resend};
use crate::tunnel::crossing::crossing;
use crate::tunnel::liveness::{self, Look};
use crate::tunnel::session::{AgentRef, OpenError, SessionState};
use crate::tunnel::stream::AgentStream;

/// Seconds a link may take to accept what goes in front of a visitor's bytes.
const CLAIM_SECS_MAX: u64 = 5;

impl Shard {
    /// Whether a stream to this agent can be opened on this shard; `raw`: the bytes are the visitor's own TLS.
    pub fn reaches(&self, agent: &AgentRef, raw: bool) -> bool {
        let (id, links) = (agent.session.id, self.links());
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
        if !self.links().has_raw(agent.session.id) || !Sealing::fits(first.len()) {
            return None;
        }
        agent.session.make_room().await;
        let slot = carrier::slot(&agent.session).ok()?;
        self.watch(&agent.session);
        let claimed = self
            .links()
            .take_raw(agent.session.id)?
            .claim(self.links(), slot, origin.header(agent), first)
            .await;
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
        agent.session.make_room().await;
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
    pub fn watch(&self, session: &Arc<SessionState>) {
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
                        counted = Some(Open::count(&silent));
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
        let carrier = self.carrier(id).ok_or(OpenError::SessionEnded(id))?;
        carrier.open(agent, origin).await
    }

    /// A stream on an idle link. None: there is none, or it was lost before a byte of the visitor was sent.
    async fn open_link(&self, agent: &AgentRef, origin: Origin) -> Option<CarrierStream> {
        if !self.links().has_idle(agent.session.id) {
            return None;
        }
        let slot = carrier::slot(&agent.session).ok()?;
        let mut stream =
            self.links().take_link(agent.session.id)?.claim(self.links(), origin.header(agent))?;
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
    pub async fn open_any(&self, agent: &AgentRef, origin: Origin) -> Result<AgentStream, OpenError> {
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
        let sent = self.edge().mailboxes.send(session.shard, Message::Open(Box::new(request)));
        sent.map_err(|_| OpenError::SessionFull(session.id))?;
        opened.await.map_err(|_| OpenError::SessionEnded(session.id))?.map(AgentStream::Across)
    }

    /// Opens a stream for a request that another shard serves.
    pub async fn open_for_another(self, request: Box<OpenRequest>) {
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
