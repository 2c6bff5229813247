//! `Dispatch`: the path of one connection or request through policies and pools to an agent, and of its response back.
//!
//! A pure state machine: it says what has to be done ([`Step`]) and is told what came of it. `l4` and `http` carry the steps
//! out. Does not know sockets, clocks or streams, nor how a client learns of a failure.

mod circuits;
mod drive;
mod environment;
pub mod event;
mod failure;
pub mod gateway;
mod hop;
pub mod hops;
pub mod inspect;
mod serve;
mod step;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use ebbgate_model::{AccountId, EndpointUrl, ErrorCode, Scheme};
use ebbgate_policy::identity::is_same_cookie;
use ebbgate_policy::{
    Balancing, BodyError, ConnFacts, Effect, OnError, Outcome, Phase, Quota, Received, Step as PolicyStep,
    TlsFacts, TlsSettings, Verdict, Work,
};
use http::header::{HeaderValue, SET_COOKIE};
use http::{request, response};

pub use environment::Environment;
pub use failure::Failure;
pub use step::{Step, Trail};

use crate::state::breakers::{Permit, Upshot};
use crate::state::endpoint::{Endpoint, InFlight, Kind};
use crate::state::pool::{Ask, Pool};
use hop::{Hop, Member};
use hops::{Calls, Steps, TooManyCalls};

/// What a policy is told that asks of a client's TLS what the finished handshake does not give.
const TLS_UNMET: ErrorCode = ErrorCode::new(2300);

/// See the module.
pub struct Dispatch {
    facts: Arc<ConnFacts>,
    /// The settings that TLS ended with at this edge.
    tls: Option<Arc<TlsSettings>>,
    kind: TrafficKind,
    work: Work,
    /// Of the endpoint that was reached.
    account: Option<AccountId>,
    steps: Steps,
    calls: Calls,
    /// Quotas that the request was counted against, each with the URL of the endpoint.
    counted: Vec<(EndpointUrl, Quota)>,
    /// What circuits are told at the next step.
    upshots: Vec<(Permit, Upshot)>,
    /// Cookies that policies give the visitor, whatever answers.
    cookies: Vec<HeaderValue>,
    /// The hops that forwarded, outermost first.
    outer: Vec<Hop>,
    /// The end of the response's body, if all of it has come.
    response_end: Option<Arc<Received>>,
    /// Work of the hops that the response has left.
    left: Vec<InFlight>,
    hop: Hop,
    state: State,
    trail: Trail,
}

/// What is dispatched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TrafficKind {
    Connection,
    Request {
        /// Whether the method is safe: what an agent got that no longer answers may be sent elsewhere.
        is_safe: bool,
    },
}

/// What the dispatch waits for.
enum State {
    /// Nothing: the policy of the hop's member goes on; without a member, one is picked.
    Policy,
    /// [`Dispatch::found`].
    Find { account: AccountId, url: EndpointUrl, forward: Forward },
    /// [`Dispatch::heard`].
    Ask(Arc<Endpoint>),
    /// [`Dispatch::tls_ended`]; `then`: the agent for which TLS ends. None: the policy waits for it.
    Tls { settings: Arc<TlsSettings>, then: Option<Arc<Endpoint>> },
    /// [`Dispatch::failed`] or [`Dispatch::answered`].
    Open(Arc<Endpoint>),
    /// [`Dispatch::answered`] with the head of a policy's reply.
    Reply,
    /// Nothing: a response goes back through the hop.
    Back(response::Parts),
    /// Nothing: this is the end. None: it was told.
    End(Option<Step>),
}

/// How a policy forwards.
#[derive(Clone)]
struct Forward {
    on_error: OnError,
    balancing: Option<Arc<Balancing>>,
}

impl Dispatch {
    /// A connection that reached a pool.
    pub fn connection(facts: Arc<ConnFacts>, pool: Pool) -> Self {
        Self::new(facts, None, TrafficKind::Connection, Hop::new(pool, None, OnError::Halt))
    }

    /// A request that reached a pool, on a connection with TLS that ended with these settings.
    pub fn request(
        facts: Arc<ConnFacts>,
        tls: Option<Arc<TlsSettings>>,
        head: Arc<request::Parts>,
        pool: Pool,
    ) -> Self {
        let kind = TrafficKind::Request { is_safe: head.method.is_safe() };
        Self::new(facts, tls, kind, Hop::new(pool, Some(head), OnError::Halt))
    }

    fn new(facts: Arc<ConnFacts>, tls: Option<Arc<TlsSettings>>, kind: TrafficKind, hop: Hop) -> Self {
        Self {
            facts,
            tls,
            kind,
            work: Work::default(),
            account: None,
            steps: Steps::default(),
            calls: Calls::default(),
            counted: Vec::new(),
            upshots: Vec::new(),
            cookies: Vec::new(),
            outer: Vec::new(),
            response_end: None,
            left: Vec::new(),
            hop,
            state: State::Policy,
            trail: Trail::default(),
        }
    }

    /// The dispatch of a request that a policy of this one makes. Policies on its way share this one's work.
    pub fn aside(&self, head: Arc<request::Parts>, pool: Pool) -> Result<Self, TooManyCalls> {
        let calls = self.calls.deeper()?;
        let inner = Self::request(Arc::clone(&self.facts), self.tls.clone(), head, pool);
        Ok(Self { calls, work: self.work.clone(), ..inner })
    }

    /// Counts a request of the policy to a host of the internet among those for this one.
    pub fn outside(&self) -> Result<(), TooManyCalls> {
        self.calls.deeper().map(drop)
    }

    /// The account of the endpoint that was reached. None: none is yet.
    pub fn account(&self) -> Option<AccountId> {
        self.account
    }

    /// What policies see of the connection.
    pub fn facts(&self) -> &Arc<ConnFacts> {
        &self.facts
    }

    /// The settings that TLS ended with at this edge.
    pub fn tls(&self) -> Option<&Arc<TlsSettings>> {
        self.tls.as_ref()
    }

    /// The head of the request for the agent: as it came to the last hop, and as that hop's policy changed it.
    pub fn heads(&self) -> Option<(&request::Parts, &request::Parts)> {
        Some((self.hop.entry.as_deref()?, self.hop.head()?))
    }

    /// Whether another member of the pool could do the work, and is heard.
    pub fn has_other(&self) -> bool {
        self.hop.pool.has_other(&self.hop.tried)
    }

    /// What the log says since the last call.
    pub fn take_trail(&mut self) -> Trail {
        std::mem::take(&mut self.trail)
    }

    /// What has to be done next. Asked again before it was told the result, it says the same again.
    pub fn next(&mut self, env: &impl Environment) -> Step {
        let step = self.advance(env);
        self.tell_circuits(env);
        step
    }

    fn advance(&mut self, env: &impl Environment) -> Step {
        loop {
            match &mut self.state {
                State::Policy => {
                    if let Some(step) = self.run_policy(env) {
                        return step;
                    }
                }
                State::Back(_) => self.go_back(),
                State::Find { account, url, .. } => {
                    return Step::Find { account: *account, url: url.clone() };
                }
                State::Ask(endpoint) => return Step::AskAgent(Arc::clone(endpoint)),
                State::Tls { settings, .. } => return Step::EndTls(Arc::clone(settings)),
                State::Open(endpoint) => return Step::Open(Arc::clone(endpoint)),
                State::End(step) => {
                    let over = || Step::Close { code: None, detail: "the dispatch is over".into() };
                    return step.take().unwrap_or_else(over);
                }
                State::Reply => self.close(None, "the policy's reply was not sent"),
            }
        }
    }

    /// What came of [`Step::Keys`], [`Step::Body`] or [`Step::Inspect`].
    pub fn resume(&mut self, outcome: Outcome) {
        if let Some(member) = &mut self.hop.member {
            member.resume(outcome);
        }
    }

    /// TLS ended here, with these settings: for [`Step::EndTls`], or because the caller needs the client's bytes.
    pub fn tls_ended(&mut self, facts: Arc<TlsFacts>, settings: Arc<TlsSettings>) {
        let mut conn = ConnFacts::clone(&self.facts);
        conn.tls = Some(Arc::clone(&facts));
        self.facts = Arc::new(conn);
        self.tls = Some(settings);
        let State::Tls { then, .. } = &mut self.state else { return };
        if let Some(endpoint) = then.take() {
            self.state = State::Open(endpoint);
        } else {
            self.state = State::Policy;
            self.resume(Outcome::Tls(facts));
        }
    }

    /// What came of [`Step::Find`]: the pool of the internal endpoint, if it is online.
    pub fn found(&mut self, pool: Option<Pool>) {
        let State::Find { url, forward, .. } = &self.state else { return };
        let Forward { on_error, balancing } = forward.clone();
        let Some(pool) = pool.filter(|pool| !pool.members().is_empty()) else {
            return self.forward_failed(Failure::target_offline(url), on_error);
        };
        let pool = match &balancing {
            Some(balancing) => pool.select(balancing),
            None => pool,
        };
        if pool.members().is_empty() {
            return self.forward_failed(Failure::none_selected(url), on_error);
        }
        let hop = Hop::new(pool, self.hop.forwarded_head(on_error), on_error).sticky(balancing.as_deref());
        self.outer.push(std::mem::replace(&mut self.hop, hop));
        self.state = State::Policy;
    }

    /// What came of [`Step::AskAgent`].
    pub fn heard(&mut self, is_heard: bool) {
        let State::Ask(endpoint) = &self.state else { return };
        if is_heard {
            self.open(Arc::clone(endpoint));
        } else {
            self.failed(Failure::agent_silent(), true);
        }
    }

    /// The agent's stream failed before a response. `again`: the work may be done elsewhere, because nothing has acted on it.
    pub fn failed(&mut self, failure: Failure, again: bool) {
        let failure = self.hop.judge(failure);
        self.hop_failed(&failure);
        if again {
            self.hop.member = None;
            self.hop.failure = Some(failure);
            self.state = State::Policy;
            return;
        }
        while let Some(outer) = self.outer.pop() {
            self.hop = outer;
            self.hop_failed(&failure);
        }
        self.end(Step::Fail(failure));
    }

    /// There is a response, the agent's or a policy's: it goes back through the hops.
    pub fn answered(&mut self, head: response::Parts) {
        if matches!(self.state, State::Open(_)) {
            self.upstream_answered(head.status);
        }
        self.state = State::Back(head);
    }

    /// Whether all of the response's body has come: told before [`Dispatch::answered`], and when more of the body was read.
    pub fn response_ended(&mut self, end: Option<Arc<Received>>) {
        self.response_end = end;
    }

    /// Goes on with the policy of the hop's member. None: the state has changed.
    fn run_policy(&mut self, env: &impl Environment) -> Option<Step> {
        let Some(member) = &mut self.hop.member else {
            self.pick(env);
            return None;
        };
        member.note_ends(self.response_end.as_ref(), env);
        let step = member.step();
        self.trail.logs.append(&mut member.take_logs());
        self.trail.late_logs.append(&mut member.take_late_logs());
        self.trail.not_enforced.append(&mut member.take_not_enforced());
        if matches!(step, PolicyStep::Done(_)) {
            self.trail.decisions.merge(member.decisions());
            for cookie in member.take_cookies() {
                // A policy that runs again, for another member of its pool, gives its cookies again.
                self.cookies.retain(|other| !is_same_cookie(other, &cookie));
                self.cookies.push(cookie);
            }
        }
        match step {
            PolicyStep::Pause => return Some(Step::Pause),
            PolicyStep::Need(Effect::Keys { url, fresh }) => {
                return Some(Step::Keys { account: member.endpoint.account, url, fresh });
            }
            PolicyStep::Need(Effect::Exchange(exchange)) => {
                return Some(Step::Exchange { account: member.endpoint.account, exchange });
            }
            PolicyStep::Need(Effect::Sessions) => {
                let facts = env.sessions(member.endpoint.account);
                member.resume(Outcome::Sessions(Box::new(facts)));
            }
            PolicyStep::Need(Effect::IsEnded(session)) => {
                let ended = env.is_ended(member.endpoint.account, session);
                member.resume(Outcome::Ended(ended));
            }
            PolicyStep::Need(Effect::Note(note)) => {
                env.note_session(&member.endpoint, self.facts.client.ip(), &note);
                member.resume(Outcome::Noted);
            }
            PolicyStep::Need(Effect::Body { bytes_max }) if member.phase == Phase::HttpRequest => {
                let (account, is_enforced) = (member.endpoint.account, member.is_enforced());
                return Some(Step::Body { account, bytes_max, is_enforced });
            }
            PolicyStep::Need(Effect::Count(quota)) => {
                // A policy that runs again, for another member of its pool, does not count the request again.
                let mark = (member.endpoint.url.clone(), quota);
                let is_counted = self.counted.contains(&mark);
                let wait = if is_counted { None } else { env.count(&member.endpoint, &mark.1) };
                if wait.is_none() && !is_counted {
                    self.counted.push(mark);
                }
                member.resume(Outcome::Counted(wait));
            }
            PolicyStep::Need(Effect::Inspect(inspection)) => match member.asks_about(&inspection) {
                Ok(asked) => return Some(Step::Inspect(Box::new(asked))),
                Err(why) => member.resume(Outcome::Inspected(Err(why))),
            },
            PolicyStep::Need(Effect::Call(call)) if member.phase != Phase::TcpConnect => {
                return Some(Step::Call { account: member.endpoint.account, call });
            }
            PolicyStep::Need(Effect::Call(_)) => self.close(None, "a connection's policy makes no request"),
            PolicyStep::Need(Effect::Guess { is_right }) => {
                let wait = env.guessed(&member.endpoint, self.facts.client.ip(), is_right);
                member.resume(Outcome::Guessed(wait));
            }
            PolicyStep::Need(Effect::Breaker(breaker)) => self.ask_circuit(&breaker, env),
            PolicyStep::Need(Effect::Body { .. }) => {
                member.resume(Outcome::Body(Err(BodyError::Incomplete)));
            }
            PolicyStep::Need(Effect::TerminateTls(settings)) => self.need_tls(settings),
            PolicyStep::Done(verdict) => return self.decide(verdict, env),
        }
        None
    }

    /// Takes the next member of the hop's pool and begins its policy.
    fn pick(&mut self, env: &impl Environment) {
        let client = Some(self.facts.client.ip());
        let (repeats, now, cookies) = (env.is_repeatable(), env.now(), self.hop.cookies());
        let ask = Ask { repeats, now, client, cookies };
        let Some(endpoint) = self.hop.pool.pick(&self.hop.tried, ask) else {
            let is_empty = self.hop.pool.members().is_empty();
            let nobody = if is_empty { Failure::pool_empty } else { Failure::pool_full };
            let failure = self.hop.failure.take().unwrap_or_else(nobody);
            return self.give_up(failure);
        };
        if !self.hop.tried.is_empty() {
            if let Err(often) = self.steps.take() {
                return self.end(Step::Fail(Failure::too_far(often)));
            }
            self.trail.retries += 1;
        }
        self.hop.tried.push(endpoint.id);
        if self.outer.is_empty() {
            self.account = Some(endpoint.account);
            self.trail.reached = Some(Arc::clone(&endpoint));
            // Clients of https endpoints are told so, by the response to their request.
            let waits = self.kind == TrafficKind::Connection && endpoint.url.scheme().is_http();
            let source = self.facts.client.ip();
            if !waits && !env.admits(endpoint.account, source) {
                return self.end(Step::Fail(Failure::restricted(source)));
            }
        } else {
            self.trail.forwarded_to = Some(Arc::clone(&endpoint));
        }
        let guard = endpoint.engine.as_ref().filter(|engine| engine.has(Phase::TcpConnect));
        let is_guarded = guard.is_some_and(|engine| !env.has_entered(&endpoint, engine));
        let is_request = self.kind != TrafficKind::Connection;
        let phase = if is_request && !is_guarded { Phase::HttpRequest } else { Phase::TcpConnect };
        self.begin(endpoint, phase, env);
    }

    fn begin(&mut self, endpoint: Arc<Endpoint>, phase: Phase, env: &impl Environment) {
        // A connection to an http endpoint is there for its requests, which are counted.
        let counts = self.kind != TrafficKind::Connection || !endpoint.url.scheme().is_http();
        let in_flight = counts.then(|| InFlight::of(&endpoint));
        let entry = self.hop.entry.as_deref();
        let mut member = Member::begin(endpoint, phase, &self.facts, &self.work, entry, env);
        member.in_flight = in_flight;
        self.hop.member = Some(member);
    }

    /// A policy asks for the end of TLS. There is one handshake: later policies get what it gave.
    fn need_tls(&mut self, settings: Arc<TlsSettings>) {
        match &self.facts.tls {
            Some(facts) if self.meets(&settings) => {
                let facts = Arc::clone(facts);
                self.resume(Outcome::Tls(facts));
            }
            None if self.kind == TrafficKind::Connection => self.state = State::Tls { settings, then: None },
            _ => self.close_unmet(),
        }
    }

    /// Whether the client's handshake gave what these settings demand.
    fn meets(&self, settings: &TlsSettings) -> bool {
        match (&self.facts.tls, &self.tls) {
            (Some(facts), Some(done)) => settings.are_met_by(done, facts),
            _ => false,
        }
    }

    fn close_unmet(&mut self) {
        let url = self.hop.member.as_ref().map(|member| member.endpoint.url.to_string()).unwrap_or_default();
        self.close(
            TLS_UNMET,
            format!("TLS ended before it came to {url}, whose settings demand more of the client"),
        );
    }

    /// A phase is over.
    fn decide(&mut self, verdict: Verdict, env: &impl Environment) -> Option<Step> {
        let member = self.hop.member.as_ref()?;
        let (endpoint, phase) = (Arc::clone(&member.endpoint), member.phase);
        match (phase, verdict) {
            (_, Verdict::Failed { code, message }) => {
                self.end(Step::Fail(Failure::policy(&endpoint, code, &message)));
            }
            (_, Verdict::Close { code }) => self.close(code, "closed by the policy"),
            (Phase::HttpResponse, Verdict::Continue | Verdict::Forward { .. })
                if self.hop.member.as_mut().is_some_and(Member::begin_events) => {}
            (Phase::HttpResponse | Phase::EventStream, Verdict::Continue | Verdict::Forward { .. }) => {
                let head = self.hop.member.as_mut().and_then(Member::take_response);
                let head = head.map(|head| self.marked(head));
                self.leave_hop();
                match head {
                    Some(head) => self.state = State::Back(head),
                    None => self.close(None, "the policy took the response"),
                }
            }
            (Phase::HttpResponse | Phase::EventStream, Verdict::Respond(reply)) => {
                self.leave_hop();
                self.state = State::Reply;
                return Some(Step::Respond(reply));
            }
            (Phase::HttpRequest, Verdict::Respond(reply)) => {
                // Its own response phase is for custom responses only; those of the hops before always run.
                if !reply.response_phase {
                    self.leave_hop();
                }
                self.state = State::Reply;
                return Some(Step::Respond(reply));
            }
            (Phase::TcpConnect, Verdict::Respond(_)) => {
                self.close(None, "closed by the policy: a connection cannot be answered");
            }
            (Phase::TcpConnect, Verdict::Forward { .. }) if endpoint.url.scheme().is_http() => {
                let message = "forward-internal in on_tcp_connect needs a tcp or tls endpoint";
                self.end(Step::Fail(Failure::policy(&endpoint, ErrorCode::new(2300), message)));
            }
            (_, Verdict::Forward { url, on_error, balancing }) => {
                self.forward(&endpoint, url, Forward { on_error, balancing });
            }
            (Phase::TcpConnect, Verdict::Continue) if self.kind != TrafficKind::Connection => {
                if let Some(engine) = &endpoint.engine {
                    env.entered(&endpoint, engine);
                }
                self.begin(endpoint, Phase::HttpRequest, env);
            }
            (_, Verdict::Continue) => self.reach(endpoint),
        }
        None
    }

    /// The policies have let the traffic through to what stands behind the endpoint.
    fn reach(&mut self, endpoint: Arc<Endpoint>) {
        let agent = match &endpoint.kind {
            Kind::Agent(agent) => agent,
            // Its response comes from the phases of its requests.
            Kind::Cloud if self.kind == TrafficKind::Connection && endpoint.url.scheme().is_http() => {
                self.state = State::Open(endpoint);
                return;
            }
            Kind::Cloud => return self.failed(Failure::unanswered(&endpoint), true),
        };
        let demands = agent.tls_termination.as_ref().filter(|_| self.facts.tls.is_some());
        if demands.is_some_and(|settings| !self.meets(settings)) {
            return self.close_unmet();
        }
        // What was sent to an agent that no longer answers cannot be taken back.
        let is_safe = matches!(self.kind, TrafficKind::Request { is_safe: true });
        if !is_safe && self.has_other() {
            self.state = State::Ask(endpoint);
        } else {
            self.open(endpoint);
        }
    }

    fn open(&mut self, endpoint: Arc<Endpoint>) {
        let settings = match &endpoint.kind {
            Kind::Agent(agent) if self.kind == TrafficKind::Connection && self.facts.tls.is_none() => {
                agent.tls_termination.clone()
            }
            _ => None,
        };
        self.state = match settings {
            Some(settings) => State::Tls { settings, then: Some(endpoint) },
            None => State::Open(endpoint),
        };
    }

    /// A policy forwards to an internal endpoint. Limits come before anything is waited for.
    fn forward(&mut self, from: &Endpoint, url: EndpointUrl, forward: Forward) {
        if let Err(often) = self.steps.take() {
            self.end(Step::Fail(Failure::too_far(often)));
        } else if let Err(deep) = hops::check_depth(self.outer.len() + 1) {
            self.forward_failed(Failure::too_far(deep), forward.on_error);
        } else if !url.host().is_internal() || !from.url.scheme().same_class(url.scheme()) {
            self.forward_failed(Failure::target_not_allowed(from, &url), forward.on_error);
        } else {
            self.state = State::Find { account: from.account, url, forward };
        }
    }

    /// A forward of the current hop failed before anything was sent.
    fn forward_failed(&mut self, failure: Failure, on_error: OnError) {
        self.hop_failed(&failure);
        match on_error {
            OnError::Continue => self.resume_after(&failure),
            OnError::Halt => self.give_up(failure),
        }
    }

    /// The hop has failed: back to the policy that forwarded here with `on_error: continue`, if there is one.
    fn give_up(&mut self, failure: Failure) {
        while let Some(outer) = self.outer.pop() {
            let inner = std::mem::replace(&mut self.hop, outer);
            self.hop_failed(&failure);
            if inner.on_error == OnError::Continue {
                return self.resume_after(&failure);
            }
        }
        self.end(Step::Fail(failure));
    }

    fn resume_after(&mut self, failure: &Failure) {
        if let (Some(member), false) = (&self.hop.member, self.outer.is_empty()) {
            self.trail.forwarded_to = Some(Arc::clone(&member.endpoint));
        }
        let code = failure.code.unwrap_or(ErrorCode::AGENT_STREAM);
        self.resume(Outcome::ForwardFailed { code, message: failure.detail().to_owned() });
        self.state = State::Policy;
    }

    /// Takes the response through the hop's own phase, and on to the hop before.
    fn go_back(&mut self) {
        let State::Back(head) = std::mem::replace(&mut self.state, State::Policy) else { return };
        let mut head = match &mut self.hop.member {
            Some(member) => match member.begin_response(head) {
                Ok(()) => return,
                Err(head) => head,
            },
            None => head,
        };
        if self.outer.is_empty() {
            for cookie in self.cookies.drain(..) {
                head.headers.append(SET_COOKIE, cookie);
            }
            self.end(Step::Answer(head));
        } else {
            let head = self.marked(head);
            self.leave_hop();
            self.state = State::Back(head);
        }
    }

    /// The head of a response with the cookie by which the hop's member is found again.
    fn marked(&self, mut head: response::Parts) -> response::Parts {
        let first = self.outer.first().unwrap_or(&self.hop).member.as_ref();
        let is_secure = first.is_some_and(|first| first.endpoint.url.scheme() == Scheme::Https);
        if let Some(cookie) = self.hop.set_cookie(is_secure) {
            head.headers.append(SET_COOKIE, cookie);
        }
        head
    }

    /// What counts as work of the endpoints on the way until it is dropped. To be taken at the end.
    pub fn take_in_flight(&mut self) -> Vec<InFlight> {
        let mut all = std::mem::take(&mut self.left);
        all.extend(self.hop.member.as_mut().and_then(|member| member.in_flight.take()));
        all
    }

    /// The current hop has nothing more to say to the response.
    fn leave_hop(&mut self) {
        self.left.extend(self.hop.member.as_mut().and_then(|member| member.in_flight.take()));
        match self.outer.pop() {
            Some(outer) => self.hop = outer,
            None => self.hop.member = None,
        }
    }

    fn close(&mut self, code: impl Into<Option<ErrorCode>>, detail: impl Into<String>) {
        self.end(Step::Close { code: code.into(), detail: detail.into() });
    }

    fn end(&mut self, step: Step) {
        self.state = State::End(Some(step));
    }
}
