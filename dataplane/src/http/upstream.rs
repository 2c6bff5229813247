//! One request to one agent: over a pooled or a fresh connection, as HTTP/1.1 or as HTTP/2 with prior knowledge.
//!
//! Says precisely what a failure means for a second attempt. Does not know pools of members or policies.
//!
//! # Which requests reuse a connection
//!
//! An upstream may close an idle connection while a request is on its way to it. No timeout and no look at the connection
//! rules that out, because the close may still be travelling (RFC 9112 section 9.3.1). So a request reuses a connection only
//! where it can be sent again: its method is idempotent (RFC 9110 section 9.2.2) and its body is known to fit
//! [`replay::REPLAY_BYTES_MAX`]. It is sent again once, on a fresh connection, if nothing came back.
//! Other requests, POST among them, always open a connection, and their bytes go out once. HTTP/2 is different: GOAWAY and
//! `REFUSED_STREAM` say which requests were not looked at (RFC 9113 section 8.7), so every method shares its connections.
//!
//! A connection that the upstream may have authenticated is the exception: its visitor's requests have to use it.

mod driver;
mod http1;
mod http2;
mod identity;
mod incoming;
mod outcome;
mod pool;
mod refusal;
mod replay;

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use tokio::time::sleep_until;

use super::answer::Failure;
use super::body::{Body, Progress};
use super::limits::Limits;
use crate::dispatch::gateway::{Gateway, HttpConn};
use crate::state::endpoint::{Endpoint, Kind};
use identity::{Sharing, VisitorId};
pub(super) use outcome::{Again, Reply, SendError, fault_failure};
use outcome::{is_idempotent, lost};
use pool::UpstreamPool;
pub use pool::UpstreamPools;
pub(super) use replay::ReplayBody;

/// The way of one visitor connection's requests to upstreams.
pub(super) struct Upstreams {
    pools: UpstreamPools,
    visitor: VisitorId,
    /// Pools with connections of this visitor alone.
    own: RefCell<Vec<Weak<UpstreamPool>>>,
    limits: Rc<Limits>,
}

impl Drop for Upstreams {
    fn drop(&mut self) {
        for pool in self.own.take() {
            if let Some(pool) = pool.upgrade() {
                pool.close_visitor(self.visitor);
            }
        }
    }
}

/// Where a connection goes when its response is over.
struct Lease {
    pool: Rc<UpstreamPool>,
    sharing: Sharing,
    /// Whether an idle connection was left alone when this one was opened.
    replaces: bool,
}

impl Upstreams {
    /// Of a new visitor connection.
    pub(super) fn new(pools: UpstreamPools, limits: Rc<Limits>) -> Self {
        Self { visitor: pools.next_visitor(), pools, own: RefCell::default(), limits }
    }

    /// Sends a request, made ready for the upstream as often as it is tried, and waits for the head of the answer as long
    /// as something moves.
    pub(super) async fn send<G: Gateway>(
        &self,
        gateway: &G,
        conn: &HttpConn,
        endpoint: &Arc<Endpoint>,
        make: &impl Fn() -> Request<()>,
        body: &ReplayBody,
        progress: &Rc<Progress>,
    ) -> Result<Reply<G::Stream>, SendError> {
        let (Kind::Agent(agent), Some(pool)) = (&endpoint.kind, self.pools.of(endpoint)) else {
            return Err(SendError::not_opened(format!("endpoint {} has no agent behind it", endpoint.id)));
        };
        let sharing = Sharing::of(agent, conn.facts.client.ip(), self.visitor);
        if endpoint.upstream_http2 {
            let to = To { gateway, conn, endpoint, pool, sharing };
            return self.send_http2(to, make, body, progress).await;
        }
        let request = make();
        if !request.headers().contains_key(http::header::UPGRADE)
            && let Some((connection, sharing)) = self.reuse(&pool, sharing, request.method(), body)
        {
            self.pools.count_reused();
            progress.reused.set(Some(true));
            let lease = Lease { pool: pool.clone(), sharing, replaces: false };
            match self.exchange_http1(connection, lease, request, body, progress).await {
                Err(error) if error.again.allows_after_reuse(body) => {
                    let to = To { gateway, conn, endpoint, pool, sharing };
                    return self.send_fresh(to, make(), body, progress).await;
                }
                result => return result.map(Reply::Response),
            }
        }
        let to = To { gateway, conn, endpoint, pool, sharing };
        self.send_fresh(to, request, body, progress).await
    }

    /// A pooled connection for this request.
    fn reuse(
        &self,
        pool: &Rc<UpstreamPool>,
        sharing: Sharing,
        method: &Method,
        body: &ReplayBody,
    ) -> Option<(http1::Connection, Sharing)> {
        let authenticated = Sharing::Authenticated(self.visitor);
        if self.is_own(pool)
            && let Some(connection) = pool.take(authenticated)
        {
            return Some((connection, authenticated));
        }
        let repeats = is_idempotent(method) && body.is_short();
        let connection = repeats.then(|| pool.take(sharing)).flatten()?;
        Some((connection, sharing))
    }

    async fn send_fresh<G: Gateway>(
        &self,
        to: To<'_, G>,
        request: Request<()>,
        body: &ReplayBody,
        progress: &Rc<Progress>,
    ) -> Result<Reply<G::Stream>, SendError> {
        let replaces = to.pool.has_idle(to.sharing);
        let stream = self.open(&to).await?;
        progress.reused.set(Some(false));
        let mut connection = http1::connect(stream);
        let lease = Lease { pool: to.pool, sharing: to.sharing, replaces };
        if !request.headers().contains_key(http::header::UPGRADE) {
            return self
                .exchange_http1(connection, lease, request, body, progress)
                .await
                .map(Reply::Response);
        }
        let response = with_idle(progress, connection.upgrade(request, body, progress)).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            // It may have left HTTP for one of its ends: it carries no other request.
            return Ok(Reply::Response(incoming::body_then(connection, response, drop)));
        }
        let (head, ()) = response.into_parts();
        let switched = connection.into_stream();
        let (stream, rest) = switched.ok_or_else(|| lost("the stream is of another kind", Again::No))?;
        Ok(Reply::Switched(Response::from_parts(head, ()), stream, rest))
    }

    /// Sends a request. After its response the connection goes to the pool, for this visitor alone if it carries the
    /// visitor's identity by then.
    async fn exchange_http1(
        &self,
        mut connection: http1::Connection,
        mut lease: Lease,
        request: Request<()>,
        body: &ReplayBody,
        progress: &Rc<Progress>,
    ) -> Result<Response<Body>, SendError> {
        let authenticates = identity::request_authenticates(request.headers());
        let response = with_idle(progress, connection.send(request, body, progress)).await?;
        if authenticates || identity::response_challenges(response.headers()) {
            lease.sharing = Sharing::Authenticated(self.visitor);
        }
        self.note_own(&lease.pool, lease.sharing);
        let keep = move |connection| lease.pool.keep(connection, lease.sharing, lease.replaces);
        Ok(incoming::body_then(connection, response, keep))
    }

    async fn send_http2<G: Gateway>(
        &self,
        mut to: To<'_, G>,
        make: &impl Fn() -> Request<()>,
        body: &ReplayBody,
        progress: &Rc<Progress>,
    ) -> Result<Reply<G::Stream>, SendError> {
        let request = make();
        if identity::request_authenticates(request.headers()) {
            to.sharing = Sharing::Authenticated(self.visitor);
        }
        let pool = to.pool.clone();
        if let Some(connection) = pool.dials.find(|| pool.shared(to.sharing)).await {
            self.pools.count_reused();
            progress.reused.set(Some(true));
            match self.exchange_http2(&to, &connection, request, body, progress).await {
                // The connection may have ended unnoticed; that says nothing about the upstream.
                Err(error) if error.again.allows(body) => pool.retire(&connection),
                result => return result.map(Reply::Response),
            }
        }
        let dial = pool.dials.begin();
        let stream = self.open(&to).await?;
        progress.reused.set(Some(false));
        let connection = http2::connect(stream, self.limits.clone(), dial).await?;
        pool.share(connection.clone(), to.sharing);
        self.note_own(&pool, to.sharing);
        self.exchange_http2(&to, &connection, make(), body, progress).await.map(Reply::Response)
    }

    async fn exchange_http2<G: Gateway>(
        &self,
        to: &To<'_, G>,
        connection: &http2::Connection,
        request: Request<()>,
        body: &ReplayBody,
        progress: &Rc<Progress>,
    ) -> Result<Response<Body>, SendError> {
        let response = with_idle(progress, connection.send(request, body)).await?;
        if to.sharing != Sharing::Authenticated(self.visitor)
            && identity::response_challenges(response.headers())
        {
            // The visitor's next request authenticates, on a connection of its own.
            to.pool.retire(connection);
        }
        Ok(response)
    }

    async fn open<G: Gateway>(&self, to: &To<'_, G>) -> Result<G::Stream, SendError> {
        let facts = &to.conn.facts;
        let opened = to.gateway.open(to.endpoint, facts.client, facts.server, to.endpoint.url.scheme()).await;
        let stream = opened.map_err(|error| SendError::not_opened(error.to_string()))?;
        self.pools.count_opened();
        Ok(stream)
    }

    fn is_own(&self, pool: &Rc<UpstreamPool>) -> bool {
        self.own.borrow().iter().any(|own| own.as_ptr() == Rc::as_ptr(pool))
    }

    /// Notes that the pool holds a connection of this visitor alone, if that is so.
    fn note_own(&self, pool: &Rc<UpstreamPool>, sharing: Sharing) {
        if matches!(sharing, Sharing::Visitor(_) | Sharing::Authenticated(_)) && !self.is_own(pool) {
            let mut own = self.own.borrow_mut();
            own.retain(|pool| pool.strong_count() > 0);
            own.push(Rc::downgrade(pool));
        }
    }
}

/// What a fresh connection leads to.
struct To<'a, G> {
    gateway: &'a G,
    conn: &'a HttpConn,
    endpoint: &'a Arc<Endpoint>,
    pool: Rc<UpstreamPool>,
    sharing: Sharing,
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
            return Err(SendError { failure: Failure::upstream_late(), again: Again::No });
        }
    }
}
