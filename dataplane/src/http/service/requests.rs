//! Carries out the steps of one request's dispatch: reads its body, sends it to agents, takes the response back.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ebbgate_body::{Coding, Edits};
use ebbgate_model::{AccountId, AppSessionId, EndpointId};
use ebbgate_policy::identity::{SessionFacts, SessionNote};
use ebbgate_policy::{AddressSource, BodyError, Breaker, Engine, Outcome, Quota, Received};
use http::header::{CONNECTION, EXPECT, HOST, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{Request, Response, StatusCode, Version};
use std::net::IpAddr;
use tokio::time::Instant;

use super::{Answer, HttpService, Stop, Tunnel};
use crate::dispatch::gateway::Gateway;
use crate::dispatch::{Dispatch, Environment, Failure, Step};
use crate::http::access_log::RequestLog;
use crate::http::answer::Form;
use crate::http::body::{Body, Direction, NotBuffered};
use crate::http::edited::Room;
use crate::http::fields::OPERATION;
use crate::http::framing::Authority;
use crate::http::reply::{self, from_reply};
use crate::http::upstream::{self, Again, ReplayBody, SendError};
use crate::http::{challenge, edited, fields, inspected, route};
use crate::state::breakers::Permit;
use crate::state::endpoint::Endpoint;
use crate::state::shares::Share;
use crate::tunnel::health::UpstreamAnswer;

/// Endpoints that a connection remembers, because their connection policy has let it in.
const ENTERED_MAX: usize = 16;

/// What a dispatch reads of the request and its connection.
struct RequestEnv<'a, G: Gateway> {
    service: &'a HttpService<G>,
    body: &'a ReplayBody,
    log: &'a RequestLog<G>,
}

impl<G: Gateway> Environment for RequestEnv<'_, G> {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn now_unix_ms(&self) -> i64 {
        self.service.gateway.now_unix_ms()
    }

    fn rng_seed(&self) -> u64 {
        self.service.gateway.rng_seed()
    }

    fn addresses(&self) -> Option<Arc<dyn AddressSource>> {
        self.service.gateway.addresses()
    }

    fn admits(&self, account: AccountId, source: IpAddr) -> bool {
        self.service.gateway.admits(account, source)
    }

    fn count(&self, endpoint: &Endpoint, quota: &Quota) -> Option<Duration> {
        self.service.gateway.count(endpoint, quota)
    }

    fn admitted(&self, endpoint: &Endpoint, breaker: &Breaker) -> Result<Permit, Duration> {
        self.service.gateway.admitted(endpoint, breaker)
    }

    fn guessed(&self, endpoint: &Endpoint, client: IpAddr, is_right: bool) -> Option<Duration> {
        self.service.gateway.guessed(endpoint, client, is_right)
    }

    fn sessions(&self, account: AccountId) -> SessionFacts {
        self.service.gateway.sessions(account)
    }

    fn is_ended(&self, account: AccountId, session: AppSessionId) -> bool {
        self.service.gateway.is_ended(account, session)
    }

    fn note_session(&self, endpoint: &Endpoint, source: IpAddr, note: &SessionNote) {
        self.service.gateway.note_session(endpoint, source, note);
    }

    fn request_end(&self) -> Option<Arc<Received>> {
        self.log.sink().received(Direction::In)
    }

    /// Another member can take it over as long as its body is kept.
    fn is_repeatable(&self) -> bool {
        self.body.is_short()
    }

    /// A kept connection is let in again if the policy is another than the one that let it in.
    fn has_entered(&self, endpoint: &Endpoint, policy: &Arc<Engine>) -> bool {
        let same = |(id, by): &(EndpointId, Arc<Engine>)| *id == endpoint.id && Arc::ptr_eq(by, policy);
        self.service.entered.borrow().iter().any(same)
    }

    fn entered(&self, endpoint: &Endpoint, policy: &Arc<Engine>) {
        let mut entered = self.service.entered.borrow_mut();
        entered.retain(|(id, _)| *id != endpoint.id);
        entered.truncate(ENTERED_MAX - 1);
        entered.insert(0, (endpoint.id, Arc::clone(policy)));
    }
}

impl<G: Gateway> HttpService<G> {
    /// Takes the request to an upstream, or to the policy that answers it, and the response back.
    pub(super) async fn dispatch(
        &self,
        head: Parts,
        authority: &Authority,
        upgrade: Option<HeaderValue>,
        body: &ReplayBody,
        form: Form,
        log: &Rc<RequestLog<G>>,
    ) -> Result<Answer<G>, Stop> {
        if let Some(answer) = challenge::answer(&self.gateway, self.conn.scheme, authority, &head) {
            return Ok(Answer::Response(answer));
        }
        self.gateway.returned(None, self.conn.scheme, &authority.host, self.conn.port).await;
        let pool = match route::public(&self.gateway, &self.conn, authority) {
            Ok(pool) => pool,
            Err(_) if route::is_secure_elsewhere(&self.gateway, &self.conn, authority) => {
                return Ok(Answer::Response(reply::secure(authority, &head.uri, form)));
            }
            Err(failure) => return Err(Stop::Failure(failure)),
        };
        let (facts, tls) = (self.conn.facts.clone(), self.conn.tls_settings.clone());
        let dispatch = Dispatch::request(facts, tls, Arc::new(head), pool);
        self.carry_out(dispatch, upgrade, body, form, log).await
    }

    /// Carries out the steps of a dispatch to its end.
    pub(super) async fn carry_out(
        &self,
        mut dispatch: Dispatch,
        upgrade: Option<HeaderValue>,
        body: &ReplayBody,
        form: Form,
        log: &Rc<RequestLog<G>>,
    ) -> Result<Answer<G>, Stop> {
        let env = RequestEnv { service: self, body, log };
        let (mut response_body, mut switched) = (Body::Empty, None);
        loop {
            match dispatch.drive(&self.gateway, &env, log).await {
                Step::Body { account, bytes_max, is_enforced } => {
                    let outcome = match self.read(account, body, bytes_max, log).await {
                        Ok(read) => Outcome::Body(read),
                        Err(_) if !is_enforced => Outcome::NotJudged,
                        Err(failure) => return Err(Stop::Failure(failure)),
                    };
                    dispatch.resume(outcome);
                }
                Step::Call { account, call } => {
                    let called = self.call(&dispatch, account, &call).await;
                    dispatch.resume(Outcome::Called(called));
                }
                Step::Inspect(asked) => {
                    let is_response = asked.question.response.is_some();
                    let start = match (&asked.codings, is_response) {
                        (None, _) => Ok(Bytes::new()),
                        (Some(codings), true) => inspected::start(&mut response_body, codings).await,
                        (Some(codings), false) => start_of(body, codings).await,
                    };
                    let found = match start {
                        Ok(start) => self.gateway.inspect(asked.account, asked.question, start).await,
                        Err(why) => Err(why),
                    };
                    if is_response {
                        dispatch.response_ended(self.end_of(&response_body));
                    }
                    dispatch.resume(Outcome::Inspected(found));
                }
                Step::Open(endpoint) => {
                    // A visitor that is slow to send says nothing of the upstream.
                    let begun = body.is_whole().then(Instant::now);
                    let sent = self.to_upstream(&dispatch, &endpoint, upgrade.as_ref(), body, log).await;
                    self.note_answer(&endpoint, &sent, begun.map(|begun| begun.elapsed()));
                    let (mut head, ()) = match sent {
                        Ok(upstream::Reply::Response(response)) => {
                            let (head, body) = response.into_parts();
                            response_body = body;
                            (head, ())
                        }
                        Ok(upstream::Reply::Switched(response, stream, read)) => {
                            switched = Some((stream, read));
                            response.into_parts()
                        }
                        Err(error) => {
                            dispatch.failed(error.failure, error.again.allows(body));
                            continue;
                        }
                    };
                    reply::clean(&mut head);
                    dispatch.response_ended(self.end_of(&response_body));
                    dispatch.answered(head);
                }
                Step::Respond(reply) => {
                    let is_refusal = !reply.response_phase;
                    let (mut head, body) = from_reply(reply, form).into_parts();
                    if let Some(id) =
                        HeaderValue::try_from(&log.event().operation).ok().filter(|_| is_refusal)
                    {
                        head.headers.insert(OPERATION, id);
                    }
                    // An upstream's stream that is dropped is reset.
                    (response_body, switched) = (body, None);
                    dispatch.response_ended(self.end_of(&response_body));
                    dispatch.answered(head);
                }
                Step::Answer(mut head) => {
                    *log.sink().in_flight.borrow_mut() = dispatch.take_in_flight();
                    if let Some(edits) = head.extensions.remove::<Edits>() {
                        let keep = |share| log.sink().hold(share);
                        let room = dispatch.account().map(|account| self.room(account, &keep));
                        let room = room.ok_or_else(|| Stop::Failure(Failure::no_room()))?;
                        let changed =
                            edited::edited_response(response_body, &edits, &room, &mut head.headers).await;
                        response_body = changed.map_err(Stop::Failure)?;
                    }
                    let response = Response::from_parts(head, response_body);
                    return Ok(match switched {
                        Some((stream, read)) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                            log.answered(response.status(), response.headers());
                            let tunnel = Tunnel { stream, read, log: Rc::clone(log) };
                            Answer::Switched(reply::switched(response, upgrade), tunnel)
                        }
                        _ => Answer::Response(response),
                    });
                }
                Step::Fail(failure) => return Err(Stop::Failure(failure)),
                Step::Close { code, detail } => return Err(Stop::Close { code, detail }),
                // Steps of connections, and those that `drive` carries out.
                _ => return Err(Stop::Close { code: None, detail: "no step of a request".into() }),
            }
        }
    }

    /// Tells the gateway what a request to an upstream came to, and how long that took, where it is known. Faults of visitors
    /// and policies say nothing of it.
    fn note_answer(
        &self,
        endpoint: &Endpoint,
        sent: &Result<upstream::Reply<G::Stream>, SendError>,
        waited: Option<Duration>,
    ) {
        let status = match sent {
            Ok(upstream::Reply::Response(response)) => response.status(),
            Ok(upstream::Reply::Switched(response, ..)) => response.status(),
            Err(error) if error.failure.is_upstreams() => {
                return self.gateway.note_answer(endpoint, UpstreamAnswer::None);
            }
            Err(_) => return,
        };
        self.gateway.note_answer(endpoint, UpstreamAnswer::Status { status: status.as_u16(), waited });
    }

    /// The end of a response's body that is here already.
    fn end_of(&self, body: &Body) -> Option<Arc<Received>> {
        let trailers = body.known_trailers()?;
        Some(Arc::new(Received { at_unix_ms: self.gateway.now_unix_ms(), trailers }))
    }

    /// Where bodies are held for policies of an account.
    pub(super) fn room<'r>(&'r self, account: AccountId, keep: &'r dyn Fn(Share)) -> Room<'r> {
        Room { shares: self.gateway.held(), coders: self.gateway.coders(), account, keep }
    }

    /// Reads the body of a request for a policy, and keeps it for the upstream.
    async fn read(
        &self,
        account: AccountId,
        body: &ReplayBody,
        bytes_max: usize,
        log: &Rc<RequestLog<G>>,
    ) -> Result<Result<Bytes, BodyError>, Failure> {
        body.exchange().ask_for_body();
        let mut held = self.gateway.held().take(account, 0);
        let mut taken = body.take();
        let read =
            taken.buffer_within(bytes_max, |more| held.as_mut().is_some_and(|held| held.grow(more))).await;
        body.give_back(taken);
        match read {
            Ok(bytes) => {
                // The upstream is sent the same bytes.
                if let Some(held) = held {
                    log.sink().hold(held);
                }
                Ok(Ok(bytes))
            }
            Err(NotBuffered::TooLong) => Ok(Err(BodyError::TooLong { bytes_max })),
            Err(NotBuffered::Broken(_)) => Ok(Err(BodyError::Incomplete)),
            Err(NotBuffered::NoRoom) => Err(Failure::no_room()),
        }
    }

    async fn to_upstream(
        &self,
        dispatch: &Dispatch,
        endpoint: &Arc<Endpoint>,
        upgrade: Option<&HeaderValue>,
        body: &ReplayBody,
        log: &Rc<RequestLog<G>>,
    ) -> Result<upstream::Reply<G::Stream>, SendError> {
        let Some((entry, head)) = dispatch.heads() else {
            return Err(SendError::not_opened("the dispatch is not a request's".into()));
        };
        // gRPC streams may rest as long as the exchange does, where there are any; other bodies have a pace.
        body.exchange().set_may_rest(endpoint.upstream_http2 && fields::is_grpc(&entry.headers));
        // Another try of a body that has come is made without the expectation.
        let request = || {
            let mut request = self.upstream_request(endpoint, head, entry, upgrade);
            if body.exchange().expects() && !body.is_replayable() {
                request.headers_mut().insert(EXPECT, HeaderValue::from_static("100-continue"));
            }
            request
        };
        let progress = &log.sink().progress;
        let keep = |share| log.sink().hold(share);
        let room = self.room(endpoint.account, &keep);
        let edited = edited_request(head, body, upgrade.is_some(), &room).await?;
        let sent_body = edited.as_ref().unwrap_or(body);
        let sent = self.upstreams.send(&self.gateway, &self.conn, endpoint, &request, sent_body, progress);
        // Other methods were preceded by the question whether the agent answers.
        if !head.method.is_safe() || !dispatch.has_other() {
            return sent.await;
        }
        tokio::select! {
            sent = sent => sent,
            () = async {
                self.gateway.silenced(endpoint).await;
                if !body.is_whole() {
                    std::future::pending::<()>().await;
                }
            } => Err(SendError { failure: Failure::agent_silent(), again: Again::Repeatable }),
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
}

/// The body as the policies on the way change it, made anew for every try. None: they leave it alone.
async fn edited_request(
    head: &Parts,
    body: &ReplayBody,
    upgrades: bool,
    room: &Room<'_>,
) -> Result<Option<ReplayBody>, SendError> {
    let Some(edits) = head.extensions.get::<Edits>().filter(|edits| !edits.is_empty() && !upgrades) else {
        return Ok(None);
    };
    body.exchange().ask_for_body();
    let edited = edited::edited_request(body.attempt(), edits, room).await;
    let edited = edited.map_err(|failure| SendError { failure, again: Again::No })?;
    Ok(Some(ReplayBody::new(edited).of(body.exchange())))
}

/// Reads the start of a request's body for a policy; all of it stays for the upstream.
async fn start_of(body: &ReplayBody, codings: &[Coding]) -> Result<Bytes, String> {
    body.exchange().ask_for_body();
    let mut taken = body.take();
    let start = inspected::start(&mut taken, codings).await;
    body.give_back(taken);
    start
}
