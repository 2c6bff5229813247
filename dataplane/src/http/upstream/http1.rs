//! HTTP/1.1 to an upstream: hyper's client behind a gate of our own.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, HeaderValue};
use http::{Method, Request, Response};
use http_body::{Body as _, Frame};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::oneshot;
use tokio::time::{Duration, timeout};

use super::gate::{Gate, Shared};
use super::{Again, Driver, ReplayBody, SendError, garbage, lost, unreachable, visitor_fault};
use crate::http::body::{Body, BodyFault, Progress};
use crate::http::framing::{FIELDS_MAX, HEAD_BYTES_MAX};

/// Bytes hyper may hold of a response head: what the framer lets through, and room for what follows it.
const BUFFER_BYTES_MAX: usize = HEAD_BYTES_MAX + 64 * 1024;

/// Seconds an upstream may take to close a connection after us.
const CLOSE_SECS_MAX: u64 = 5;

/// One connection, free or in use.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<Body>,
    shared: Rc<Shared>,
    /// Whether no request is under way, so that it can end in order.
    is_free: bool,
    driver: Driver,
}

impl Drop for Connection {
    /// A free connection is closed, not cut off: the upstream closes too, and an agent's link is free for the next visitor.
    fn drop(&mut self) {
        if !self.is_free {
            return;
        }
        if let Some(mut task) = self.driver.0.take() {
            tokio::task::spawn_local(async move {
                if timeout(Duration::from_secs(CLOSE_SECS_MAX), &mut task).await.is_err() {
                    task.abort();
                }
            });
        }
    }
}

/// The stream of a connection that left HTTP, and bytes already read from it.
pub(super) type Switched<S> = oneshot::Receiver<(S, BytesMut)>;

/// Starts HTTP/1.1 on a stream.
pub(super) async fn connect<S>(stream: S) -> Result<(Connection, Switched<S>), SendError>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let shared = Rc::new(Shared::default());
    let gate = TokioIo::new(Gate::new(stream, shared.clone()));
    let mut builder = Builder::new();
    builder.max_buf_size(BUFFER_BYTES_MAX).max_headers(FIELDS_MAX).writev(true);
    let handshake = builder.handshake(gate).await;
    let (sender, mut connection) = handshake.map_err(|error| lost(&error.to_string(), Again::Unseen))?;
    let (switch, switched) = oneshot::channel();
    let driver = tokio::task::spawn_local(async move {
        let ended = std::future::poll_fn(|cx| connection.poll_without_shutdown(cx)).await;
        let parts = connection.into_parts();
        let (mut stream, rest) = parts.io.into_inner().into_parts();
        let mut read = BytesMut::from(parts.read_buf);
        read.extend_from_slice(&rest);
        if let Err((stream_back, _)) = switch.send((stream, read)) {
            stream = stream_back;
            if ended.is_ok() && stream.shutdown().await.is_ok() {
                // Its own end, or what nobody asked for: either way it is over.
                let _ = stream.read(&mut [0]).await;
            }
        }
    });
    Ok((Connection { sender, shared, is_free: false, driver: Driver(Some(driver)) }, switched))
}

impl Connection {
    /// Whether a request can be sent at once.
    pub(super) fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    /// Whether the connection is gone.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Closes at once, without waiting for the upstream: the agent's stream is reset.
    pub(super) fn close_now(mut self) {
        self.is_free = false;
    }

    /// Sends a request and waits for the head of its answer.
    pub(super) async fn send(
        &mut self,
        request: Request<()>,
        body: &ReplayBody,
        progress: &Rc<Progress>,
    ) -> Result<Response<Incoming>, SendError> {
        let again = Again::by(request.method());
        self.is_free = false;
        self.shared.expect(request.method() == Method::HEAD, false, progress);
        self.shared.of(body.exchange(), &request);
        let result = self.sender.send_request(with_body(request, body.attempt())).await;
        result.map_err(|error| self.failed(&error, again))
    }

    /// Sends a request to leave HTTP. A successful one ends the connection: the stream comes by [`Switched`].
    pub(super) async fn upgrade(
        &mut self,
        request: Request<()>,
        body: &ReplayBody,
        progress: &Rc<Progress>,
    ) -> Result<Response<Incoming>, SendError> {
        let again = Again::by(request.method());
        self.shared.expect(false, true, progress);
        self.shared.of(body.exchange(), &request);
        let result = self.sender.send_request(with_body(request, Body::Empty)).await;
        result.map_err(|error| self.failed(&error, again))
    }

    fn failed(&self, error: &hyper::Error, again: Again) -> SendError {
        if let Some(fault) = visitor_fault(error) {
            return fault;
        }
        if let Some(refusal) = self.shared.refusal.get() {
            return garbage(refusal);
        }
        if self.shared.refused.get() && !self.shared.received.get() {
            // Nobody behind the agent has seen a byte, so any method may be repeated.
            return unreachable(Again::Unseen);
        }
        match (self.shared.received.get(), self.shared.broken.get()) {
            (true, false) => garbage("it ended inside the header"),
            (true, true) => lost("The agent's stream broke during the answer.", Again::No),
            (false, true) => lost("The agent's stream broke before an answer.", again),
            (false, false) => unreachable(again),
        }
    }
}

/// The request with its framing: hyper writes `Content-Length` or `Transfer-Encoding` from the body's length, except
/// for the zero that tells a POST without body from one whose body got lost.
fn with_body(request: Request<()>, body: Body) -> Request<Body> {
    let mut request = request.map(|()| body);
    let expects_body = matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH);
    if expects_body && request.body().is_end_stream() {
        request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    request
}

/// The response with a body that hands `connection` to `keep` when it is over, and ends it when dropped before.
pub(super) fn body_then(
    connection: Connection,
    response: Response<Incoming>,
    keep: impl FnOnce(Connection) + Unpin + 'static,
) -> Response<Body> {
    response.map(|incoming| {
        let length = incoming.size_hint().exact();
        let mut body = Leased { incoming, lease: Some((connection, keep)) };
        if body.incoming.is_end_stream() {
            body.release();
            return Body::Empty;
        }
        Body::stream(body, length)
    })
}

struct Leased<K: FnOnce(Connection)> {
    incoming: Incoming,
    lease: Option<(Connection, K)>,
}

impl<K: FnOnce(Connection)> Leased<K> {
    fn release(&mut self) {
        if let Some((mut connection, keep)) = self.lease.take() {
            connection.is_free = true;
            keep(connection);
        }
    }
}

impl<K: FnOnce(Connection) + Unpin> http_body::Body for Leased<K> {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        if frame.is_none() || self.incoming.is_end_stream() {
            self.release();
        }
        Poll::Ready(frame.map(|frame| frame.map_err(|error| BodyFault::Upstream(error.to_string()))))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }
}
