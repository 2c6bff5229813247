//! The walk of one request: a stack of hops. A policy that forwards pushes one; a failure tries another member of the pool,
//! then pops to whoever said `on_error: continue`; an answer goes back through every hop's response phase.

use std::rc::Rc;
use std::sync::Arc;

use ebbgate_model::{EndpointId, EndpointUrl, ErrorCode, Scheme};
use ebbgate_policy::{Context, OnError, Outcome, Phase, Run, Verdict, Work};
use http::header::{CONNECTION, EXPECT, HOST, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{Request, Response, StatusCode, Version};

use super::policy::policy_failed;
use super::{Answer, Stop, Tunnel, Visitor};
use crate::dispatch::gateway::Gateway;
use crate::dispatch::hops::{self, Steps, TooFar};
use crate::http::answer::Failure;
use crate::http::body::Body;
use crate::http::framing::Authority;
use crate::http::record::Record;
use crate::http::reply::{self, from_reply};
use crate::http::upstream::{self, Again, ReplayBody, SendError};
use crate::http::{fields, route};
use crate::state::endpoint::{Endpoint, Kind};
use crate::state::pool::{Ask, Pool};

/// One endpoint on the way.
struct Hop {
    pool: Pool,
    tried: Vec<EndpointId>,
    endpoint: Arc<Endpoint>,
    /// The head as it came in, for another member.
    entry: Rc<Parts>,
    cx: Context,
    run: Option<Run>,
    /// What whoever forwarded here makes of a failure.
    on_error: OnError,
}

impl<G: Gateway> Visitor<G> {
    /// Takes the request to an upstream, or to the policy that answers it, and the answer back.
    pub(super) async fn walk(
        &self,
        head: Parts,
        authority: &Authority,
        upgrade: Option<HeaderValue>,
        body: &ReplayBody,
        record: &Rc<Record<G>>,
    ) -> Result<Answer<G>, Stop> {
        self.gateway.returned(None, self.conn.scheme, &authority.host, self.conn.port).await;
        let pool = match route::public(&self.gateway, &self.conn, authority) {
            Ok(pool) => pool,
            Err(_) if route::is_secure_elsewhere(&self.gateway, &self.conn, authority) => {
                return Ok(Answer::Response(reply::secure(authority, &head.uri, record.form())));
            }
            Err(failure) => return Err(Stop::Failure(failure)),
        };
        let work = Work::default();
        let first = self.enter(pool, Rc::new(head), OnError::Halt, &work, body).map_err(Stop::Failure)?;
        record.reached(&first.endpoint);
        self.admit(&first.endpoint, &work, record).await?;
        let mut hops = vec![first];
        let mut steps = Steps::default();
        loop {
            let depth = hops.len();
            let Some(hop) = hops.last_mut() else { return Err(Stop::Close) };
            let verdict = match &mut hop.run {
                Some(run) => self.drive(&hop.endpoint, run, &mut hop.cx, body).await,
                None => Verdict::Continue,
            };
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
                Verdict::Forward { url, on_error } => {
                    steps.take().map_err(ended)?;
                    let account = hop.endpoint.account;
                    self.gateway.returned(Some(account), url.scheme(), url.host(), url.port()).await;
                    match self.forward(hop, &url, on_error, depth, body) {
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
                    }
                }
                verdict => return self.stopped(&mut hops, verdict, record).await.map(Answer::Response),
            };
            self.unwind(&mut hops, &mut steps, error, body, record).await?;
            if let Some(hop) = hops.last()
                && hops.len() > 1
            {
                record.forwarded(&hop.endpoint);
            }
        }
    }

    /// Takes a place in a pool.
    fn enter(
        &self,
        pool: Pool,
        head: Rc<Parts>,
        on_error: OnError,
        work: &Work,
        body: &ReplayBody,
    ) -> Result<Hop, Failure> {
        let endpoint = pool.pick(&[], ask(body)).ok_or_else(|| {
            let message = "No agent of this endpoint can take another request just now.";
            Failure::coded(StatusCode::BAD_GATEWAY, ErrorCode::AGENT_STREAM, message)
        })?;
        let (cx, run) = self.begin(&endpoint, &head, work);
        Ok(Hop { pool, tried: Vec::new(), endpoint, entry: head, cx, run, on_error })
    }

    /// The policy gets a head of its own, to change and to read again with the response; without rules it gets none.
    fn begin(&self, endpoint: &Arc<Endpoint>, head: &Parts, work: &Work) -> (Context, Option<Run>) {
        let mut cx = self.context(endpoint, work);
        let with = |phase| endpoint.engine.as_ref().filter(|engine| engine.has(phase));
        let run = with(Phase::HttpRequest).map(|engine| engine.start(Phase::HttpRequest));
        if run.is_some() || with(Phase::HttpResponse).is_some() {
            cx.request = Some(head.clone());
        }
        (cx, run)
    }

    /// The internal endpoint a policy forwards to.
    fn forward(
        &self,
        hop: &Hop,
        url: &EndpointUrl,
        on_error: OnError,
        depth: usize,
        body: &ReplayBody,
    ) -> Result<Hop, SendError> {
        let fail = |failure| SendError { failure, again: Again::Unseen };
        hops::check_depth(depth).map_err(|deep| fail(too_far(deep)))?;
        let pool = self.gateway.internal(hop.endpoint.account, url).filter(|pool| {
            let http = |e: &Arc<Endpoint>| matches!(e.url.scheme(), Scheme::Http | Scheme::Https);
            !pool.members().is_empty() && pool.members().iter().all(http)
        });
        let pool = pool.ok_or_else(|| fail(offline(url)))?;
        let head = hop.cx.request.clone().map_or_else(|| hop.entry.clone(), Rc::new);
        self.enter(pool, head, on_error, &hop.cx.work, body).map_err(fail)
    }

    async fn to_upstream(
        &self,
        hop: &mut Hop,
        upgrade: Option<HeaderValue>,
        body: &ReplayBody,
        record: &Rc<Record<G>>,
    ) -> Result<upstream::Reply<G::Stream>, SendError> {
        let endpoint = hop.endpoint.clone();
        if matches!(endpoint.kind, Kind::Cloud) {
            return Err(SendError { failure: unfinished(&endpoint), again: Again::Unseen });
        }
        let head = hop.cx.request.as_ref().unwrap_or(&hop.entry);
        // gRPC streams may rest as long as the exchange does, where there are any; other bodies have a pace.
        body.exchange().set_may_rest(endpoint.upstream_http2 && fields::is_grpc(&hop.entry.headers));
        // Another try of a body that has come is made without the expectation.
        let request = || {
            let mut request = self.upstream_request(&endpoint, head, &hop.entry, upgrade.as_ref());
            if body.exchange().expects() && !body.is_replayable() {
                request.headers_mut().insert(EXPECT, HeaderValue::from_static("100-continue"));
            }
            request
        };
        let sent =
            self.upstreams.send(&self.gateway, &self.conn, &endpoint, &request, body, &record.progress);
        let than: Vec<_> = hop.tried.iter().copied().chain([endpoint.id]).collect();
        if !hop.pool.has_other(&than) {
            return sent.await;
        }
        let silent = |again| SendError { again, ..SendError::not_opened("The agent is not heard.".into()) };
        if !head.method.is_safe() {
            // Once it has gone to an agent that hangs, nobody can take it back.
            return if self.gateway.is_heard(&endpoint).await {
                sent.await
            } else {
                Err(silent(Again::Unseen))
            };
        }
        tokio::select! {
            sent = sent => sent,
            () = async {
                self.gateway.silenced(&endpoint).await;
                if !body.is_whole() {
                    std::future::pending::<()>().await;
                }
            } => Err(silent(Again::Repeatable)),
        }
    }

    /// The head that goes to an upstream; made anew for every try.
    fn upstream_request(
        &self,
        endpoint: &Endpoint,
        head: &Parts,
        entry: &Parts,
        upgrade: Option<&HeaderValue>,
    ) -> Request<()> {
        let mut request = Request::new(());
        request.method_mut().clone_from(&head.method);
        request.uri_mut().clone_from(&head.uri);
        *request.version_mut() = Version::HTTP_11;
        let headers = request.headers_mut();
        headers.clone_from(&head.headers);
        fields::strip_hop_by_hop(headers);
        if let (None, Some(host)) = (headers.get(HOST), entry.headers.get(HOST)) {
            headers.insert(HOST, host.clone());
        }
        fields::add_forwarded(headers, self.conn.facts.client.ip(), self.conn.scheme.as_str());
        if !endpoint.upstream_http2 {
            fields::for_http1(headers);
            if let Some(protocol) = upgrade {
                headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
                headers.insert(UPGRADE, protocol.clone());
            }
        }
        request
    }

    /// Another member of the failed hop's pool, or whoever said `on_error: continue`; or the failure is the answer.
    async fn unwind(
        &self,
        hops: &mut Vec<Hop>,
        steps: &mut Steps,
        error: SendError,
        body: &ReplayBody,
        record: &Record<G>,
    ) -> Result<(), Stop> {
        let again = error.again.allows(body);
        while let Some(mut hop) = hops.pop() {
            hop.tried.push(hop.endpoint.id);
            let other = again.then(|| hop.pool.pick(&hop.tried, ask(body))).flatten();
            if let Some(other) = other {
                steps.take().map_err(ended)?;
                if hops.is_empty() {
                    self.admit(&other, &hop.cx.work, record).await?;
                }
                (hop.cx, hop.run) = self.begin(&other, &hop.entry, &hop.cx.work);
                hop.endpoint = other;
                hops.push(hop);
                return Ok(());
            }
            match hops.last_mut() {
                Some(outer) if hop.on_error == OnError::Continue && again => {
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
                self.back(hops, from_reply(reply, record.form()), record).await
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
            let verdict =
                self.drive(&hop.endpoint, &mut run, &mut hop.cx, &ReplayBody::new(Body::Empty)).await;
            record.logged(std::mem::take(&mut hop.cx.logs));
            match verdict {
                Verdict::Respond(reply) => (head, body) = from_reply(reply, record.form()).into_parts(),
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

/// Work that another member can take over, as long as its body is kept.
fn ask(body: &ReplayBody) -> Ask {
    Ask { repeats: body.is_short(), ..Ask::repeatable() }
}

fn resume_after(hop: &mut Hop, error: &SendError) {
    let code = error.failure.code.unwrap_or(ErrorCode::AGENT_STREAM);
    let outcome = Outcome::ForwardFailed { code, message: error.failure.detail().to_owned() };
    if let Some(run) = &mut hop.run {
        run.resume(&mut hop.cx, outcome);
    }
}

fn ended(why: TooFar) -> Stop {
    Stop::Failure(too_far(why))
}

fn too_far(why: TooFar) -> Failure {
    let message = format!("The request was passed on too far: {why}.");
    Failure::coded(StatusCode::BAD_GATEWAY, ErrorCode::TOO_MANY_HOPS, message)
}

fn offline(url: &EndpointUrl) -> Failure {
    let message = "What this endpoint forwards to is offline.";
    let detail = format!("the endpoint {url} is offline");
    Failure::coded(StatusCode::NOT_FOUND, ErrorCode::OFFLINE, message).because(detail)
}

/// A cloud endpoint whose policy let the request through to nowhere.
fn unfinished(endpoint: &Endpoint) -> Failure {
    let (message, what) = match endpoint.engine {
        None => (
            "This endpoint has no traffic policy in force: give it one that forwards or answers.",
            "has no traffic policy in force",
        ),
        Some(_) => (
            "The traffic policy of this endpoint neither forwarded nor answered this request.",
            "has a traffic policy that neither forwarded nor answered",
        ),
    };
    let detail = format!("{} {what}", endpoint.url);
    Failure::coded(StatusCode::NOT_FOUND, ErrorCode::OFFLINE, message).because(detail)
}
