//! `Hop`: one endpoint on the path, the other members of its pool, and the policy that runs over it.

use std::sync::Arc;

use ebbgate_model::EndpointId;
use ebbgate_model::event::{Decisions, NotEnforced};
use ebbgate_policy::{
    Balancing, ConnFacts, Context, Engine, Inspection, LateLog, OnError, Outcome, Phase, Received, Run, Step,
    StickyCookie, Strategy, Verdict, Work, is_event_stream,
};
use http::HeaderValue;
use http::request::Parts;
use http::response;
use serde_json::Value;

use super::environment::Environment;
use super::failure::Failure;
use super::inspect::Asked;
use crate::state::breakers::Permit;
use crate::state::endpoint::{Endpoint, InFlight};
use crate::state::pool::Pool;

/// Characters of the user of `basic-auth` in an event.
const USER_CHARS_MAX: usize = 255;

/// See the module.
pub(super) struct Hop {
    pub(super) pool: Pool,
    /// The members picked so far, the current one included.
    pub(super) tried: Vec<EndpointId>,
    /// The head of the request as it reached this endpoint, for the next member. None: a connection.
    pub(super) entry: Option<Arc<Parts>>,
    /// What a failure of this hop means to the policy that forwarded here.
    pub(super) on_error: OnError,
    /// None: one has to be picked.
    pub(super) member: Option<Member>,
    /// Why the member before failed.
    pub(super) failure: Option<Failure>,
    /// Members of `tried` that were waited for in vain.
    late: usize,
    /// The cookie that names the member, and its values in the request.
    sticky: Option<(StickyCookie, Vec<String>)>,
}

/// The member of a pool that a hop is at.
pub(super) struct Member {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) phase: Phase,
    /// Of circuits that let the request through, and do not know yet what became of it.
    pub(super) permits: Vec<Permit>,
    /// None: the endpoint has no rules for this phase, nor for a later one.
    policy: Option<Box<(Run, Context)>>,
    /// Counts as the endpoint's work.
    pub(super) in_flight: Option<InFlight>,
}

impl Hop {
    /// A hop before its member is picked.
    pub(super) fn new(pool: Pool, entry: Option<Arc<Parts>>, on_error: OnError) -> Self {
        Self { pool, tried: Vec::new(), entry, on_error, member: None, failure: None, late: 0, sticky: None }
    }

    /// The same, with a member found again as a policy says.
    pub(super) fn sticky(mut self, balancing: Option<&Balancing>) -> Self {
        let strategy = balancing.map(Balancing::strategy);
        if let (Some(Strategy::StickyCookie(cookie)), Some(entry)) = (strategy, &self.entry) {
            let values = cookie.values(&entry.headers).map(str::to_owned).collect();
            self.sticky = Some((cookie.clone(), values));
        }
        self
    }

    /// Values of the cookie that may name a member.
    pub(super) fn cookies(&self) -> &[String] {
        self.sticky.as_ref().map_or(&[], |(_, values)| values)
    }

    /// The header by which the member is found again. None: the request has it.
    pub(super) fn set_cookie(&self, is_secure: bool) -> Option<HeaderValue> {
        let (cookie, values) = self.sticky.as_ref()?;
        let member = self.member.as_ref()?.endpoint.id;
        cookie.header(&self.pool.cookie(member, values)?, is_secure)
    }

    /// What the failure of the current member means for the hop.
    pub(super) fn judge(&mut self, failure: Failure) -> Failure {
        self.late += usize::from(failure.is_late());
        if self.late > 1 && self.late == self.tried.len() { Failure::pool_late() } else { failure }
    }

    /// The request's head as it leaves this hop: as the policy changed it, or as it came.
    pub(super) fn head(&self) -> Option<&Parts> {
        let changed = self.member.as_ref().and_then(|member| member.policy.as_ref()?.1.request.as_ref());
        changed.or(self.entry.as_deref())
    }

    /// The head for the hop that this one forwards to. It moves there if neither this policy's response phase nor the action
    /// after a failed forward can read it.
    pub(super) fn forwarded_head(&mut self, on_error: OnError) -> Option<Arc<Parts>> {
        let entry = self.entry.clone();
        let changed = self.member.as_mut().and_then(|member| {
            let reads = member.endpoint.engine.as_deref().is_some_and(has_response_rules);
            let request = &mut member.policy.as_mut()?.1.request;
            if reads || on_error == OnError::Continue { request.clone() } else { request.take() }
        });
        changed.map(Arc::new).or(entry)
    }
}

impl Member {
    /// Begins `phase` at an endpoint.
    pub(super) fn begin(
        endpoint: Arc<Endpoint>,
        phase: Phase,
        facts: &Arc<ConnFacts>,
        work: &Work,
        entry: Option<&Parts>,
        env: &impl Environment,
    ) -> Self {
        let needs = |engine: &&Arc<Engine>| {
            engine.has(phase) || phase == Phase::HttpRequest && has_response_rules(engine)
        };
        let policy = endpoint.engine.as_ref().filter(needs).map(|engine| {
            let mut cx = Context::new(Arc::clone(facts), Arc::clone(&endpoint.facts), env.now_unix_ms());
            cx.rng_seed = env.rng_seed();
            cx.work = work.clone();
            cx.addresses = env.addresses();
            if phase == Phase::HttpRequest {
                cx.request = entry.cloned();
            }
            Box::new((engine.start(phase), cx))
        });
        Self { endpoint, phase, permits: Vec::new(), policy, in_flight: None }
    }

    /// Begins the phases of the response, over the context that `on_http_request` left. Gives the head back if there are no
    /// rules.
    pub(super) fn begin_response(&mut self, head: response::Parts) -> Result<(), response::Parts> {
        let engine = self.endpoint.engine.as_ref().filter(|engine| has_response_rules(engine));
        let (Some(engine), Some(policy)) = (engine, &mut self.policy) else { return Err(head) };
        self.phase = Phase::HttpResponse;
        policy.0 = engine.start(Phase::HttpResponse);
        policy.1.response = Some(head);
        Ok(())
    }

    /// Begins `on_event_stream_message`, if the response is an event stream and there are rules for it.
    pub(super) fn begin_events(&mut self) -> bool {
        let engine = self.endpoint.engine.as_ref().filter(|engine| engine.has(Phase::EventStream));
        let (Some(engine), Some(policy)) = (engine, &mut self.policy) else { return false };
        if !policy.1.response.as_ref().is_some_and(|response| is_event_stream(&response.headers)) {
            return false;
        }
        self.phase = Phase::EventStream;
        policy.0 = engine.start(Phase::EventStream);
        true
    }

    /// The head of the response that the phase is over.
    pub(super) fn take_response(&mut self) -> Option<response::Parts> {
        self.policy.as_mut()?.1.response.take()
    }

    /// Tells the policy of the ends of bodies that have come.
    pub(super) fn note_ends(&mut self, response: Option<&Arc<Received>>, env: &impl Environment) {
        let Some(policy) = self.policy.as_mut().filter(|_| self.phase != Phase::TcpConnect) else { return };
        if policy.1.request_end.is_none() {
            policy.1.request_end = env.request_end();
        }
        policy.1.response_end = response.cloned();
    }

    /// Goes on with the phase.
    pub(super) fn step(&mut self) -> Step {
        self.policy.as_mut().map_or(Step::Done(Verdict::Continue), |policy| policy.0.step(&mut policy.1))
    }

    /// Takes what `log` actions wrote.
    pub(super) fn take_logs(&mut self) -> Vec<Value> {
        self.policy.as_mut().map(|policy| std::mem::take(&mut policy.1.logs)).unwrap_or_default()
    }

    /// Takes what `log` actions write when the exchange is over.
    pub(super) fn take_late_logs(&mut self) -> Vec<LateLog> {
        self.policy.as_mut().map(|policy| std::mem::take(&mut policy.1.late_logs)).unwrap_or_default()
    }

    /// Takes what a policy came to that is not enforced.
    pub(super) fn take_not_enforced(&mut self) -> Vec<NotEnforced> {
        self.policy.as_mut().map(|policy| std::mem::take(&mut policy.1.not_enforced)).unwrap_or_default()
    }

    /// Whether what its policy decides is done.
    pub(super) fn is_enforced(&self) -> bool {
        self.endpoint.engine.as_ref().is_none_or(|engine| engine.is_enforced())
    }

    /// Takes the cookies that go with the response.
    pub(super) fn take_cookies(&mut self) -> Vec<HeaderValue> {
        self.policy.as_mut().map(|policy| std::mem::take(&mut policy.1.cookies)).unwrap_or_default()
    }

    /// What actions of the phase decided so far.
    pub(super) fn decisions(&self) -> Decisions {
        let Some(policy) = &self.policy else { return Decisions::default() };
        let cx = &policy.1;
        let found =
            |action: &str, pointer: &str| cx.result(action).and_then(|result| result.pointer(pointer));
        let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
        let word =
            |right: Option<bool>| right.map_or("", |right| if right { "allow" } else { "deny" }).to_owned();
        let authorized = found("basic_auth", "/credentials/authorized").and_then(Value::as_bool);
        let user = found("basic_auth", "/credentials/username").filter(|_| authorized == Some(true));
        Decisions {
            ip_policy: text(found("restrict_ips", "/action")),
            // Told when it is asked.
            circuit_breaker: String::new(),
            basic_auth: word(authorized),
            basic_auth_user: text(user).chars().take(USER_CHARS_MAX).collect(),
            webhook: word(found("verify_webhook", "/verified").and_then(Value::as_bool)),
        }
    }

    /// What the Core Rule Set is asked about the message of this phase.
    pub(super) fn asks_about(&self, inspection: &Inspection) -> Result<Asked, String> {
        let cx = self.policy.as_ref().map(|policy| &policy.1);
        let cx = cx.ok_or("there is no message in this phase")?;
        Asked::about(cx, self.endpoint.account, self.phase, inspection)
    }

    /// Tells the phase what came of its effect or its forward.
    pub(super) fn resume(&mut self, outcome: Outcome) {
        if let Some(policy) = &mut self.policy {
            policy.0.resume(&mut policy.1, outcome);
        }
    }
}

/// Whether a policy has rules for responses.
fn has_response_rules(engine: &Engine) -> bool {
    engine.has(Phase::HttpResponse) || engine.has(Phase::EventStream)
}
