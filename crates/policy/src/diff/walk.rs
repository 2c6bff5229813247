//! A policy over a record, as far as the record tells. What it does not tell is told apart: an action that passes or refuses by
//! it is taken to pass, a rule with a condition on it is taken not to match, and the outcome then depends on it.

use std::sync::Arc;

use ebbgate_model::{Action, EndpointUrl, ErrorCode, Rule, TrafficPolicy};

use super::record::Record;
use crate::action::{self, Ending, Flow, Gathered};
use crate::check::Owner;
use crate::engine::Engine;
use crate::expr::text_reads;
use crate::facts::{Context, Phase};
use crate::trace::{Trace, Traced};
use crate::verdict::{Effect, Verdict};

/// Actions that decide by what no record tells: credentials, bodies, counts, answers of others.
const OPAQUE: [&str; 12] = [
    "basic-auth",
    "circuit-breaker",
    "http-request",
    "jwt-validation",
    "oauth",
    "openid-connect",
    "owasp-crs-request",
    "owasp-crs-response",
    "rate-limit",
    "request-body-find-replace",
    "saml",
    "verify-webhook",
];

/// What a policy does with a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// `upstream`, `forward`, `respond`, `close` or `fail`.
    pub word: &'static str,
    /// Of an answer.
    pub status: Option<u16>,
    /// The internal endpoint of a forward.
    pub to: Option<String>,
    /// A published code.
    pub code: Option<ErrorCode>,
    /// Whether it is done: not with `enforce: false`, but for what happens anyway.
    pub is_enforced: bool,
    /// Whether rules for responses run.
    response_phase: bool,
    /// What an answer says, so that two of them can be compared.
    body: Vec<u8>,
    headers: Vec<(String, Vec<u8>)>,
}

impl Outcome {
    pub(super) fn has_response_phase(&self) -> bool {
        self.response_phase
    }
}

/// Something that a record does not tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dependency {
    /// Everything that acts by it: equal ones act alike.
    by: String,
    /// In words.
    pub(super) told: String,
}

/// What a walk came to.
#[derive(Debug, Clone)]
pub(super) struct Walked {
    pub(super) outcome: Outcome,
    /// The place that decided; empty: none ended a phase.
    pub(super) decided_by: String,
    /// The name of the rule that decided.
    pub(super) rule: Option<String>,
    /// The kind of the action that decided.
    pub(super) action: Option<String>,
    /// In the order they were met.
    pub(super) depends: Vec<Dependency>,
    /// Why no outcome can be told at all.
    pub(super) gave_up: Option<String>,
    /// Work that was done.
    pub(super) units: u64,
    /// What each phase did; empty where nobody asks.
    pub(super) phases: Vec<(Phase, Trace)>,
}

impl Walked {
    /// The same under a policy that is not enforced: the endpoint's upstream serves, and at a cloud endpoint a forward.
    pub(super) fn not_enforced(mut self, owner: Owner) -> Self {
        let happens = match self.outcome.word {
            "upstream" => true,
            "forward" => owner == Owner::Cloud,
            _ => false,
        };
        self.outcome.is_enforced &= happens;
        self
    }

    /// What becomes of it, in words.
    pub(super) fn sentence(&self) -> String {
        if self.gave_up.is_some() {
            return "not known".to_owned();
        }
        let outcome = &self.outcome;
        let what = match (outcome.word, &outcome.to, outcome.status) {
            ("forward", Some(to), _) => format!("goes to {to}"),
            ("respond", _, Some(status)) => format!("is answered {status}"),
            ("close", ..) => "is closed".to_owned(),
            ("fail", ..) => "fails".to_owned(),
            _ => "goes to the endpoint's upstream".to_owned(),
        };
        let code = outcome.code.map(|code| format!(" ({code})")).unwrap_or_default();
        let rule = self.rule.as_ref().map(|name| format!(" \"{name}\"")).unwrap_or_default();
        let by = match &self.action {
            Some(action) => format!(", by {action} at {}{rule}", self.decided_by),
            None if self.decided_by.is_empty() => String::new(),
            None => format!(", by {}{rule}", self.decided_by),
        };
        let done = if outcome.is_enforced { "" } else { ", which is not enforced" };
        format!("{what}{code}{by}{done}")
    }
}

struct Walk<'r> {
    record: &'r Record,
    cx: Context,
    depends: Vec<Dependency>,
    /// Whether an action changed the request by what is not told, or may have.
    is_tainted: bool,
    /// What each phase did, if it is asked for.
    traces: Option<Vec<(Phase, Trace)>>,
}

/// What a phase came to.
enum Ended {
    Passed,
    By { verdict: Box<Verdict>, place: String, rule: Option<String>, action: Option<String> },
    GaveUp(String),
}

/// Runs the phases before the upstream. `is_traced`: what they do is kept.
pub(super) fn walk(
    engine: &Arc<Engine>,
    policy: &TrafficPolicy,
    record: &Record,
    url: &EndpointUrl,
    is_traced: bool,
) -> Walked {
    let traces = is_traced.then(Vec::new);
    let mut walk = Walk { record, cx: record.context(url), depends: Vec::new(), is_tainted: false, traces };
    let mut ended = walk.phase(engine, Phase::TcpConnect, &policy.on_tcp_connect);
    if url.scheme().is_http() && matches!(ended, Ended::Passed) {
        if walk.cx.conn.tls.is_none() && url.scheme() == ebbgate_model::Scheme::Https {
            Arc::make_mut(&mut walk.cx.conn).tls = Some(record.handshake());
        }
        walk.cx.request.clone_from(&record.request);
        ended = walk.phase(engine, Phase::HttpRequest, &policy.on_http_request);
    }
    let mut walked = Walked {
        outcome: outcome(&Verdict::Continue),
        decided_by: String::new(),
        rule: None,
        action: None,
        units: walk.cx.work.spent(),
        depends: walk.depends,
        gave_up: None,
        phases: walk.traces.unwrap_or_default(),
    };
    match ended {
        Ended::Passed => {}
        Ended::By { verdict, place, rule, action } => {
            walked.outcome = outcome(&verdict);
            (walked.decided_by, walked.rule, walked.action) = (place, rule, action);
        }
        Ended::GaveUp(reason) => walked.gave_up = Some(reason),
    }
    walked
}

impl Walk<'_> {
    fn phase(&mut self, engine: &Arc<Engine>, phase: Phase, rules: &[Rule]) -> Ended {
        self.cx.vars.clear();
        if let Some(traces) = self.traces.as_mut().filter(|_| !rules.is_empty()) {
            traces.push((phase, Trace::default()));
        }
        for (at, (rule, compiled)) in rules.iter().zip(engine.rules(phase)).enumerate() {
            let place = format!("{}[{at}]", phase.key());
            let mut holds = true;
            for (index, expression) in compiled.expressions().iter().enumerate() {
                let source = rule.expressions.get(index).map_or("", String::as_str);
                if let Some(name) = random(source).chain(expression.names()).find(|name| !self.tells(name)) {
                    let told = format!("`{source}` reads `{name}`, which the record does not tell");
                    let by = serde_json::to_string(rule).unwrap_or_default();
                    self.untold(at, index, true, &told);
                    self.depends.push(Dependency { by, told });
                    self.is_tainted |= rule.actions.iter().any(changes);
                    holds = false;
                    break;
                }
                self.cx.work.begin_evaluation();
                let result = expression.test(&self.cx);
                if let Some((_, trace)) = self.traces.as_mut().and_then(|traces| traces.last_mut()) {
                    trace.condition(at, index, result.as_ref().map(|holds| *holds), expression, &self.cx);
                }
                match result {
                    Ok(true) => {}
                    Ok(false) => {
                        holds = false;
                        break;
                    }
                    Err(error) => {
                        let verdict = Verdict::Failed {
                            code: crate::code::EXPRESSION_FAILED,
                            message: error.to_string(),
                        };
                        let place = format!("{place}.expressions[{index}]");
                        let verdict = Box::new(verdict);
                        return Ended::By { verdict, place, rule: rule.name.clone(), action: None };
                    }
                }
            }
            if !holds {
                continue;
            }
            for (index, (written, action)) in rule.actions.iter().zip(compiled.actions()).enumerate() {
                let place = format!("{place}.actions[{index}]");
                let end = |verdict| Ended::By {
                    verdict: Box::new(verdict),
                    place: place.clone(),
                    rule: rule.name.clone(),
                    action: Some(written.kind.clone()),
                };
                match self.act(written, action.as_ref(), phase) {
                    Acted::Next => self.acted(at, index, None),
                    Acted::Passed(told) => self.untold(at, index, false, &told),
                    Acted::End(verdict) => {
                        self.acted(at, index, Some(&verdict));
                        return end(verdict);
                    }
                    Acted::GaveUp(reason) => {
                        self.untold(at, index, false, &reason);
                        return Ended::GaveUp(reason);
                    }
                }
            }
        }
        Ended::Passed
    }

    fn untold(&mut self, rule: usize, index: usize, is_condition: bool, why: &str) {
        if let Some((_, trace)) = self.traces.as_mut().and_then(|traces| traces.last_mut()) {
            trace.push(rule, Traced::Untold { index, is_condition, why: why.to_owned() });
        }
    }

    fn acted(&mut self, rule: usize, index: usize, verdict: Option<&Verdict>) {
        if let Some((_, trace)) = self.traces.as_mut().and_then(|traces| traces.last_mut()) {
            trace.push(rule, Traced::Action { index, verdict: verdict.cloned() });
        }
    }

    /// Whether a name's value is what it was when the request was made.
    fn tells(&self, name: &str) -> bool {
        let inner = name.strip_prefix("has(").unwrap_or(name);
        let is_made = inner.starts_with("vars") || inner.starts_with("actions");
        let is_request = inner.starts_with("req") || inner.contains("in req.headers");
        if is_made {
            // Results of what is taken to pass are not there.
            return !self.is_tainted && self.depends.is_empty();
        }
        !(self.is_tainted && is_request) && self.record.tells(name)
    }

    fn act(&mut self, written: &Action, action: &dyn action::Action, phase: Phase) -> Acted {
        let kind = written.kind.as_str();
        if OPAQUE.contains(&kind) {
            let told = format!("`{kind}` decides by what the record does not tell");
            let by = serde_json::to_string(written).unwrap_or_default();
            self.depends.push(Dependency { by, told: told.clone() });
            return Acted::Passed(told);
        }
        let drawn = random(&written.config.to_string()).collect::<Vec<_>>();
        let unknown =
            drawn.into_iter().chain(text_reads(&written.config, phase)).find(|name| !self.tells(name));
        if let Some(name) = unknown {
            let spec = action::spec(kind);
            let never_ends = spec.is_some_and(|spec| (spec.ending)(&written.config) == Ending::Never);
            if kind != "log" {
                self.is_tainted = true;
            }
            return if never_ends {
                Acted::Next
            } else {
                Acted::GaveUp(format!("`{kind}` reads `{name}`, which the record does not tell"))
            };
        }
        self.cx.work.begin_evaluation();
        let mut gathered = Gathered::default();
        loop {
            match action.run(&mut self.cx, &mut gathered) {
                Flow::Next => return Acted::Next,
                Flow::End(verdict) => return Acted::End(verdict),
                Flow::Need(Effect::TerminateTls(_)) if !gathered.tls => {
                    Arc::make_mut(&mut self.cx.conn).tls = Some(self.record.handshake());
                    gathered.tls = true;
                }
                Flow::Need(_) => {
                    return Acted::GaveUp(format!("`{kind}` needs what the record does not tell"));
                }
            }
        }
    }
}

/// What a source draws by chance has a name that no record tells.
fn random(source: &str) -> impl Iterator<Item = String> {
    source.contains("rand.").then(|| "rand".to_owned()).into_iter()
}

enum Acted {
    Next,
    /// It is taken to pass, for this reason.
    Passed(String),
    End(Verdict),
    GaveUp(String),
}

/// Whether an action changes what later conditions read.
fn changes(action: &Action) -> bool {
    ["add-headers", "http-request", "remove-headers", "set-vars", "url-rewrite"]
        .contains(&action.kind.as_str())
}

fn outcome(verdict: &Verdict) -> Outcome {
    let mut outcome = Outcome {
        word: "upstream",
        status: None,
        to: None,
        code: None,
        is_enforced: true,
        response_phase: true,
        body: Vec::new(),
        headers: Vec::new(),
    };
    match verdict {
        Verdict::Continue => {}
        Verdict::Forward { url, .. } => {
            outcome.word = "forward";
            outcome.to = Some(url.to_string());
        }
        Verdict::Respond(reply) => {
            outcome.word = "respond";
            outcome.status = Some(reply.status.as_u16());
            outcome.code = reply.code;
            outcome.response_phase = reply.response_phase;
            outcome.body = reply.body.to_vec();
            let headers =
                reply.headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
            outcome.headers = headers.collect();
        }
        Verdict::Close { code } => {
            outcome.word = "close";
            outcome.code = *code;
            outcome.response_phase = false;
        }
        Verdict::Failed { code, .. } => {
            outcome.word = "fail";
            outcome.code = Some(*code);
            outcome.response_phase = false;
        }
    }
    outcome
}
