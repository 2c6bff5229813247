//! A way to another edge, kept open by one shard: connects, makes sure which edge it is, and carries the streams of visitors
//! that came here. The edge with the visitor connects, so that an edge need not be reached to reach others.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use ebbgate_tunnel::driver::{self, Incoming, Stream};
use ebbgate_tunnel::heartbeat;
use ebbgate_tunnel::rpc_io::{read_request, write_object};
use ebbgate_wire::mux::{Code, Role};
use ebbgate_wire::rpc::{Outcome, StreamKind};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::{spawn_blocking, spawn_local};
use tokio::time::{Duration, Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::super::serve::heard::Heard;
use super::limits::PEER_LIMITS;
use super::raw_dial;
use crate::net::socket::Socket;
use crate::net::tls::edge_of;
use crate::state::edge::Stage;
use crate::state::metrics::GaugeGuard;
use crate::state::older::{OlderProcess, Purpose};
use crate::state::peers::{PeerWay, Place};
use crate::state::random;
use crate::state::shard::Shard;
use crate::tunnel::session::Carrier;

/// Seconds to connect and to finish the handshake.
const CONNECT_SECS_MAX: u64 = 10;
/// Connections to processes that have handed over, kept until there is one to the process that serves.
const BEFORE_MAX: usize = 8;
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
    #[error("another process of the edge serves now")]
    Moved,
}

/// A connection to a process that has handed over: it carries new streams until there is one to the process after it, and what
/// it carries then to their end.
struct Before {
    carrier: CarrierCell,
    /// While this lives the connection does not end for lack of streams.
    _mux: driver::Session,
    /// Answered when there is another connection.
    asked: Stream,
}

/// Lets new streams use a connection; counted as a way that is open.
type CarrierCell = Rc<RefCell<Option<(Carrier, GaugeGuard)>>>;

impl Before {
    /// There is another connection.
    fn leave(mut self) {
        drop(self.carrier.take());
        spawn_local(async move {
            let moved = Outcome { error: String::new() };
            let answer = write_object(&mut self.asked, &moved);
            // The other process waits no longer than this.
            let _ = timeout(Duration::from_secs(CONNECT_SECS_MAX), answer).await;
        });
    }
}

/// Keeps one connection to the edge open until the edge is gone, or this one ends. Where another process of the edge took its
/// place, what the connection carries goes on.
pub async fn keep(shard: Shard, way: Arc<PeerWay>) {
    let ending = shard.edge().reached(Stage::Ending);
    tokio::select! {
        () = rested(&shard, &way) => {}
        () = ending => {}
        () = keep_open(&shard, &way) => {}
    }
}

/// Completes when the way takes no streams any more, and those it has are over or the edge is withdrawn.
async fn rested(shard: &Shard, way: &PeerWay) {
    way.session.has_ended().await;
    let named = || shard.edge().peers.list().contains_key(&way.edge);
    while way.session.in_flight() > 0 && named() {
        sleep(Duration::from_millis(REST_LOOK_MS)).await;
    }
}

async fn keep_open(shard: &Shard, way: &Arc<PeerWay>) {
    let (mut retry_ms, mut before) = (RETRY_MS_MIN, Vec::new());
    while way.session.is_alive() {
        let began = Instant::now();
        let error = once(shard, way, &mut before).await;
        if !way.session.is_alive() {
            break;
        }
        let has_moved = matches!(error, NoWay::Moved);
        if has_moved || began.elapsed() > Duration::from_millis(RETRY_MS_MAX) {
            retry_ms = RETRY_MS_MIN;
        }
        if retry_ms == RETRY_MS_MIN && !has_moved {
            tracing::warn!(peer = %way.edge, address = %way.place, %error, "no way to another edge; trying again");
        }
        sleep(Duration::from_millis(retry_ms / 2 + random::number() % (retry_ms / 2 + 1))).await;
        retry_ms = (retry_ms * 2).min(RETRY_MS_MAX);
    }
    // There is no other connection to wait for.
    before.drain(..).for_each(Before::leave);
}

/// Connects, and carries streams until the connection ends.
async fn once(shard: &Shard, way: &Arc<PeerWay>, before: &mut Vec<Before>) -> NoWay {
    match &way.place {
        Place::Address(address) => to_edge(shard, way, address, before).await,
        Place::Older(process) => to_process(shard, way, process, before).await,
    }
}

async fn to_process(
    shard: &Shard,
    way: &Arc<PeerWay>,
    process: &Arc<OlderProcess>,
    before: &mut Vec<Before>,
) -> NoWay {
    let process = Arc::clone(process);
    let connected =
        spawn_blocking(move || process.connect(Purpose::Carry, &[])).await.map_err(io::Error::other);
    match connected.flatten().and_then(UnixStream::from_std) {
        Ok(stream) => carry(shard, way, stream, None, before).await,
        Err(error) => error.into(),
    }
}

async fn to_edge(shard: &Shard, way: &Arc<PeerWay>, address: &str, before: &mut Vec<Before>) -> NoWay {
    let edge = shard.edge();
    let Some(proof) = edge.peers.proof() else { return NoWay::NoProof };
    let connecting = async {
        let socket = Socket::new(TcpStream::connect(address).await?)?.for_agent()?;
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
    let raw_at = io.get_ref().0.peer();
    carry(shard, way, io, Some(raw_at), before).await
}

/// Carries streams until the connection ends; a visitor's own TLS beside it, if raw connections may be made somewhere.
async fn carry<IO>(
    shard: &Shard,
    way: &Arc<PeerWay>,
    io: IO,
    raw_at: Option<SocketAddr>,
    before: &mut Vec<Before>,
) -> NoWay
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let edge = shard.edge();
    let io = Heard { io, liveness: Arc::clone(&way.session.liveness) };
    let (mux, mut incoming, driving) = driver::connect(io, Role::Client, PEER_LIMITS);
    let mut driving = Box::pin(driving);
    let carrier = CarrierCell::default();
    let ended = CancellationToken::new();
    let until_ended = ended.clone().drop_guard();
    let beside = async {
        if let Some(at) = raw_at.filter(|_| edge.peers.has_raw()) {
            raw_dial::keep(shard, way, &mux, at, &ended).await;
        }
        pending::<Infallible>().await
    };
    let beating = async {
        let stream = match mux.open(StreamKind::Heartbeat).await {
            Ok(stream) => stream,
            Err(error) => return NoWay::Ended(error.to_string()),
        };
        let interval = Duration::from_secs(heartbeat::HEARTBEAT_SECS);
        let tolerance = Duration::from_secs(heartbeat::TOLERANCE_SECS);
        let asked = || way.session.liveness.asked();
        // Only now the other edge has taken this one for one of the installation.
        let answered = |_| {
            carrier.borrow_mut().get_or_insert_with(|| {
                tracing::info!(peer = %way.edge, address = %way.place, "a way to another edge is open");
                (way.session.carry(mux.handle()), GaugeGuard::new(&edge.metrics.peer_ways_open))
            });
            before.drain(..).for_each(Before::leave);
        };
        NoWay::Silent(heartbeat::run_asked(stream, interval, tolerance, asked, answered).await)
    };
    let asked = tokio::select! {
        ended = &mut driving => {
            return NoWay::Ended(ended.err().map_or_else(|| "in order".to_owned(), |error| error.to_string()));
        }
        silent = beating => return silent,
        never = beside => match never {},
        asked = asked_to_move(&mut incoming) => asked,
    };
    tracing::info!(peer = %way.edge, address = %way.place, "another process of an edge serves; connecting there");
    drop(incoming);
    let (shard, way, held) = (shard.clone(), Arc::clone(way), Rc::clone(&carrier));
    spawn_local(async move {
        tokio::select! {
            _ = driving => {}
            () = rested(&shard, &way) => {}
        }
        // No stream is opened on a connection that is over, and those beside it end.
        drop((held.take(), until_ended));
    });
    before.truncate(BEFORE_MAX - 1);
    before.push(Before { carrier, _mux: mux, asked });
    NoWay::Moved
}

/// Completes when the process at the other end has handed over, with the stream to be answered. It opens no others.
async fn asked_to_move(incoming: &mut Incoming) -> Stream {
    while let Some(mut stream) = incoming.accept().await {
        if !matches!(stream.kind().await, Ok(StreamKind::Move)) {
            stream.reset(Code::REFUSED);
        } else if read_request(&mut stream, StreamKind::Move).await.is_ok() {
            return stream;
        }
    }
    pending().await
}
