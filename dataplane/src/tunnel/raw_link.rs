//! A raw link at the edge: a TCP connection of the agent's, proven to be its own, for bytes that are the client's own TLS.
//! Claimed once, with the client's hello sealed in, and then bare: both ends splice.
//!
//! Keys, proof and claim are `ebbgate_wire::link::raw`'s, which says why an attacker on the path cannot use them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};

use bytes::Bytes;
use ebbgate_wire::link::raw::{Claim, Sealing, is_young, read_status};
use ebbgate_wire::mux::Code;
use ebbgate_wire::rpc::ProxyHeader;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};
use tokio::time::{Duration, Instant, timeout};

use super::idle_links::Waiting;
use super::link::LinkOwner;
use super::session::{SessionState, Slot};
use crate::net::socket::{Ringed, Socket};

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

    fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(&mut self.socket).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_pending()
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
        let mut stream = RawStream { socket: self.socket, owner: self.owner, _slot: slot };
        let ended = stream.owner.session.ended().clone();
        let answer = async {
            stream.socket.write_all(&sealed).await?;
            stream.socket.read_u8().await
        };
        let status = tokio::select! {
            answer = timeout(Duration::from_secs(STATUS_SECS_MAX), answer) => answer.map_err(|_| RawFailed::TimedOut)?,
            () = ended.cancelled() => return Err(RawFailed::Lost),
        };
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
        is_young(self.since.elapsed()) && session.is_alive() && session.takes_raw() && self.is_quiet()
    }
}

/// A claimed raw link: from here on bare bytes.
pub struct RawStream {
    socket: Socket,
    owner: LinkOwner,
    _slot: Slot,
}

impl RawStream {
    /// The connection to the agent.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// As [`Socket::by_ring`].
    pub fn by_ring(&mut self) -> io::Result<Option<Ringed>> {
        self.socket.by_ring()
    }

    /// Completes when the session ends, and the stream with it.
    pub async fn ended(&self) {
        self.owner.session.ended().cancelled().await;
    }
}
