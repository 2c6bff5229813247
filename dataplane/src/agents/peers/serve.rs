//! A connection of another edge, or of the process of this edge that has taken over: its streams go to agents that are connected
//! here, and for another edge to those of this edge's older processes.

use std::fmt;
use std::os::unix::net::UnixStream as StdStream;
use std::rc::Rc;
use std::sync::Arc;

use ebbgate_model::EdgeId;
use ebbgate_tunnel::driver::{self, Stream};
use ebbgate_tunnel::rpc_io::call;
use ebbgate_tunnel::{heartbeat, reset_code};
use ebbgate_wire::mux::{Code, Limits, Role};
use ebbgate_wire::rpc::{Empty, StreamKind};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::UnixStream;
use tokio::task::spawn_local;
use tokio::time::{Duration, timeout};

use super::super::registry::Agents;
use super::judge::{Asker, NotServed, judge};
use super::limits::{PEER_LIMITS, STREAM_PARTS};
use crate::net::listen::ConnPermit;
use crate::net::socket::Socket;
use crate::net::tls::{self, edge_of};
use crate::relay::{self, End, Side};
use crate::state::edge::Stage;
use crate::state::metrics::GaugeGuard;
use crate::state::shard::Shard;
use crate::tunnel::peer::PeerHeader;

/// Seconds for the header of a stream.
const HEADER_SECS_MAX: u64 = 10;
/// Seconds another edge may take to connect to the process that has taken over.
const MOVE_SECS_MAX: u64 = 10;
/// Seconds a connection may take to end once it was asked to.
const END_SECS_MAX: u64 = 2;

/// Serves a connection of the listener for edges to its end.
pub async fn serve(shard: Shard, agents: Arc<Agents>, socket: Socket, admitted: ConnPermit) {
    let (edge, peer) = (Arc::clone(shard.edge()), socket.peer());
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
    let reason = carry(Context { shard, agents, from: From::Edge(id) }, io, unnamed).await;
    tracing::info!(%peer, edge = %id, reason, "the connection of another edge is over");
    drop((open, admitted));
}

/// Serves a connection of the process of this edge that has taken over, to its end.
pub async fn serve_newer(shard: Shard, agents: Arc<Agents>, stream: StdStream) {
    let reason = match UnixStream::from_std(stream) {
        Ok(io) => carry(Context { shard, agents, from: From::Newer }, io, std::future::pending()).await,
        Err(error) => return tracing::error!(%error, "the process that serves cannot be served"),
    };
    tracing::debug!(reason, "a connection of the process that serves is over");
}

/// Serves streams until the connection ends, or `unnamed` completes: its other end is an edge no longer. Gives why.
async fn carry<IO>(context: Context, io: IO, unnamed: impl Future<Output = ()>) -> &'static str
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mux, mut incoming, driving) = driver::connect(io, Role::Server, PEER_LIMITS);
    let mut driving = spawn_local(driving);
    let ending = context.shard.edge().reached(Stage::Ending);
    let moved = move_on(&context, &mux);
    tokio::pin!(ending, unnamed, moved);
    let mut moves = true;
    let context = Rc::new(context);
    let reason = loop {
        tokio::select! {
            stream = incoming.accept() => match stream {
                Some(stream) => drop(spawn_local(Rc::clone(&context).stream(stream))),
                None => break "the connection ended",
            },
            has_moved = &mut moved, if moves => {
                if !has_moved {
                    break "another process of the edge serves now";
                }
                moves = false;
            }
            () = &mut unnamed => break "control names the edge no longer",
            () = &mut ending => break "the edge is restarting",
        }
    };
    mux.goaway(Code::NONE, reason);
    if timeout(Duration::from_secs(END_SECS_MAX), &mut driving).await.is_err() {
        driving.abort();
    }
    reason
}

/// Once another process has taken over, has the edge at the other end connect there, and open no further streams here. False: it
/// does not know how to.
fn move_on(context: &Context, mux: &driver::Session) -> impl Future<Output = bool> + use<> {
    let edge = context.shard.edge();
    let (handed_over, mux) = (edge.reached(Stage::HandedOver), mux.clone());
    let staying = matches!(context.from, From::Edge(_)).then(|| GaugeGuard::new(edge.peers.staying()));
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

/// Where a connection comes from.
#[derive(Debug, Clone, Copy)]
enum From {
    Edge(EdgeId),
    /// The process of this edge that has taken over.
    Newer,
}

impl fmt::Display for From {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Edge(id) => id.fmt(f),
            Self::Newer => f.write_str("this edge's newer process"),
        }
    }
}

/// What the streams of one connection share.
struct Context {
    shard: Shard,
    agents: Arc<Agents>,
    from: From,
}

impl Context {
    async fn stream(self: Rc<Self>, mut stream: Stream) {
        match stream.kind().await {
            Ok(StreamKind::Proxy) => {}
            // It ends when the other edge ends it.
            Ok(StreamKind::Heartbeat) => return drop(heartbeat::echo(stream, || {}).await),
            Ok(kind) => {
                tracing::debug!(edge = %self.from, %kind, "a stream of another edge is refused");
                return stream.reset(Code::REFUSED);
            }
            Err(_) => return,
        }
        let read = timeout(Duration::from_secs(HEADER_SECS_MAX), header(&mut stream)).await;
        let Ok(Some(header)) = read else { return stream.reset(Code::REFUSED) };
        let session = self.agents.sessions.get(header.session);
        // Another edge reaches sessions of this edge's older processes through this one; a process of this edge connects to each.
        let asker = match self.from {
            From::Newer => Asker::Newer,
            From::Edge(_) if session.is_some() => Asker::Edge,
            From::Edge(_) => Asker::EdgeOfOlder,
        };
        let found = if asker == Asker::EdgeOfOlder {
            self.agents.peers.older_endpoint(header.session, header.endpoint)
        } else {
            session.and_then(|session| session.endpoint(header.endpoint))
        };
        let edge = self.shard.edge();
        let refused = |why: &dyn fmt::Display| {
            edge.metrics.peer_streams_refused.inc();
            tracing::info!(edge = %self.from, account = %header.account, endpoint = %header.endpoint, %why, "a stream of another edge is not served");
        };
        let (agent, origin) = match judge(&header, found.as_ref(), asker) {
            Ok(served) => served,
            Err(why) => {
                refused(&why);
                // Loops end here; whatever else it was, another member may serve.
                let code = if why == NotServed::Hops { Code::CANCELLED } else { Code::REFUSED };
                return stream.reset(code);
            }
        };
        let Some(_share) = edge.peer_streams.take(header.account, STREAM_PARTS) else {
            refused(&"the account has as many streams from other edges as it may");
            return stream.reset(Code::REFUSED);
        };
        let mut upstream = match self.shard.dialer().open(&agent, origin).await {
            Ok(upstream) => upstream,
            Err(error) => {
                refused(&error);
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
