//! An attachment: a QUIC connection that takes streams of a session which runs elsewhere, for as long as the agent likes.

use std::net::IpAddr;
use std::sync::Arc;

use ebbgate_model::{AccountId, IpRestrictionKind};
use ebbgate_tunnel::quic::{ATTACHED, Connection, HEADER_SECS_MAX, Stream};
use ebbgate_wire::mux::Code;
use ebbgate_wire::rpc::Secret;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Duration, timeout};

use super::super::links::session_of_ticket;
use super::super::registry::Agents;
use super::watch::watch;
use crate::state::clock;
use crate::state::edge::Stage;
use crate::state::metrics::GaugeGuard;
use crate::tunnel::quic::QuicTransport;

/// A connection whose handshake is done.
pub(super) struct Newcomer {
    pub(super) connection: Connection,
    pub(super) peer: IpAddr,
    /// Only sessions of this account may use the name it asked for; None: any.
    pub(super) ingress: Option<AccountId>,
}

/// Serves an attachment to its end, and gives the reason of it.
pub(super) async fn attach(
    agents: &Agents,
    newcomer: Newcomer,
    mut stream: Stream,
    ticket: &Secret,
) -> &'static str {
    let Newcomer { connection, peer, ingress } = newcomer;
    let edge = agents.edge();
    let now_s = clock::unix_ms() / 1000;
    let way = QuicTransport::new(connection.clone(), false);
    let session = session_of_ticket(agents, ticket, ingress, peer, now_s);
    let Some(session) = session.filter(|session| session.state.attach(&way)) else {
        tracing::debug!(%peer, "a QUIC connection is not attached: its ticket is void, or the session over");
        let refuse = async {
            stream.write_u8(u8::try_from(Code::REFUSED.0).unwrap_or(u8::MAX)).await?;
            stream.shutdown().await
        };
        // It closes either way.
        let _ = timeout(Duration::from_secs(HEADER_SECS_MAX), refuse).await;
        return "not attached";
    };
    ebbgate_tunnel::quic::admit(&connection);
    let _count = GaugeGuard::new(&edge.metrics.quic_attached);
    let account = session.account();
    let admits = |source| edge.tables.load().restrictions.admit(account, IpRestrictionKind::Agent, source);
    let reason = if stream.write_u8(ATTACHED).await.is_err() {
        "the agent went away"
    } else {
        tracing::info!(session = %session.state.id, %peer, "a QUIC connection is attached");
        tokio::select! {
            () = watch(edge, &session, &way, admits) => "the session has ended, or may not be where its agent is",
            () = detached(&mut stream, &way) => "the agent went away",
            () = edge.reached(Stage::Ending) => "the edge is restarting",
        }
    };
    session.state.detach(&way);
    tracing::info!(session = %session.state.id, %peer, reason, "a QUIC connection is no longer attached");
    reason
}

/// Waits for the agent's wish for no new streams, and then for the connection to end with its last one.
async fn detached(stream: &mut Stream, way: &Arc<QuicTransport>) {
    // A byte here means nothing yet; the end means that no new streams shall come.
    while stream.read_u8().await.is_ok() {}
    way.detach();
    way.connection().closed().await;
}
