//! One client's HTTP/1.1 connection: one task that reads a head, has it answered, writes the response and begins again.
//!
//! All waits on the client end here: for a head, for a body's pace, for rest between requests, for room to write. While a
//! request is answered the connection is watched, so that a client that goes away is noticed. Does not know routing or
//! policies.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use futures_util::FutureExt as _;
use futures_util::future::Fuse;
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Frame;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::close::{linger, refuse, tunnel};
use super::date;
use super::input::{poll_read, poll_read_body};
use super::outbox::{Outbox, Sending};
use super::request_body::{Desk, RequestBody};
use crate::dispatch::gateway::{Gateway, HttpOutcome};
use crate::http::body::Body;
use crate::http::exchange::Exchange;
use crate::http::fault::{BodyFault, Fault};
use crate::http::fields;
use crate::http::framing::{
    BodyDecoder, BodyFraming, BodyPart, Connection, Refusal, RequestDecoder, RequestHead, response_head,
};
use crate::http::limits::{Limits, READ_AHEAD_BYTES_MAX};
use crate::http::pace::{Pace, Patience};
use crate::http::timer::Timer;
use crate::http::visitor::{Answer, Tunnel, Visitor};

/// Why a connection is over.
#[derive(Debug)]
enum End {
    /// In order, between two messages.
    Closed,
    /// Between two messages, for the client's fault: it is told, and nothing after it is answered.
    Refused(Fault),
    /// Inside a message.
    Broken(BodyFault),
    /// A policy asked for it.
    Policy,
}

/// Serves the connection to its end.
pub(in crate::http) async fn serve<G, IO>(visitor: Rc<Visitor<G>>, io: IO) -> HttpOutcome
where
    G: Gateway,
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let limits = visitor.limits().clone();
    let mut conn = Conn::new(io, limits.clone(), visitor.patience());
    let mut draining = std::pin::pin!(visitor.gateway().draining().fuse());
    let end = loop {
        let head = match conn.next_head(draining.as_mut()).await {
            Ok(head) => head,
            Err(end) => break end,
        };
        match conn.exchange(&visitor, head, draining.as_mut()).await {
            Ok(None) => {}
            Ok(Some(switched)) => {
                let left = visitor.gateway().left_http();
                let outcome = tunnel(conn.io, conn.input, switched, &limits).await;
                drop(left);
                return HttpOutcome { requests: conn.requests, outcome, broken: false };
            }
            Err(end) => break end,
        }
    };
    let unread = conn.fault.is_some() || conn.arriving.is_some() || !conn.input.is_empty();
    let (broken, outcome) = match &end {
        End::Closed => (false, conn.fault.map_or_else(|| "closed".to_owned(), |fault| fault.to_string())),
        End::Refused(fault) => {
            refuse(&mut conn.io, *fault, &limits).await;
            (false, fault.to_string())
        }
        End::Broken(BodyFault::Visitor(fault)) => (true, fault.to_string()),
        End::Broken(fault) => (true, fault.to_string()),
        End::Policy => (false, "a policy closed the connection".to_owned()),
    };
    // What broke inside an answer must look broken: no orderly end.
    if matches!(end, End::Closed | End::Refused(_)) {
        linger(&mut conn.io, &limits, unread).await;
    }
    HttpOutcome { requests: conn.requests, outcome, broken: broken && conn.is_version_1_0() }
}

/// The request's body, as far as it has not all arrived.
struct Arriving {
    decoder: BodyDecoder,
    desk: Rc<Desk>,
    exchange: Exchange,
}

/// See the module.
struct Conn<IO> {
    io: IO,
    /// What was read and not taken apart yet.
    input: BytesMut,
    /// The client has ended its side.
    ended: bool,
    decoder: RequestDecoder,
    arriving: Option<Arriving>,
    /// Why nothing that the client sends counts any more.
    fault: Option<Fault>,
    out: Outbox,
    flushed: bool,
    drains: bool,
    /// Of the request in hand.
    version: Version,
    requests: u64,
    /// When the current wait for a head, for the next request or for more of a half-closed client's answer began.
    since: Instant,
    limits: Rc<Limits>,
    patience: Rc<Patience>,
    read_pace: Pace,
    write_pace: Pace,
    read_timer: Timer,
    write_timer: Timer,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Conn<IO> {
    /// `patience` is what the client's source has.
    fn new(io: IO, limits: Rc<Limits>, patience: Rc<Patience>) -> Self {
        Self {
            io,
            input: BytesMut::new(),
            ended: false,
            decoder: RequestDecoder::default(),
            arriving: None,
            fault: None,
            out: Outbox::default(),
            flushed: true,
            drains: false,
            version: Version::HTTP_11,
            requests: 0,
            since: Instant::now(),
            read_pace: Pace::patient(limits.pace, limits.pace_bytes_min, &patience),
            write_pace: Pace::patient(limits.write_pace, limits.pace_bytes_min, &patience),
            limits,
            patience,
            read_timer: Timer::default(),
            write_timer: Timer::default(),
        }
    }

    fn is_version_1_0(&self) -> bool {
        self.version == Version::HTTP_10
    }

    /// Waits for the next head.
    async fn next_head<D: Future<Output = ()>>(
        &mut self,
        mut draining: Pin<&mut Fuse<D>>,
    ) -> Result<RequestHead, End> {
        poll_fn(|cx| self.poll_head(cx, draining.as_mut())).await
    }

    fn poll_head<D: Future<Output = ()>>(
        &mut self,
        cx: &mut Context<'_>,
        draining: Pin<&mut Fuse<D>>,
    ) -> Poll<Result<RequestHead, End>> {
        loop {
            match self.decoder.decode(&mut self.input) {
                Ok(Some(head)) => return Poll::Ready(Ok(head)),
                Ok(None) => {}
                Err(refusal) => return self.refused(Fault::Refused(refusal)),
            }
            let untouched = self.input.is_empty();
            if self.ended {
                return if untouched {
                    Poll::Ready(Err(End::Closed))
                } else {
                    self.refused(Fault::Refused(Refusal::Truncated))
                };
            }
            match poll_read(&mut self.io, cx, &mut self.input) {
                Poll::Ready(Ok(0)) => self.ended = true,
                Poll::Ready(Ok(_)) if untouched => self.since = Instant::now(),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return gone().map(Err),
                Poll::Pending => break,
            }
        }
        let (fault, wait) = match (self.input.is_empty(), self.requests) {
            (true, 0) => (Fault::Idle, self.limits.head),
            (true, _) => (Fault::Idle, self.limits.keep_alive),
            (false, _) => (Fault::HeadLate, self.limits.head),
        };
        if self.read_timer.poll(cx, self.since + wait).is_ready() {
            return self.refused(fault);
        }
        self.drains |= draining.poll(cx).is_ready();
        if self.drains { Poll::Ready(Err(End::Closed)) } else { Poll::Pending }
    }

    fn refused<T>(&mut self, fault: Fault) -> Poll<Result<T, End>> {
        self.fault = Some(fault);
        Poll::Ready(Err(End::Refused(fault)))
    }

    /// Has one request answered. The upstream, if the answer leaves HTTP.
    async fn exchange<G: Gateway, D: Future<Output = ()>>(
        &mut self,
        visitor: &Visitor<G>,
        head: RequestHead,
        mut draining: Pin<&mut Fuse<D>>,
    ) -> Result<Option<Tunnel<G>>, End> {
        self.requests += 1;
        self.version = head.parts.version;
        self.read_pace = Pace::patient(self.limits.pace, self.limits.pace_bytes_min, &self.patience);
        let exchange = if self.is_version_1_0() { Exchange::default() } else { Exchange::new(head.expects) };
        let body = self.take_body(head.framing, &exchange);
        let asked = Asked {
            head: head.parts.method == Method::HEAD,
            keep_alive: head.keep_alive,
            trailers: !self.is_version_1_0() && fields::takes_trailers(&head.parts.headers),
        };
        exchange.set_spelling(head.spelling);
        let request = Request::from_parts(head.parts, body);
        let answer = {
            // On the heap and for this long only, so that a connection that rests is small.
            let mut answer = Box::pin(visitor.answer(request, &head.authority, head.upgrade, &exchange));
            poll_fn(|cx| {
                loop {
                    if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                        self.drains |= draining.as_mut().poll(cx).is_ready();
                        return Poll::Ready(Ok(answer));
                    }
                    ready!(self.poll_beside(cx, &exchange))?;
                }
            })
            .await?
        };
        let (response, switched) = match answer {
            Answer::Response(response) => (response, None),
            Answer::Switched(response, upstream) => (response, Some(upstream)),
            Answer::Close => return Err(End::Policy),
        };
        let (mut sending, keep) =
            self.begin_response(response, &asked, &exchange, visitor.gateway().now_unix_ms());
        poll_fn(|cx| self.poll_send(cx, &mut sending)).await?;
        if switched.is_some() || keep { Ok(switched) } else { Err(End::Closed) }
    }

    /// The body of the request in hand: at once if it is here already.
    fn take_body(&mut self, framing: BodyFraming, exchange: &Exchange) -> Body {
        let length = match framing {
            BodyFraming::None => return Body::Empty,
            BodyFraming::Length(length) => Some(length),
            BodyFraming::Chunked | BodyFraming::UntilClose => None,
        };
        if let Some(length) = length.and_then(|length| usize::try_from(length).ok())
            && length <= self.input.len()
        {
            exchange.body_begun();
            return Body::Full(self.input.split_to(length).freeze());
        }
        let desk = Rc::<Desk>::default();
        let decoder = BodyDecoder::new(framing);
        self.arriving = Some(Arriving { decoder, desk: desk.clone(), exchange: exchange.clone() });
        Body::stream(RequestBody::new(desk), length)
    }

    /// What goes on while a request is answered: interim answers out, parts of the body in. Ready when there is reason to
    /// ask for the answer again.
    fn poll_beside(&mut self, cx: &mut Context<'_>, exchange: &Exchange) -> Poll<Result<(), End>> {
        loop {
            while let Some(interim) = exchange.take_interim(cx.waker()) {
                interim.write(self.out.text());
            }
            if self.out.is_empty() {
                break;
            }
            match self.out.poll_write(&mut self.io, cx) {
                Poll::Ready(wrote) => self.wrote(wrote)?,
                Poll::Pending => {
                    if let Poll::Ready(end) = self.poll_blocked(cx) {
                        return Poll::Ready(Err(end));
                    }
                    break;
                }
            }
        }
        if !self.flushed && self.out.is_empty() {
            let _ = self.poll_flush(cx)?;
        }
        if self.poll_arriving(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        self.poll_watch(cx).map(Err)
    }

    /// Hands on the next part of the request's body if it is asked for. Ready when one was.
    fn poll_arriving(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(arriving) = self.arriving.as_mut().filter(|arriving| arriving.desk.is_asked(cx)) else {
                return Poll::Pending;
            };
            match arriving.decoder.decode(&mut self.input) {
                Ok(BodyPart::Data(data)) => {
                    arriving.exchange.body_begun();
                    self.read_pace.moved(Instant::now(), data.len());
                    let over = arriving.decoder.is_over(&mut self.input);
                    arriving.desk.put(cx, Some(Ok(Frame::data(data))), over);
                    if over {
                        self.arrived();
                    }
                    return Poll::Ready(());
                }
                Ok(BodyPart::Trailers(trailers)) => {
                    arriving.desk.put(cx, Some(Ok(Frame::trailers(trailers))), true);
                    self.arrived();
                    return Poll::Ready(());
                }
                Ok(BodyPart::End) => {
                    arriving.desk.put(cx, None, true);
                    self.arrived();
                    return Poll::Ready(());
                }
                Err(refusal) => return self.body_failed(cx, Fault::Refused(refusal)),
                Ok(BodyPart::More) => {}
            }
            match poll_read_body(&mut self.io, cx, &mut self.input) {
                Poll::Ready(Ok(0) | Err(_)) => return self.body_failed(cx, Fault::Gone),
                // Framing is not what the client is waited for: only content counts.
                Poll::Ready(Ok(_)) => self.read_pace.moved(Instant::now(), 0),
                Poll::Pending => {
                    if arriving.exchange.may_rest() {
                        return Poll::Pending;
                    }
                    ready!(self.read_pace.poll_stalled(cx, &mut self.read_timer));
                    return self.body_failed(cx, Fault::BodyStalled);
                }
            }
        }
    }

    fn arrived(&mut self) {
        (self.arriving, self.since) = (None, Instant::now());
    }

    /// The body broke off: it says so where it is read, and the connection ends with the answer.
    fn body_failed(&mut self, cx: &mut Context<'_>, fault: Fault) -> Poll<()> {
        if let Some(arriving) = self.arriving.take() {
            arriving.desk.put(cx, Some(Err(BodyFault::Visitor(fault))), true);
        }
        self.fault = Some(fault);
        Poll::Ready(())
    }

    /// Watches the client while its request is answered: reads ahead a little, so that a reset is noticed.
    fn poll_watch(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if self.arriving.is_some() || self.fault.is_some() {
            return Poll::Pending;
        }
        while !self.ended && self.input.len() < READ_AHEAD_BYTES_MAX {
            match poll_read(&mut self.io, cx, &mut self.input) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => (self.ended, self.since) = (true, Instant::now()),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return gone(),
            }
        }
        if self.ended {
            ready!(self.read_timer.poll(cx, self.since + self.limits.half_closed));
            return gone();
        }
        Poll::Pending
    }

    /// Queues the head of the response. Its body, and whether another request may follow.
    fn begin_response(
        &mut self,
        response: Response<Body>,
        asked: &Asked,
        exchange: &Exchange,
        now_unix_ms: i64,
    ) -> (Option<Sending>, bool) {
        while let Some(interim) = exchange.take_interim(std::task::Waker::noop()) {
            interim.write(self.out.text());
        }
        let (head, body) = response.into_parts();
        let framing = match body.length() {
            Some(0) => BodyFraming::None,
            Some(length) => BodyFraming::Length(length),
            None if self.is_version_1_0() => BodyFraming::UntilClose,
            None => BodyFraming::Chunked,
        };
        // An early answer ends the connection, unless the rest of the body is here (RFC 9112 section 9.3).
        let unread = self.arriving.as_mut().is_some_and(|arriving| !arriving.skip(&mut self.input));
        if !unread {
            self.arriving = None;
        }
        let keep = asked.keep_alive
            && !self.drains
            && !unread
            && self.fault.is_none()
            && framing != BodyFraming::UntilClose;
        let switches = head.status == StatusCode::SWITCHING_PROTOCOLS;
        let connection = match (keep, self.is_version_1_0()) {
            _ if switches => Connection::Unsaid,
            (true, true) => Connection::KeepAlive,
            (false, false) => Connection::Close,
            _ => Connection::Unsaid,
        };
        let bodiless = asked.head || head.status == StatusCode::NOT_MODIFIED;
        let version_1_0 = self.is_version_1_0();
        date::with(now_unix_ms, |date| {
            response_head(self.out.text(), &head, version_1_0, (framing, bodiless), connection, date);
        });
        (Sending::new(body, framing, asked.trailers), keep)
    }

    /// Writes the response to its end, while what is left of the request's body goes on.
    fn poll_send(&mut self, cx: &mut Context<'_>, sending: &mut Option<Sending>) -> Poll<Result<(), End>> {
        let mut over = sending.is_none();
        loop {
            // The head waits for the first part of the body, as long as that is here.
            if let Some(body) = sending.as_mut().filter(|_| !over && self.out.has_room()) {
                match body.poll_next(cx, &mut self.out) {
                    Poll::Ready(Ok(last)) => {
                        if last {
                            // The guard of the body goes with it, and the upstream is free.
                            over = true;
                            *sending = None;
                        }
                    }
                    Poll::Ready(Err(fault)) => return self.broken(cx, fault),
                    Poll::Pending if self.out.is_empty() => {
                        let _ = self.poll_flush(cx)?;
                        if self.poll_arriving(cx).is_ready() {
                            continue;
                        }
                        return self.poll_watch(cx).map(Err);
                    }
                    Poll::Pending => {}
                }
            }
            if self.out.is_empty() {
                if over {
                    return self.poll_flush(cx);
                }
                continue;
            }
            match self.out.poll_write(&mut self.io, cx) {
                Poll::Ready(wrote) => self.wrote(wrote)?,
                Poll::Pending => {
                    if let Some(body) = sending {
                        body.body.poll_upload(cx);
                        if self.poll_arriving(cx).is_ready() {
                            continue;
                        }
                    }
                    if let Poll::Ready(end) = self.poll_watch(cx) {
                        return Poll::Ready(Err(end));
                    }
                    return self.poll_blocked(cx).map(Err);
                }
            }
        }
    }

    /// The response cannot be whole. What was written of it goes out first.
    fn broken(&mut self, cx: &mut Context<'_>, fault: BodyFault) -> Poll<Result<(), End>> {
        let _ = Pin::new(&mut self.io).poll_flush(cx);
        Poll::Ready(Err(End::Broken(self.fault.map_or(fault, BodyFault::Visitor))))
    }

    fn wrote(&mut self, wrote: io::Result<usize>) -> Result<(), End> {
        self.flushed = false;
        let n = wrote.map_err(|_| End::Broken(BodyFault::Visitor(Fault::Gone)))?;
        let now = Instant::now();
        self.write_pace.moved(now, n);
        if self.ended {
            self.since = now;
        }
        Ok(())
    }

    fn poll_blocked(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.flushed = false;
        ready!(self.write_pace.poll_stalled(cx, &mut self.write_timer));
        Poll::Ready(End::Broken(BodyFault::Visitor(Fault::WriteStalled)))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        match Pin::new(&mut self.io).poll_flush(cx) {
            Poll::Ready(Ok(())) => {
                if !self.flushed {
                    self.flushed = true;
                    if self.arriving.is_none() {
                        self.since = Instant::now();
                    }
                    self.write_pace =
                        Pace::patient(self.limits.write_pace, self.limits.pace_bytes_min, &self.patience);
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(_)) => gone().map(Err),
            Poll::Pending => self.poll_blocked(cx).map(Err),
        }
    }
}

/// The connection broke.
fn gone() -> Poll<End> {
    Poll::Ready(End::Broken(BodyFault::Visitor(Fault::Gone)))
}

impl Arriving {
    /// Takes what is left of a body that nothing reads any more from `input`. False: it is read still, it has not all
    /// arrived, or it is malformed.
    fn skip(&mut self, input: &mut BytesMut) -> bool {
        while Rc::strong_count(&self.desk) == 1 {
            match self.decoder.decode(input) {
                Ok(BodyPart::Data(_) | BodyPart::Trailers(_)) => {}
                Ok(BodyPart::End) => return true,
                Ok(BodyPart::More) | Err(_) => return false,
            }
        }
        false
    }
}

/// What of a request decides how its response is sent.
struct Asked {
    head: bool,
    keep_alive: bool,
    trailers: bool,
}
