//! What a session does with endpoints: bind, under a name of its own or one given away, and change while serving.
//!
//! `agents::bind` decides what may be; here it becomes an endpoint in the routes.

use std::sync::Arc;

use ebbgate_model::feed::{
    AgentEndpointReport, Drain, DrainReport, HealthReport, ServedElsewhere, SessionReport,
};
use ebbgate_model::{Binding, EndpointId, EndpointUrl, ErrorCode, Scheme};
use ebbgate_policy::{AgentFacts, CheckContext, EndpointFacts, Engine, MemberFacts, Owner, TlsSettings};
use ebbgate_wire::rpc::{Bind, BindReply, Family, PatchTunnelState, Requested};
use ebbgate_wire::ticket::BindToken;

use super::super::bind::{self, Has, Place, Wanted};
use super::super::own_tls::served_elsewhere;
use super::super::refusal::Refusal;
use super::super::secrets;
use super::super::session::{AgentSession, Bound, ENDPOINTS_MAX, NotReplaced, text_bytes, with_engine};
use super::{Connection, TEXT_BYTES_MAX, TICKET_SECS, short};
use tokio::time::Instant;

use crate::state::edge::Stage;
use crate::state::endpoint::{Endpoint, Kind};
use crate::state::route::{AlreadyOnline, RouteTable};
use crate::state::tables::Tables;
use crate::state::{clock, drains, random};
use crate::tunnel::health::{Against, Health, News};
use crate::tunnel::load::Load;
use crate::tunnel::session::AgentRef;

/// Random names tried before giving up.
const RANDOM_TRIES_MAX: usize = 8;
/// Times a patch is made anew because the endpoint changed under it.
const PATCH_TRIES_MAX: usize = 4;

impl Connection {
    pub(super) async fn bind(&self, session: &Arc<AgentSession>, bind: &Bind) -> BindReply {
        let mut unknown = None;
        if let (Ok(scheme), Ok(Some(policy))) = (bind.scheme(), bind.traffic_policy()) {
            // Names that are given away are public.
            let binding = match bind.requested() {
                Ok(Requested::Url(url)) => bind.binding(&url).unwrap_or(Binding::Public),
                _ => Binding::Public,
            };
            unknown = self.wait_for_secrets(session, &policy, scheme, binding).await;
        }
        match self.try_bind(session, bind) {
            Ok(reply) => reply,
            Err(refusal) => {
                let refusal = refusal.and(unknown);
                self.shard.edge().metrics.binds_refused.inc();
                tracing::info!(session = %session.state.id, code = ?refusal.code, reason = refusal.message, "bind refused");
                BindReply::refused(bind, refusal.text())
            }
        }
    }

    /// Waits for secrets that a policy names. Gives what is to be said if they are missing and nobody could be asked.
    async fn wait_for_secrets(
        &self,
        session: &AgentSession,
        policy: &str,
        scheme: Scheme,
        binding: Binding,
    ) -> Option<&'static str> {
        let context = CheckContext { scheme, binding, owner: Owner::Agent };
        let account = session.account();
        let is_here = secrets::wait_for(&self.agents, self.peer, account, policy, context).await;
        let is_alone = self.shard.edge().metrics.feed_connected.get() == 0;
        (!is_here && is_alone).then_some("control cannot be reached now: try again when it is back")
    }

    fn try_bind(&self, session: &Arc<AgentSession>, bind: &Bind) -> Result<BindReply, Refusal> {
        let edge = self.shard.edge();
        let now_s = clock::unix_ms() / 1000;
        let tables = edge.tables.load_full();
        let identity = session.identity();
        let credential = tables.credential_spec(identity.credential);
        let credential = credential.filter(|c| c.account == identity.account).ok_or_else(|| {
            Refusal::new(ErrorCode::CREDENTIAL_REVOKED, "the authtoken of this session was revoked")
        })?;
        if session.bound_count() >= ENDPOINTS_MAX {
            return Err(Refusal {
                code: None,
                message: format!("a session serves at most {ENDPOINTS_MAX} endpoints"),
            });
        }
        let token = BindToken::open(bind.extra.token.expose(), &edge.tickets, now_s).ok();
        let token = token.filter(|token| token.client_id == session.client_id);
        let wanted = bind::decide(bind, &tables, credential, token.as_ref(), &Has::of(edge))?;
        let references = tables.references(identity.account);
        let engine = wanted.policy.as_ref().map(|policy| Engine::compile(policy, &references)).transpose()?;
        let engine = engine.map(Arc::new);
        let bind_id = if bind.id.is_empty() { random::ksuid().to_string() } else { short(&bind.id) };
        let own = wanted.tls_termination.as_ref().and_then(|settings| settings.certificate.as_ref());
        if let Some(certificate) = own.filter(|_| edge.stage() > Stage::Serving)
            && !(self.agents.staying.takes_keys() && session.has_room_for(&bind_id, certificate))
        {
            let message =
                "another process of the edge serves now, which has no key of this certificate; connect anew";
            return Err(Refusal { code: None, message: message.into() });
        }
        session.remove(edge, &bind_id);
        let text = session.keep(text_bytes_max(bind, &wanted))?;
        let make = |url: EndpointUrl| {
            self.endpoint(session, bind, &bind_id, &identity, &wanted, engine.clone(), url)
        };
        let (endpoint, lent_port) = self.put_in_service(&wanted.place, make)?;
        let report = report(bind, &wanted, &endpoint, lent_port, now_s);
        let bound = Bound {
            id: bind_id.clone(),
            endpoint: Arc::clone(&endpoint),
            lent_port,
            report: Arc::new(report),
            policy: wanted.policy.map(Arc::new),
            guard: wanted.guard.map(Arc::new),
            _text: text,
        };
        if !session.add(edge, bound) {
            self.take_out(&endpoint, lent_port);
            return Err(Refusal { code: None, message: "the session has ended".into() });
        }
        self.agents.peers.is_home(edge, &endpoint);
        // A word that was said during the bind found no endpoint.
        session.drained_anew(edge, &bind_id);
        session
            .recheck_endpoint(edge, &bind_id, tables)
            .inspect_err(|_| drop(session.remove(edge, &bind_id)))?;
        tracing::info!(session = %session.state.id, endpoint = %endpoint.id, url = %endpoint.url, "endpoint online");
        let token = BindToken {
            client_id: session.client_id.clone(),
            bind_id: bind_id.clone(),
            url: endpoint.url.to_string(),
            expires_unix_s: now_s + TICKET_SECS,
        };
        let tunnel_id = format!("tn_{}", endpoint.id.ksuid());
        Ok(bind.reply(bind_id, &endpoint.url, token.seal(&edge.tickets), tunnel_id))
    }

    /// Adds the endpoint to the routes, under a free random name or port if that is what is wanted.
    fn put_in_service(
        &self,
        place: &Place,
        make: impl Fn(EndpointUrl) -> Arc<Endpoint>,
    ) -> Result<(Arc<Endpoint>, Option<u16>), Refusal> {
        let edge = self.shard.edge();
        let enter = |endpoint: Arc<Endpoint>| {
            let taken =
                |e: AlreadyOnline| Refusal::new(ErrorCode::ALREADY_ONLINE, format!("{}: {e}", endpoint.url));
            edge.routes.bind(Arc::clone(&endpoint)).map_err(taken)?;
            edge.occupant_changed(&endpoint);
            Ok(endpoint)
        };
        let try_url = |url: EndpointUrl| enter(make(url));
        let none =
            |what: &str| Refusal::new(bind::CODE_NO_RANDOM, format!("this server has no {what} to give"));
        match place {
            Place::LentAgain(url) if url.scheme() == Scheme::Tcp => {
                let endpoint = make(url.clone());
                // It may be open here already, for the same agent at an older process.
                let before = (edge.stage() <= Stage::Serving).then(|| self.agents.peers.take_lent(&endpoint));
                let port = before.flatten().or_else(|| edge.lend_port(Some(url.port())));
                let port = port.ok_or_else(|| none("such port"))?;
                let bound = enter(Arc::clone(&endpoint)).inspect_err(|_| self.leave_port(&endpoint, port));
                Ok((bound?, Some(port)))
            }
            Place::At(url) | Place::LentAgain(url) => Ok((try_url(url.clone())?, None)),
            Place::RandomName(scheme, domain) => (0..RANDOM_TRIES_MAX)
                .filter_map(|_| bind::random_name(*scheme, domain, random::number()))
                .find_map(|url| try_url(url).ok())
                .map(|endpoint| (endpoint, None))
                .ok_or_else(|| none("random name")),
            Place::RandomPort => {
                let host = edge.tables.load().settings.tcp_host.clone();
                let host = host.ok_or_else(|| none("random port"))?;
                let port = edge.lend_port(None).ok_or_else(|| none("random port"))?;
                let url = EndpointUrl::new(Scheme::Tcp, host, port).map_err(|_| none("random port"))?;
                try_url(url).map(|endpoint| (endpoint, Some(port))).inspect_err(|_| edge.give_port_back(port))
            }
        }
    }

    /// The end of an endpoint that was not added to its session.
    fn take_out(&self, endpoint: &Endpoint, lent_port: Option<u16>) {
        let edge = self.shard.edge();
        edge.routes.remove(endpoint);
        edge.occupant_changed(endpoint);
        if let Some(port) = lent_port {
            self.leave_port(endpoint, port);
        }
    }

    /// An endpoint does not get the port that was lent for it: the endpoint that had it before has it again.
    fn leave_port(&self, endpoint: &Endpoint, port: u16) {
        if !self.agents.peers.return_lent(endpoint, port) {
            self.shard.edge().give_port_back(port);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "an endpoint is made of all of these, once")]
    fn endpoint(
        &self,
        session: &AgentSession,
        bind: &Bind,
        bind_id: &str,
        identity: &SessionReport,
        wanted: &Wanted,
        engine: Option<Arc<Engine>>,
        url: EndpointUrl,
    ) -> Arc<Endpoint> {
        let id = EndpointId::new(random::ksuid());
        let known_by = known_by(session, identity, bind, bind_id);
        Arc::new(Endpoint {
            id,
            account: identity.account,
            binding: wanted.binding,
            facts: facts(
                id,
                &url,
                &session.labels,
                &bind.extra.name,
                &bind.extra.description,
                &bind.extra.metadata,
            ),
            engine,
            kind: Kind::Agent(AgentRef {
                session: Arc::clone(&session.state),
                bind: bind_id.into(),
                proxy_protocol: wanted.proxy_protocol,
                tls_termination: wanted.tls_termination.clone(),
                health: self.health(session, &url, &drains::member(identity.account, &known_by)),
                shows_client: bind.extra.shows_client
                    || Family::from_user_agent(&identity.user_agent) != Family::Ebbgate,
                identity: known_by,
                load: Arc::default(),
                elsewhere: None,
            }),
            own_load: Load::default(),
            upstream_http2: bind.upstream_is_http2(),
            pooling_enabled: bind.extra.pooling_enabled,
            url,
        })
    }

    /// The health of a new endpoint. The edge counts and logs its changes, and tells control. `member`: its name in drains.
    fn health(&self, session: &AgentSession, url: &EndpointUrl, member: &str) -> Arc<Health> {
        let slow_start = self.shard.edge().outliers.slow_start;
        let account = session.account();
        let (edge, session, url) = (Arc::downgrade(self.shard.edge()), session.state.id, url.clone());
        let on_change = move |against: Against, news: News| {
            let Some(edge) = edge.upgrade() else { return };
            let (gauge, out) = match against {
                Against::Refused => {
                    (&edge.metrics.endpoints_aside, "set aside: the agent could not reach its upstream")
                }
                Against::Checks => {
                    (&edge.metrics.endpoints_unhealthy, "unhealthy: the agent's checks of its upstream fail")
                }
                Against::Errors => {
                    (&edge.metrics.endpoints_ejected, "ejected: it answered too many requests with errors")
                }
                Against::Drain => (&edge.metrics.endpoints_drained, "drained by an operator"),
            };
            match news {
                News::Begins => {
                    gauge.inc();
                    tracing::info!(%session, %url, "{out}");
                }
                News::Ends => {
                    gauge.dec();
                    tracing::info!(%session, %url, "no longer {out}");
                }
                News::Gone => {
                    gauge.dec();
                }
            }
            edge.health_changed(session);
        };
        let now = Instant::now();
        let health = Health::new(slow_start, Box::new(on_change)).starting(now);
        health.set_drain(now, self.shard.edge().drains.get(account, member));
        Arc::new(health)
    }

    /// Changes a served endpoint; all or nothing.
    pub(super) async fn patch(
        &self,
        session: &AgentSession,
        patch: &PatchTunnelState,
    ) -> Result<(), Refusal> {
        let edge = self.shard.edge();
        let refused = |message: String| Refusal { code: None, message };
        let is_it = |b: &Bound| format!("tn_{}", b.endpoint.id.ksuid()) == patch.tunnel_id;
        let served = session.bound().into_iter().find(is_it).map(|bound| bound.endpoint);
        let mut unknown = None;
        if let (Some(endpoint), Some(policy)) = (served, &patch.traffic_policy) {
            unknown = self.wait_for_secrets(session, policy, endpoint.url.scheme(), endpoint.binding).await;
        }
        let tables = edge.tables.load_full();
        for _ in 0..PATCH_TRIES_MAX {
            let bound = session.bound().into_iter().find(is_it);
            let bound =
                bound.ok_or_else(|| refused(format!("no endpoint {} is bound here", patch.tunnel_id)))?;
            let (id, before) = (bound.id.clone(), Arc::clone(&bound.endpoint));
            let bound = changed(session, bound, patch, &tables, &Has::of(edge))
                .map_err(|refusal| refusal.and(unknown))?;
            match session.replace(edge, &before, bound, RouteTable::bind) {
                Ok(()) => {
                    edge.occupant_changed(&before);
                    return session.recheck_endpoint(edge, &id, tables).inspect_err(|refusal| {
                        let code = refusal.code.unwrap_or(ErrorCode::ACL_NAME);
                        session.stop_endpoint(edge, &id, code, &refusal.message);
                    });
                }
                Err(NotReplaced::Taken(e)) => {
                    return Err(Refusal::new(ErrorCode::ALREADY_ONLINE, e.to_string()));
                }
                // A change of the Program came in between.
                Err(NotReplaced::Gone) => {}
            }
        }
        Err(refused(format!("{} changed meanwhile; try again", patch.tunnel_id)))
    }
}

/// The endpoint as a patch wants it.
fn changed(
    session: &AgentSession,
    bound: Bound,
    patch: &PatchTunnelState,
    tables: &Tables,
    has: &Has,
) -> Result<Bound, Refusal> {
    let (mut report, mut policy) = (AgentEndpointReport::clone(&bound.report), bound.policy.clone());
    let mut engine = bound.endpoint.engine.clone();
    if let Some(text) = &patch.traffic_policy {
        let Endpoint { url, binding, account, .. } = bound.endpoint.as_ref();
        policy = bind::policy(text, bound.guard.as_deref(), url.scheme(), *binding, has)?.map(Arc::new);
        let references = tables.references(*account);
        let compiled = policy.as_ref().map(|policy| Engine::compile(policy, &references)).transpose()?;
        engine = compiled.map(Arc::new);
        report.traffic_policy.clone_from(text);
    }
    let mut endpoint = with_engine(&bound.endpoint, engine);
    if let Some(pooling_enabled) = patch.pooling_enabled {
        endpoint.pooling_enabled = pooling_enabled;
        report.pooling_enabled = pooling_enabled;
    }
    for (field, new) in [
        (&mut report.name, &patch.name),
        (&mut report.description, &patch.description),
        (&mut report.metadata, &patch.metadata),
    ] {
        if let Some(new) = new {
            *field = short(new);
        }
    }
    let AgentEndpointReport { name, description, metadata, .. } = &report;
    endpoint.facts = facts(endpoint.id, &endpoint.url, &session.labels, name, description, metadata);
    let text = session.keep(text_bytes(&report))?;
    Ok(Bound { endpoint: Arc::new(endpoint), policy, report: Arc::new(report), _text: text, ..bound })
}

/// What selectors of policies may read of an endpoint and its agent.
fn facts(
    id: EndpointId,
    url: &EndpointUrl,
    agent: &Arc<AgentFacts>,
    name: &str,
    description: &str,
    metadata: &str,
) -> Arc<EndpointFacts> {
    let member = MemberFacts {
        name: short(name),
        description: short(description),
        metadata: short(metadata),
        agent: Arc::clone(agent),
    };
    Arc::new(EndpointFacts {
        member: Some(Box::new(member)),
        ..EndpointFacts::new(id.to_string(), url.clone())
    })
}

/// What [`report`] keeps of a Bind at most.
fn text_bytes_max(bind: &Bind, wanted: &Wanted) -> usize {
    let length = |text: &String| text.len().min(TEXT_BYTES_MAX);
    let labels = [&bind.extra.name, &bind.extra.description, &bind.extra.metadata].map(length);
    // Labels are kept for the report and for selectors.
    2 * labels.iter().sum::<usize>() + length(&bind.forwards_to) + wanted.policy_text.len()
}

/// What another edge needs to serve the endpoint. None: certificate and key are the agent's own.
fn elsewhere(wanted: &Wanted, endpoint: &Endpoint, lent_port: Option<u16>) -> Option<Box<ServedElsewhere>> {
    let Kind::Agent(agent) = &endpoint.kind else { return None };
    let has_own = |settings: &Arc<TlsSettings>| settings.certificate.is_some();
    if agent.tls_termination.as_ref().is_some_and(has_own) {
        return None;
    }
    Some(Box::new(served_elsewhere(agent, wanted.guard.as_ref(), lent_port.is_some())))
}

/// By what operators know the endpoint; what they said of it is added when it is reported.
fn drain(endpoint: &Endpoint) -> Option<Box<DrainReport>> {
    let Kind::Agent(agent) = &endpoint.kind else { return None };
    let member = drains::member(endpoint.account, &agent.identity);
    Some(Box::new(DrainReport::new(member, Drain::default())))
}

fn report(
    bind: &Bind,
    wanted: &Wanted,
    endpoint: &Endpoint,
    lent_port: Option<u16>,
    now_s: i64,
) -> AgentEndpointReport {
    AgentEndpointReport {
        url: endpoint.url.clone(),
        binding: endpoint.binding,
        name: short(&bind.extra.name),
        description: short(&bind.extra.description),
        metadata: short(&bind.extra.metadata),
        pooling_enabled: endpoint.pooling_enabled,
        forwards_to: short(&bind.forwards_to),
        upstream_protocol: if endpoint.upstream_http2 { "http2" } else { "http1" }.into(),
        traffic_policy: wanted.policy_text.clone(),
        created_at: now_s,
        upstream_refused: false,
        health: HealthReport::default(),
        drain: drain(endpoint),
        elsewhere: elsewhere(wanted, endpoint, lent_port),
    }
}

/// By what the process that serves an endpoint is known again: at other edges too, where it names itself.
fn known_by(session: &AgentSession, report: &SessionReport, bind: &Bind, bind_id: &str) -> Box<str> {
    let known = match bind.extra.number {
        number @ 1.. if !session.process.is_empty() => {
            format!("{}/{}/{number}", report.credential, session.process)
        }
        _ => format!("{}/{bind_id}", session.client_id),
    };
    known.into()
}
