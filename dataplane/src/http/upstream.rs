//! One request to one agent: over a kept or a fresh stream, as HTTP/1.1 or as HTTP/2 with prior knowledge.
//!
//! Says precisely what a failure means for a second try. Kept connections belong to one visitor connection, never to
//! another: the agent was told whose bytes a stream carries. Does not know pools or policies.

mod gate;
mod http1;
mod http2;
mod lender;
mod refusal;
mod shelf;

use std::error::Error;
use std::rc::Rc;

use bytes::BytesMut;
use ebbgate_model::ErrorCode;
use http::{Method, Request, Response, StatusCode};
use tokio::task::JoinHandle;
use tokio::time::sleep_until;

use super::answer::Failure;
use super::body::{Body, BodyFault, Progress};
use super::gate::Fault;
use super::limits::Limits;
use crate::dispatch::gateway::{Gateway, HttpConn};
use crate::state::endpoint::Endpoint;
pub(super) use lender::Lender;
use shelf::{Behind, Shelf};

/// What an upstream answered.
pub(super) enum Reply<S> {
    /// A response.
    Response(Response<Body>),
    /// It leaves HTTP: the 101, the stream, and bytes already read from it.
    Switched(Response<()>, S, BytesMut),
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct SendError {
    /// What to tell the visitor if nobody else answers.
    pub(super) failure: Failure,
    /// Whether it may be tried again, here or elsewhere.
    pub(super) again: Again,
}

/// Whether a request that failed may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// The upstream may have acted on it.
    No,
    /// Nothing came back, and the method may be repeated; a body only if no byte of it went out.
    Repeatable,
    /// Nobody behind the agent has seen a byte of it.
    Unseen,
}

impl Again {
    /// What a method allows when nothing came back.
    fn by(method: &Method) -> Self {
        if is_idempotent(method) { Self::Repeatable } else { Self::No }
    }

    /// Whether the request with this body may be sent again.
    pub(super) fn allows(self, body: &Lender) -> bool {
        match self {
            Self::No => false,
            Self::Repeatable => body.is_whole(),
            Self::Unseen => body.is_kept(),
        }
    }
}

impl SendError {
    /// No stream could be opened.
    pub(super) fn not_opened(detail: String) -> Self {
        Self { failure: Failure::agent_stream(detail), again: Again::Unseen }
    }
}

/// A task that ends with its handle.
#[derive(Debug)]
struct Driver(Option<JoinHandle<()>>);

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// The upstream connections of one visitor connection.
pub(super) struct Upstreams {
    shelf: Rc<Shelf>,
    limits: Rc<Limits>,
}

impl Upstreams {
    /// None yet.
    pub(super) fn new(limits: Rc<Limits>) -> Self {
        Self { shelf: Shelf::new(limits.clone()), limits }
    }

    /// Sends a request, made ready for the upstream as often as it is tried, and waits for the head of the answer as long
    /// as something moves.
    pub(super) async fn send<G: Gateway>(
        &self,
        gateway: &G,
        conn: &HttpConn,
        endpoint: &Endpoint,
        make: &impl Fn() -> Request<()>,
        body: &Lender,
        progress: &Rc<Progress>,
    ) -> Result<Reply<G::Stream>, SendError> {
        if endpoint.upstream_http2 {
            return self.send_http2(gateway, conn, endpoint, make, body, progress).await;
        }
        let request = make();
        let upgrade = request.headers().contains_key(http::header::UPGRADE);
        if !upgrade
            && is_idempotent(request.method())
            && body.is_replayable()
            && let Some(kept) = self.shelf.take_http1(endpoint.id)
        {
            match self.exchange_http1(kept, endpoint, request, body, progress).await {
                Err(error) if error.again.allows(body) => {
                    return self.send_fresh(gateway, conn, endpoint, make(), body, progress).await;
                }
                result => return result.map(Reply::Response),
            }
        }
        self.send_fresh(gateway, conn, endpoint, request, body, progress).await
    }

    async fn send_fresh<G: Gateway>(
        &self,
        gateway: &G,
        conn: &HttpConn,
        endpoint: &Endpoint,
        request: Request<()>,
        body: &Lender,
        progress: &Rc<Progress>,
    ) -> Result<Reply<G::Stream>, SendError> {
        let stream = open(gateway, conn, endpoint).await?;
        let (mut connection, switched) = http1::connect(stream).await?;
        if !request.headers().contains_key(http::header::UPGRADE) {
            return self
                .exchange_http1(connection, endpoint, request, body, progress)
                .await
                .map(Reply::Response);
        }
        let response = with_idle(progress, connection.upgrade(request, body, progress)).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Reply::Response(self.release_after(connection, endpoint, response)));
        }
        let (head, _) = response.into_parts();
        let (stream, rest) =
            switched.await.map_err(|_| lost("the agent's stream ended during the upgrade", Again::No))?;
        Ok(Reply::Switched(Response::from_parts(head, ()), stream, rest))
    }

    async fn exchange_http1(
        &self,
        mut connection: http1::Connection,
        endpoint: &Endpoint,
        request: Request<()>,
        body: &Lender,
        progress: &Rc<Progress>,
    ) -> Result<Response<Body>, SendError> {
        let response = with_idle(progress, connection.send(request, body, progress)).await?;
        Ok(self.release_after(connection, endpoint, response))
    }

    /// The response, after whose body the connection is kept for the next request.
    fn release_after(
        &self,
        connection: http1::Connection,
        endpoint: &Endpoint,
        response: Response<hyper::body::Incoming>,
    ) -> Response<Body> {
        let (weak, behind) = (Rc::downgrade(&self.shelf), Behind::new(endpoint));
        let keep = move |connection: http1::Connection| {
            if let Some(kept) = weak.upgrade() {
                kept.keep_http1(behind, connection);
            }
        };
        http1::body_then(connection, response, keep)
    }

    async fn send_http2<G: Gateway>(
        &self,
        gateway: &G,
        conn: &HttpConn,
        endpoint: &Endpoint,
        make: &impl Fn() -> Request<()>,
        body: &Lender,
        progress: &Rc<Progress>,
    ) -> Result<Reply<G::Stream>, SendError> {
        if let Some(connection) = self.shelf.http2(endpoint.id) {
            let first = connection.send(make(), body);
            match with_idle(progress, first).await {
                // The connection may have ended unnoticed; that says nothing about the upstream.
                Err(error) if error.again.allows(body) => {
                    self.shelf.drop_http2(endpoint.id);
                }
                result => return result.map(Reply::Response),
            }
        }
        let stream = open(gateway, conn, endpoint).await?;
        let connection = http2::connect(stream, self.limits.clone()).await?;
        self.shelf.keep_http2(Behind::new(endpoint), connection.clone());
        with_idle(progress, connection.send(make(), body)).await.map(Reply::Response)
    }
}

async fn open<G: Gateway>(gateway: &G, conn: &HttpConn, endpoint: &Endpoint) -> Result<G::Stream, SendError> {
    let facts = &conn.facts;
    let opened = gateway.open(endpoint, facts.client, facts.server, endpoint.url.scheme()).await;
    opened.map_err(|error| SendError::not_opened(error.to_string()))
}

/// Waits as long as anything moves either way.
async fn with_idle<T>(
    progress: &Progress,
    answer: impl Future<Output = Result<T, SendError>>,
) -> Result<T, SendError> {
    let mut answer = std::pin::pin!(answer);
    loop {
        let deadline = progress.idle_deadline();
        tokio::select! {
            answer = &mut answer => return answer,
            () = sleep_until(deadline) => {}
        }
        if progress.idle_deadline() <= deadline {
            let message = "The upstream did not answer in time.";
            let failure = Failure::coded(StatusCode::GATEWAY_TIMEOUT, ErrorCode::new(3005), message);
            return Err(SendError { failure, again: Again::No });
        }
    }
}

/// Methods that may be sent twice (RFC 9110 section 9.2.2).
pub(super) fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE, Method::TRACE].contains(method)
}

/// The stream broke before an answer.
fn lost(detail: &str, again: Again) -> SendError {
    let message = "The connection to the agent of this endpoint broke.";
    let failure = Failure::coded(StatusCode::BAD_GATEWAY, ErrorCode::AGENT_STREAM, message).because(detail);
    SendError { failure, again }
}

/// Nothing came from behind the agent.
fn unreachable(again: Again) -> SendError {
    SendError { failure: Failure::upstream_unreachable(), again }
}

/// The answer is not HTTP.
fn garbage(message: impl std::fmt::Display) -> SendError {
    let detail = format!("the upstream's answer is not valid HTTP: {message}");
    let message = "The upstream's answer is not valid HTTP.";
    let failure =
        Failure::coded(StatusCode::BAD_GATEWAY, ErrorCode::UPSTREAM_PROTOCOL, message).because(detail);
    SendError { failure, again: Again::No }
}

/// The visitor broke off its own request.
fn visitor_fault(error: &(dyn Error + 'static)) -> Option<SendError> {
    let mut error = Some(error);
    while let Some(cause) = error {
        match cause.downcast_ref::<BodyFault>() {
            Some(BodyFault::Visitor(fault)) => {
                return Some(SendError { failure: fault_failure(*fault), again: Again::No });
            }
            _ => error = cause.source(),
        }
    }
    None
}

/// What a visitor is told of its own fault.
pub(super) fn fault_failure(fault: Fault) -> Failure {
    let status = match fault {
        Fault::Refused(refusal) => refusal.status(),
        Fault::HeadLate | Fault::BodyStalled => StatusCode::REQUEST_TIMEOUT,
        Fault::WriteStalled | Fault::Idle | Fault::Gone => StatusCode::BAD_REQUEST,
    };
    Failure::plain(status, format!("The request was not accepted: {fault}."))
}
