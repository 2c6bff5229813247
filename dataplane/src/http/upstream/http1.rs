//! HTTP/1.1 to an upstream: one connection, one exchange at a time.
//!
//! No task of its own: what waits for the head of the response, and then its body, drives both directions, so that an
//! answer is heard while the request is still on its way. An idle connection is looked at when it is wanted.

use std::any::Any;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::BytesMut;
use ebbgate_tunnel::reset_code;
use ebbgate_wire::mux::Code;
use http::{Method, Request, Response};
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::{Duration, timeout};

use super::outcome::{Again, SendError, fault_failure, garbage, lost, unknown_status, unreachable};
use super::replay::ReplayBody;
use crate::http::body::{Body, Progress};
use crate::http::exchange::Exchange;
use crate::http::fault::BodyFault;
use crate::http::framing::{
    Asked, BodyDecoder, BodyFraming, BodyPart, Refusal, ResponseDecoder, ResponseHead, ResponseStep,
    request_head,
};
use crate::http::h1::input::{poll_read, poll_read_body};
use crate::http::h1::outbox::{Outbox, Sending};

/// Seconds an upstream may take to close a connection after us.
const CLOSE_SECS_MAX: u64 = 5;

/// A stream of any kind.
trait Stream: AsyncRead + AsyncWrite + Unpin {
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> Stream for S {
    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// One connection, free or in use. Dropped free, it is closed in order, so that an agent's link serves again; dropped in
/// use, its stream is reset.
pub(super) struct Connection {
    pub(super) inner: Option<Box<RefCell<Inner>>>,
    /// Whether no exchange is under way.
    pub(super) is_free: bool,
}

/// What a connection holds.
pub(super) struct Inner {
    io: Box<dyn Stream>,
    /// What was read and not taken apart yet.
    pub(super) input: BytesMut,
    out: Outbox,
    flushed: bool,
    sending: Option<Sending>,
    decoder: ResponseDecoder,
    pub(super) body: BodyDecoder,
    /// The first part of the body, looked at with the head.
    first: Option<BodyPart>,
    pub(super) length: Option<u64>,
    pub(super) keep_alive: bool,
    exchange: Exchange,
    progress: Option<Rc<Progress>>,
    /// The upstream takes no more: what it still says may be the answer.
    write_failed: bool,
    seen: Seen,
}

/// What decides whether a request that failed may be sent again.
#[derive(Default)]
struct Seen {
    /// A byte came back since the request went out.
    received: bool,
    /// The agent says that nothing behind it has seen a byte (wire.md section 2, code 5).
    refused: bool,
}

/// Why no head came.
enum Failed {
    Body(BodyFault),
    Refused(Refusal),
    /// The stream ended.
    Ended,
    /// The stream broke.
    Broken,
}

/// Starts HTTP/1.1 on a stream.
pub(super) fn connect<S>(stream: S) -> Connection
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let inner = Inner {
        io: Box::new(stream),
        input: BytesMut::new(),
        out: Outbox::default(),
        flushed: true,
        sending: None,
        decoder: ResponseDecoder::new(Asked::default()),
        body: BodyDecoder::new(BodyFraming::None),
        first: None,
        length: None,
        keep_alive: true,
        exchange: Exchange::default(),
        progress: None,
        write_failed: false,
        seen: Seen::default(),
    };
    Connection { inner: Some(Box::new(RefCell::new(inner))), is_free: false }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take().filter(|_| self.is_free) {
            let mut stream = inner.into_inner().io;
            tokio::task::spawn_local(timeout(Duration::from_secs(CLOSE_SECS_MAX), async move {
                if stream.shutdown().await.is_ok() {
                    // An end of stream, or bytes without a request: in both cases the connection is over.
                    let _ = stream.read(&mut [0]).await;
                }
            }));
        }
    }
}

impl Connection {
    /// Whether a request can be sent at once: the upstream has neither closed nor said anything unasked.
    pub(super) fn is_ready(&self) -> bool {
        self.inner.as_ref().is_some_and(|inner| inner.borrow_mut().is_silent())
    }

    /// Whether the connection is gone.
    pub(super) fn is_closed(&self) -> bool {
        !self.is_ready()
    }

    /// Closes at once, without waiting for the upstream: the agent's stream is reset.
    pub(super) fn close_now(mut self) {
        self.is_free = false;
    }

    /// Sends a request and waits for the head of its response.
    pub(super) async fn send(
        &mut self,
        request: Request<()>,
        body: &ReplayBody,
        progress: &Rc<Progress>,
    ) -> Result<Response<()>, SendError> {
        let asked = Asked { head: request.method() == Method::HEAD, upgrade: false };
        self.exchange(request, asked, body.attempt(), body.exchange(), progress).await
    }

    /// Sends a request to leave HTTP. If the response says so, the stream is [`Connection::into_stream`].
    pub(super) async fn upgrade(
        &mut self,
        request: Request<()>,
        body: &ReplayBody,
        progress: &Rc<Progress>,
    ) -> Result<Response<()>, SendError> {
        let asked = Asked { head: false, upgrade: true };
        self.exchange(request, asked, Body::Empty, body.exchange(), progress).await
    }

    async fn exchange(
        &mut self,
        request: Request<()>,
        asked: Asked,
        body: Body,
        exchange: &Exchange,
        progress: &Rc<Progress>,
    ) -> Result<Response<()>, SendError> {
        let again = Again::by(request.method());
        self.is_free = false;
        let Some(inner) = self.inner.as_mut().map(|inner| inner.get_mut()) else {
            return Err(lost("the connection is gone", Again::Unseen));
        };
        inner.begin(request, asked, body, exchange, progress);
        let head = poll_fn(|cx| inner.poll_head(cx)).await;
        head.map_err(|why| inner.failure(why, again))
    }

    /// The stream of a connection that left HTTP, and bytes already read from it.
    pub(super) fn into_stream<S: 'static>(mut self) -> Option<(S, BytesMut)> {
        let inner = self.inner.take()?.into_inner();
        let stream = inner.io.into_any().downcast().ok()?;
        Some((*stream, inner.input))
    }
}

impl Inner {
    /// A request goes out.
    fn begin(
        &mut self,
        request: Request<()>,
        asked: Asked,
        body: Body,
        exchange: &Exchange,
        progress: &Rc<Progress>,
    ) {
        let (head, ()) = request.into_parts();
        let framing = match body.length() {
            _ if body.is_end_stream() => BodyFraming::None,
            Some(length) => BodyFraming::Length(length),
            None => BodyFraming::Chunked,
        };
        let path = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        // As the client wrote it, where a URI cannot hold that.
        match exchange.spelling_of(&head.uri) {
            Some(spelling) => request_head(self.out.text(), &head, &spelling.written, framing),
            None => request_head(self.out.text(), &head, path.as_bytes(), framing),
        }
        // No upstream has said that it takes trailers (RFC 9110 section 6.5.1).
        self.sending = Sending::new(body, framing, false);
        self.decoder = ResponseDecoder::new(asked);
        self.exchange = exchange.clone();
        self.progress = Some(progress.clone());
        self.seen.received = false;
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<()>, Failed>> {
        loop {
            match self.poll_upload(cx) {
                // The exchange is idle: the caller that waits for the response ends it.
                Ok(()) | Err(BodyFault::Idle) => {}
                Err(fault) => return Poll::Ready(Err(Failed::Body(fault))),
            }
            match self.decoder.decode(&mut self.input).map_err(Failed::Refused)? {
                Some(ResponseStep::Interim(status, headers)) => {
                    self.touch();
                    self.exchange.answer_before(status, headers);
                    continue;
                }
                Some(ResponseStep::Final(head)) => return Poll::Ready(self.take_head(cx, head)),
                None => {}
            }
            let read = poll_read(&mut self.io, cx, &mut self.input);
            match ready!(read) {
                Ok(0) => return Poll::Ready(Err(Failed::Ended)),
                Ok(_) => self.seen.received = true,
                Err(error) => {
                    self.note(&error);
                    return Poll::Ready(Err(Failed::Broken));
                }
            }
        }
    }

    fn take_head(&mut self, cx: &mut Context<'_>, head: ResponseHead) -> Result<Response<()>, Failed> {
        self.body = BodyDecoder::new(head.framing);
        self.keep_alive = head.keep_alive;
        self.length = match head.framing {
            BodyFraming::None => Some(0),
            BodyFraming::Length(length) => Some(length),
            BodyFraming::Chunked | BodyFraming::UntilClose => None,
        };
        if head.framing == BodyFraming::Chunked {
            // A chunk that is here already is looked at while the answer can still be another.
            if self.input.is_empty()
                && let Poll::Ready(Ok(0) | Err(_)) = poll_read(&mut self.io, cx, &mut self.input)
            {
                return Err(Failed::Refused(Refusal::Truncated));
            }
            let first = self.body.decode(&mut self.input).map_err(Failed::Refused)?;
            self.first = Some(first).filter(|first| *first != BodyPart::More);
        }
        Ok(Response::from_parts(head.parts, ()))
    }

    /// Sends as much of the request as the upstream takes.
    pub(super) fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<(), BodyFault> {
        loop {
            if let Some(sending) = self.sending.as_mut().filter(|_| self.out.has_room()) {
                match sending.poll_next(cx, &mut self.out) {
                    Poll::Ready(Ok(true)) => self.sending = None,
                    Poll::Pending if sending.holds_head() => return Ok(()),
                    Poll::Ready(Ok(false)) | Poll::Pending => {}
                    Poll::Ready(Err(fault)) => {
                        self.write_failed = true;
                        self.sending = None;
                        return Err(fault);
                    }
                }
            }
            if self.out.is_empty() || self.write_failed {
                break;
            }
            match self.out.poll_write(&mut self.io, cx) {
                Poll::Ready(Ok(_)) => {
                    // What the upstream takes is progress too.
                    self.touch();
                    self.flushed = false;
                }
                Poll::Ready(Err(error)) => self.upload_failed(&error),
                Poll::Pending => return Ok(()),
            }
        }
        if !self.flushed && !self.write_failed {
            match Pin::new(&mut self.io).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.flushed = true,
                Poll::Ready(Err(error)) => self.upload_failed(&error),
                Poll::Pending => {}
            }
        }
        Ok(())
    }

    fn upload_failed(&mut self, error: &io::Error) {
        self.note(error);
        self.write_failed = true;
        self.sending = None;
    }

    fn note(&mut self, error: &io::Error) {
        self.seen.refused |= reset_code(error) == Some(Code::REFUSED);
    }

    fn touch(&self) {
        if let Some(progress) = &self.progress {
            progress.touch();
        }
    }

    /// The next part of the body.
    pub(super) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<BodyPart, BodyFault>> {
        let upstream = |error: &dyn std::fmt::Display| BodyFault::Upstream(error.to_string());
        self.poll_upload(cx)?;
        loop {
            let part = match self.first.take() {
                Some(part) => part,
                None => self.body.decode(&mut self.input).map_err(|refusal| upstream(&refusal))?,
            };
            if part != BodyPart::More {
                return Poll::Ready(Ok(part));
            }
            match ready!(poll_read_body(&mut self.io, cx, &mut self.input)) {
                Ok(0) => {
                    self.keep_alive = false;
                    // A stream that takes no more may have broken: its end says nothing then.
                    let whole = if self.write_failed { Err(Refusal::Truncated) } else { self.body.close() };
                    return Poll::Ready(whole.map(|()| BodyPart::End).map_err(|refusal| upstream(&refusal)));
                }
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(upstream(&error))),
            }
        }
    }

    /// Whether both messages were whole: the stream is between two exchanges, or has ended with this one.
    pub(super) fn is_between(&self) -> bool {
        self.sending.is_none() && self.out.is_empty() && !self.write_failed && self.input.is_empty()
    }

    fn is_silent(&mut self) -> bool {
        let mut byte = [0; 1];
        let mut byte = ReadBuf::new(&mut byte);
        let polled = Pin::new(&mut self.io).poll_read(&mut Context::from_waker(Waker::noop()), &mut byte);
        // A byte that was read is lost: nothing follows it.
        self.keep_alive &= polled.is_pending();
        self.keep_alive && self.is_between()
    }

    fn failure(&self, why: Failed, again: Again) -> SendError {
        match why {
            Failed::Body(BodyFault::Visitor(fault)) => {
                SendError { failure: fault_failure(fault), again: Again::No }
            }
            Failed::Body(fault) => lost(&fault.to_string(), Again::No),
            Failed::Refused(Refusal::Status(status)) => unknown_status(status),
            Failed::Refused(refusal) => garbage(refusal),
            // Nothing behind the agent has seen a byte, so any method may be repeated.
            _ if self.seen.refused && !self.seen.received => unreachable(Again::Unseen),
            Failed::Ended if self.seen.received => garbage("it ended inside the header"),
            Failed::Ended => unreachable(again),
            Failed::Broken if self.seen.received => {
                lost("The agent's stream broke during the answer.", Again::No)
            }
            Failed::Broken => lost("The agent's stream broke before an answer.", again),
        }
    }
}
