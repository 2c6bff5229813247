//! Watches a QUIC connection while it carries streams: is the agent heard, from where, and may it still come from there.
//!
//! A TCP connection keeps its address for life; a QUIC connection wanders (RFC 9000 section 9), so what was judged at the
//! start is judged again wherever it turns up.

use std::net::IpAddr;
use std::sync::Arc;

use ebbgate_tunnel::quic::{LOOK_MS, PathLiveness};
use tokio::time::{Duration, Instant, MissedTickBehavior, interval};

use super::super::registry::Agents;
use super::super::session::AgentSession;
use crate::state::edge::Edge;
use crate::state::metrics::GaugeGuard;
use crate::tunnel::quic::QuicTransport;

/// Watches the connection a session runs over, until either ends. A session that may not be where its agent has gone ends.
pub(in super::super) async fn watch_session(
    agents: Arc<Agents>,
    session: Arc<AgentSession>,
    way: Arc<QuicTransport>,
) {
    watch(agents.edge(), &session, &way, |source| agents.moved(&session, source)).await;
}

/// Looks at the connection until it or its session has ended, or `came` does not want an address it came to.
pub(super) async fn watch(
    edge: &Edge,
    session: &AgentSession,
    way: &QuicTransport,
    mut came: impl FnMut(IpAddr) -> bool,
) {
    let connection = way.connection();
    let (mut liveness, begun) = (PathLiveness::default(), Instant::now());
    let mut looks = interval(Duration::from_millis(LOOK_MS));
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut silence = None;
    let mut source = connection.remote_address();
    while session.state.is_alive() {
        tokio::select! {
            _ = looks.tick() => {}
            _ = connection.closed() => return,
        }
        let stats = connection.stats();
        let (sent, received) = (stats.udp_tx.datagrams, stats.udp_rx.datagrams);
        let silent = liveness.look(begun.elapsed(), sent, received, connection.rtt());
        way.set_silent(silent);
        silence = match silence {
            None if silent => Some(GaugeGuard::new(&edge.metrics.quic_silent)),
            held => held.filter(|_| silent),
        };
        let now = connection.remote_address();
        if now == source {
            continue;
        }
        edge.metrics.quic_migrations.inc();
        tracing::info!(session = %session.state.id, from = %source, to = %now, "an agent's QUIC path moved");
        let other_host = now.ip() != source.ip();
        source = now;
        let ip = now.ip().to_canonical();
        if edge.is_blocked(ip) || other_host && !came(ip) {
            return tracing::info!(session = %session.state.id, %ip, "an agent may not be where it went");
        }
    }
}
