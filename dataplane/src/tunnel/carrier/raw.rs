//! A raw link as a carrier: a TCP connection of the agent's, proven to be its own, for bytes that are the visitor's own TLS.
//! Claimed once, with the visitor's hello sealed in, and then bare: both ends splice.
//!
//! Keys, proof and claim are `ebbgate_wire::link::raw`'s, which says why nobody on the path can use them.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};

use bytes::Bytes;
use ebbgate_wire::link::raw::{Claim, Sealing, is_young, read_status};
use ebbgate_wire::mux::Code;
use ebbgate_wire::rpc::ProxyHeader;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};
use tokio::time::{Duration, Instant, timeout};

use super::{Cut, Place};
use crate::net::socket::{Ringed, Socket};
use crate::tunnel::links::IdleLinks;
use crate::tunnel::session::{SessionState, Slot};

/// Seconds an agent may take to reach its upstream and say so.
const STATUS_SECS_MAX: u64 = 15;

/// A raw link that nobody uses yet.
pub struct RawLink {
    socket: Socket,
    sealing: Sealing,
    place: Place,
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
    pub fn new(socket: Socket, sealing: Sealing, place: Place) -> Self {
        Self { socket, sealing, place, since: Instant::now() }
    }

    /// Whose it is.
    pub fn session(&self) -> &Arc<SessionState> {
        &self.place.session
    }

    /// Whether it can be claimed: young enough, silent, its session alive and its account still willing.
    pub fn is_usable(&mut self) -> bool {
        is_young(self.since.elapsed())
            && self.session().is_alive()
            && self.place.session.takes_raw()
            && self.is_quiet()
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

    /// Sends the visitor's first bytes, sealed, and waits until the agent has passed them on to its upstream.
    pub async fn claim(
        self,
        links: &IdleLinks,
        slot: Slot,
        header: ProxyHeader,
        first: Bytes,
    ) -> Result<RawStream, RawFailed> {
        let sealed = self.sealing.seal(&Claim { header, first }).map_err(|_| RawFailed::Lost)?;
        let (key, cut) = links.in_use(&self.place.session);
        let session = Arc::clone(&self.place.session);
        let mut stream = RawStream {
            socket: self.socket,
            session,
            _place: self.place,
            _slot: slot,
            links: links.clone(),
            key,
            cut,
        };
        let cut = Rc::clone(&stream.cut);
        let answer = async {
            stream.socket.write_all(&sealed).await?;
            stream.socket.read_u8().await
        };
        let status = tokio::select! {
            answer = timeout(Duration::from_secs(STATUS_SECS_MAX), answer) => answer.map_err(|_| RawFailed::TimedOut)?,
            () = cut.ended() => return Err(RawFailed::Lost),
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

/// A claimed raw link: from here on bare bytes.
pub struct RawStream {
    socket: Socket,
    session: Arc<SessionState>,
    _place: Place,
    _slot: Slot,
    links: IdleLinks,
    key: u64,
    cut: Rc<Cut>,
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
        self.cut.ended().await;
    }
}

impl Drop for RawStream {
    fn drop(&mut self) {
        self.links.done(self.session.id, self.key);
    }
}
