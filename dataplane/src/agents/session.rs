//! A session that has authenticated: what it serves, and its end.
//!
//! Knows neither how it was let in (`auth`, `serve`) nor the other sessions (`registry`).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ebbgate_model::feed::{AgentEndpointReport, Drain, DrainReport, SessionReport};
use ebbgate_model::{AccountId, EndpointId, ErrorCode, IpRestrictionKind, TrafficPolicy};
use ebbgate_policy::{AgentFacts, Engine, ServerCertificate};
use ebbgate_tunnel::driver;
use ebbgate_tunnel::rpc_io::notify;
use ebbgate_wire::mux::Code;
use ebbgate_wire::rpc::{EndpointHealth, StopTunnel, StreamKind, error_text};
use tokio::time::{Duration, Instant, timeout};

use super::allowance::{self, Allowance, Counter, Permit};
use super::own_tls::{OwnTls, Room};
use super::refusal::Refusal;
use super::session_links::{SessionLinks, may_pass_through};
use super::{auth, bind};
use crate::state::clock;
use crate::state::edge::Edge;
use crate::state::endpoint::{Endpoint, Kind};
use crate::state::report::Present;
use crate::state::route::{AlreadyOnline, RouteTable};
use crate::state::tables::Tables;
use crate::tunnel::load::Load;
use crate::tunnel::session::SessionState;

/// Seconds an agent may take to answer or hear a request of ours.
pub(super) const COMMAND_SECS_MAX: u64 = 10;
/// Most endpoints one session may serve.
pub const ENDPOINTS_MAX: usize = 1000;

/// Bytes kept of what an agent says of a check.
const CHECK_BYTES_MAX: usize = 16;
/// Bytes kept of why a check failed.
const REASON_BYTES_MAX: usize = 256;

/// A session that has authenticated. Shared by all shards; its streams are opened on one.
pub struct AgentSession {
    /// What other shards may know.
    pub state: Arc<SessionState>,
    /// Whether the agent can hold sessions at other edges beside this one.
    pub(super) several_edges: bool,
    /// Of the agent's process, the same in its sessions at other edges; empty: it is not told.
    pub(super) process: String,
    /// Stable over reconnects.
    pub client_id: String,
    /// What selectors of policies may read of the agent.
    pub(super) labels: Arc<AgentFacts>,
    pub(super) mux: driver::Session,
    /// Whether the agent takes a Move.
    pub(super) moves: bool,
    pub(super) allowance: Allowance,
    pub(super) text_bytes: Arc<Counter>,
    pub(super) links: SessionLinks,
    /// Its permits: one of its account's sessions, and the bytes of its text.
    pub(super) _taken: (Permit, Text),
    pub(super) inner: Mutex<Inner>,
}

/// Bytes of text kept, counted for the session and for its account.
pub(super) type Text = (Permit, Permit);

pub(super) struct Inner {
    pub(super) report: SessionReport,
    pub(super) bound: Vec<Bound>,
    pub(super) over: bool,
}

/// One endpoint that a session serves.
#[derive(Clone)]
pub(super) struct Bound {
    /// The bind's name in the session.
    pub(super) id: String,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) policy: Option<Arc<TrafficPolicy>>,
    /// What stays in front of every policy the agent changes to.
    pub(super) guard: Option<Arc<TrafficPolicy>>,
    pub(super) lent_port: Option<u16>,
    pub(super) report: Arc<AgentEndpointReport>,
    pub(super) _text: Arc<Text>,
}

impl Bound {
    /// What another process of this edge needs to serve it with the agent's own certificate.
    fn own_tls(&self, room: &mut Room) -> Option<OwnTls> {
        let Kind::Agent(agent) = &self.endpoint.kind else { return None };
        OwnTls::of(agent, self.guard.as_deref(), self.lent_port.is_some(), room)
    }

    /// What the API shows of it now.
    fn report(&self) -> AgentEndpointReport {
        let report = AgentEndpointReport::clone(&self.report);
        let Kind::Agent(agent) = &self.endpoint.kind else { return report };
        let health = agent.health.report(Instant::now(), clock::unix_ms());
        let drain = report.drain.as_ref();
        let drain = drain.map(|said| {
            let word = agent.health.drain();
            let unhealthy = word.drained && agent.health.is_unhealthy();
            Box::new(DrainReport { unhealthy, ..DrainReport::new(said.member.clone(), word) })
        });
        AgentEndpointReport { upstream_refused: agent.health.is_aside(), health, drain, ..report }
    }
}

/// Why an endpoint was not replaced.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotReplaced {
    /// It is not what is served now.
    Gone,
    /// Another endpoint has its URL.
    Taken(AlreadyOnline),
}

impl AgentSession {
    /// What the API shows, without endpoints.
    pub(super) fn identity(&self) -> SessionReport {
        self.inner().report.clone()
    }

    /// Its account.
    pub fn account(&self) -> AccountId {
        self.inner().report.account
    }

    /// The agent goes on under another address.
    pub(super) fn moved(&self, edge: &Edge, source: IpAddr) {
        self.inner().report.ip = source.to_string();
        edge.reports.session_changed(self.state.id);
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn bound(&self) -> Vec<Bound> {
        self.inner().bound.clone()
    }

    /// An endpoint that it serves.
    pub(super) fn endpoint(&self, id: EndpointId) -> Option<Arc<Endpoint>> {
        let inner = self.inner();
        inner.bound.iter().map(|bound| &bound.endpoint).find(|endpoint| endpoint.id == id).cloned()
    }

    pub(super) fn bound_count(&self) -> usize {
        self.inner().bound.len()
    }

    /// Counts bytes of text of an endpoint that are to be kept.
    pub(super) fn keep(&self, bytes: usize) -> Result<Arc<Text>, Refusal> {
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
    pub(super) fn publish(self: &Arc<Self>, edge: &Edge) {
        let inner = self.inner();
        if !inner.over {
            edge.reports.session(self.state.id, Arc::clone(self) as Arc<dyn Present>);
        }
    }

    /// Adds an endpoint that is in the routes already. False: the session is over, take it out again.
    pub(super) fn add(&self, edge: &Edge, bound: Bound) -> bool {
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
    pub(super) fn replace(
        &self,
        edge: &Edge,
        before: &Arc<Endpoint>,
        bound: Bound,
        enter: impl FnOnce(&RouteTable, Arc<Endpoint>) -> Result<(), AlreadyOnline>,
    ) -> Result<(), NotReplaced> {
        {
            // Under the lock: a removal happens before or after, and never misses the new endpoint.
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
    pub(super) fn recheck_endpoint(
        &self,
        edge: &Edge,
        bind: &str,
        mut judged: Arc<Tables>,
    ) -> Result<(), Refusal> {
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
    pub(super) fn judge(&self, edge: &Edge, bound: Bound, old: &Tables, new: &Tables) -> Result<(), Refusal> {
        let identity = self.identity();
        let revoked =
            || Refusal::new(ErrorCode::CREDENTIAL_REVOKED, "the authtoken of this session was revoked");
        let credential = new.credential_spec(identity.credential).ok_or_else(revoked)?;
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
        // Gone: the task that changed it judges it too.
        let _ = self.replace(edge, &before, Bound { endpoint, ..bound }, put);
        Ok(())
    }

    /// The agent said what checks of an endpoint's upstream come to. False: no such endpoint is bound.
    pub(super) fn checked(&self, edge: &Arc<Edge>, said: &EndpointHealth) -> bool {
        let bound = self.inner().bound.iter().find(|bound| bound.id == said.id).cloned();
        let Some(bound) = bound else { return false };
        if let Kind::Agent(agent) = &bound.endpoint.kind {
            let cut =
                |text: &str, max| text.get(..text.floor_char_boundary(max)).unwrap_or_default().to_owned();
            let (check, reason) = (cut(&said.check, CHECK_BYTES_MAX), cut(&said.reason, REASON_BYTES_MAX));
            if agent.health.checked(Instant::now(), said.healthy, check, reason) {
                edge.health_changed(self.state.id);
            }
        }
        true
    }

    /// By what an endpoint of this session is known in operators' words, and the last word on it. None: it is not served here.
    pub(super) fn member(&self, id: EndpointId) -> Option<(String, Drain)> {
        let inner = self.inner();
        let bound = inner.bound.iter().find(|bound| bound.endpoint.id == id)?;
        let Kind::Agent(agent) = &bound.endpoint.kind else { return None };
        bound.report.drain.as_ref().map(|said| (said.member.clone(), agent.health.drain()))
    }

    /// Takes over the operator's word on what was just bound.
    pub(super) fn drained_anew(&self, edge: &Edge, bind: &str) {
        let bound = self.inner().bound.iter().find(|bound| bound.id == bind).cloned();
        let Some(Bound { endpoint, report, .. }) = bound else { return };
        if let (Kind::Agent(agent), Some(said)) = (&endpoint.kind, &report.drain) {
            agent.health.set_drain(Instant::now(), edge.drains.get(endpoint.account, &said.member));
        }
    }

    /// There is an operator's word on a member: it holds for what of it is bound here, and control is told.
    pub(super) fn drained(&self, edge: &Edge, member: &str, now: Instant) {
        let is_it = |bound: &&Bound| bound.report.drain.as_ref().is_some_and(|said| said.member == member);
        let found: Vec<_> = {
            let inner = self.inner();
            inner.bound.iter().filter(is_it).map(|bound| Arc::clone(&bound.endpoint)).collect()
        };
        for endpoint in &found {
            if let Kind::Agent(agent) = &endpoint.kind {
                agent.health.set_drain(now, edge.drains.get(endpoint.account, member));
            }
        }
        if !found.is_empty() {
            edge.reports.session_changed(self.state.id);
        }
    }

    /// Takes an endpoint out of service.
    pub(super) fn remove(&self, edge: &Edge, bind: &str) -> Option<Bound> {
        let removed = {
            let mut inner = self.inner();
            let at = inner.bound.iter().position(|b| b.id == bind)?;
            inner.bound.swap_remove(at)
        };
        release(edge, &removed);
        edge.reports.session_changed(self.state.id);
        Some(removed)
    }

    /// Ends the session: no new streams, endpoints removed, agent notified. Once; later calls do nothing.
    pub(super) fn end(&self, edge: &Edge, code: Code, message: &str) {
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
        edge.metrics.sessions.dec();
        edge.reports.session_ended(self.state.id);
        edge.mailboxes.end_links(self.state.id);
        self.mux.goaway(code, message);
        tracing::info!(session = %self.state.id, client_id = self.client_id, reason = message, "agent session ended");
    }

    /// Whether the session may be under these Tables; else the reason, as agents read it.
    pub(super) fn check(&self, tables: &Tables) -> Result<(), String> {
        let identity = self.identity();
        let credential = tables.credential_spec(identity.credential);
        let credential = credential.filter(|credential| credential.account == identity.account);
        let admits = |ip| tables.restrictions.admit(identity.account, IpRestrictionKind::Agent, ip);
        self.state.allow_raw(self.links.has_raw_key() && credential.is_some_and(may_pass_through));
        match (credential, identity.ip.parse()) {
            (Some(_), Ok(source)) if admits(source) => Ok(()),
            (Some(_), Ok(source)) => Err(auth::not_admitted(source).text()),
            _ => Err(error_text(
                "the authtoken of this session was revoked",
                ErrorCode::CREDENTIAL_REVOKED.number(),
            )),
        }
    }

    /// Takes an endpoint out of service and tells the agent why.
    pub(super) fn stop_endpoint(&self, edge: &Edge, bind: &str, code: ErrorCode, message: &str) {
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
            // An agent that does not listen keeps an endpoint that no client reaches.
            let _ = timeout(Duration::from_secs(COMMAND_SECS_MAX), tell).await;
        });
    }
}

impl AgentSession {
    /// What control is told of it.
    pub(super) fn reported(&self) -> SessionReport {
        let (mut report, bound) = {
            let inner = self.inner();
            (inner.report.clone(), inner.bound.clone())
        };
        report.endpoints = bound.iter().map(|b| (b.endpoint.id, b.report())).collect();
        report
    }

    /// What another process of this edge needs to serve endpoints with the agent's own certificates.
    pub(super) fn own_tls(&self) -> BTreeMap<EndpointId, OwnTls> {
        own_tls(&self.inner().bound.clone())
    }

    /// Whether another process can be told a certificate and its key too, in the place of those of a bind.
    pub(super) fn has_room_for(&self, bind_id: &str, certificate: &ServerCertificate) -> bool {
        let mut room = Room::default();
        for bound in self.inner().bound.iter().filter(|bound| bound.id != bind_id) {
            let _ = bound.own_tls(&mut room);
        }
        room.take(certificate)
    }

    /// Whether another process can serve all its endpoints through this one. `takes_keys`: it is told the keys of those that brought
    /// their own.
    pub(super) fn is_served_through(&self, takes_keys: bool) -> bool {
        let bound = self.inner().bound.clone();
        let told = if takes_keys { own_tls(&bound) } else { BTreeMap::new() };
        let serves =
            |bound: &Bound| bound.report.elsewhere.is_some() || told.contains_key(&bound.endpoint.id);
        bound.iter().all(serves)
    }
}

/// What another process needs for those with the agent's own certificate, as far as there is room.
fn own_tls(bound: &[Bound]) -> BTreeMap<EndpointId, OwnTls> {
    let mut room = Room::default();
    bound.iter().filter_map(|bound| Some((bound.endpoint.id, bound.own_tls(&mut room)?))).collect()
}

impl Present for AgentSession {
    fn report(&self) -> SessionReport {
        self.reported()
    }

    fn text_bytes(&self) -> usize {
        self.text_bytes.used() + self.bound_count() * (CHECK_BYTES_MAX + REASON_BYTES_MAX)
    }
}

/// Bytes of text in a report at most, as a session counts its own.
pub(super) fn report_text_bytes(report: &SessionReport) -> usize {
    let SessionReport { agent_version, user_agent, os, metadata, refusals, endpoints, .. } = report;
    let reasons = [&refusals.stop, &refusals.restart, &refusals.update].into_iter().flatten();
    let own: usize =
        [agent_version, user_agent, os, metadata].into_iter().chain(reasons).map(String::len).sum();
    let of_endpoints: usize = endpoints.values().map(text_bytes).sum();
    own + of_endpoints + endpoints.len() * (CHECK_BYTES_MAX + REASON_BYTES_MAX)
}

/// Bytes of an agent's free text in a report and beside it.
pub(super) fn text_bytes(report: &AgentEndpointReport) -> usize {
    let AgentEndpointReport { name, description, metadata, forwards_to, traffic_policy, .. } = report;
    // Labels are kept for selectors too.
    let labels: usize = [name, description, metadata].into_iter().map(String::len).sum();
    2 * labels + forwards_to.len() + traffic_policy.len()
}

/// The end of an endpoint that was added to its session.
fn release(edge: &Edge, bound: &Bound) {
    edge.metrics.agent_endpoints.dec();
    edge.routes.remove(&bound.endpoint);
    edge.occupant_changed(&bound.endpoint);
    if let Some(port) = bound.lent_port {
        edge.give_port_back(port);
    }
}

/// The same endpoint under another policy.
pub(super) fn with_engine(endpoint: &Endpoint, engine: Option<Arc<Engine>>) -> Endpoint {
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
        own_load: Load::default(),
    }
}

#[cfg(test)]
mod tests;
