//! `Visitor`: one connection's requests, each walked from the public endpoint through the policies to an upstream and
//! back.
//!
//! The walk is a stack of hops: a policy that forwards pushes one, a failure pops to whoever said `on_error: continue`.
//! Does not know HTTP/1 or HTTP/2: it is given heads and bodies, and gives back the same.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use ebbgate_model::{EndpointId, EndpointUrl, ErrorCode, Scheme};
use ebbgate_policy::{BodyError, Context, Effect, OnError, Outcome, Phase, Run, Step, Verdict};
use http::header::{CONNECTION, HOST, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{Request, Response, StatusCode, Version};

use super::answer::{Failure, takes_html};
use super::body::{Body, Direction, NotBuffered};
use super::fields;
use super::framing::Authority;
use super::limits::Limits;
use super::record::Record;
use super::reply::{self, framed, from_reply, may_switch_to};
use super::route;
use super::upstream::{self, Lender, SendError, Upstreams};
use crate::gateway::{Endpoint, Gateway, HOPS_MAX, HttpConn, Kind, Pool};

/// Endpoints one connection remembers having been admitted to.
const ADMITTED_MAX: usize = 16;

/// What a request comes to.
pub(super) enum Answer<G: Gateway> {
    /// A response.
    Response(Response<Body>),
    /// The 101, and the upstream the connection now belongs to.
    Switched(Response<Body>, Tunnel<G>),
    /// Drop the connection without a word.
    Close,
}

/// An upstream that left HTTP.
pub(super) struct Tunnel<G: Gateway> {
    /// Its stream.
    pub(super) stream: G::Stream,
    /// What was read from it already.
    pub(super) read: BytesMut,
    /// The event of the request that led here.
    pub(super) record: Rc<Record<G>>,
}

/// See the module.
pub(super) struct Visitor<G: Gateway> {
    gateway: G,
    conn: HttpConn,
    limits: Rc<Limits>,
    upstreams: Upstreams,
    admitted: RefCell<Vec<EndpointId>>,
}

/// One endpoint on the way.
struct Hop {
    pool: Pool,
    tried: Vec<EndpointId>,
    endpoint: Arc<Endpoint>,
    /// The head as it came in, for another member.
    entry: Parts,
    cx: Context,
    run: Option<Run>,
    /// What whoever forwarded here makes of a failure.
    on_error: OnError,
}

/// Why a walk is over without an upstream.
enum Stop {
    Failure(Failure),
    Close,
}

impl<G: Gateway> Visitor<G> {
    /// A connection whose TLS (if any) is done.
    pub(super) fn new(gateway: G, conn: HttpConn, limits: Rc<Limits>) -> Self {
        Self {
            gateway,
            conn,
            upstreams: Upstreams::new(limits.clone()),
            limits,
            admitted: RefCell::default(),
        }
    }

    /// The connection's limits.
    pub(super) fn limits(&self) -> &Rc<Limits> {
        &self.limits
    }

    /// The gateway.
    pub(super) fn gateway(&self) -> &G {
        &self.gateway
    }

    /// Answers one request. Its head has passed the framer or its HTTP/2 twin and has a Host header; `upgrade` says that
    /// it may leave HTTP.
    pub(super) async fn answer(
        &self,
        request: Request<Body>,
        authority: &Authority,
        upgrade: bool,
    ) -> Answer<G> {
        let (mut head, body) = request.into_parts();
        let record = Record::new(&self.gateway, &self.conn, &self.limits, &head, authority.host.as_str());
        let upgrade =
            head.headers.get(UPGRADE).cloned().filter(|protocol| upgrade && may_switch_to(protocol));
        fields::strip_hop_by_hop(&mut head.headers);
        head.extensions = http::Extensions::new();
        let (method, html) = (head.method.clone(), takes_html(&head.headers));
        let body = Lender::new(body.counted(record.progress.clone(), Direction::In));
        let answer = match self.walk(head, authority, upgrade, &body, &record).await {
            Ok(answer) => answer,
            Err(Stop::Close) => return Answer::Close,
            Err(Stop::Failure(failure)) => Answer::Response(failure.answer(html)),
        };
        match answer {
            Answer::Response(response) => {
                record.answered(response.status());
                record.coded(response.headers());
                let response = framed(response, &method);
                let progress = record.progress.clone();
                Answer::Response(response.map(|body| body.counted(progress, Direction::Out).guarded(record)))
            }
            answer => answer,
        }
    }

    async fn walk(
        &self,
        head: Parts,
        authority: &Authority,
        upgrade: Option<HeaderValue>,
        body: &Lender,
        record: &Rc<Record<G>>,
    ) -> Result<Answer<G>, Stop> {
        let pool = route::public(&self.gateway, &self.conn, authority).map_err(Stop::Failure)?;
        let first = self.enter(pool, head, OnError::Halt).map_err(Stop::Failure)?;
        self.admit(&first.endpoint).await?;
        record.reached(&first.endpoint);
        let mut hops = vec![first];
        loop {
            let depth = hops.len();
            let Some(hop) = hops.last_mut() else { return Err(Stop::Close) };
            let verdict = self.run(hop, body).await;
            record.logged(std::mem::take(&mut hop.cx.logs));
            let error = match verdict {
                Verdict::Continue => match self.to_upstream(hop, upgrade.clone(), body, record).await {
                    Ok(upstream::Reply::Response(response)) => {
                        return self.back(&mut hops, response, record).await.map(Answer::Response);
                    }
                    Ok(upstream::Reply::Switched(head, stream, read)) => {
                        let response = self.back(&mut hops, head.map(|()| Body::Empty), record).await?;
                        // A policy may have answered in the upstream's place; then its stream is dropped, and so reset.
                        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                            return Ok(Answer::Response(response));
                        }
                        record.answered(response.status());
                        let tunnel = Tunnel { stream, read, record: record.clone() };
                        return Ok(Answer::Switched(reply::switched(response, upgrade), tunnel));
                    }
                    Err(error) => error,
                },
                Verdict::Forward { url, on_error } => match self.forward(hop, &url, on_error, depth) {
                    Ok(next) => {
                        record.forwarded(&next.endpoint);
                        hops.push(next);
                        continue;
                    }
                    Err(error) if on_error == OnError::Continue => {
                        resume_after(hop, &error);
                        continue;
                    }
                    Err(error) => error,
                },
                verdict => return self.stopped(&mut hops, verdict, record).await.map(Answer::Response),
            };
            self.unwind(&mut hops, error, body).await?;
            if let Some(hop) = hops.last()
                && hops.len() > 1
            {
                record.forwarded(&hop.endpoint);
            }
        }
    }

    /// Takes a place in a pool.
    fn enter(&self, pool: Pool, head: Parts, on_error: OnError) -> Result<Hop, Failure> {
        let endpoint = pool.pick(&[]).ok_or_else(|| {
            let message = "No agent of this endpoint can take another request just now.";
            Failure::coded(StatusCode::BAD_GATEWAY, ErrorCode::AGENT_STREAM, message)
        })?;
        let (cx, run) = self.begin(&endpoint, head.clone());
        Ok(Hop { pool, tried: Vec::new(), endpoint, entry: head, cx, run, on_error })
    }

    fn begin(&self, endpoint: &Arc<Endpoint>, head: Parts) -> (Context, Option<Run>) {
        let mut cx = self.context(endpoint);
        cx.request = Some(head);
        let engine = endpoint.engine.as_ref().filter(|engine| engine.has(Phase::HttpRequest));
        (cx, engine.map(|engine| engine.start(Phase::HttpRequest)))
    }

    fn context(&self, endpoint: &Endpoint) -> Context {
        let mut cx =
            Context::new(self.conn.facts.clone(), endpoint.facts.clone(), self.gateway.now_unix_ms());
        cx.rng_seed = self.gateway.rng_seed();
        cx
    }

    /// Runs `on_tcp_connect` where the connection half could not know the endpoint: on clear-text HTTP it is named by the
    /// request. Once per connection and endpoint.
    async fn admit(&self, endpoint: &Arc<Endpoint>) -> Result<(), Stop> {
        let engine = endpoint.engine.as_ref().filter(|_| self.conn.first_endpoint.is_none());
        let Some(engine) = engine.filter(|engine| engine.has(Phase::TcpConnect)) else { return Ok(()) };
        if self.admitted.borrow().contains(&endpoint.id) {
            return Ok(());
        }
        let mut cx = self.context(endpoint);
        let mut run = engine.start(Phase::TcpConnect);
        match self.drive(endpoint, &mut run, &mut cx, &Lender::new(Body::Empty)).await {
            Verdict::Continue => {
                let mut admitted = self.admitted.borrow_mut();
                admitted.truncate(ADMITTED_MAX - 1);
                admitted.insert(0, endpoint.id);
                Ok(())
            }
            Verdict::Close { .. } | Verdict::Respond(_) => Err(Stop::Close),
            Verdict::Failed { code, message } => Err(policy_failed(endpoint, code, &message)),
            Verdict::Forward { .. } => {
                let message = "forward-internal in on_tcp_connect needs a tcp or tls endpoint";
                Err(policy_failed(endpoint, ErrorCode::new(2300), message))
            }
        }
    }

    async fn run(&self, hop: &mut Hop, body: &Lender) -> Verdict {
        match &mut hop.run {
            Some(run) => self.drive(&hop.endpoint, run, &mut hop.cx, body).await,
            None => Verdict::Continue,
        }
    }

    /// Steps a phase to its verdict, performing what it needs.
    async fn drive(&self, endpoint: &Endpoint, run: &mut Run, cx: &mut Context, body: &Lender) -> Verdict {
        loop {
            let outcome = match run.step(cx) {
                Step::Done(verdict) => return verdict,
                Step::Need(Effect::Keys { url, fresh }) => {
                    Outcome::Keys(self.gateway.keys(endpoint.account, &url, fresh).await)
                }
                Step::Need(Effect::Body { bytes_max }) => {
                    let mut taken = body.take();
                    let read = taken.buffer(bytes_max).await;
                    body.give_back(taken);
                    Outcome::Body(read.map_err(|error| match error {
                        NotBuffered::TooLong => BodyError::TooLong { bytes_max },
                        NotBuffered::Broken(_) => BodyError::Incomplete,
                    }))
                }
                Step::Need(Effect::TerminateTls(_)) => {
                    let message = "terminate-tls cannot run here: TLS is over or absent".to_owned();
                    return Verdict::Failed { code: ErrorCode::new(2300), message };
                }
            };
            run.resume(cx, outcome);
        }
    }

    /// The internal endpoint a policy forwards to.
    fn forward(
        &self,
        hop: &Hop,
        url: &EndpointUrl,
        on_error: OnError,
        depth: usize,
    ) -> Result<Hop, SendError> {
        let fail = |failure| SendError { failure, again: true };
        if depth >= HOPS_MAX {
            let message = format!("The request was forwarded through more than {HOPS_MAX} endpoints.");
            let failure = Failure::coded(StatusCode::BAD_GATEWAY, ErrorCode::TOO_MANY_HOPS, message);
            return Err(SendError { failure, again: false });
        }
        let pool = self.gateway.internal(hop.endpoint.account, url).filter(|pool| {
            let http = |e: &Arc<Endpoint>| matches!(e.url.scheme(), Scheme::Http | Scheme::Https);
            !pool.members().is_empty() && pool.members().iter().all(http)
        });
        let pool = pool.ok_or_else(|| fail(offline(url)))?;
        let head = hop.cx.request.clone().unwrap_or_else(|| hop.entry.clone());
        self.enter(pool, head, on_error).map_err(fail)
    }

    async fn to_upstream(
        &self,
        hop: &mut Hop,
        upgrade: Option<HeaderValue>,
        body: &Lender,
        record: &Rc<Record<G>>,
    ) -> Result<upstream::Reply<G::Stream>, SendError> {
        let endpoint = hop.endpoint.clone();
        if matches!(endpoint.kind, Kind::Cloud) {
            return Err(SendError { failure: unfinished(&endpoint), again: false });
        }
        let head = hop.cx.request.as_ref().unwrap_or(&hop.entry);
        let mut request = Request::new(());
        request.method_mut().clone_from(&head.method);
        request.uri_mut().clone_from(&head.uri);
        *request.version_mut() = Version::HTTP_11;
        let headers = request.headers_mut();
        headers.clone_from(&head.headers);
        fields::strip_hop_by_hop(headers);
        if let (None, Some(host)) = (headers.get(HOST), hop.entry.headers.get(HOST)) {
            headers.insert(HOST, host.clone());
        }
        fields::add_forwarded(headers, self.conn.facts.client.ip(), self.conn.scheme.as_str());
        if !endpoint.upstream_http2 {
            fields::for_http1(headers);
            if let Some(protocol) = upgrade {
                headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
                headers.insert(UPGRADE, protocol);
            }
        }
        self.upstreams.send(&self.gateway, &self.conn, &endpoint, request, body, &record.progress).await
    }

    /// Another member of the failed hop's pool, or whoever said `on_error: continue`; or the failure is the answer.
    async fn unwind(&self, hops: &mut Vec<Hop>, error: SendError, body: &Lender) -> Result<(), Stop> {
        let whole = body.is_whole();
        while let Some(mut hop) = hops.pop() {
            hop.tried.push(hop.endpoint.id);
            if let Some(other) = hop.pool.pick(&hop.tried).filter(|_| error.again && whole) {
                if hops.is_empty() {
                    self.admit(&other).await?;
                }
                (hop.cx, hop.run) = self.begin(&other, hop.entry.clone());
                hop.endpoint = other;
                hops.push(hop);
                return Ok(());
            }
            match hops.last_mut() {
                Some(outer) if hop.on_error == OnError::Continue && whole => {
                    resume_after(outer, &error);
                    return Ok(());
                }
                _ => {}
            }
        }
        Err(Stop::Failure(error.failure))
    }

    /// A policy ended the request.
    async fn stopped(
        &self,
        hops: &mut Vec<Hop>,
        verdict: Verdict,
        record: &Rc<Record<G>>,
    ) -> Result<Response<Body>, Stop> {
        let Some(hop) = hops.last() else { return Err(Stop::Close) };
        match verdict {
            Verdict::Failed { code, message } => Err(policy_failed(&hop.endpoint, code, &message)),
            Verdict::Respond(reply) => {
                // Its own response phase is for custom answers only; to the endpoints around it, it is an answer.
                if !reply.response_phase {
                    hops.pop();
                }
                self.back(hops, from_reply(reply), record).await
            }
            _ => Err(Stop::Close),
        }
    }

    /// The way back: every endpoint's `on_http_response`, innermost first.
    async fn back(
        &self,
        hops: &mut Vec<Hop>,
        response: Response<Body>,
        record: &Rc<Record<G>>,
    ) -> Result<Response<Body>, Stop> {
        let (mut head, mut body) = response.into_parts();
        reply::clean(&mut head);
        while let Some(mut hop) = hops.pop() {
            let engine = hop.endpoint.engine.as_ref().filter(|engine| engine.has(Phase::HttpResponse));
            let Some(engine) = engine else { continue };
            let mut run = engine.start(Phase::HttpResponse);
            hop.cx.response = Some(head.clone());
            let verdict = self.drive(&hop.endpoint, &mut run, &mut hop.cx, &Lender::new(Body::Empty)).await;
            record.logged(std::mem::take(&mut hop.cx.logs));
            match verdict {
                Verdict::Respond(reply) => (head, body) = from_reply(reply).into_parts(),
                Verdict::Close { .. } => return Err(Stop::Close),
                Verdict::Failed { code, message } => {
                    return Err(policy_failed(&hop.endpoint, code, &message));
                }
                Verdict::Continue | Verdict::Forward { .. } => head = hop.cx.response.take().unwrap_or(head),
            }
        }
        Ok(Response::from_parts(head, body))
    }
}

fn resume_after(hop: &mut Hop, error: &SendError) {
    let code = error.failure.code.unwrap_or(ErrorCode::AGENT_STREAM);
    let outcome = Outcome::ForwardFailed { code, message: error.failure.message.clone() };
    if let Some(run) = &mut hop.run {
        run.resume(&mut hop.cx, outcome);
    }
}

fn offline(url: &EndpointUrl) -> Failure {
    let message = format!("The endpoint {url} is offline.");
    Failure::coded(StatusCode::NOT_FOUND, ErrorCode::OFFLINE, message)
}

/// A cloud endpoint whose policy let the request through to nowhere.
fn unfinished(endpoint: &Endpoint) -> Failure {
    let message = match endpoint.engine {
        None => format!(
            "The endpoint {} has no traffic policy yet: give it one that forwards or answers.",
            endpoint.url
        ),
        Some(_) => {
            format!("The traffic policy of {} neither forwarded nor answered this request.", endpoint.url)
        }
    };
    Failure::coded(StatusCode::NOT_FOUND, ErrorCode::OFFLINE, message)
}

fn policy_failed(endpoint: &Endpoint, code: ErrorCode, message: &str) -> Stop {
    tracing::warn!(endpoint = %endpoint.id, %code, message, "traffic policy failed");
    let message = "The traffic policy of this endpoint failed.";
    Stop::Failure(Failure::coded(StatusCode::INTERNAL_SERVER_ERROR, code, message))
}
