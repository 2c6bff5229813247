//! What a policy does with one connection or request that is written down ([`Case`]), and why: all phases, traced.
//!
//! Pure. Follows one endpoint's policy; what the endpoint behind `forward-internal` does is not known here. A real edge
//! performs effects; here the case says what comes of them, and what it does not say fails as if it were unreachable.

mod case;
pub mod expect;
pub(crate) mod render;

use std::sync::Arc;
use std::time::Duration;

use ebbgate_model::{EndpointUrl, ErrorCode, Scheme};
use http::response;

pub use case::{
    AnswerText, CASE_BODY_BYTES_MAX, Case, CaseError, CaseText, HandshakeText, ResponseText, SignedInText,
    Texts,
};

use crate::engine::Engine;
use crate::facts::{Context, Phase, TlsFacts, is_event_stream};
use crate::identity::{Exchange, Exchanged, KeyRing, SEALING_KEY_BYTES, SealingKey, SessionFacts};
use crate::trace::{Trace, Traced};
use crate::verdict::{
    BodyError, Call, CallAnswer, CallError, Called, Effect, OnError, Outcome, Reply, Step, Verdict,
};

/// What a policy did with a case.
#[derive(Debug)]
pub struct Explanation {
    /// Whether what the rules decide is done.
    pub is_enforced: bool,
    /// The phases that ran, each with what it did.
    pub phases: Vec<(Phase, Trace)>,
    /// What became of the connection or request.
    pub decision: Decision,
    /// The place that decided: `on_http_request[1].actions[0]`, or an expression that could not be judged. Empty: no
    /// action ended a phase.
    pub decided_by: String,
    /// The request as an upstream gets it, when one does.
    pub request: Option<http::request::Parts>,
    /// The response as the client gets it, when there is one.
    pub response: Option<response::Parts>,
    /// What `log` actions recorded.
    pub logs: Vec<serde_json::Value>,
}

/// What became of a connection or request.
#[derive(Debug, Clone)]
pub enum Decision {
    /// It goes to the endpoint's own upstream.
    Upstream,
    /// It goes to an internal endpoint.
    Forward(EndpointUrl),
    /// The policy answers.
    Respond(Reply),
    /// The connection is closed.
    Close(Option<ErrorCode>),
    /// The policy fails: 500, or the connection is closed.
    Fail {
        /// By number.
        code: ErrorCode,
        /// In words.
        message: String,
    },
}

impl Decision {
    /// The word of a case's `outcome`.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Upstream => "upstream",
            Self::Forward(_) => "forward",
            Self::Respond(_) => "respond",
            Self::Close(_) => "close",
            Self::Fail { .. } => "fail",
        }
    }

    /// The published code that goes with it, if any.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Upstream | Self::Forward(_) => None,
            Self::Respond(reply) => reply.code,
            Self::Close(code) => *code,
            Self::Fail { code, .. } => Some(*code),
        }
    }
}

/// Runs all phases of a policy over a case. One that is not enforced is explained as if it were.
#[must_use]
pub fn explain(engine: &Arc<Engine>, case: &Case) -> Explanation {
    let mut walk = Walk { engine, case, phases: Vec::new(), decided_by: String::new() };
    let mut cx = case.context();
    let mut verdict = walk.phase(Phase::TcpConnect, &mut cx);
    let requests = case.endpoint.url.scheme().is_http();
    if requests && matches!(verdict, Verdict::Continue) {
        if case.endpoint.url.scheme() == Scheme::Https && cx.conn.tls.is_none() {
            Arc::make_mut(&mut cx.conn).tls = Some(case.handshake());
        }
        cx.request.clone_from(&case.request);
        verdict = walk.phase(Phase::HttpRequest, &mut cx);
    }
    let decision = decision(verdict);
    let request = match &decision {
        Decision::Upstream | Decision::Forward(_) => cx.request.clone(),
        _ => None,
    };
    let answered = match &decision {
        Decision::Upstream | Decision::Forward(_) if requests => Some(case.response.clone()),
        Decision::Respond(reply) => Some(parts_of(reply)),
        _ => None,
    };
    let responds = !matches!(&decision, Decision::Respond(reply) if !reply.response_phase);
    let (decision, response) = match answered {
        Some(response) if responds => walk.back(&mut cx, decision, response),
        other => (decision, other),
    };
    let ends = (Some(&case.request_end), response.as_ref().map(|_| &case.response_end));
    for late in std::mem::take(&mut cx.late_logs) {
        cx.push_log(late.entry(ends.0.cloned(), ends.1.cloned()));
    }
    Explanation {
        is_enforced: engine.is_enforced(),
        phases: walk.phases,
        decision,
        decided_by: walk.decided_by,
        request,
        response,
        logs: std::mem::take(&mut cx.logs),
    }
}

struct Walk<'c> {
    engine: &'c Arc<Engine>,
    case: &'c Case,
    phases: Vec<(Phase, Trace)>,
    decided_by: String,
}

impl Walk<'_> {
    /// Runs a phase to its end.
    fn phase(&mut self, phase: Phase, cx: &mut Context) -> Verdict {
        if !self.engine.has(phase) {
            return Verdict::Continue;
        }
        let mut run = self.engine.start(phase).enforced().traced();
        let verdict = loop {
            match run.step(cx) {
                Step::Need(effect) => {
                    let outcome = self.case.perform(&effect);
                    if matches!(outcome, Outcome::Body(Ok(_))) {
                        cx.request_end = Some(Arc::clone(&self.case.request_end));
                    }
                    run.resume(cx, outcome);
                }
                Step::Pause => {}
                Step::Done(Verdict::Forward { on_error: OnError::Continue, .. })
                    if self.case.forward_fails.is_some() =>
                {
                    run.resume(cx, self.case.forward_failed());
                }
                Step::Done(Verdict::Forward { on_error: OnError::Halt, .. })
                    if self.case.forward_fails.is_some() =>
                {
                    let (code, message) = self.case.failure();
                    break Verdict::Failed { code, message };
                }
                Step::Done(verdict) => break verdict,
            }
        };
        let trace = run.take_trace();
        if !matches!(verdict, Verdict::Continue) {
            self.decided_by = last_place(phase, &trace);
        }
        self.phases.push((phase, trace));
        verdict
    }

    /// Runs the phases of responses; a verdict of one replaces the response.
    fn back(
        &mut self,
        cx: &mut Context,
        decision: Decision,
        response: response::Parts,
    ) -> (Decision, Option<response::Parts>) {
        cx.response = Some(response);
        let mut verdict = self.phase(Phase::HttpResponse, cx);
        let is_event_stream = cx.response.as_ref().is_some_and(|response| is_event_stream(&response.headers));
        if is_event_stream && matches!(verdict, Verdict::Continue) {
            cx.event = Some(self.case.event.clone());
            verdict = self.phase(Phase::EventStream, cx);
        }
        match verdict {
            Verdict::Respond(reply) => {
                let parts = parts_of(&reply);
                (Decision::Respond(reply), Some(parts))
            }
            Verdict::Close { code } => (Decision::Close(code), None),
            Verdict::Failed { code, message } => (Decision::Fail { code, message }, None),
            Verdict::Continue | Verdict::Forward { .. } => (decision, cx.response.take()),
        }
    }
}

impl Case {
    /// What comes of an effect, as the case has it.
    fn perform(&self, effect: &Effect) -> Outcome {
        match effect {
            Effect::TerminateTls(_) => Outcome::Tls(self.handshake()),
            Effect::Keys { url, .. } => {
                let keys = self.keys.get(url).cloned();
                Outcome::Keys(keys.ok_or_else(|| format!("the case has no `keys` for {url}")))
            }
            Effect::Sessions => {
                let key = SealingKey { id: 0, from_unix_secs: 0, key: [0; SEALING_KEY_BYTES] };
                let (ring, assumed) = (Arc::new(KeyRing::new([key])), self.signed_in.clone());
                Outcome::Sessions(Box::new(SessionFacts { ring, assumed, ..SessionFacts::default() }))
            }
            Effect::IsEnded(_) => Outcome::Ended(false),
            Effect::Note(_) => Outcome::Noted,
            Effect::Exchange(exchange) => Outcome::Exchanged(published(exchange)),
            Effect::Count(quota) => {
                let is_full = self.rate_limited.contains(&quota.name);
                Outcome::Counted(is_full.then_some(quota.window))
            }
            Effect::Inspect(_) => Outcome::Inspected(match &self.waf {
                Some(inspected) => Ok(inspected.clone()),
                None => Err("the case has no `waf`: the rules are not run here".to_owned()),
            }),
            Effect::Breaker(breaker) => Outcome::Admitted(self.circuit_open.then_some(breaker.tripped)),
            Effect::Guess { .. } => Outcome::Guessed(None),
            Effect::Call(call) => Outcome::Called(Called { took: Duration::ZERO, answer: self.answer(call) }),
            Effect::Body { bytes_max } => Outcome::Body(if self.body.len() > *bytes_max {
                Err(BodyError::TooLong { bytes_max: *bytes_max })
            } else {
                Ok(self.body.clone())
            }),
        }
    }

    fn answer(&self, call: &Call) -> Result<CallAnswer, CallError> {
        let address = call.address();
        let known = |address: &str| self.calls.get(address).cloned();
        let without_query = || known(address.split('?').next().unwrap_or_default());
        known(&address).or_else(without_query).ok_or_else(|| CallError {
            code: ErrorCode::OFFLINE,
            message: format!("the case has no `calls` for {address}"),
        })
    }

    fn forward_failed(&self) -> Outcome {
        let (code, message) = self.failure();
        Outcome::ForwardFailed { code, message }
    }

    fn failure(&self) -> (ErrorCode, String) {
        let code = self.forward_fails.unwrap_or(ErrorCode::OFFLINE);
        (code, "the case lets the forward fail".to_owned())
    }

    fn handshake(&self) -> Arc<TlsFacts> {
        Arc::clone(&self.tls)
    }
}

/// What a provider says of itself: where a visitor is sent can be told without it. It is asked nothing else.
fn published(exchange: &Exchange) -> Result<Exchanged, String> {
    let issuer = exchange.url.strip_suffix("/.well-known/openid-configuration");
    let issuer = issuer.ok_or_else(|| format!("the case has no answer of {}", exchange.url))?;
    let body = serde_json::json!({
        "issuer": issuer,
        "authorization_endpoint": format!("{issuer}/authorize"),
        "token_endpoint": format!("{issuer}/token"),
        "jwks_uri": format!("{issuer}/jwks"),
    });
    Ok(Exchanged { status: 200, at_unix_secs: 0, body: body.to_string().into() })
}

fn decision(verdict: Verdict) -> Decision {
    match verdict {
        Verdict::Continue => Decision::Upstream,
        Verdict::Forward { url, .. } => Decision::Forward(url),
        Verdict::Respond(reply) => Decision::Respond(reply),
        Verdict::Close { code } => Decision::Close(code),
        Verdict::Failed { code, message } => Decision::Fail { code, message },
    }
}

fn parts_of(reply: &Reply) -> response::Parts {
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.status = reply.status;
    parts.headers.clone_from(&reply.headers);
    parts
}

/// Where the last step of a phase stands in the document.
fn last_place(phase: Phase, trace: &Trace) -> String {
    trace.steps.last().map_or_else(String::new, |step| {
        let rule = format!("{}[{}]", phase.key(), step.rule);
        match &step.what {
            Traced::Condition { index, .. } | Traced::Untold { index, is_condition: true, .. } => {
                format!("{rule}.expressions[{index}]")
            }
            Traced::Action { index, .. } | Traced::Untold { index, .. } => {
                format!("{rule}.actions[{index}]")
            }
        }
    })
}

#[cfg(test)]
mod tests;
