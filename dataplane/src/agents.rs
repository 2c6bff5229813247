//! Agents' sessions on this edge: the handshake on the agent listener, who may come in, what each may serve, and the end
//! of it all when a credential or a reservation goes.
//!
//! The protocol is `ebbgate_wire`'s; decisions about names are `bind`'s; this file owns the sessions' lives.

mod allowance;
mod auth;
mod bind;
mod links;
pub mod quic;
mod registry;
mod serve;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ebbgate_model::feed::{AgentEndpointReport, CommandOutcome, SessionCommand, SessionReport};
use ebbgate_model::{AccountId, ErrorCode, IpRestrictionKind, TrafficPolicy};
use ebbgate_policy::Engine;
use ebbgate_tunnel::driver;
use ebbgate_tunnel::rpc_io::{call, notify};
use ebbgate_wire::mux::Code;
use ebbgate_wire::rpc::{Empty, Outcome, StopTunnel, StreamKind, Update, error_text};
use tokio::time::{Duration, timeout};

pub use auth::{AuthFailures, WaitingLogins};
pub(crate) use links::begins_raw;
pub use links::{LINK_HELLO_SECS_MAX, LINKS_PER_SESSION_MAX, LinkCount, session_of_ticket};
pub use registry::Sessions;
pub use serve::{Arrival, run, serve};

use crate::state::edge::Edge;
use crate::state::endpoint::{Endpoint, Kind};
use crate::state::report::Present;
use crate::state::route::{AlreadyOnline, RouteTable};
use crate::state::tables::Tables;
use crate::tunnel::session::SessionState;
use allowance::{Allowance, Counter, Taken};
use bind::Refusal;

/// Seconds an agent may take to answer or hear a request of ours.
const COMMAND_SECS_MAX: u64 = 10;
/// Most endpoints one session may serve.
pub const ENDPOINTS_MAX: usize = 1000;

/// A session that has authenticated. Shared by all shards; its streams are opened on one.
pub struct AgentSession {
    /// What other shards may know.
    pub state: Arc<SessionState>,
    /// Stable over reconnects.
    pub client_id: String,
    mux: driver::Session,
    allowance: Allowance,
    text_bytes: Arc<Counter>,
    links: links::SessionLinks,
    /// Its own place among its account's sessions, and the text it came with.
    _taken: (Taken, Text),
    inner: Mutex<Inner>,
}

/// Bytes of text kept, counted for the session and for its account.
type Text = (Taken, Taken);

struct Inner {
    report: SessionReport,
    bound: Vec<Bound>,
    over: bool,
}

/// One endpoint that a session serves.
#[derive(Clone)]
struct Bound {
    /// The bind's name in the session.
    id: String,
    endpoint: Arc<Endpoint>,
    policy: Option<Arc<TrafficPolicy>>,
    /// What stays in front of every policy the agent changes to.
    guard: Option<Arc<TrafficPolicy>>,
    lent_port: Option<u16>,
    report: Arc<AgentEndpointReport>,
    _text: Arc<Text>,
}

impl Bound {
    /// What the API shows of it now.
    fn report(&self) -> AgentEndpointReport {
        let is_aside = matches!(&self.endpoint.kind, Kind::Agent(agent) if agent.health.is_aside());
        AgentEndpointReport { upstream_refused: is_aside, ..AgentEndpointReport::clone(&self.report) }
    }
}

/// Why an endpoint was not replaced.
#[derive(Debug, PartialEq, Eq)]
enum NotReplaced {
    /// It is not what is served now.
    Gone,
    /// Somebody else answers for its URL.
    Taken(AlreadyOnline),
}

impl AgentSession {
    /// What the API shows, without endpoints.
    fn identity(&self) -> SessionReport {
        self.inner().report.clone()
    }

    /// Whose it is.
    pub fn account(&self) -> AccountId {
        self.inner().report.account
    }

    /// The agent goes on under another address. False: it may not be there, and the session has ended.
    pub fn moved(&self, edge: &Edge, source: IpAddr) -> bool {
        self.inner().report.ip = source.to_string();
        edge.reports.session_changed(self.state.id);
        self.recheck(edge, &edge.tables.load())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bound(&self) -> Vec<Bound> {
        self.inner().bound.clone()
    }

    fn bound_count(&self) -> usize {
        self.inner().bound.len()
    }

    /// Counts bytes of text of an endpoint that are to be kept.
    fn keep(&self, bytes: usize) -> Result<Arc<Text>, Refusal> {
        let refused = |whose: &str, max: usize| Refusal {
            code: None,
            message: format!(
                "the policies, names and metadata of {whose} would take more than {} MiB here; shorten them",
                max >> 20
            ),
        };
        let session = self.text_bytes.take(bytes);
        let session = session.ok_or_else(|| refused("this session", allowance::SESSION_TEXT_BYTES_MAX))?;
        let account = self.allowance.text_bytes.take(bytes);
        let account =
            account.ok_or_else(|| refused("this account's agents", allowance::ACCOUNT_TEXT_BYTES_MAX))?;
        Ok(Arc::new((session, account)))
    }

    /// Lets control know of the session from now on.
    fn publish(self: &Arc<Self>, edge: &Edge) {
        let inner = self.inner();
        if !inner.over {
            edge.reports.session(self.state.id, Arc::clone(self) as Arc<dyn Present>);
        }
    }

    /// Adds an endpoint that is in the routes already. False: the session is over, take it out again.
    fn add(&self, edge: &Edge, bound: Bound) -> bool {
        let mut inner = self.inner();
        if inner.over {
            return false;
        }
        inner.bound.push(bound);
        edge.metrics.agent_endpoints.inc();
        drop(inner);
        edge.reports.session_changed(self.state.id);
        true
    }

    /// Puts a changed endpoint in the place of the one it was made from, in the routes first. `Gone`: that one is served no
    /// more, or was changed meanwhile.
    fn replace(
        &self,
        edge: &Edge,
        before: &Arc<Endpoint>,
        bound: Bound,
        enter: impl FnOnce(&RouteTable, Arc<Endpoint>) -> Result<(), AlreadyOnline>,
    ) -> Result<(), NotReplaced> {
        {
            // Under the lock: whoever takes the endpoint out does so before or after, and never misses the new one.
            let mut inner = self.inner();
            let place = inner.bound.iter_mut().find(|b| Arc::ptr_eq(&b.endpoint, before));
            let place = place.ok_or(NotReplaced::Gone)?;
            enter(&edge.routes, Arc::clone(&bound.endpoint)).map_err(NotReplaced::Taken)?;
            *place = bound;
        }
        edge.reports.session_changed(self.state.id);
        Ok(())
    }

    /// Judges an endpoint that was bound or changed under `judged` by Tables that came into force meanwhile: their
    /// recheck may have been too early to see it. Err: it may not be served.
    fn settle(&self, edge: &Edge, bind: &str, mut judged: Arc<Tables>) -> Result<(), Refusal> {
        loop {
            let now = edge.tables.load_full();
            if Arc::ptr_eq(&now, &judged) {
                return Ok(());
            }
            let bound = self.inner().bound.iter().find(|b| b.id == bind).cloned();
            let stopped =
                || Refusal { code: None, message: "the endpoint was stopped by a change meanwhile".into() };
            self.judge(edge, bound.ok_or_else(stopped)?, &judged, &now)?;
            judged = now;
        }
    }

    /// Whether an endpoint may be served under new Tables; compiles its policy anew if the account's objects changed.
    fn judge(&self, edge: &Edge, bound: Bound, old: &Tables, new: &Tables) -> Result<(), Refusal> {
        let identity = self.identity();
        let revoked =
            || Refusal::new(ErrorCode::CREDENTIAL_REVOKED, "the authtoken of this session was revoked");
        let credential = new.program.credentials.get(&identity.credential).ok_or_else(revoked)?;
        bind::still_permit(new, credential, &bound.endpoint)?;
        let references = new.references(identity.account);
        let Some(policy) =
            bound.policy.as_ref().filter(|_| !Arc::ptr_eq(&old.references(identity.account), &references))
        else {
            return Ok(());
        };
        let engine = Engine::compile(policy, &references)?;
        let before = Arc::clone(&bound.endpoint);
        let endpoint = Arc::new(with_engine(&before, Some(Arc::new(engine))));
        let put = |routes: &RouteTable, endpoint| {
            routes.put(endpoint);
            Ok(())
        };
        // Gone: whoever changed it judges it too.
        let _ = self.replace(edge, &before, Bound { endpoint, ..bound }, put);
        Ok(())
    }

    /// Takes an endpoint out of service.
    fn remove(&self, edge: &Edge, bind: &str) -> Option<Bound> {
        let removed = {
            let mut inner = self.inner();
            let at = inner.bound.iter().position(|b| b.id == bind)?;
            inner.bound.swap_remove(at)
        };
        release(edge, &removed);
        edge.reports.session_changed(self.state.id);
        Some(removed)
    }

    /// Ends the session: no new streams, endpoints gone, agent told. Once; later calls do nothing.
    pub fn end(&self, edge: &Edge, code: Code, message: &str) {
        self.state.end();
        let bound = {
            let mut inner = self.inner();
            if std::mem::replace(&mut inner.over, true) {
                return;
            }
            std::mem::take(&mut inner.bound)
        };
        for bound in &bound {
            release(edge, bound);
        }
        edge.sessions.remove(self);
        edge.metrics.sessions.dec();
        edge.reports.session_ended(self.state.id);
        edge.end_links(self.state.id);
        self.mux.goaway(code, message);
        tracing::info!(session = %self.state.id, client_id = self.client_id, reason = message, "agent session ended");
    }

    /// Whether the session may still be; else it is ended.
    fn recheck(&self, edge: &Edge, tables: &Tables) -> bool {
        let identity = self.identity();
        let credential = tables.program.credentials.get(&identity.credential);
        let credential = credential.filter(|credential| credential.account == identity.account);
        let admits = |ip| tables.restrictions.admit(identity.account, IpRestrictionKind::Agent, ip);
        // The Program may withdraw what it allowed, and allow it again; a session without key never has any.
        self.state.allow_raw(self.links.has_raw_key() && credential.is_some_and(links::may_pass_through));
        let why = match (credential, identity.ip.parse()) {
            (Some(_), Ok(source)) if admits(source) => return true,
            (Some(_), Ok(source)) => auth::not_admitted(source).text(),
            _ => error_text(
                "the authtoken of this session was revoked",
                ErrorCode::CREDENTIAL_REVOKED.number(),
            ),
        };
        self.end(edge, Code::NONE, &why);
        false
    }

    /// Takes an endpoint out of service and tells the agent why.
    fn stop_endpoint(&self, edge: &Edge, bind: &str, code: ErrorCode, message: &str) {
        let Some(removed) = self.remove(edge, bind) else { return };
        tracing::info!(session = %self.state.id, url = %removed.endpoint.url, reason = message, "endpoint stopped");
        let notice = StopTunnel { id: removed.id, message: message.into(), error_code: code.to_string() };
        let mux = self.mux.clone();
        edge.background.spawn(async move {
            let tell = async {
                if let Ok(stream) = mux.open(StreamKind::StopTunnel).await
                    && let Err(error) = notify(stream, &notice).await
                {
                    tracing::debug!(%error, "an agent did not hear that its endpoint stopped");
                }
            };
            // An agent that does not listen keeps an endpoint nobody reaches.
            let _ = timeout(Duration::from_secs(COMMAND_SECS_MAX), tell).await;
        });
    }
}

impl Present for AgentSession {
    fn report(&self) -> SessionReport {
        let (mut report, bound) = {
            let inner = self.inner();
            (inner.report.clone(), inner.bound.clone())
        };
        report.endpoints = bound.iter().map(|b| (b.endpoint.id, b.report())).collect();
        report
    }

    fn text_bytes(&self) -> usize {
        self.text_bytes.used()
    }
}

/// Bytes of an agent's free text in a report.
fn text_bytes(report: &AgentEndpointReport) -> usize {
    let AgentEndpointReport { name, description, metadata, forwards_to, traffic_policy, .. } = report;
    [name, description, metadata, forwards_to, traffic_policy].into_iter().map(String::len).sum()
}

/// The end of an endpoint that was added to its session.
fn release(edge: &Edge, bound: &Bound) {
    edge.metrics.agent_endpoints.dec();
    take_out(edge, bound);
}

fn take_out(edge: &Edge, bound: &Bound) {
    edge.routes.remove(&bound.endpoint);
    edge.occupant_changed(&bound.endpoint);
    if let Some(port) = bound.lent_port {
        edge.give_port_back(port);
    }
}

/// After a change of the Program: ends sessions that may no longer be, stops endpoints they may no longer serve, and
/// compiles policies anew whose account's objects changed.
pub fn recheck(edge: &Arc<Edge>, old: &Tables, new: &Tables) {
    for session in edge.sessions.all() {
        if !session.recheck(edge, new) {
            continue;
        }
        for bound in session.bound() {
            let id = bound.id.clone();
            if let Err(refusal) = session.judge(edge, bound, old, new) {
                let code = refusal.code.unwrap_or(ErrorCode::ACL_NAME);
                session.stop_endpoint(edge, &id, code, &refusal.message);
            }
        }
    }
}

/// The same endpoint under another policy.
fn with_engine(endpoint: &Endpoint, engine: Option<Arc<Engine>>) -> Endpoint {
    Endpoint {
        id: endpoint.id,
        account: endpoint.account,
        url: endpoint.url.clone(),
        binding: endpoint.binding,
        facts: Arc::clone(&endpoint.facts),
        engine,
        kind: match &endpoint.kind {
            Kind::Cloud => Kind::Cloud,
            Kind::Agent(agent) => Kind::Agent(agent.clone()),
        },
        upstream_http2: endpoint.upstream_http2,
        pooling_enabled: endpoint.pooling_enabled,
    }
}

/// Longest reason of an agent that travels to control, in bytes.
const REASON_BYTES_MAX: usize = 1024;

/// Asks an agent to stop, restart or update, and gives what it says.
pub async fn command(session: Arc<AgentSession>, command: SessionCommand) -> CommandOutcome {
    let id = session.state.id;
    let kind = match &command {
        SessionCommand::Stop => StreamKind::Stop,
        SessionCommand::Restart => StreamKind::Restart,
        SessionCommand::Update { .. } => StreamKind::Update,
    };
    // Control does not send what an agent refuses, unless it knew an older state of the session.
    if let Some(reason) = session.identity().refusals.of(&command) {
        tracing::warn!(session = %id, ?command, reason, "the agent does not take this command");
        return CommandOutcome::Failed { reason: reason.to_owned() };
    }
    let ask = async {
        let stream = session.mux.open(kind).await.map_err(|e| e.to_string())?;
        let reply = match command.clone() {
            SessionCommand::Update { version } => {
                call(stream, &Update { version, permit_major_version: false }).await
            }
            SessionCommand::Stop | SessionCommand::Restart => call(stream, &Empty {}).await,
        };
        let reply = Outcome::decode(reply.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
        if reply.error.is_empty() { Ok(()) } else { Err(reply.error) }
    };
    match timeout(Duration::from_secs(COMMAND_SECS_MAX), ask).await {
        Ok(Ok(())) => {
            tracing::info!(session = %id, ?command, "the agent took the command");
            CommandOutcome::Taken
        }
        // An agent that stops may do so before it answers.
        Ok(Err(_)) if session.mux.is_closed() && !matches!(command, SessionCommand::Update { .. }) => {
            tracing::info!(session = %id, ?command, "the agent ended its session at the command");
            CommandOutcome::Taken
        }
        Ok(Err(mut reason)) => {
            tracing::warn!(session = %id, ?command, error = reason, "the agent did not take the command");
            reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
            CommandOutcome::Failed { reason }
        }
        // Some agents without a handler never answer (wire.md section 4.3).
        Err(_) => {
            tracing::warn!(session = %id, ?command, "the agent did not answer the command");
            CommandOutcome::Unanswered
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
