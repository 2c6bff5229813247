//! A link as a carrier: idle in its shard's list, claimed for one stream, back in the list once its agent is done with that.
//!
//! The wire's `LinkStream` moves the bytes; this file knows whose link it is and ends streams with their session.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use ebbgate_tunnel::StreamError;
use ebbgate_tunnel::link::{self, Parked};
use ebbgate_tunnel::tls::TlsStream;
use ebbgate_wire::link::Version;
use ebbgate_wire::rpc::ProxyHeader;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::spawn_local;
use tokio::time::sleep;

use super::claim::{Asking, Claim, Duplex, Retry, Verdict};
use crate::net::socket::Socket;
use crate::tunnel::links::IdleLinks;
use crate::tunnel::session::SessionState;

/// What a link's frames travel on.
pub type LinkIo = Box<TlsStream<Socket>>;

/// Bytes to the agent that are too few to fill the buffers of a service that reads nothing. While there are no more, bytes
/// that stay unacknowledged mean that the agent's machine is gone, and the visitor had better be tried elsewhere.
const FEW_BYTES_MAX: usize = 32 << 10;

/// What a link counts for as long as it is open.
pub struct Place {
    /// Whose it is.
    pub session: Arc<SessionState>,
    /// Its permits, given back with it: of its session, and of the whole edge.
    pub permits: Box<dyn Any + Send>,
}

/// A link that nobody uses.
pub struct Link {
    parked: Parked<LinkIo>,
    place: Place,
}

impl Link {
    /// A link that was let in, or of whose last stream its agent holds nothing any more.
    pub fn new(io: LinkIo, version: Version, place: Place) -> Self {
        Self { parked: Parked::new(io, version), place }
    }

    /// Whose it is.
    pub fn session(&self) -> &Arc<SessionState> {
        &self.place.session
    }

    /// Whether it can be claimed: its session lives, and it has neither ended nor spoken.
    pub fn is_usable(&mut self) -> bool {
        self.session().is_alive() && self.parked.is_quiet()
    }

    /// Leaves this thread's runtime.
    pub fn detach(&mut self) -> io::Result<()> {
        self.parked.get_mut().get_mut().detach()
    }

    /// Joins this thread's runtime.
    pub fn attach(&mut self) -> io::Result<()> {
        self.parked.get_mut().get_mut().attach()
    }

    /// Makes it one visitor's stream. None: the header does not fit; the link is lost with it.
    pub fn claim(self, links: &IdleLinks, mut header: ProxyHeader) -> Option<LinkStream> {
        if self.parked.version() == Version::Two {
            header.claim = self.place.session.next_claim();
        }
        let stream = self.parked.claim(&header).ok()?;
        let (key, cut) = links.in_use(&self.place.session);
        Some(LinkStream {
            stream: Some(stream),
            place: Some(self.place),
            links: links.clone(),
            key,
            cut,
            few_bytes: FEW_BYTES_MAX,
            number: header.claim,
            claim: None,
            instead: None,
        })
    }
}

/// Ends a stream from outside, when its session ends. Belongs to one thread.
#[derive(Default)]
pub struct Cut {
    over: Cell<bool>,
    reader: RefCell<Option<Waker>>,
    writer: RefCell<Option<Waker>>,
}

impl Cut {
    /// From now on the stream is over.
    pub fn cut(&self) {
        self.over.set(true);
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }

    /// Completes when the stream was cut.
    pub async fn ended(&self) {
        poll_fn(|cx| self.guard::<()>(&self.reader, cx, Poll::Pending).map(drop)).await;
    }

    /// An error once the stream was cut; until then whoever waits for `outcome` is remembered in `place`.
    fn guard<T>(
        &self,
        place: &RefCell<Option<Waker>>,
        cx: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if self.over.get() {
            return Poll::Ready(Err(StreamError::SessionEnded.into()));
        }
        if outcome.is_pending() {
            let mut waiting = place.borrow_mut();
            if !waiting.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                *waiting = Some(cx.waker().clone());
            }
        }
        outcome
    }
}

/// One visitor's stream on a link of this shard.
pub struct LinkStream {
    /// Some until it is dropped, or its visitor goes another way.
    stream: Option<link::LinkStream<LinkIo>>,
    place: Option<Place>,
    links: IdleLinks,
    key: u64,
    cut: Rc<Cut>,
    /// How many bytes may still go to the agent before they are many; 0: they are.
    few_bytes: usize,
    /// Of the claim; 0 where the agent confirms none.
    number: u64,
    /// Until the agent confirms it.
    claim: Option<Claim>,
    /// The way its visitor goes, as the agent read nothing of the link in time.
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
        let Some(place) = self.place.take() else { return };
        let used = Used { links: self.links.clone(), key: self.key, is_bulk: self.few_bytes == 0 };
        let Some(stream) = self.stream.take() else { return used.done(&place) };
        match stream.version() {
            _ if !stream.is_over() => used.done(&place),
            // Such an agent does not say when it has passed everything on. Few bytes fit the buffers of any service; behind
            // more the next visitor might wait. What was sent arrives although the link closes.
            Version::One if used.is_bulk => used.done(&place),
            Version::One | Version::Two => {
                drop(spawn_local(used.settle(stream, place, Rc::clone(&self.cut))));
            }
        }
    }
}

/// A link whose stream is over for the edge.
struct Used {
    links: IdleLinks,
    key: u64,
    /// Whether silence is allowed on it, as more than [`FEW_BYTES_MAX`] went to the agent.
    is_bulk: bool,
}

impl Used {
    fn done(&self, place: &Place) {
        self.links.done(place.session.id, self.key);
    }

    /// Parks the link once its agent holds nothing of the stream any more. One whose service does not read is given up as a
    /// half-closed connection would be, and with its session; what was sent goes on its way all the same.
    async fn settle(self, stream: link::LinkStream<LinkIo>, place: Place, cut: Rc<Cut>) {
        let version = stream.version();
        let wait = self.links.freed_max();
        let freed = tokio::select! {
            freed = stream.freed() => freed,
            () = cut.ended() => None,
            () = sleep(wait) => None,
        };
        self.done(&place);
        let Some(io) = freed else { return };
        // As before it was claimed.
        if !self.is_bulk || io.get_ref().give_up_on_silence(true).is_ok() {
            self.links.park(Link::new(io, version, place));
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
        self.cut.guard(&self.cut.reader, cx, outcome)
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
        self.cut.guard(&self.cut.writer, cx, outcome)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = self.poll_end(cx, <dyn Duplex as AsyncWrite>::poll_flush);
        self.cut.guard(&self.cut.writer, cx, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = self.poll_end(cx, <dyn Duplex as AsyncWrite>::poll_shutdown);
        if let (Poll::Ready(Ok(())), Some(claim)) = (&outcome, &mut self.claim) {
            claim.ended();
        }
        self.cut.guard(&self.cut.writer, cx, outcome)
    }
}
