//! A raw link at the edge: a TCP connection of the agent's, proven to be its own, for bytes that are the client's own TLS.
//! Claimed once, with the client's hello sealed in, and then bare: both ends splice.
//!
//! Keys, proof and claim are `ebbgate_wire::link::raw`'s, which says why an attacker on the path cannot use them.

use std::any::Any;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use ebbgate_wire::link::raw::{Claim, Sealing, is_young, read_status};
use ebbgate_wire::mux::Code;
use ebbgate_wire::rpc::ProxyHeader;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Duration, Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::idle_links::Waiting;
use super::link::LinkOwner;
use super::session::{SessionState, Slot};
use crate::net::socket::Socket;
use crate::relay::{self, End, Ended, First, IdleLimits};

/// Seconds an agent may take to reach its upstream and say so.
const STATUS_SECS_MAX: u64 = 15;

/// A raw link that waits for its claim.
pub struct RawLink {
    socket: Socket,
    sealing: Sealing,
    owner: LinkOwner,
    since: Instant,
}

/// Why there is no raw stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RawFailed {
    /// The link is not usable; nothing came of it.
    Lost,
    /// The agent does not serve the visitor, and says why.
    Refused(Code),
    /// [`STATUS_SECS_MAX`] passed.
    TimedOut,
}

impl RawLink {
    /// A link whose agent has proven itself.
    pub fn new(socket: Socket, sealing: Sealing, owner: LinkOwner) -> Self {
        Self { socket, sealing, owner, since: Instant::now() }
    }

    /// Leaves this thread's runtime.
    pub fn detach(&mut self) -> io::Result<()> {
        self.socket.detach()
    }

    /// Joins this thread's runtime.
    pub fn attach(&mut self) -> io::Result<()> {
        self.socket.attach()
    }

    /// Sends the client's first bytes, sealed, and waits until the agent has passed them on to its upstream.
    pub(super) async fn claim(
        self,
        slot: Slot,
        header: ProxyHeader,
        first: Bytes,
    ) -> Result<RawStream, RawFailed> {
        let sealed = self.sealing.seal(&Claim { header, first }).map_err(|_| RawFailed::Lost)?;
        let LinkOwner { session, permits } = self.owner;
        let ended = session.ended().clone();
        let mut stream = RawStream::new(self.socket, ended.clone(), permits, slot);
        // A claim that is given up ends at the agent at once.
        stream.socket.abort_on_close();
        let answer = async {
            stream.socket.write_all(&sealed).await?;
            stream.socket.read_u8().await
        };
        let status = tokio::select! {
            answer = timeout(Duration::from_secs(STATUS_SECS_MAX), answer) => answer.map_err(|_| RawFailed::TimedOut)?,
            () = ended.cancelled() => return Err(RawFailed::Lost),
        };
        stream.socket.end_on_close();
        match status.map(read_status) {
            // The agent has answered: whatever it leaves unacknowledged from now on, its service may be pausing.
            Ok(Ok(())) => {
                stream.socket.give_up_on_silence(false).map_err(|_| RawFailed::Lost)?;
                Ok(stream)
            }
            Ok(Err(code)) => Err(RawFailed::Refused(code)),
            Err(_) => Err(RawFailed::Lost),
        }
    }
}

impl Waiting for RawLink {
    fn session(&self) -> &Arc<SessionState> {
        &self.owner.session
    }

    /// Young enough, silent, its session alive and its account still willing.
    fn is_usable(&mut self) -> bool {
        let session = &self.owner.session;
        is_young(self.since.elapsed()) && session.is_alive() && session.takes_raw() && self.socket.is_quiet()
    }
}

/// A claimed raw link, or raw connection to another edge: from here on bare bytes.
pub struct RawStream {
    socket: Socket,
    ended: CancellationToken,
    _held: Box<dyn Any + Send>,
    _slot: Slot,
}

impl RawStream {
    /// A stream that ends once `ended` is cancelled. `held`: what is given back when it closes.
    pub(super) fn new(
        socket: Socket,
        ended: CancellationToken,
        held: Box<dyn Any + Send>,
        slot: Slot,
    ) -> Self {
        Self { socket, ended, _held: held, _slot: slot }
    }

    /// Makes its close an abort.
    pub fn abort_on_close(&self) {
        self.socket.abort_on_close();
    }

    /// Splices it with a client's socket, of which all that was read has been passed on, until both have ended. None: the session
    /// ended first. Unless both ended in order the agent's side sees an abort; what the client sees is the caller's to say. A caller that drops
    /// the future before it is ready calls [`RawStream::abort_on_close`].
    pub async fn join(&mut self, client: &mut Socket, limits: IdleLimits) -> Option<Ended> {
        let Self { socket, ended, .. } = self;
        let by_ring = client.by_ring().and_then(|client| Ok(client.zip(socket.by_ring()?)));
        let splicing = async {
            match &by_ring {
                Ok(Some((client, agent))) => {
                    let ended = relay::splice(client, agent, First::default(), limits).await;
                    if ended.end == End::Finished {
                        client.finished();
                        agent.finished();
                    }
                    ended
                }
                // A socket that belongs to no runtime fails at its first call.
                Ok(None) | Err(_) => relay::splice(client, socket, First::default(), limits).await,
            }
        };
        let ended = tokio::select! {
            ended = splicing => Some(ended),
            () = ended.cancelled() => None,
        };
        if ended.as_ref().is_none_or(|ended| ended.end != End::Finished) {
            socket.abort_on_close();
        }
        ended
    }
}
