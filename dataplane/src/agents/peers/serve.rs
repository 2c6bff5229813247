//! A connection of another edge, or of the process of this edge that has taken over: its streams go to agents that are connected
//! here, and for another edge to those of this edge's older processes.

use std::os::unix::net::UnixStream as StdStream;
use std::rc::Rc;
use std::sync::Arc;

use ebbgate_model::EdgeId;
use ebbgate_tunnel::driver::{self, Stream};
use ebbgate_tunnel::rpc_io::{call, read_request, write_object};
use ebbgate_tunnel::{heartbeat, reset_code};
use ebbgate_wire::mux::{Code, Limits, Role};
use ebbgate_wire::rpc::{Empty, StreamKind};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::UnixStream;
use tokio::task::spawn_local;
use tokio::time::{Duration, timeout};

use super::super::links::begins_raw;
use super::super::registry::Agents;
use super::limits::PEER_LIMITS;
use super::raw_serve;
use super::serving::{From, Served, Serving};
use crate::net::listen::ConnPermit;
use crate::net::socket::Socket;
use crate::net::tls::{self, HELLO_SECS_MAX, edge_of};
use crate::relay::{self, End, Side};
use crate::state::edge::Stage;
use crate::state::metrics::GaugeGuard;
use crate::state::shard::Shard;
use crate::tunnel::peer::{PeerHeader, RawOffer};

/// Seconds for the header of a stream.
const HEADER_SECS_MAX: u64 = 10;
/// Seconds another edge may take to connect to the process that has taken over.
const MOVE_SECS_MAX: u64 = 10;
/// Seconds a connection may take to end once it was asked to.
const END_SECS_MAX: u64 = 2;

/// Serves a connection of the listener for edges to its end.
pub async fn serve(shard: Shard, agents: Arc<Agents>, mut socket: Socket, admitted: ConnPermit) {
    let (edge, peer) = (Arc::clone(shard.edge()), socket.peer());
    match timeout(Duration::from_secs(HELLO_SECS_MAX), begins_raw(&mut socket)).await {
        Ok(true) if edge.peers.has_raw() => return raw_serve::serve(shard, agents, socket, admitted).await,
        Ok(true) => return tracing::debug!(%peer, "a raw connection is refused: this edge has none"),
        Ok(false) => {}
        Err(_) => return tracing::debug!(%peer, "another edge said nothing in time"),
    }
    let Some(proof) = edge.peers.proof() else { return };
    let Ok(socket) = socket.for_agent() else { return };
    let io = match tls::handshake(socket, Arc::clone(&proof.server)).await {
        Ok(io) => io,
        Err(error) => {
            edge.metrics.peers_refused.inc();
            if edge.refusal_has_line(peer.ip()) {
                tracing::warn!(%peer, %error, "an edge was refused: its certificate or TLS");
            }
            return;
        }
    };
    // Which of the edges that control names; this one is not among them.
    let named = edge_of(io.get_ref().1.peer_certificates());
    let known = |id: &EdgeId| edge.peers.list().contains_key(id);
    let Some(id) = named.filter(known) else {
        edge.metrics.peers_refused.inc();
        if edge.refusal_has_line(peer.ip()) {
            tracing::warn!(%peer, edge = ?named, "an edge was refused: control does not name it");
        }
        return;
    };
    tracing::info!(%peer, edge = %id, "another edge connected");
    let open = GaugeGuard::new(&edge.metrics.peer_connections_open);
    let mut list = edge.peers.changes();
    let unnamed = async {
        let _ = list.wait_for(|list| !list.contains_key(&id)).await;
    };
    let giving = agents.raw_keys.give(id);
    let key = Some(Arc::clone(&giving.given));
    let reason = carry(Serving { shard, agents, from: From::Edge(id), key }, io, unnamed, giving).await;
    tracing::info!(%peer, edge = %id, reason, "the connection of another edge is over");
    drop((open, admitted));
}

/// Serves a connection of the process of this edge that has taken over, to its end.
pub async fn serve_newer(shard: Shard, agents: Arc<Agents>, stream: StdStream) {
    let reason = match UnixStream::from_std(stream) {
        Ok(io) => {
            let serving = Serving { shard, agents, from: From::Newer, key: None };
            carry(serving, io, std::future::pending(), ()).await
        }
        Err(error) => return tracing::error!(%error, "the process that serves cannot be served"),
    };
    tracing::debug!(reason, "a connection of the process that serves is over");
}

/// Serves streams until the connection ends, or `unnamed` completes: its other end is an edge no longer. Gives why. `beside` is
/// dropped then: with it ends what goes beside the connection.
async fn carry<IO>(
    serving: Serving,
    io: IO,
    unnamed: impl Future<Output = ()>,
    beside: impl Sized,
) -> &'static str
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mux, mut incoming, driving) = driver::connect(io, Role::Server, PEER_LIMITS);
    let mut driving = spawn_local(driving);
    let ending = serving.shard.edge().reached(Stage::Ending);
    let leaving = move_on(&serving, &mux);
    tokio::pin!(ending, unnamed, leaving);
    let mut is_asked = false;
    let serving = Rc::new(serving);
    let reason = loop {
        tokio::select! {
            stream = incoming.accept() => match stream {
                Some(stream) => drop(spawn_local(Rc::clone(&serving).stream(stream))),
                None => break "the connection ended",
            },
            has_moved = &mut leaving, if !is_asked => {
                if !has_moved {
                    break "another process of the edge serves now";
                }
                is_asked = true;
            }
            () = &mut unnamed => break "control names the edge no longer",
            () = &mut ending => break "the edge is restarting",
        }
    };
    drop(beside);
    mux.goaway(Code::NONE, reason);
    if timeout(Duration::from_secs(END_SECS_MAX), &mut driving).await.is_err() {
        driving.abort();
    }
    reason
}

/// Once another process has taken over, has the edge at the other end connect there, and open no further streams here. False: it
/// does not know how to.
fn move_on(serving: &Serving, mux: &driver::Session) -> impl Future<Output = bool> + use<> {
    let edge = serving.shard.edge();
    let (handed_over, mux) = (edge.reached(Stage::HandedOver), mux.clone());
    let staying = matches!(serving.from, From::Edge(_)).then(|| GaugeGuard::new(edge.peers.staying()));
    async move {
        // The process that has taken over stays, whatever takes over from it.
        let Some(_staying) = staying else { return std::future::pending().await };
        handed_over.await;
        let ask = async {
            let stream = mux.open(StreamKind::Move).await.ok()?;
            drop(mux);
            call(stream, &Empty {}).await.ok()
        };
        // One that has not connected in time goes on trying.
        timeout(Duration::from_secs(MOVE_SECS_MAX), ask).await.map_or(true, |answer| answer.is_some())
    }
}

impl Serving {
    async fn stream(self: Rc<Self>, mut stream: Stream) {
        match stream.kind().await {
            Ok(StreamKind::Proxy) => {}
            // It ends when the other edge ends it.
            Ok(StreamKind::Heartbeat) => return drop(heartbeat::echo(stream, || {}).await),
            Ok(StreamKind::RawKey) => return self.give_key(stream).await,
            Ok(kind) => {
                tracing::debug!(edge = %self.from, %kind, "a stream of another edge is refused");
                return stream.reset(Code::REFUSED);
            }
            Err(_) => return,
        }
        let read = timeout(Duration::from_secs(HEADER_SECS_MAX), header(&mut stream)).await;
        let Ok(Some(header)) = read else { return stream.reset(Code::REFUSED) };
        let Served { agent, origin, share } = match self.admit(&header) {
            Ok(served) => served,
            Err(code) => return stream.reset(code),
        };
        let edge = self.shard.edge();
        let mut upstream = match self.shard.dialer().open(&agent, origin).await {
            Ok(upstream) => upstream,
            Err(error) => {
                self.refused(&header, &error);
                return stream.reset(Code::REFUSED);
            }
        };
        let ended = relay::copy(&mut stream, &mut upstream, edge.waits.idle()).await;
        match ended.end {
            End::Finished => {}
            End::Failed(Side::Agent) => {
                let code = ended.error.as_ref().and_then(reset_code);
                stream.reset(code.unwrap_or(Code::CANCELLED));
            }
            _ => stream.reset(Code::CANCELLED),
        }
        drop(share);
    }

    /// Gives the other edge the key of raw connections. An edge without them gives none, and a process that has handed over takes
    /// no new ones.
    async fn give_key(&self, mut stream: Stream) {
        let edge = self.shard.edge();
        let may = edge.peers.has_raw() && edge.stage() == Stage::Serving;
        let Some(key) = self.key.as_ref().filter(|_| may) else {
            return stream.reset(Code::REFUSED);
        };
        let offer = RawOffer { session: key.session, key: key.key.to_secret() };
        let exchange = async {
            read_request(&mut stream, StreamKind::RawKey).await?;
            write_object(&mut stream, &offer).await
        };
        if !matches!(timeout(Duration::from_secs(HEADER_SECS_MAX), exchange).await, Ok(Ok(()))) {
            tracing::debug!(edge = %self.from, "another edge asked for a key and did not take it");
        }
    }
}

async fn header(stream: &mut Stream) -> Option<PeerHeader> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await.ok()?;
    let mut json = vec![0; PeerHeader::length(length)?];
    stream.read_exact(&mut json).await.ok()?;
    serde_json::from_slice(&json).ok()
}

const _: () = assert!(
    PEER_LIMITS.peer_streams_max >= Limits::EDGE.local_streams_max,
    "an agent's worth of streams fits"
);
