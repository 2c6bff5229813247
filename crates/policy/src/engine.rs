//! A compiled policy and one run of a phase over it: a state machine that asks for effects and performs none.
//!
//! Deterministic: the same engine, context and outcomes give the same steps.

use std::collections::BTreeMap;
use std::sync::Arc;

use ebbgate_body::{Event, EventReplacement, EventRules, Judge, Judged, RulesFault};
use ebbgate_model::TrafficPolicy;
use http::StatusCode;

use crate::action::{self, Action, Config, Flow, Gathered, Notes, Refs};
use crate::code;
use crate::diagnostic::Diagnostic;
use crate::expr::Expression;
use crate::facts::{Context, Phase, Trial};
use crate::identity::{Purpose, addressed};
use crate::references::References;
use crate::secret::Redaction;
use crate::trace::Trace;
use crate::trial;
use crate::verdict::{Effect, Outcome, Reply, Step, Verdict};
use crate::work::{BYTES_PER_UNIT, Work};

/// Most effects one run may ask for; a run that asks for more fails.
pub const EFFECTS_PER_RUN_MAX: usize = 64;

/// A policy ready to run. Share it by `Arc`; it holds no state of any run.
#[derive(Debug, Default)]
pub struct Engine {
    /// `enforce: false`: rules run over a context of their own, and their verdicts are only told.
    is_trial: bool,
    phases: BTreeMap<Phase, Vec<Rule>>,
    /// The `auth_id`s of actions that sign visitors in, in the order of the document, each once.
    auth_ids: Vec<String>,
    /// What no message of a failure may hold.
    redaction: Redaction,
}

#[derive(Debug)]
pub(crate) struct Rule {
    path: String,
    expressions: Vec<Expression>,
    actions: Vec<Arc<dyn Action>>,
}

impl Rule {
    /// In the order of the document.
    pub(crate) fn expressions(&self) -> &[Expression] {
        &self.expressions
    }

    /// In the order of the document.
    pub(crate) fn actions(&self) -> &[Arc<dyn Action>] {
        &self.actions
    }

    /// Whether it is another one for each event of an event stream.
    fn reads_event(&self) -> bool {
        self.expressions.iter().any(Expression::reads_event)
            || self.actions.iter().any(|action| action.reads_event())
    }

    /// Whether it has the action that this request's path is for: such a request comes in whatever the rule's expressions say,
    /// which are about other paths.
    fn is_addressed(&self, cx: &Context) -> bool {
        let Some(addressed) = &cx.addressed else { return false };
        self.actions.iter().any(|action| action.auth_id() == Some(&addressed.auth_id))
    }
}

impl Engine {
    /// Compiles a checked policy with the account's objects. Fails on what a check would refuse, and on ids that the
    /// account does not have.
    pub fn compile(policy: &TrafficPolicy, refs: &References) -> Result<Self, Vec<Diagnostic>> {
        let mut notes = Notes::default();
        let redaction = Redaction::new(refs.secrets.values());
        let mut engine = Self { redaction, is_trial: !policy.is_enforced(), ..Self::default() };
        let phases = [
            (Phase::TcpConnect, &policy.on_tcp_connect),
            (Phase::HttpRequest, &policy.on_http_request),
            (Phase::HttpResponse, &policy.on_http_response),
            (Phase::EventStream, &policy.on_event_stream_message),
        ];
        for (phase, rules) in phases {
            let compile = |(index, rule)| {
                compile_rule(phase, format!("{}[{index}]", phase.key()), rule, refs, &mut notes)
            };
            let rules: Vec<Rule> = rules.iter().enumerate().map(compile).collect();
            for action in rules.iter().flat_map(|rule| &rule.actions) {
                let auth_id = action.auth_id().map(str::to_owned);
                engine.auth_ids.extend(auth_id.filter(|id| !engine.auth_ids.contains(id)));
            }
            if !rules.is_empty() {
                engine.phases.insert(phase, rules);
            }
        }
        if notes.errors.is_empty() { Ok(engine) } else { Err(notes.errors) }
    }

    /// Whether the phase has rules; without, it can be skipped wholly.
    #[must_use]
    pub fn has(&self, phase: Phase) -> bool {
        self.phases.contains_key(&phase)
    }

    /// Whether connections may be refused by its rules.
    #[must_use]
    pub fn guards_connections(&self) -> bool {
        !self.is_trial && self.has(Phase::TcpConnect)
    }

    /// Whether what its rules decide is done.
    #[must_use]
    pub fn is_enforced(&self) -> bool {
        !self.is_trial
    }

    /// The rules of a phase, in the order of the document.
    pub(crate) fn rules(&self, phase: Phase) -> &[Rule] {
        self.phases.get(&phase).map_or(&[], Vec::as_slice)
    }

    /// Begins a phase.
    #[must_use]
    pub fn start(self: &Arc<Self>, phase: Phase) -> Run {
        Run {
            engine: Arc::clone(self),
            is_trial: self.is_trial,
            phase,
            rule: 0,
            expression: 0,
            action: None,
            gathered: Gathered::default(),
            asked: None,
            exchange: None,
            effects: 0,
            begun: false,
            over: None,
            passed: false,
            trace: None,
        }
    }
}

fn compile_rule(
    phase: Phase,
    path: String,
    rule: &ebbgate_model::Rule,
    refs: &References,
    notes: &mut Notes,
) -> Rule {
    let expression = |(index, source): (usize, &String)| {
        let path = format!("{path}.expressions[{index}]");
        action::check_expression(source, phase, &path, Refs::Of(refs), notes)
    };
    let expressions = rule.expressions.iter().enumerate().filter_map(expression).collect();
    let mut actions = Vec::new();
    for (index, placed) in rule.actions.iter().enumerate() {
        let path = format!("{path}.actions[{index}]");
        let Some(spec) = action::find(placed, &path, notes) else {
            continue;
        };
        action::check_place(spec, phase, None, &path, notes);
        let mut config =
            Config::new(&placed.config, format!("{path}.config"), phase, None, Refs::Of(refs), notes);
        actions.extend((spec.compile)(&mut config));
    }
    Rule { path, expressions, actions }
}

/// One run of one phase.
#[derive(Debug)]
pub struct Run {
    engine: Arc<Engine>,
    is_trial: bool,
    phase: Phase,
    rule: usize,
    /// Index of the rule's expression that is judged next.
    expression: usize,
    /// Index of the running action; `None` while the rule's expressions are still to be judged.
    action: Option<usize>,
    gathered: Gathered,
    /// The key set asked for last, and whether it was to be fresh.
    asked: Option<(String, bool)>,
    /// What a provider was asked last.
    exchange: Option<Purpose>,
    effects: usize,
    begun: bool,
    over: Option<Verdict>,
    /// A policy that is not enforced has told what it came to.
    passed: bool,
    trace: Option<Box<Trace>>,
}

impl Run {
    /// Records from now on what the run does; the values it reads too.
    #[must_use]
    pub fn traced(self) -> Self {
        Self { trace: Some(Box::default()), ..self }
    }

    /// The same as if the policy were enforced, whatever it says.
    #[must_use]
    pub fn enforced(self) -> Self {
        Self { is_trial: false, ..self }
    }

    /// What was recorded since the last call.
    pub fn take_trace(&mut self) -> Trace {
        self.trace.as_deref_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Goes on until something is needed or the phase is over. Stepping again without `resume` asks again.
    ///
    /// A policy that is not enforced runs over a context of its own. What it comes to goes to `cx.not_enforced`, and the phase
    /// passes; a cloud endpoint forwards all the same, because nothing else serves its traffic.
    pub fn step(&mut self, cx: &mut Context) -> Step {
        if !self.is_trial {
            return self.advance(cx);
        }
        let mut trial = cx.trial.take().unwrap_or_else(|| Box::new(Trial::of(cx)));
        let step = self.step_on_trial(cx, &mut trial);
        trial.cx.logs.drain(..).for_each(|entry| cx.push_log(entry));
        cx.trial = Some(trial);
        step
    }

    fn step_on_trial(&mut self, cx: &mut Context, trial: &mut Trial) -> Step {
        if !self.begun {
            self.passed = !self.engine.has(self.phase) || !trial.begin(self.phase, cx);
        }
        if self.passed {
            return Step::Done(Verdict::Continue);
        }
        let forwards = trial::forwards(self.phase, &cx.endpoint);
        loop {
            match self.advance(&mut trial.cx) {
                Step::Pause => return Step::Pause,
                Step::Need(effect) if trial.may_perform(&effect) => return Step::Need(effect),
                Step::Need(_) => {
                    trial.not_judged(self.place());
                    self.skip();
                }
                Step::Done(verdict) => {
                    trial.find(self.phase, &verdict, || self.place());
                    match verdict {
                        Verdict::Forward { .. } if forwards => {
                            trial.tell(cx);
                            return Step::Done(verdict);
                        }
                        // What it would have refused is served, by the forward that comes next.
                        Verdict::Forward { .. } | Verdict::Continue => {}
                        _ if forwards => {
                            self.skip();
                            continue;
                        }
                        _ => {}
                    }
                    trial.tell(cx);
                    self.passed = true;
                    return Step::Done(Verdict::Continue);
                }
            }
        }
    }

    /// The expression or action that the run is at; empty behind the last rule.
    fn place(&self) -> String {
        let Some(rule) = self.engine.rules(self.phase).get(self.rule) else { return String::new() };
        match self.action {
            Some(at) => format!("{}.actions[{at}]", rule.path),
            None => format!("{}.expressions[{}]", rule.path, self.expression),
        }
    }

    /// Goes on behind what the run is at.
    fn skip(&mut self) {
        self.over = None;
        match self.action {
            Some(at) => {
                self.action = Some(at + 1);
                self.gathered.next_action();
            }
            None => self.next_rule(),
        }
    }

    fn advance(&mut self, cx: &mut Context) -> Step {
        if !self.begun {
            self.begun = true;
            cx.vars.clear();
            if self.phase == Phase::HttpRequest && !self.is_trial {
                let request = cx.request.as_ref().filter(|_| !self.engine.auth_ids.is_empty());
                cx.addressed = request.and_then(|request| addressed(request, &self.engine.auth_ids));
            }
        }
        if let Some(verdict) = &self.over {
            return Step::Done(verdict.clone());
        }
        loop {
            let engine = Arc::clone(&self.engine);
            let Some(rule) = engine.phases.get(&self.phase).and_then(|rules| rules.get(self.rule)) else {
                return self.pass(cx, Verdict::Continue);
            };
            if cx.work.take_pause() {
                return Step::Pause;
            }
            cx.work.begin_evaluation();
            let Some(at) = self.action else {
                let expression = rule.expressions.get(self.expression).filter(|_| !rule.is_addressed(cx));
                // Of an event stream the head alone is there: what names the event is left for each event.
                let head_alone = self.phase == Phase::EventStream && cx.event.is_none();
                let Some(expression) = expression else {
                    if head_alone && rule.reads_event() {
                        let rules = EventRule::new(&engine, self.rule, cx);
                        if let Err((code, message)) = action::judge_events(cx, Arc::new(rules)) {
                            let message = format!("{}: {message}", rule.path);
                            return self.fail(cx, Verdict::Failed { code, message });
                        }
                        self.next_rule();
                    } else {
                        self.action = Some(0);
                    }
                    continue;
                };
                if head_alone && expression.reads_event() {
                    self.expression += 1;
                    continue;
                }
                let result = expression.test(cx);
                if let Some(trace) = &mut self.trace {
                    trace.condition(
                        self.rule,
                        self.expression,
                        result.as_ref().map(|holds| *holds),
                        expression,
                        cx,
                    );
                }
                match result {
                    Ok(true) => self.expression += 1,
                    Ok(false) => self.next_rule(),
                    Err(error) => {
                        let message = format!("{}.expressions[{}]: {error}", rule.path, self.expression);
                        let verdict = Verdict::Failed { code: code::EXPRESSION_FAILED, message };
                        return self.fail(cx, verdict);
                    }
                }
                continue;
            };
            let Some(action) = rule.actions.get(at) else {
                self.next_rule();
                continue;
            };
            let flow = action.run(cx, &mut self.gathered);
            if let Some(trace) = &mut self.trace {
                trace.action(self.rule, at, &flow);
            }
            match flow {
                Flow::Next => {
                    self.action = Some(at + 1);
                    self.gathered.next_action();
                }
                Flow::Need(effect) => return self.need(effect),
                Flow::End(verdict @ Verdict::Failed { .. }) => return self.fail(cx, verdict),
                Flow::End(verdict @ Verdict::Forward { .. }) => return self.pass(cx, verdict),
                Flow::End(verdict) => return self.end(verdict),
            }
        }
    }

    /// The traffic may go on. A path of a sign-in's may not: other sign-ins let it pass on its way there.
    fn pass(&mut self, cx: &Context, verdict: Verdict) -> Step {
        match &cx.addressed {
            Some(_) if self.phase == Phase::HttpRequest => {
                self.end(Verdict::Respond(Reply::empty(StatusCode::NOT_FOUND, None)))
            }
            _ => self.end(verdict),
        }
    }

    fn next_rule(&mut self) {
        self.rule += 1;
        self.expression = 0;
        self.action = None;
    }

    /// A failure. One that the visitor's own headers brought about is answered as such.
    fn fail(&mut self, cx: &Context, verdict: Verdict) -> Step {
        if self.phase == Phase::HttpRequest && cx.work.headers_were_refused() {
            return self
                .end(Verdict::Respond(Reply::empty(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, None)));
        }
        let verdict = match verdict {
            Verdict::Failed { code, message } => {
                Verdict::Failed { code, message: self.engine.redaction.text(message) }
            }
            verdict => verdict,
        };
        self.end(verdict)
    }

    fn need(&mut self, effect: Effect) -> Step {
        self.effects += 1;
        if self.effects > EFFECTS_PER_RUN_MAX {
            let message = format!("the policy asked for more than {EFFECTS_PER_RUN_MAX} effects in one run");
            return self.end(Verdict::Failed { code: code::EXPRESSION_FAILED, message });
        }
        if let Effect::Keys { url, fresh } = &effect {
            self.asked = Some((url.clone(), *fresh));
        }
        if let Effect::Exchange(exchange) = &effect {
            self.exchange = Some(exchange.purpose);
        }
        Step::Need(effect)
    }

    fn end(&mut self, verdict: Verdict) -> Step {
        self.over = Some(verdict.clone());
        Step::Done(verdict)
    }

    /// Takes in what came of the last effect, or of a [`Verdict::Forward`]; then step again.
    pub fn resume(&mut self, cx: &mut Context, outcome: Outcome) {
        match outcome {
            Outcome::Tls(facts) => {
                Arc::make_mut(&mut cx.conn).tls = Some(facts);
                self.gathered.tls = true;
            }
            Outcome::Keys(keys) => {
                if let Some((url, fresh)) = self.asked.take() {
                    self.gathered.take_keys(url, fresh, keys);
                }
            }
            Outcome::Sessions(facts) => self.gathered.sessions = Some(*facts),
            Outcome::Ended(ended) => self.gathered.ended = Some(ended),
            Outcome::Noted => self.gathered.noted = true,
            Outcome::Exchanged(exchanged) => {
                if let Some(purpose) = self.exchange.take() {
                    self.gathered.exchanged.insert(purpose, exchanged);
                }
            }
            Outcome::Body(body) => self.gathered.body = Some(body),
            Outcome::Counted(wait) => {
                self.gathered.counted = Some(wait.map_or(Ok(()), Err));
            }
            Outcome::Inspected(inspected) => self.gathered.inspected = Some(inspected),
            Outcome::Guessed(wait) => {
                self.gathered.guessed = Some(wait.map_or(Ok(()), Err));
            }
            Outcome::NotJudged => {
                if let Some(trial) = cx.trial.as_mut().filter(|_| self.is_trial) {
                    trial.not_judged(self.place());
                    self.skip();
                } else {
                    let message = "an enforced policy was told that something is not judged".to_owned();
                    self.over = Some(Verdict::Failed { code: code::EXPRESSION_FAILED, message });
                }
            }
            Outcome::Called(called) => self.gathered.called = Some(called),
            Outcome::Admitted(wait) => {
                self.gathered.admitted = Some(wait.map_or(Ok(()), Err));
            }
            Outcome::ForwardFailed { code, message } => {
                self.gathered.forward_failed = Some((code, message));
                self.over = None;
            }
        }
    }
}

/// A rule of `on_event_stream_message` that names the event, judged for each event of a stream. What it says of the response
/// alone was judged before, when the head was there.
#[derive(Debug)]
struct EventRule {
    engine: Arc<Engine>,
    /// Its place in the phase.
    rule: usize,
    /// As it was when the head was there.
    cx: Context,
}

impl EventRule {
    /// A rule of the engine for the stream of this context.
    fn new(engine: &Arc<Engine>, rule: usize, cx: &Context) -> Self {
        let mut cx = cx.clone();
        // What earlier rules do to the body is not this rule's.
        if let Some(response) = &mut cx.response {
            response.extensions.clear();
        }
        Self { engine: Arc::clone(engine), rule, cx }
    }
}

impl EventRules for EventRule {
    fn begin(&self) -> Judge {
        let (engine, rule, mut cx) = (Arc::clone(&self.engine), self.rule, self.cx.clone());
        Box::new(move |event| match engine.rules(Phase::EventStream).get(rule) {
            Some(rule) => judge(rule, event, &mut cx)
                .map_err(|(code, message)| RulesFault { code, message: engine.redaction.text(message) }),
            None => Ok(Judged::default()),
        })
    }
}

/// All that is judged of one event counts as one evaluation.
fn judge(rule: &Rule, event: Event, cx: &mut Context) -> Result<Judged, (u32, String)> {
    cx.event = Some(event);
    cx.work = Work::default();
    let replacements = replaced(rule, cx)?;
    let work = cx.work.spent().saturating_mul(BYTES_PER_UNIT);
    Ok(Judged { replacements, work: usize::try_from(work).unwrap_or(usize::MAX) })
}

fn replaced(rule: &Rule, cx: &mut Context) -> Result<Vec<EventReplacement>, (u32, String)> {
    for (at, expression) in rule.expressions.iter().enumerate().filter(|(_, one)| one.reads_event()) {
        let holds = expression.test(cx).map_err(|error| {
            (code::EXPRESSION_FAILED.number(), format!("{}.expressions[{at}]: {error}", rule.path))
        })?;
        if !holds {
            return Ok(Vec::new());
        }
    }
    for action in &rule.actions {
        match action.run(cx, &mut Gathered::default()) {
            Flow::Next => {}
            Flow::End(Verdict::Failed { code, message }) => return Err((code.number(), message)),
            // The phase has no action that ends it or needs anything.
            Flow::End(_) | Flow::Need(_) => break,
        }
    }
    Ok(std::mem::take(&mut cx.replaced_in_event))
}

#[cfg(test)]
mod tests;
