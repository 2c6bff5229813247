//! The walk of one connection through policies: the endpoint reached, forward-internal hops from it, down to an agent's
//! stream or an end. Pools are asked again when a member fails before a byte was sent.
//!
//! Holds everything a connection is, so that it can move to the shard where its agent's session lives.

use std::sync::Arc;

use ebbgate_model::{EndpointId, EndpointUrl, ErrorCode};
use ebbgate_policy::{
    BodyError, ConnFacts, Context, Effect, OnError, Outcome, Phase, Run, Step, TlsFacts, TlsSettings,
    Verdict, Work,
};

use super::{Record, Visitor};
use crate::dispatch::gateway::Gateway;
use crate::dispatch::hops::{self, Steps, TooFar};
use crate::net::hello::Hello;
use crate::state::endpoint::{Endpoint, Kind};
use crate::state::pool::{Ask, Pool};

/// Entries of `log` actions that one connection keeps.
const LOGS_MAX: usize = 64;

/// A connection on its way.
pub struct Walk {
    /// The client.
    pub visitor: Visitor,
    /// What policies see of it.
    pub facts: Arc<ConnFacts>,
    /// Its TLS hello, if it sent one.
    pub hello: Option<Hello>,
    /// Its account.
    pub record: Record,
    frames: Vec<Frame>,
    steps: Steps,
    work: Work,
    /// What `log` actions of members wrote that the walk has left.
    logs: Vec<serde_json::Value>,
    /// What TLS ended here with.
    ended: Option<Arc<TlsSettings>>,
}

/// One endpoint of the walk and the others that share its URL.
struct Frame {
    pool: Pool,
    tried: Vec<EndpointId>,
    member: Option<Member>,
    /// What the failure of this frame means to the one before.
    on_error: OnError,
}

struct Member {
    endpoint: Arc<Endpoint>,
    policy: Option<Box<(Run, Context)>>,
    /// Its policy is over and left the connection to what stands behind the endpoint.
    passed: bool,
}

/// What the walk needs done next.
pub enum Next {
    /// End TLS here and tell [`Walk::tls_ended`].
    EndTls(Arc<TlsSettings>),
    /// Open a stream to this agent endpoint and relay. If it cannot be opened, tell [`Walk::failed`].
    Open(Arc<Endpoint>),
    /// The connection is over.
    End(Over),
}

/// Why a walk is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Over {
    /// Published code.
    pub code: Option<ErrorCode>,
    /// One sentence.
    pub outcome: String,
}

impl Over {
    fn new(code: impl Into<Option<ErrorCode>>, outcome: impl Into<String>) -> Self {
        Self { code: code.into(), outcome: outcome.into() }
    }
}

impl Walk {
    /// A connection that reached a pool.
    pub fn new(
        visitor: Visitor,
        facts: Arc<ConnFacts>,
        hello: Option<Hello>,
        pool: Pool,
        record: Record,
    ) -> Self {
        let first = Frame { pool, tried: Vec::new(), member: None, on_error: OnError::Halt };
        Self {
            visitor,
            facts,
            hello,
            record,
            frames: vec![first],
            steps: Steps::default(),
            work: Work::default(),
            logs: Vec::new(),
            ended: None,
        }
    }

    /// Whether the walk has been forwarded.
    pub fn is_forwarded(&self) -> bool {
        self.frames.len() > 1
    }

    /// Runs policies until something must be done.
    pub async fn next(&mut self, gateway: &impl Gateway) -> Next {
        loop {
            let Some(frame) = self.frames.last_mut() else {
                return Next::End(Over::new(ErrorCode::OFFLINE, "nothing is left to try"));
            };
            if frame.member.is_none() {
                let Some(endpoint) = frame.pool.pick(&frame.tried, Ask::repeatable()) else {
                    let code =
                        if frame.tried.is_empty() { ErrorCode::OFFLINE } else { ErrorCode::AGENT_STREAM };
                    if let Some(over) = self.fail(code, "no member of the pool can take the connection") {
                        return Next::End(over);
                    }
                    continue;
                };
                if !frame.tried.is_empty()
                    && let Err(often) = self.steps.take()
                {
                    return Next::End(too_far(often));
                }
                frame.tried.push(endpoint.id);
                if self.frames.len() == 1
                    && let Some(over) = self.refused(&endpoint, gateway)
                {
                    self.record.reached(&endpoint);
                    return Next::End(over);
                }
                let begun = begin(endpoint, &self.facts, &self.work, gateway);
                if let (1, Member { endpoint, .. }) = (self.frames.len(), &begun) {
                    self.record.reached(endpoint);
                }
                self.set_member(Some(begun));
            }
            let Some(member) = self.frames.last_mut().and_then(|f| f.member.as_mut()) else { continue };
            let step = match &mut member.policy {
                Some(policy) if !member.passed => policy.0.step(&mut policy.1),
                _ => Step::Done(Verdict::Continue),
            };
            member.passed = matches!(step, Step::Done(Verdict::Continue));
            let endpoint = Arc::clone(&member.endpoint);
            match step {
                Step::Need(Effect::TerminateTls(settings)) => match self.facts.tls.clone() {
                    Some(_) if !self.meets(&settings) => return Next::End(unmet(&endpoint)),
                    Some(facts) => self.resume(Outcome::Tls(facts)),
                    None => return Next::EndTls(settings),
                },
                Step::Need(Effect::Keys { url, fresh }) => {
                    let keys = gateway.keys(endpoint.account, &url, fresh).await;
                    self.resume(Outcome::Keys(keys));
                }
                Step::Need(Effect::Body { .. }) => self.resume(Outcome::Body(Err(BodyError::Incomplete))),
                Step::Pause => tokio::task::yield_now().await,
                Step::Done(verdict) => {
                    if let Verdict::Forward { url, .. } = &verdict {
                        gateway.returned(Some(endpoint.account), url.scheme(), url.host(), url.port()).await;
                    }
                    if let Some(next) = self.decide(&endpoint, verdict, gateway) {
                        return next;
                    }
                }
            }
        }
    }

    /// The IP restriction of the account, before any policy. Visitors of HTTPS are told so, by the request.
    fn refused(&self, endpoint: &Endpoint, gateway: &impl Gateway) -> Option<Over> {
        let source = self.facts.client.ip();
        let is_told = endpoint.url.scheme().is_http();
        (!is_told && !gateway.admits(endpoint.account, source)).then(|| {
            Over::new(ErrorCode::ENDPOINTS_RESTRICTED, "the account's IP restriction refuses this address")
        })
    }

    fn decide(&mut self, endpoint: &Arc<Endpoint>, verdict: Verdict, gateway: &impl Gateway) -> Option<Next> {
        match verdict {
            Verdict::Continue => Some(match endpoint.kind {
                Kind::Agent(_) => Next::Open(Arc::clone(endpoint)),
                // An HTTPS endpoint's answer comes from its http phases.
                Kind::Cloud if endpoint.url.scheme().is_http() => Next::Open(Arc::clone(endpoint)),
                Kind::Cloud => Next::End(unanswered(endpoint)),
            }),
            Verdict::Forward { url, on_error } => {
                self.forward(endpoint, &url, on_error, gateway).map(Next::End)
            }
            Verdict::Respond(_) => {
                Some(Next::End(Over::new(None, "closed by the policy: a connection cannot be answered")))
            }
            Verdict::Close { code } => Some(Next::End(Over::new(code, "closed by the policy"))),
            Verdict::Failed { code, message } => Some(Next::End(Over::new(code, message))),
        }
    }

    fn forward(
        &mut self,
        from: &Endpoint,
        url: &EndpointUrl,
        on_error: OnError,
        gateway: &impl Gateway,
    ) -> Option<Over> {
        if let Err(often) = self.steps.take() {
            return Some(too_far(often));
        }
        if let Err(deep) = hops::check_depth(self.frames.len()) {
            return self.forward_failed(ErrorCode::TOO_MANY_HOPS, deep.to_string(), on_error);
        }
        if !url.host().is_internal() || !from.url.scheme().same_class(url.scheme()) {
            let message = format!("{} may not forward to {url}", from.url);
            return self.forward_failed(ErrorCode::OFFLINE, message, on_error);
        }
        match gateway.internal(from.account, url) {
            Some(pool) => {
                self.record.event.forwarded_to = url.to_string();
                self.frames.push(Frame { pool, tried: Vec::new(), member: None, on_error });
                None
            }
            None => self.forward_failed(ErrorCode::OFFLINE, format!("{url} is offline"), on_error),
        }
    }

    /// The member the walk is at could not take the connection, and no byte was sent: another member is next.
    pub fn failed(&mut self) {
        self.set_member(None);
    }

    /// Whether another member of the pool could take the connection and is heard.
    pub fn has_other(&self) -> bool {
        self.frames.last().is_some_and(|frame| frame.pool.has_other(&frame.tried))
    }

    /// Whether TLS, if it is over, ended with no less than these settings demand. There is no second handshake: another
    /// endpoint, or another member, may not be answered by one that asked for less.
    pub fn meets(&self, settings: &TlsSettings) -> bool {
        match (&self.facts.tls, &self.ended) {
            (Some(facts), Some(ended)) => settings.are_met_by(ended, facts),
            (Some(_), None) => false,
            (None, _) => true,
        }
    }

    /// The settings TLS ended with here.
    pub fn ended(&self) -> Option<Arc<TlsSettings>> {
        self.ended.clone()
    }

    /// TLS ended here. A policy that asked for it goes on.
    pub fn tls_ended(&mut self, facts: Arc<TlsFacts>, settings: &Arc<TlsSettings>, asked: bool) {
        self.ended = Some(Arc::clone(settings));
        self.record.event.tls_version.clone_from(&facts.version);
        let mut conn = ConnFacts::clone(&self.facts);
        conn.tls = Some(Arc::clone(&facts));
        self.facts = Arc::new(conn);
        if asked {
            self.resume(Outcome::Tls(facts));
        }
    }

    /// What `log` actions wrote, taken out, in the order written.
    pub fn take_logs(&mut self) -> Vec<serde_json::Value> {
        let mut logs = std::mem::take(&mut self.logs);
        let policies = self.frames.iter_mut().filter_map(|f| f.member.as_mut()?.policy.as_mut());
        logs.extend(policies.flat_map(|policy| std::mem::take(&mut policy.1.logs)));
        logs.truncate(LOGS_MAX);
        logs
    }

    fn resume(&mut self, outcome: Outcome) {
        if let Some(policy) = self.frames.last_mut().and_then(|f| f.member.as_mut()?.policy.as_mut()) {
            policy.0.resume(&mut policy.1, outcome);
        }
    }

    fn set_member(&mut self, member: Option<Member>) {
        self.logs = self.take_logs();
        if let Some(frame) = self.frames.last_mut() {
            frame.member = member;
        }
    }

    /// The last frame has nobody left: what that means to the frames before. None: the walk goes on.
    fn fail(&mut self, code: ErrorCode, message: &str) -> Option<Over> {
        self.logs = self.take_logs();
        let on_error = self.frames.pop()?.on_error;
        self.forward_failed(code, message.to_owned(), on_error)
    }

    fn forward_failed(&mut self, code: ErrorCode, message: String, mut on_error: OnError) -> Option<Over> {
        self.logs = self.take_logs();
        while on_error == OnError::Halt && !self.frames.is_empty() {
            on_error = self.frames.pop().map_or(OnError::Halt, |frame| frame.on_error);
        }
        if self.frames.is_empty() {
            return Some(Over::new(code, message));
        }
        self.resume(Outcome::ForwardFailed { code, message });
        None
    }
}

fn begin(endpoint: Arc<Endpoint>, facts: &Arc<ConnFacts>, work: &Work, gateway: &impl Gateway) -> Member {
    let engine = endpoint.engine.as_ref().filter(|engine| engine.has(Phase::TcpConnect));
    let policy = engine.map(|engine| {
        let mut context = Context::new(Arc::clone(facts), Arc::clone(&endpoint.facts), gateway.now_unix_ms());
        context.rng_seed = gateway.rng_seed();
        context.work = work.clone();
        Box::new((engine.start(Phase::TcpConnect), context))
    });
    Member { endpoint, policy, passed: false }
}

fn too_far(why: TooFar) -> Over {
    Over::new(ErrorCode::TOO_MANY_HOPS, why.to_string())
}

/// TLS ended before an endpoint on the way demanded more of it.
pub(super) fn unmet(endpoint: &Endpoint) -> Over {
    let url = &endpoint.url;
    let outcome = format!("TLS ended before it came to {url}, whose settings demand more of the client");
    Over::new(ErrorCode::new(2300), outcome)
}

fn unanswered(endpoint: &Endpoint) -> Over {
    let why = if endpoint.engine.is_none() {
        "has no traffic policy in force"
    } else {
        "did not end in any action"
    };
    Over::new(
        ErrorCode::OFFLINE,
        format!("the policy of {} {why}; forward-internal would serve it", endpoint.url),
    )
}
