//! The agent listener over UDP: handshakes within limits, by the certificate of the name an agent asked for, then its first
//! words: a session, or an attachment to one that runs elsewhere.
//!
//! Runs on one shard; the streams it carries may be used on any. The limits of a connection are `ebbgate_tunnel::quic`'s.

mod attach;
mod certificates;
pub(super) mod watch;

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use ebbgate_model::Host;
use ebbgate_tunnel::quic::{Connection, HEADER_SECS_MAX, Incoming, Stream, StreamHeader};
use ebbgate_wire::mux::Code;
use quinn::crypto::rustls::HandshakeData;
use tokio::task::{spawn_local, yield_now};
use tokio::time::{Duration, sleep, timeout};

use super::registry::Agents;
use super::serve::{Arrival, run, turn};
use crate::net::listen::{ConnPermit, PeerKind};
use crate::state::edge::{Edge, Stage};
use crate::state::mailbox::QuicSocket;
use crate::state::metrics::GaugeGuard;
use crate::state::metrics::ListenerLabel;
use crate::state::shard::Shard;
use crate::state::tables::ConnectName;
use crate::tunnel::quic::QuicTransport;
use attach::{Newcomer, attach};

/// Seconds from an agent's first packet to the end of its handshake.
pub const HANDSHAKE_SECS_MAX: u64 = 10;
/// Handshakes under way at once; the next is refused.
pub const HANDSHAKES_MAX: usize = 512;
/// The listener of one shard.
struct Listener {
    shard: Shard,
    agents: Arc<Agents>,
    handshakes: Count,
}

/// How many of something there are now.
#[derive(Default)]
struct Count(Rc<Cell<usize>>);

/// One of them, until dropped.
struct Counted(Rc<Cell<usize>>);

impl Count {
    fn take(&self, max: usize) -> Option<Counted> {
        let now = self.0.get();
        (now < max).then(|| {
            self.0.set(now + 1);
            Counted(Rc::clone(&self.0))
        })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Serves agents that come over QUIC until the edge drains; their connections go on. After a hand-over those that had begun to
/// connect still may.
pub async fn serve(shard: Shard, agents: Arc<Agents>, served: QuicSocket) -> io::Result<()> {
    let edge = Arc::clone(shard.edge());
    let QuicSocket { socket, keys, port } = served;
    let config = ebbgate_tunnel::quic::server(certificates::tls(&edge)).map_err(io::Error::other)?;
    let endpoint = ebbgate_tunnel::quic::server_endpoint(socket, config, &keys, &port)?;
    let listener = Listener { shard, agents, handshakes: Count::default() };
    let (handed_over, draining) = (edge.reached(Stage::HandedOver), edge.reached(Stage::Draining));
    let draining = async {
        let begun = async {
            handed_over.await;
            sleep(Duration::from_secs(HANDSHAKE_SECS_MAX)).await;
        };
        tokio::select! {
            () = begun => {}
            () = draining => {}
        }
    };
    tokio::pin!(draining);
    loop {
        tokio::select! {
            incoming = endpoint.accept() => match incoming {
                Some(incoming) => listener.take(incoming),
                None => return Ok(()),
            },
            () = &mut draining => break,
        }
    }
    endpoint.set_server_config(None);
    // Connections that are still open need the endpoint.
    edge.reached(Stage::Stopped).await;
    Ok(())
}

impl Listener {
    /// Takes a connection attempt: counts it in, asks for a proof of its address, or turns it away.
    fn take(&self, incoming: Incoming) {
        let edge = self.shard.edge();
        let metrics = &edge.metrics;
        let peer = incoming.remote_address().ip().to_canonical();
        metrics.connections.get_or_create(&ListenerLabel { listener: "quic" }).inc();
        if edge.is_blocked(peer) {
            metrics.connections_blocked.inc();
            return incoming.ignore();
        }
        if !incoming.remote_address_validated() {
            // A Retry is smaller than any first packet (RFC 9000 section 14.1), and costs the edge no memory. A handshake's
            // answers are not: the library counts them in whole datagrams against the limit of section 8.1.
            metrics.quic_retries.inc();
            // It can be asked once only, and has not been.
            let _ = incoming.retry();
            return;
        }
        let Some(handshake) = self.handshakes.take(HANDSHAKES_MAX) else {
            metrics.connections_refused.inc();
            return incoming.refuse();
        };
        match edge.limits.admit(peer, PeerKind::Agent) {
            Ok(admitted) => {
                spawn_local(begin(
                    self.shard.clone(),
                    Arc::clone(&self.agents),
                    incoming,
                    handshake,
                    admitted,
                ));
            }
            Err(refused) => {
                metrics.connections_refused.inc();
                tracing::debug!(%peer, %refused, "connection refused");
                incoming.refuse();
            }
        }
    }
}

/// Serves one connection attempt, and the connection it leads to, to the end.
async fn begin(
    shard: Shard,
    agents: Arc<Agents>,
    incoming: Incoming,
    handshake: Counted,
    admitted: ConnPermit,
) {
    let open = GaugeGuard::new(&shard.edge().metrics.agent_connections_open);
    let from = incoming.remote_address();
    if turn(&shard, from.ip().to_canonical()).await.is_err() {
        return incoming.refuse();
    }
    let limit = Duration::from_secs(HANDSHAKE_SECS_MAX);
    let connection = match timeout(limit, async { incoming.await }).await {
        Ok(Ok(connection)) => connection,
        failed => {
            shard.edge().metrics.handshakes_failed.inc();
            let error = failed.err().map_or_else(|| "it failed".to_owned(), |e| e.to_string());
            if shard.edge().refusal_has_line(from.ip()) {
                tracing::info!(peer = %from, error, "an agent's QUIC handshake failed");
            }
            return;
        }
    };
    drop(handshake);
    let peer = connection.remote_address().ip().to_canonical();
    let reason = match came_for(shard.edge(), &connection) {
        Some(name) => {
            let newcomer = Newcomer { connection: connection.clone(), peer, ingress: name.account };
            serve_connection(&shard, &agents, newcomer).await
        }
        None => "the name is not served any more",
    };
    ebbgate_tunnel::quic::close(&connection, Code::NONE, reason);
    // The last packet leaves before anybody stops for want of connections.
    yield_now().await;
    drop((admitted, open));
}

/// The entry for the name of a finished handshake. None: the name is not known.
fn came_for(edge: &Edge, connection: &Connection) -> Option<ConnectName> {
    let data = connection.handshake_data()?.downcast::<HandshakeData>().ok()?;
    let name = match data.server_name {
        Some(name) => Some(name.parse::<Host>().ok()?),
        None => None,
    };
    edge.tables.load().connect.find(name.as_ref())
}

/// Hears what the connection is for, and serves it to its end. Gives the reason of the end.
async fn serve_connection(shard: &Shard, agents: &Arc<Agents>, newcomer: Newcomer) -> &'static str {
    let Newcomer { connection, peer, ingress } = &newcomer;
    let first = async {
        let mut stream = Stream::new(connection.accept_bi().await.ok()?);
        let opening = StreamHeader::read(&mut stream).await;
        opening
            .inspect_err(|error| {
                if shard.edge().refusal_has_line(*peer) {
                    tracing::info!(%peer, %error, "an agent began with nonsense");
                }
            })
            .ok()
            .map(|opening| (opening, stream))
    };
    let Ok(Some((opening, stream))) = timeout(Duration::from_secs(HEADER_SECS_MAX), first).await else {
        return "no session and no attachment in time";
    };
    match opening {
        StreamHeader::Session => {
            let way = QuicTransport::new(connection.clone(), true);
            let arrival = Arrival { peer: *peer, ingress: *ingress, quic: Some(way) };
            run(shard.clone(), Arc::clone(agents), stream, arrival).await;
            "the session has ended"
        }
        StreamHeader::Attach(ticket) => attach(agents, newcomer, stream, &ticket).await,
    }
}
