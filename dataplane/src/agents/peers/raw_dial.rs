//! Raw connections to another edge, kept ready by one shard beside its mux connection there: asks for the key, connects, proves,
//! and parks. What may go wrong here costs no visitor anything: without a raw connection he goes over the mux.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use ebbgate_tunnel::rpc_io::{RpcIoError, call};
use ebbgate_tunnel::{driver, reset_code};
use ebbgate_wire::link::raw::between::VisitorSide;
use ebbgate_wire::link::raw::{Greeting, HANDSHAKE_SECS_MAX, Nonce, RawKey};
use ebbgate_wire::mux::Code;
use ebbgate_wire::rpc::{Empty, StreamKind};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::limits::RAW_DIALS_MAX;
use crate::net::listen::Refused;
use crate::net::socket::Socket;
use crate::state::edge::{Edge, Stage};
use crate::state::metrics::GaugeGuard;
use crate::state::peers::PeerWay;
use crate::state::random;
use crate::state::shard::Shard;
use crate::tunnel::peer::RawOffer;
use crate::tunnel::peer_links::{OpenPool, PeerLink};

/// Seconds another edge may take to give its key.
const KEY_SECS_MAX: u64 = 10;
/// Seconds before an edge is asked again that has not answered.
const ASK_AGAIN_SECS: u64 = 60;
/// Seconds between looks at connections that wait.
const LOOK_SECS: u64 = 5;
/// Seconds a connection waits for its visitor at least, before it is replaced.
const PARKED_SECS_MIN: u64 = 180;
/// Seconds it may wait beyond that; together less than the other edge waits.
const PARKED_SPREAD_SECS: u64 = 60;

/// Why there is no raw connection.
#[derive(Debug, thiserror::Error)]
enum NoRaw {
    #[error("cannot connect: {0}")]
    Io(#[from] io::Error),
    #[error("not ready within {HANDSHAKE_SECS_MAX} s")]
    TimedOut,
    #[error(transparent)]
    Full(#[from] Refused),
}

/// Keeps raw connections for as long as this is polled, or another process serves here. `at`: where the mux connection leads.
pub(super) async fn keep(
    shard: &Shard,
    way: &PeerWay,
    mux: &driver::Session,
    at: SocketAddr,
    ended: &CancellationToken,
) {
    let pool = shard.dialer().peer_pool(&way.session, mux.clone(), ended.clone());
    tokio::select! {
        () = shard.edge().reached(Stage::HandedOver) => {}
        () = way.session.has_ended() => {}
        () = fill(shard.edge(), way, mux, at, &pool) => {}
    }
}

async fn fill(edge: &Arc<Edge>, way: &PeerWay, mux: &driver::Session, at: SocketAddr, pool: &OpenPool) {
    pool.visited().await;
    let Some(key) = ask(mux).await else {
        return tracing::debug!(peer = %way.edge, "another edge gives no key for raw connections");
    };
    let mut dials = JoinSet::new();
    loop {
        let (lacking, paused) = pool.lacking();
        if paused.is_none() {
            while dials.len() < lacking.min(RAW_DIALS_MAX) {
                dials.spawn_local(dial(Arc::clone(edge), at, key.clone()));
            }
        }
        let look = paused
            .map_or(Duration::from_secs(LOOK_SECS), |until| until.saturating_duration_since(Instant::now()));
        tokio::select! {
            Some(dialled) = dials.join_next() => match dialled {
                Ok(Ok(link)) => pool.park(link),
                Ok(Err(error)) => {
                    tracing::debug!(peer = %way.edge, %at, %error, "no raw connection to another edge");
                    pool.failed();
                }
                Err(error) => tracing::error!(%error, "a raw connection was given up"),
            },
            () = pool.visited() => {}
            () = sleep(look.min(Duration::from_secs(LOOK_SECS))) => {}
        }
    }
}

/// What the greeting names, and the key.
type Key = (RawOffer, RawKey);

/// Asks for the key until there is an answer. None: an edge without raw connections, or one that hands over, gives none.
async fn ask(mux: &driver::Session) -> Option<Key> {
    let answer = loop {
        let asking = async {
            let stream = mux.open(StreamKind::RawKey).await.map_err(io::Error::other)?;
            call(stream, &Empty {}).await
        };
        match timeout(Duration::from_secs(KEY_SECS_MAX), asking).await {
            Ok(Ok(answer)) => break answer,
            Ok(Err(RpcIoError::Io(error))) if reset_code(&error) == Some(Code::REFUSED) => return None,
            Ok(Err(_)) | Err(_) => sleep(Duration::from_secs(ASK_AGAIN_SECS)).await,
        }
    };
    let offer: RawOffer = serde_json::from_value(answer).ok()?;
    let key = RawKey::from_secret(&offer.key).ok()?;
    Some((offer, key))
}

async fn dial(edge: Arc<Edge>, at: SocketAddr, key: Key) -> Result<PeerLink, NoRaw> {
    let permit = edge.limits.admit_spare()?;
    let limit = Duration::from_secs(HANDSHAKE_SECS_MAX);
    timeout(limit, async {
        let mut socket = Socket::new(TcpStream::connect(at).await?)?.for_link()?;
        let greeting = Greeting { session: key.0.session.ksuid(), nonce: random::bytes() };
        socket.write_all(&greeting.encode()).await?;
        let mut nonce = Nonce::default();
        socket.read_exact(&mut nonce).await?;
        let (proof, sealing, awaited) = VisitorSide::new(&key.1, &greeting, &nonce).prove();
        socket.write_all(&proof).await?;
        let since = Instant::now();
        // Those that were parked together are not replaced together.
        let parked_secs = PARKED_SECS_MIN + random::number() % PARKED_SPREAD_SECS;
        let (until, idle) =
            (since + Duration::from_secs(parked_secs), GaugeGuard::new(&edge.metrics.peer_raw_idle));
        Ok(PeerLink { socket, sealing, awaited, since, until, idle, permit: Box::new(permit) })
    })
    .await
    .map_err(|_| NoRaw::TimedOut)?
}
