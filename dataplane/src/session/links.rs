//! Links of agents: who may add one to which session, how many, and on which shard each waits.
//!
//! The wire's words are `ebbgate_wire::link`'s; what a link does afterwards is `carrier::link`'s.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ebbgate_model::{AccountId, IpRestrictionKind};
use ebbgate_wire::link::{answer_hello, read_hello};
use ebbgate_wire::mux::Code;
use ebbgate_wire::rpc::{Auth, CarrierOffer, Secret};
use ebbgate_wire::ticket::{LinkTicket, TicketKey};
use tokio::time::{Duration, timeout};

use super::AgentSession;
use super::allowance::{Counter, Taken};
use crate::carrier::{Link, LinkIo, Place};
use crate::conn::Open;
use crate::gateway::Gateway as _;
use crate::listen::Admitted;
use crate::shard::{Edge, Shard};

/// Links of one session, idle or in use.
pub const LINKS_PER_SESSION_MAX: u16 = 512;
/// Seconds from the end of a link's handshake to its whole ticket.
pub const LINK_HELLO_SECS_MAX: u64 = 5;
/// Seconds a link ticket is good for, within its session's life.
const LINK_TICKET_SECS: i64 = 90 * 24 * 3600;

/// One link's place among its session's.
pub struct LinkCount {
    _taken: Taken,
}

/// The links of one session.
pub(super) struct SessionLinks {
    open: Arc<Counter>,
    /// Links let in so far: they take turns on the shards.
    turn: AtomicUsize,
}

impl SessionLinks {
    pub(super) fn new() -> Self {
        Self { open: Counter::new(LINKS_PER_SESSION_MAX.into()), turn: AtomicUsize::new(0) }
    }
}

/// What a session is offered beside its own connection, if its agent asked.
pub(super) fn offer(
    auth: &Auth,
    session: &AgentSession,
    key: &TicketKey,
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
        ticket: ticket.seal(key),
        links_max: if asked("link") { LINKS_PER_SESSION_MAX } else { 0 },
        raw_key: None,
        quic: false,
    })
}

/// The living session a ticket is for, if whoever shows it may come in by this name from this address.
pub fn session_of_ticket(
    edge: &Edge,
    ticket: &Secret,
    ingress: Option<AccountId>,
    source: IpAddr,
    now_unix_s: i64,
) -> Option<Arc<AgentSession>> {
    let ticket = LinkTicket::open(ticket.expose(), &edge.tickets, now_unix_s).ok()?;
    let session = edge.sessions.get(ticket.session_id.parse().ok()?)?;
    let account = session.identity().account;
    let admitted = edge.tables.load().restrictions.admit(account, IpRestrictionKind::Agent, source);
    let here = ingress.is_none_or(|owner| owner == account);
    (session.state.is_alive() && admitted && here).then_some(session)
}

/// Serves a connection that chose the links' protocol: until it is parked, or refused.
pub(super) async fn serve(
    shard: Shard,
    mut io: LinkIo,
    ingress: Option<AccountId>,
    admitted: Admitted,
    open: Open,
) {
    let edge = shard.edge();
    let peer = io.get_ref().0.peer().ip();
    let hello = timeout(Duration::from_secs(LINK_HELLO_SECS_MAX), read_hello(&mut io)).await;
    let Ok(Ok(ticket)) = hello else {
        edge.metrics.links_refused.inc();
        return tracing::debug!(%peer, "a link showed no ticket in time");
    };
    let now_s = shard.now_unix_ms() / 1000;
    let found = session_of_ticket(edge, &ticket, ingress, peer, now_s)
        .and_then(|session| Some((LinkCount { _taken: session.links.open.take(1)? }, session)));
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
    let turn = session.links.turn.fetch_add(1, Ordering::Relaxed);
    let link = Open::count(&edge.metrics.links);
    let index = turn % edge.shards().max(1);
    shard.park_at(index, Link::new(io, Place { session, taken, link, open, admitted }));
}
