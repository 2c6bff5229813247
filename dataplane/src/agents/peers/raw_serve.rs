//! A raw connection of another edge: let in by the key that this edge gave it, claimed once for a visitor's own TLS, and joined with
//! the agent's raw link by `splice(2)`, or with what else leads to the agent by copying.
//!
//! The wire's words are `ebbgate_wire::link::raw::between`'s. It ends with the connection of mutual TLS that its key was given over.

use std::sync::Arc;

use ebbgate_model::TunnelSessionId;
use ebbgate_tunnel::reset_code;
use ebbgate_wire::link::raw::between::{Answering, HolderSide};
use ebbgate_wire::link::raw::{
    CLAIM_LENGTH_BYTES, Claim, HANDSHAKE_SECS_MAX, OpeningKey, PARKED_SECS_MAX, RawError, RawKey,
    claim_length,
};
use ebbgate_wire::mux::Code;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Duration, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::super::allowance::Permit;
use super::super::links::{Answered, Unproven, read_proof};
use super::super::registry::Agents;
use super::raw_keys::Given;
use super::serving::{From, Served, Serving};
use crate::net::listen::{ConnPermit, Refused};
use crate::net::socket::Socket;
use crate::relay::{self, End, Prefixed};
use crate::state::edge::Stage;
use crate::state::metrics::{GaugeGuard, JoinedLabel};
use crate::state::random;
use crate::state::shard::Shard;
use crate::tunnel::peer::PeerHeader;
use crate::tunnel::raw_link::{RawFailed, RawStream};
use crate::tunnel::stream::AgentStream;

/// Bytes of an agent's first answer that are read at once.
const ANSWER_READ_BYTES: usize = 16 << 10;

/// Why a raw connection is closed without a word.
#[derive(Debug, thiserror::Error)]
enum NoRaw {
    #[error(transparent)]
    Unproven(#[from] Unproven),
    #[error("not proven, or a claim cut in two, within {HANDSHAKE_SECS_MAX} s")]
    TimedOut,
    #[error("too many prove themselves at once")]
    Handshakes,
    #[error("the other edge has as many raw connections as it may")]
    Enough,
    #[error(transparent)]
    Full(#[from] Refused),
}

/// A connection that was let in.
struct Proven {
    given: Arc<Given>,
    opening: OpeningKey<PeerHeader>,
    answering: Answering,
    idle: Permit,
    /// Counts it among this edge's connections.
    permits: (Permit, ConnPermit),
}

/// Serves a connection that began as a raw one to its end.
pub(super) async fn serve(shard: Shard, agents: Arc<Agents>, mut socket: Socket, admitted: ConnPermit) {
    let (edge, peer) = (Arc::clone(shard.edge()), socket.peer());
    let refused = |error: &NoRaw| {
        edge.metrics.peer_raw_refused.inc();
        if edge.refusal_has_line(peer.ip()) {
            tracing::info!(%peer, %error, "a raw connection at the listener for edges is closed");
        }
    };
    let Proven { given, opening, answering, idle, permits } = match let_in(&shard, &agents, &mut socket).await
    {
        Ok(proven) => proven,
        Err(error) => return refused(&error),
    };
    // An edge of the installation: it does not count among its source's any more, which strangers may share.
    drop(admitted);
    let open = GaugeGuard::new(&edge.metrics.peer_raw_connections_open);
    let sealed = tokio::select! {
        sealed = read_claim(&mut socket) => sealed,
        () = sleep(Duration::from_secs(PARKED_SECS_MAX)) => return,
        () = given.ended.cancelled() => return,
        // New ones are made to the process that serves.
        () = edge.reached(Stage::HandedOver) => return,
    };
    drop(idle);
    let open_claim = |sealed| opening.open(sealed).map_err(Unproven::from);
    let claim = match sealed.and_then(|sealed| Ok(sealed.map(open_claim).transpose()?)) {
        Ok(Some(claim)) => claim,
        // Given up by the other edge.
        Ok(None) => return,
        Err(error) => return refused(&error),
    };
    let serving = Serving { shard, agents, from: From::Edge(given.edge), key: None };
    answer(&serving, &mut socket, claim, answering, &given.ended).await;
    drop((permits, open));
}

/// Which key the other side was given, as it proves. A connection of which no key was given fails like a proof that is wrong.
async fn let_in(shard: &Shard, agents: &Agents, socket: &mut Socket) -> Result<Proven, NoRaw> {
    let handshake = agents.raw_keys.handshake().ok_or(NoRaw::Handshakes)?;
    let proven = timeout(Duration::from_secs(HANDSHAKE_SECS_MAX), prove(agents, socket)).await;
    let (given, opening, answering) = proven.map_err(|_| NoRaw::TimedOut)??;
    drop(handshake);
    let idle = given.idle.take(1).ok_or(NoRaw::Enough)?;
    let permits = (given.open.take(1).ok_or(NoRaw::Enough)?, shard.edge().limits.admit_spare()?);
    socket.give_up_on_silence(true).map_err(Unproven::from)?;
    Ok(Proven { given, opening, answering, idle, permits })
}

async fn prove(
    agents: &Agents,
    socket: &mut Socket,
) -> Result<(Arc<Given>, OpeningKey<PeerHeader>, Answering), Unproven> {
    let Answered { greeting, nonce, proof } = read_proof(socket).await?;
    let given = agents.raw_keys.get(TunnelSessionId::new(greeting.session));
    let key = given.as_ref().map_or_else(|| RawKey::new(random::bytes()), |given| given.key.clone());
    let (opening, answering) = HolderSide::new(&key, &greeting, &nonce).check(proof)?;
    Ok((given.ok_or(RawError::Forged)?, opening, answering))
}

/// The sealed claim, once it comes. None: the connection ended instead.
async fn read_claim(socket: &mut Socket) -> Result<Option<Vec<u8>>, NoRaw> {
    let mut length = [0; CLAIM_LENGTH_BYTES];
    if socket.read_exact(&mut length).await.is_err() {
        return Ok(None);
    }
    let mut sealed = vec![0; claim_length(length).map_err(Unproven::from)?];
    let limit = Duration::from_secs(HANDSHAKE_SECS_MAX);
    let read = timeout(limit, socket.read_exact(&mut sealed)).await.map_err(|_| NoRaw::TimedOut)?;
    read.map_err(Unproven::from)?;
    Ok(Some(sealed))
}

/// What leads to the agent, once it serves the visitor.
enum Leg {
    /// Both are sockets of the kernel.
    Raw(RawStream),
    /// With what came from the agent already.
    Other(Box<Prefixed<AgentStream>>),
}

/// Opens the way to the agent, answers, and joins both until they have ended, or the connection of the key has.
async fn answer(
    serving: &Serving,
    socket: &mut Socket,
    claim: Claim<PeerHeader>,
    answering: Answering,
    over: &CancellationToken,
) {
    let Served { agent, origin, share } = match serving.admit(&claim.header) {
        Ok(served) => served,
        Err(code) => return refuse(socket, answering, code).await,
    };
    let opening = async {
        let dialer = serving.shard.dialer();
        if agent.session.quic().is_none() {
            match dialer.open_raw(&agent, origin, &claim.first).await {
                Some(Ok(stream)) => return Ok(Leg::Raw(stream)),
                Some(Err(RawFailed::Refused(code))) => return Err(code),
                Some(Err(RawFailed::TimedOut)) => return Err(Code::CANCELLED),
                Some(Err(RawFailed::Lost)) | None => {}
            }
        }
        let stream = dialer.open(&agent, origin).await.map_err(|error| {
            serving.refused(&claim.header, &error);
            Code::REFUSED
        })?;
        first_answer(stream, &claim.first).await
    };
    let leg = tokio::select! {
        leg = opening => leg,
        // The other edge says nothing before it is answered. It has given the visitor another way.
        _ = socket.peek_more() => return socket.abort_on_close(),
        () = over.cancelled() => return socket.abort_on_close(),
    };
    let mut leg = match leg {
        Ok(leg) => leg,
        Err(code) => return refuse(socket, answering, code).await,
    };
    let is_told = send(socket, answering, None).await && socket.give_up_on_silence(false).is_ok();
    if !is_told {
        return socket.abort_on_close();
    }
    let edge = serving.shard.edge();
    let joined = if matches!(leg, Leg::Raw(_)) { "spliced" } else { "copied" };
    edge.metrics.peer_raw_streams.get_or_create(&JoinedLabel { joined }).inc();
    let limits = edge.waits.idle();
    let joining = async {
        match &mut leg {
            Leg::Raw(stream) => stream.join(socket, limits).await,
            Leg::Other(stream) => Some(relay::copy(socket, &mut **stream, limits).await),
        }
    };
    let ended = tokio::select! {
        ended = joining => ended,
        () = over.cancelled() => None,
    };
    if ended.is_none_or(|ended| ended.end != End::Finished) {
        socket.abort_on_close();
        if let Leg::Raw(stream) = &leg {
            stream.abort_on_close();
        }
    }
    drop(share);
}

/// Passes on what the visitor said, and waits for what the agent answers: bytes, an end, or why it does not serve.
async fn first_answer(mut stream: AgentStream, first: &[u8]) -> Result<Leg, Code> {
    let code = |error: std::io::Error| reset_code(&error).unwrap_or(Code::CANCELLED);
    stream.write_all(first).await.map_err(code)?;
    stream.flush().await.map_err(code)?;
    let mut answer = vec![0; ANSWER_READ_BYTES];
    let length = stream.read(&mut answer).await.map_err(code)?;
    answer.truncate(length);
    Ok(Leg::Other(Box::new(Prefixed::new(answer, stream))))
}

async fn refuse(socket: &mut Socket, answering: Answering, code: Code) {
    send(socket, answering, Some(code)).await;
}

/// Answers the claim. False: the other edge is gone.
async fn send(socket: &mut Socket, answering: Answering, refused: Option<Code>) -> bool {
    let limit = Duration::from_secs(HANDSHAKE_SECS_MAX);
    matches!(timeout(limit, socket.write_all(&answering.seal(refused))).await, Ok(Ok(())))
}
