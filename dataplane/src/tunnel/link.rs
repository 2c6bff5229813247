//! A link at the edge: idle in its shard's table, claimed for one stream, back in the table once its agent is done with it.
//!
//! `ebbgate_tunnel::link` moves the bytes; this file counts links and ends their streams with their session.

use std::any::Any;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use ebbgate_tunnel::StreamError;
use ebbgate_tunnel::link::{self, Parked};
use ebbgate_tunnel::tls::TlsStream;
use ebbgate_wire::link::Version;
use ebbgate_wire::rpc::ProxyHeader;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::spawn_local;
use tokio::time::{Duration, sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::claim::{Asking, Claim, Duplex, Retry, Verdict};
use super::idle_links::{IdleLinks, Waiting};
use super::session::SessionState;
use crate::net::socket::Socket;

/// What a link's frames travel on.
pub type LinkIo = Box<TlsStream<Socket>>;

/// Bytes to the agent that are too few to fill the buffers of a service that reads nothing. While there are no more, bytes
/// that stay unacknowledged mean that the agent's machine is gone, and the visitor had better be tried elsewhere.
const FEW_BYTES_MAX: usize = 32 << 10;

/// The session of a link, and the counts it holds while it is open.
pub struct LinkOwner {
    /// Its session.
    pub session: Arc<SessionState>,
    /// Released when the link closes: its places among links and connections.
    pub permits: Box<dyn Any + Send>,
}

/// A link that waits for a claim.
pub struct Link {
    parked: Parked<LinkIo>,
    owner: LinkOwner,
}

impl Link {
    /// A link that was let in, or of whose last stream its agent holds nothing any more.
    pub fn new(io: LinkIo, version: Version, owner: LinkOwner) -> Self {
        Self { parked: Parked::new(io, version), owner }
    }

    /// Leaves this thread's runtime.
    pub fn detach(&mut self) -> io::Result<()> {
        self.parked.get_mut().get_mut().detach()
    }

    /// Joins this thread's runtime.
    pub fn attach(&mut self) -> io::Result<()> {
        self.parked.get_mut().get_mut().attach()
    }

    /// Makes it a stream. Afterwards the link waits in `home` again, if its agent holds no byte of the stream within `drain`.
    /// None: the header does not fit, and the link is lost.
    pub(super) fn claim(
        self,
        home: IdleLinks<Self>,
        drain: Duration,
        mut header: ProxyHeader,
    ) -> Option<LinkStream> {
        if self.parked.version() == Version::Two {
            header.claim = self.owner.session.next_claim();
        }
        let stream = self.parked.claim(&header).ok()?;
        Some(LinkStream {
            stream: Some(stream),
            end: SessionEnd::new(&self.owner.session),
            owner: Some(self.owner),
            home,
            drain,
            few_bytes: FEW_BYTES_MAX,
            number: header.claim,
            claim: None,
            instead: None,
        })
    }
}

impl Waiting for Link {
    fn session(&self) -> &Arc<SessionState> {
        &self.owner.session
    }

    fn is_usable(&mut self) -> bool {
        self.owner.session.is_alive() && self.parked.is_quiet()
    }
}

/// Fails the I/O of a stream once its session has ended.
struct SessionEnd {
    session: Arc<SessionState>,
    reader: EndWaiter,
    writer: EndWaiter,
}

/// A task that waits for I/O, and for the end of the session meanwhile.
#[derive(Default)]
struct EndWaiter {
    waker: Option<Waker>,
    ended: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

/// A direction of a stream.
#[derive(Clone, Copy)]
enum Direction {
    Read,
    Write,
}

impl SessionEnd {
    fn new(session: &Arc<SessionState>) -> Self {
        Self { session: Arc::clone(session), reader: EndWaiter::default(), writer: EndWaiter::default() }
    }

    /// `outcome`, or an error once the session has ended. A task that waits is woken by the end.
    fn guard<T>(
        &mut self,
        direction: Direction,
        cx: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let ended = || Poll::Ready(Err(StreamError::SessionEnded.into()));
        if !self.session.is_alive() {
            return ended();
        }
        if outcome.is_ready() {
            return outcome;
        }
        let waiter = match direction {
            Direction::Read => &mut self.reader,
            Direction::Write => &mut self.writer,
        };
        // It is registered already: asking again would take a lock that the whole session shares.
        if waiter.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            return outcome;
        }
        let wait =
            waiter.ended.get_or_insert_with(|| Box::pin(self.session.ended().clone().cancelled_owned()));
        if wait.as_mut().poll(cx).is_ready() {
            return ended();
        }
        waiter.waker = Some(cx.waker().clone());
        outcome
    }
}

/// One stream on a link of this shard.
pub struct LinkStream {
    /// Some until it is dropped, or its bytes go another way.
    stream: Option<link::LinkStream<LinkIo>>,
    owner: Option<LinkOwner>,
    end: SessionEnd,
    home: IdleLinks<Link>,
    drain: Duration,
    /// How many bytes may still go to the agent before they are many; 0: they are.
    few_bytes: usize,
    /// Of the claim; 0 where the agent confirms none.
    number: u64,
    /// Until the agent confirms it.
    claim: Option<Claim>,
    /// The stream that its bytes take instead, as the agent read nothing of the link in time.
    instead: Option<Box<dyn Duplex>>,
}

impl LinkStream {
    /// From now on the agent has a time to confirm the claim of this number; otherwise its visitor goes another way.
    pub fn confirm_or(&mut self, another_way: impl FnOnce(u64) -> Retry) {
        if self.stream.as_ref().is_some_and(link::LinkStream::is_untaken) {
            self.claim = Some(Claim::new(another_way(self.number)));
        }
    }

    /// Looks what has become of the claim after the link did nothing, or failed. True while that is open.
    fn is_open(&mut self, asking: Asking, cx: &mut Context<'_>, failed: bool) -> bool {
        let Some(claim) = &mut self.claim else { return false };
        if !claim.is_retrying() && !self.stream.as_ref().is_some_and(link::LinkStream::is_untaken) {
            self.decided(asking);
            return false;
        }
        if failed {
            // An agent may hang up a link that is being claimed.
            claim.retry();
        }
        let Poll::Ready(verdict) = claim.poll(asking, cx) else { return true };
        if let Verdict::Instead(instead) = verdict {
            (self.instead, self.stream) = (Some(instead), None);
        }
        self.decided(asking);
        false
    }

    fn decided(&mut self, asking: Asking) {
        if let Some(claim) = self.claim.take() {
            claim.decided(asking);
        }
    }

    /// How much of `bytes` can be sent before the claim is confirmed.
    fn poll_room<'b>(&mut self, cx: &mut Context<'_>, bytes: &'b [u8]) -> Poll<&'b [u8]> {
        if let (Some(claim), Some(stream)) = (&self.claim, &mut self.stream)
            && (claim.is_retrying() || claim.room() == 0)
        {
            let failed = matches!(stream.poll_taken(cx), Poll::Ready(Err(_)));
            if self.is_open(Asking::Writer, cx, failed) {
                return Poll::Pending;
            }
        }
        let room = self.claim.as_ref().map_or(usize::MAX, Claim::room);
        Poll::Ready(bytes.get(..room.min(bytes.len())).unwrap_or_default())
    }

    /// Does something that ends or flushes this direction, on the way that the visitor goes.
    fn poll_end(
        &mut self,
        cx: &mut Context<'_>,
        call: fn(Pin<&mut (dyn Duplex + 'static)>, &mut Context<'_>) -> Poll<io::Result<()>>,
    ) -> Poll<io::Result<()>> {
        loop {
            if let Some(instead) = &mut self.instead {
                return call(Pin::new(&mut **instead), cx);
            }
            let stream = self.stream.as_mut().ok_or(StreamError::SessionEnded)?;
            let outcome = call(Pin::new(stream), cx);
            let failed = matches!(outcome, Poll::Ready(Err(_)));
            let retrying = self.claim.as_ref().is_some_and(Claim::is_retrying);
            if !failed && !retrying {
                return outcome;
            }
            if self.is_open(Asking::Writer, cx, failed) {
                return Poll::Pending;
            }
            if self.instead.is_none() {
                return outcome;
            }
        }
    }

    fn stream(&mut self) -> io::Result<Pin<&mut link::LinkStream<LinkIo>>> {
        self.stream.as_mut().map(Pin::new).ok_or_else(|| StreamError::SessionEnded.into())
    }

    /// Counts what went to the agent, until it is more than [`FEW_BYTES_MAX`].
    fn wrote(&mut self, count: usize) -> io::Result<()> {
        if self.few_bytes == 0 {
            return Ok(());
        }
        self.few_bytes = self.few_bytes.saturating_sub(count);
        match self.stream.as_ref().and_then(link::LinkStream::get_ref) {
            Some(io) if self.few_bytes == 0 => io.get_ref().give_up_on_silence(false),
            _ => Ok(()),
        }
    }
}

impl Drop for LinkStream {
    fn drop(&mut self) {
        let (Some(owner), Some(stream)) = (self.owner.take(), self.stream.take()) else { return };
        let is_bulk = self.few_bytes == 0;
        // An agent of version one does not say when it has passed everything on. Few bytes fit the buffers of any service;
        // behind more the next client might wait. What was sent arrives although the link closes.
        if stream.is_over() && (stream.version() == Version::Two || !is_bulk) {
            let used = UsedLink { stream, owner, is_bulk };
            drop(spawn_local(used.park_when_free(self.home.clone(), self.drain)));
        }
    }
}

/// A link whose stream is over for the edge.
struct UsedLink {
    stream: link::LinkStream<LinkIo>,
    owner: LinkOwner,
    /// Whether silence is allowed on it, as more than [`FEW_BYTES_MAX`] went to the agent.
    is_bulk: bool,
}

impl UsedLink {
    /// Parks the link once its agent holds nothing of the stream any more. A link whose service does not read closes after
    /// `drain`, and with its session; what was sent still arrives.
    async fn park_when_free(self, home: IdleLinks<Link>, drain: Duration) {
        let version = self.stream.version();
        let freed = tokio::select! {
            freed = self.stream.freed() => freed,
            () = self.owner.session.ended().cancelled() => None,
            () = sleep(drain) => None,
        };
        let Some(io) = freed else { return };
        // As before it was claimed.
        if !self.is_bulk || io.get_ref().give_up_on_silence(true).is_ok() {
            home.park(Link::new(io, version, self.owner));
        }
    }
}

impl AsyncRead for LinkStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let outcome = if let Some(instead) = &mut this.instead {
            Pin::new(instead).poll_read(cx, buf)
        } else {
            let outcome = this.stream()?.poll_read(cx, buf);
            let is_served = matches!(outcome, Poll::Ready(Ok(())))
                && !this.stream.as_ref().is_some_and(link::LinkStream::is_untaken);
            let failed = matches!(outcome, Poll::Ready(Err(_)));
            if is_served {
                // What comes on the link is the agent's answer on the link, whatever else was tried.
                this.decided(Asking::Reader);
                outcome
            } else if this.is_open(Asking::Reader, cx, failed) {
                Poll::Pending
            } else if let Some(instead) = &mut this.instead {
                Pin::new(instead).poll_read(cx, buf)
            } else {
                outcome
            }
        };
        self.end.guard(Direction::Read, cx, outcome)
    }
}

impl AsyncWrite for LinkStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let outcome = match this.poll_room(cx, bytes) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(bytes) => {
                if let Some(instead) = &mut this.instead {
                    Pin::new(instead).poll_write(cx, bytes)
                } else {
                    let outcome = this.stream()?.poll_write(cx, bytes);
                    let failed = matches!(outcome, Poll::Ready(Err(_)));
                    if let (Poll::Ready(Ok(count)), Some(claim)) = (&outcome, &mut this.claim) {
                        claim.sent(bytes.get(..*count).unwrap_or_default());
                    }
                    if failed && this.is_open(Asking::Writer, cx, failed) {
                        Poll::Pending
                    } else if let Some(instead) = &mut this.instead {
                        Pin::new(instead).poll_write(cx, bytes)
                    } else {
                        outcome
                    }
                }
            }
        };
        if let Poll::Ready(Ok(count)) = outcome
            && self.instead.is_none()
        {
            self.wrote(count)?;
        }
        self.end.guard(Direction::Write, cx, outcome)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = self.poll_end(cx, <dyn Duplex as AsyncWrite>::poll_flush);
        self.end.guard(Direction::Write, cx, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = self.poll_end(cx, <dyn Duplex as AsyncWrite>::poll_shutdown);
        if let (Poll::Ready(Ok(())), Some(claim)) = (&outcome, &mut self.claim) {
            claim.ended();
        }
        self.end.guard(Direction::Write, cx, outcome)
    }
}
