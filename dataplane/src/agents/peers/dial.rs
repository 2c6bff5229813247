//! A way to another edge, kept open by one shard: connects, makes sure which edge it is, and carries the streams of visitors
//! that came here. The edge with the visitor connects, so that an edge need not be reached to reach others.

use std::io;
use std::sync::Arc;

use ebbgate_tunnel::{driver, heartbeat};
use ebbgate_wire::mux::Role;
use ebbgate_wire::rpc::StreamKind;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, sleep, timeout};
use tokio_rustls::TlsConnector;

use super::super::serve::heard::Heard;
use super::limits::PEER_LIMITS;
use crate::net::socket::Socket;
use crate::net::tls::edge_of;
use crate::state::edge::Stage;
use crate::state::metrics::GaugeGuard;
use crate::state::peers::PeerWay;
use crate::state::random;
use crate::state::shard::Shard;

/// Seconds to connect and to finish the handshake.
const CONNECT_SECS_MAX: u64 = 10;
/// Milliseconds before the first new attempt.
const RETRY_MS_MIN: u64 = 50;
/// Milliseconds between looks at what a way to a process that was replaced still carries.
const REST_LOOK_MS: u64 = 200;
/// Milliseconds between attempts at most.
const RETRY_MS_MAX: u64 = 2_000;

/// Why there is no way to another edge now.
#[derive(Debug, thiserror::Error)]
enum NoWay {
    #[error("this edge has not joined: it has no certificate")]
    NoProof,
    #[error("cannot connect: {0}")]
    Io(#[from] io::Error),
    #[error("no connection within {CONNECT_SECS_MAX} s")]
    TimedOut,
    #[error("another edge answers there: {0:?}")]
    Another(Option<ebbgate_model::EdgeId>),
    #[error("it does not answer heartbeats: {0}")]
    Silent(heartbeat::HeartbeatError),
    #[error("the connection ended: {0}")]
    Ended(String),
}

/// Keeps one connection to the edge open until the edge is gone, or this one ends. Where another process of the edge took its
/// place, what the connection carries goes on.
pub async fn keep(shard: Shard, way: Arc<PeerWay>) {
    let ending = shard.edge().reached(Stage::Ending);
    let over = async {
        way.session.has_ended().await;
        let named = || shard.edge().peers.list().contains_key(&way.edge);
        while way.session.in_flight() > 0 && named() {
            sleep(Duration::from_millis(REST_LOOK_MS)).await;
        }
    };
    tokio::select! {
        () = over => {}
        () = ending => {}
        () = keep_open(&shard, &way) => {}
    }
}

async fn keep_open(shard: &Shard, way: &PeerWay) {
    let mut retry_ms = RETRY_MS_MIN;
    loop {
        let began = Instant::now();
        let error = once(shard, way).await;
        if !way.session.is_alive() {
            return;
        }
        if began.elapsed() > Duration::from_millis(RETRY_MS_MAX) {
            retry_ms = RETRY_MS_MIN;
        }
        if retry_ms == RETRY_MS_MIN {
            tracing::warn!(peer = %way.edge, address = way.address, %error, "no way to another edge; trying again");
        }
        sleep(Duration::from_millis(retry_ms / 2 + random::number() % (retry_ms / 2 + 1))).await;
        retry_ms = (retry_ms * 2).min(RETRY_MS_MAX);
    }
}

/// Connects, and carries streams until the connection ends.
async fn once(shard: &Shard, way: &PeerWay) -> NoWay {
    let edge = shard.edge();
    let Some(proof) = edge.peers.proof() else { return NoWay::NoProof };
    let connecting = async {
        let socket = Socket::new(TcpStream::connect(way.address.as_str()).await?)?.for_agent()?;
        // No name is looked at: the certificate names the edge.
        let name = ServerName::IpAddress(socket.peer().ip().into());
        TlsConnector::from(Arc::clone(&proof.client)).connect(name, socket).await
    };
    let io = match timeout(Duration::from_secs(CONNECT_SECS_MAX), connecting).await {
        Ok(Ok(io)) => io,
        Ok(Err(error)) => return error.into(),
        Err(_) => return NoWay::TimedOut,
    };
    let named = edge_of(io.get_ref().1.peer_certificates());
    if named != Some(way.edge) {
        return NoWay::Another(named);
    }
    let io = Heard { io, liveness: Arc::clone(&way.session.liveness) };
    let (mux, incoming, driving) = driver::connect(io, Role::Client, PEER_LIMITS);
    // The other edge opens no streams.
    drop(incoming);
    let beating = async {
        let stream = match mux.open(StreamKind::Heartbeat).await {
            Ok(stream) => stream,
            Err(error) => return NoWay::Ended(error.to_string()),
        };
        let interval = Duration::from_secs(heartbeat::HEARTBEAT_SECS);
        let tolerance = Duration::from_secs(heartbeat::TOLERANCE_SECS);
        let asked = || way.session.liveness.asked();
        let mut carrier = None;
        // Only now the other edge has taken this one for one of the installation.
        let answered = |_| {
            carrier.get_or_insert_with(|| {
                tracing::info!(peer = %way.edge, address = way.address, "a way to another edge is open");
                (way.session.carry(mux.handle()), GaugeGuard::new(&edge.metrics.peer_ways_open))
            });
        };
        NoWay::Silent(heartbeat::run_asked(stream, interval, tolerance, asked, answered).await)
    };
    tokio::select! {
        ended = driving => NoWay::Ended(ended.err().map_or_else(|| "in order".to_owned(), |error| error.to_string())),
        silent = beating => silent,
    }
}
