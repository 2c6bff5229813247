//! HTTP/2 with prior knowledge to an upstream: gRPC and its trailers.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Reason, RecvStream};
use http::header::{CONTENT_LENGTH, HOST};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, StatusCode, Uri};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::{Duration, Instant, timeout_at};

use super::driver::Driver;
use super::outcome::{
    Again, SendError, fault_failure, garbage, lost, refused, reset, unknown_status, unreachable,
};
use super::refusal::{Notes, Watched};
use super::replay::ReplayBody;
use crate::http::answer::Failure;
use crate::http::body::Body;
use crate::http::exchange::Exchange;
use crate::http::fault::{BodyFault, Fault};
use crate::http::framing::{self, INTERIM_MAX, Refusal};
use crate::http::h2_stream::{self, Reading, Sender, WriteError};
use crate::http::limits::{
    H2_HEADER_LIST_BYTES_MAX, H2_SEND_BUFFER_BYTES_MAX, H2_STREAM_WINDOW_BYTES, H2_UPSTREAM_STREAMS_MAX,
    H2_UPSTREAM_WINDOW_BYTES, Limits,
};
use crate::http::min_rate::MinRate;

/// How long a request waits for a connection that another request opens, in milliseconds. Then it opens its own.
const OPENED_MS_MAX: u64 = 1_000;

/// A connection that several requests share. Each request holds a clone.
#[derive(Clone)]
pub(super) struct Connection {
    sender: SendRequest<Bytes>,
    state: Rc<State>,
    notes: Rc<Notes>,
    limits: Rc<Limits>,
    driver: Rc<Driver>,
}

#[derive(Default)]
struct State {
    closed: Cell<bool>,
    /// The upstream's settings have come, so its limit of streams is known.
    settled: Cell<bool>,
    /// Requests with a body that waits for a window.
    waiting: Cell<usize>,
}

/// Connections to one endpoint, with limits that are not known yet.
#[derive(Default)]
pub(super) struct Dials {
    under_way: Cell<usize>,
    changed: Notify,
}

/// One such connection, until its limits are known or it has failed.
pub(super) struct Dial(Rc<Dials>);

impl Dials {
    /// A connection is opened.
    pub(super) fn begin(self: &Rc<Self>) -> Dial {
        self.under_way.update(|dials| dials + 1);
        Dial(self.clone())
    }

    /// What `find` finds, now or when a connection under way is ready. None: no such connection is under way, or it takes too
    /// long.
    pub(super) async fn find<T>(&self, find: impl Fn() -> Option<T>) -> Option<T> {
        let until = Instant::now() + Duration::from_millis(OPENED_MS_MAX);
        loop {
            let changed = self.changed.notified();
            let found = find();
            if found.is_some() || self.under_way.get() == 0 {
                return found;
            }
            timeout_at(until, changed).await.ok()?;
        }
    }
}

impl Drop for Dial {
    fn drop(&mut self) {
        self.0.under_way.update(|dials| dials.saturating_sub(1));
        self.0.changed.notify_waiters();
    }
}

/// Starts HTTP/2 on a stream.
pub(super) async fn connect<S>(stream: S, limits: Rc<Limits>, dial: Dial) -> Result<Connection, SendError>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(H2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(H2_UPSTREAM_WINDOW_BYTES)
        .max_header_list_size(H2_HEADER_LIST_BYTES_MAX)
        .max_send_buffer_size(H2_SEND_BUFFER_BYTES_MAX);
    let (stream, notes) = Watched::new(stream);
    let handshake = builder.handshake(stream).await;
    let (sender, mut connection) = handshake.map_err(|error| failed(&error, Again::Unseen))?;
    let state = Rc::<State>::default();
    let (reached, seen, mut dial) = (state.clone(), notes.clone(), Some(dial));
    let driver = tokio::task::spawn_local(async move {
        let driving = poll_fn(|cx| {
            let ended = Pin::new(&mut connection).poll(cx);
            // Settings are the first frame (RFC 9113 section 3.4).
            if seen.heard.get() {
                reached.settled.set(true);
                dial = None;
            }
            ended
        });
        let _ = driving.await;
        reached.closed.set(true);
    });
    Ok(Connection { sender, state, notes, limits, driver: Rc::new(Driver(Some(driver))) })
}

impl Connection {
    /// Whether any request is under way, or its response is read.
    pub(super) fn is_in_use(&self) -> bool {
        self.requests() > 0
    }

    /// Requests under way, when asked of the pool's own clone.
    fn requests(&self) -> usize {
        Rc::strong_count(&self.driver).saturating_sub(1)
    }

    /// Whether the connection is gone.
    pub(super) fn is_closed(&self) -> bool {
        self.state.closed.get()
    }

    /// Whether one more request can be sent that waits for no other one: the upstream takes another stream (RFC 9113 section
    /// 5.1.2), and no body waits for a window, which may be the window of the whole connection.
    pub(super) fn has_room(&self) -> bool {
        let own = usize::try_from(H2_UPSTREAM_STREAMS_MAX).unwrap_or(usize::MAX);
        let streams_max = self.sender.current_max_send_streams().min(own);
        !self.is_closed()
            && self.state.settled.get()
            && self.state.waiting.get() == 0
            && self.requests() < streams_max
    }

    /// Whether both are handles to one connection.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.driver, &other.driver)
    }

    fn failed(&self, error: &h2::Error, again: Again) -> SendError {
        if self.notes.refused.get() { unreachable(Again::Unseen) } else { failed(error, again) }
    }

    /// Sends a request and waits for the head of its answer.
    pub(super) async fn send(
        &self,
        request: Request<()>,
        body: &ReplayBody,
    ) -> Result<Response<Body>, SendError> {
        let again = Again::by(request.method());
        let mut sender =
            self.sender.clone().ready().await.map_err(|error| self.failed(&error, Again::Unseen))?;
        let exchange = body.exchange().clone();
        let body = body.attempt();
        let over = http_body::Body::is_end_stream(&body);
        let request = with_authority(request)?;
        let sent = sender.send_request(request, over).map_err(|error| self.failed(&error, Again::Unseen));
        let (response, mut stream) = sent?;
        let pace = MinRate::new(self.limits.idle, 1);
        let fault: Rc<Cell<Option<Fault>>> = Rc::default();
        let (found, state) = (fault.clone(), self.state.clone());
        let writer = (!over).then(|| {
            Driver(Some(tokio::task::spawn_local(async move {
                if let Err(WriteError::Body(BodyFault::Visitor(fault))) =
                    h2_stream::write(body, &mut stream, pace, &state.waiting).await
                {
                    found.set(Some(fault));
                }
            })))
        });
        let response = with_interim(response, &exchange).await?;
        let response = response.map_err(|error| match fault.get() {
            Some(fault) => SendError { failure: fault_failure(fault), again: Again::No },
            None => self.failed(&error, again),
        })?;
        if !framing::STATUSES.contains(&response.status().as_u16()) {
            return Err(unknown_status(response.status().as_u16()));
        }
        if response.status().is_informational() {
            return Err(garbage("a final answer with an interim status"));
        }
        let mut lengths = response.headers().get_all(CONTENT_LENGTH).iter();
        let length = lengths.next().filter(|_| lengths.next().is_none());
        let length = length.and_then(|length| framing::length(length.as_bytes()).ok());
        // The writer and the connection live as long as the response is read.
        Ok(response.map(|stream| read(stream, length).guarded(Rc::new((writer, self.clone())))))
    }
}

/// The final answer; those before it go to the visitor, a bounded number of them.
async fn with_interim(
    mut response: ResponseFuture,
    exchange: &Exchange,
) -> Result<Result<Response<RecvStream>, h2::Error>, SendError> {
    let mut count = 0;
    poll_fn(|cx| {
        while let Poll::Ready(Some(Ok(interim))) = response.poll_informational(cx) {
            count += 1;
            if count > INTERIM_MAX {
                return Poll::Ready(Err(garbage(Refusal::Interim)));
            }
            let (head, ()) = interim.into_parts();
            exchange.answer_before(head.status, head.headers);
        }
        Pin::new(&mut response).poll(cx).map(Ok)
    })
    .await
}

fn read(stream: RecvStream, length: Option<u64>) -> Body {
    Body::stream(Reading::new(stream, Sender::Upstream, None), length)
}

/// `:authority` in place of Host.
fn with_authority(request: Request<()>) -> Result<Request<()>, SendError> {
    let (mut head, ()) = request.into_parts();
    let host = head.headers.remove(HOST);
    let authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let mut parts = head.uri.into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = authority;
    parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
    head.uri = Uri::from_parts(parts).map_err(|error| garbage_request(&error))?;
    head.version = http::Version::HTTP_2;
    head.headers.remove(CONTENT_LENGTH);
    Ok(Request::from_parts(head, ()))
}

fn garbage_request(error: &http::uri::InvalidUriParts) -> SendError {
    let message = format!("The request cannot be said in HTTP/2: {error}.");
    SendError { failure: Failure::plain(StatusCode::BAD_REQUEST, message), again: Again::No }
}

fn failed(error: &h2::Error, again: Again) -> SendError {
    if error.is_io() {
        return unreachable(again);
    }
    match error.reason() {
        _ if error.is_go_away() && error.is_remote() => refused("the upstream sent GOAWAY", again),
        Some(Reason::REFUSED_STREAM) => refused("the upstream refused the stream", Again::Unseen),
        Some(reason) if error.is_reset() && error.is_remote() => {
            reset(format!("the upstream reset the stream: {reason}"))
        }
        Some(_) if error.is_reset() => lost("the stream to the upstream was reset", Again::No),
        _ => garbage(error),
    }
}
