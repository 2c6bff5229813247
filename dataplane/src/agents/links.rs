//! Links of agents: to which session one is added, how many it may have, and on which shard each waits.
//!
//! The wire's words are `ebbgate_wire::link`'s; what a link does afterwards is `tunnel::link`'s.

use std::net::IpAddr;
use std::sync::Arc;

use ebbgate_model::{AccountId, IpRestrictionKind, TunnelSessionId};
use ebbgate_tunnel::link::{Hello, answer_hello, read_hello};
use ebbgate_wire::link::raw::{
    EdgeSide, GREETING_BYTES, Greeting, HANDSHAKE_SECS_MAX, MAGIC, Nonce, PROOF_BYTES, RawError, RawKey,
    Sealing,
};
use ebbgate_wire::mux::Code;
use ebbgate_wire::rpc::{Auth, CarrierOffer, Secret};
use ebbgate_wire::ticket::LinkTicket;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Duration, timeout};

use super::registry::Agents;
use super::session::AgentSession;
use super::session_links::{LINKS_PER_SESSION_MAX, LinkCount};
use crate::net::listen::ConnPermit;
use crate::net::socket::Socket;
use crate::state::edge::Edge;
use crate::state::metrics::GaugeGuard;
use crate::state::shard::Shard;
use crate::state::{clock, random};
use crate::tunnel::dialer::IdleLink;
use crate::tunnel::link::{Link, LinkIo, LinkOwner};
use crate::tunnel::raw_link::RawLink;

/// Seconds from the end of a link's handshake to its whole ticket.
pub const LINK_HELLO_SECS_MAX: u64 = 5;
/// The newest version of links that this edge takes, as it says to agents.
const LINK_VERSION: u16 = 2;
/// Seconds a link ticket is good for, within its session's life.
const LINK_TICKET_SECS: i64 = 90 * 24 * 3600;

/// What a session is offered beside its own connection, if its agent asked.
pub(super) fn offer(
    auth: &Auth,
    session: &AgentSession,
    edge: &Edge,
    now_unix_s: i64,
) -> Option<CarrierOffer> {
    let asked = |name: &str| auth.extra.carriers.iter().any(|carrier| carrier == name);
    if auth.extra.carriers.is_empty() {
        return None;
    }
    let ticket = LinkTicket {
        session_id: session.state.id.to_string(),
        expires_unix_s: now_unix_s.saturating_add(LINK_TICKET_SECS),
    };
    Some(CarrierOffer {
        ticket: ticket.seal(&edge.tickets),
        links_max: if asked("link") { LINKS_PER_SESSION_MAX } else { 0 },
        link_version: LINK_VERSION,
        raw_key: session.links.raw_key().map(RawKey::to_secret),
        quic: asked("quic") && edge.serves_quic(),
    })
}

/// The living session a ticket is for, if its agent may connect by this name from this address.
pub(super) fn session_of_ticket(
    agents: &Agents,
    ticket: &Secret,
    ingress: Option<AccountId>,
    source: IpAddr,
    now_unix_s: i64,
) -> Option<Arc<AgentSession>> {
    let edge = agents.edge();
    let ticket = LinkTicket::open(ticket.expose(), &edge.tickets, now_unix_s).ok()?;
    let session = agents.sessions.get(ticket.session_id.parse().ok()?)?;
    let account = session.identity().account;
    let admitted = edge.tables.load().restrictions.admit(account, IpRestrictionKind::Agent, source);
    let here = ingress.is_none_or(|owner| owner == account);
    (session.state.is_alive() && admitted && here).then_some(session)
}

/// Serves a connection that chose the links' protocol: until it is parked, or refused.
pub(super) async fn serve(
    shard: Shard,
    agents: &Agents,
    mut io: LinkIo,
    ingress: Option<AccountId>,
    admitted: ConnPermit,
    open: GaugeGuard,
) {
    let edge = shard.edge();
    let peer = io.get_ref().peer().ip();
    let hello = timeout(Duration::from_secs(LINK_HELLO_SECS_MAX), read_hello(&mut io)).await;
    let Ok(Ok(Hello { ticket, version })) = hello else {
        edge.metrics.links_refused.inc();
        return tracing::debug!(%peer, "a link showed no ticket in time");
    };
    let now_s = clock::unix_ms() / 1000;
    let found = session_of_ticket(agents, &ticket, ingress, peer, now_s)
        .and_then(|session| Some((session.links.take()?, session)));
    let Some((taken, session)) = found else {
        edge.metrics.links_refused.inc();
        tracing::debug!(%peer, "a link is refused: its ticket is void, or its session has enough");
        let refuse = answer_hello(&mut io, Code::REFUSED);
        // It closes either way.
        let _ = timeout(Duration::from_secs(LINK_HELLO_SECS_MAX), refuse).await;
        return;
    };
    if answer_hello(&mut io, Code::NONE).await.is_err() {
        return;
    }
    let index = session.links.turn(false, edge.mailboxes.shards());
    let link = GaugeGuard::new(&edge.metrics.links);
    let link = Link::new(io, version, owner(&session, (taken, link, open, admitted)));
    shard.park(index, IdleLink::Link(link));
}

/// A link of this session, which counts among its session's, among all links, among agents' connections and among all.
fn owner(session: &AgentSession, permits: (LinkCount, GaugeGuard, GaugeGuard, ConnPermit)) -> LinkOwner {
    LinkOwner { session: Arc::clone(&session.state), permits: Box::new(permits) }
}

/// Why a raw link is closed.
#[derive(Debug, thiserror::Error)]
enum NoRaw {
    #[error(transparent)]
    Unproven(#[from] Unproven),
    #[error("not proven within {HANDSHAKE_SECS_MAX} s")]
    TimedOut,
    #[error("the session has as many links as it may, or its account allows none")]
    NotAllowed,
}

/// Why a raw link proves nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unproven {
    #[error(transparent)]
    Raw(#[from] RawError),
    #[error("the connection failed: {0}")]
    Io(#[from] std::io::Error),
    #[error("more came than a greeting before the edge had answered")]
    Hasty,
}

/// What the other side of a raw link said until now.
pub(super) struct Answered {
    pub(super) greeting: Greeting,
    /// The answer to the greeting.
    pub(super) nonce: Nonce,
    pub(super) proof: [u8; PROOF_BYTES],
}

/// Reads the greeting of a raw link, answers it, and reads the proof.
pub(super) async fn read_proof(socket: &mut Socket) -> Result<Answered, Unproven> {
    while socket.peeked().len() < GREETING_BYTES {
        if socket.peek_more().await? == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
    }
    let greeting: &[u8; GREETING_BYTES] = socket.peeked().try_into().map_err(|_| Unproven::Hasty)?;
    let greeting = Greeting::decode(greeting)?;
    socket.consume(GREETING_BYTES);
    let nonce: Nonce = random::bytes();
    socket.write_all(&nonce).await?;
    let mut proof = [0; PROOF_BYTES];
    socket.read_exact(&mut proof).await?;
    Ok(Answered { greeting, nonce, proof })
}

/// Whether a raw link begins here, as soon as the first bytes tell.
pub async fn begins_raw(socket: &mut Socket) -> bool {
    loop {
        let seen = socket.peeked();
        let common = seen.iter().zip(MAGIC).take_while(|(a, b)| **a == *b).count();
        if common == MAGIC.len() {
            return true;
        }
        // The next read of the hello finds the end or the error again.
        if common < seen.len() || !matches!(socket.peek_more().await, Ok(1..)) {
            return false;
        }
    }
}

/// Serves a connection that began as a raw link: until it is parked, or closed without a word.
pub(super) async fn serve_raw(
    shard: Shard,
    agents: &Agents,
    mut socket: Socket,
    admitted: ConnPermit,
    open: GaugeGuard,
) {
    let edge = shard.edge();
    let peer = socket.peer().ip();
    let proven = timeout(Duration::from_secs(HANDSHAKE_SECS_MAX), prove(agents, &mut socket)).await;
    let proven = proven.map_err(|_| NoRaw::TimedOut).and_then(|proven| Ok(proven?));
    let parked = proven.and_then(|(session, sealing)| {
        let socket = socket.for_link().map_err(Unproven::from)?;
        let account = session.identity().account;
        let welcome = edge.tables.load().restrictions.admit(account, IpRestrictionKind::Agent, peer);
        if !welcome || !session.state.is_alive() || !session.state.takes_raw() {
            return Err(NoRaw::NotAllowed);
        }
        let taken = session.links.take().ok_or(NoRaw::NotAllowed)?;
        let index = session.links.turn(true, edge.mailboxes.shards());
        let link = GaugeGuard::new(&edge.metrics.links);
        let link = RawLink::new(socket, sealing, owner(&session, (taken, link, open, admitted)));
        shard.park(index, IdleLink::Raw(link));
        Ok(())
    });
    if let Err(error) = parked {
        edge.metrics.links_refused.inc();
        tracing::debug!(%peer, %error, "a raw link is refused");
    }
}

/// Which session the link belongs to, as its agent proves. A session that is not here fails like one whose key the peer does
/// not hold.
async fn prove(agents: &Agents, socket: &mut Socket) -> Result<(Arc<AgentSession>, Sealing), Unproven> {
    let Answered { greeting, nonce, proof } = read_proof(socket).await?;
    let session = agents.sessions.get(TunnelSessionId::new(greeting.session));
    let key = session.as_ref().and_then(|session| session.links.raw_key().cloned());
    let side = EdgeSide::new(&key.unwrap_or_else(|| RawKey::new(random::bytes())), &greeting, &nonce);
    let sealing = side.check(proof)?;
    Ok((session.ok_or(RawError::Forged)?, sealing))
}
