//! What an agent's session at another edge offers here: its endpoints, as far as this edge's own Tables permit them.
//!
//! The other edge is not believed: the credential, the account, its reservations and the policy are judged here as those of
//! an agent of this edge are. Knows neither routes nor connections.

use std::sync::Arc;

use ebbgate_model::feed::{AgentEndpointReport, ServedElsewhere, SessionReport, SharedBy};
use ebbgate_model::{EndpointId, Scheme};
use ebbgate_policy::{AgentFacts, EndpointFacts, Engine, MemberFacts};

use super::super::bind::{self, Has};
use super::super::own_tls::OwnTls;
use super::super::refusal::Refusal;
use super::super::session_links::may_pass_through;
use crate::net::tls::default_settings;
use crate::state::endpoint::{Endpoint, Kind};
use crate::state::tables::Tables;
use crate::tunnel::load::Load;
use crate::tunnel::peer::Elsewhere;
use crate::tunnel::session::{AgentRef, ProxyProtocol, SessionState};

/// An endpoint of an agent elsewhere.
pub(super) struct Offer<'a> {
    /// The way to its edge.
    pub(super) way: &'a Arc<SessionState>,
    /// Where it is.
    pub(super) at: Elsewhere,
    /// Its agent.
    pub(super) session: &'a SessionReport,
    /// What is said of it.
    pub(super) report: &'a AgentEndpointReport,
    /// What an older process of this edge told of its certificate.
    pub(super) own_tls: Option<&'a OwnTls>,
    /// The same endpoint as it was served before.
    pub(super) before: Option<&'a Endpoint>,
}

impl Offer<'_> {
    /// The endpoint as it is served here. Err: this edge does not serve it.
    pub(super) fn endpoint(&self, tables: &Tables, has: &Has) -> Result<Arc<Endpoint>, Refusal> {
        let Self { session, report, .. } = self;
        let refused = |message: &str| Refusal { code: None, message: message.to_owned() };
        let elsewhere = report.elsewhere.as_deref().or(self.own_tls.map(|own| &own.elsewhere));
        let elsewhere = elsewhere.ok_or_else(|| refused("its own edge alone can serve it"))?;
        let credential = tables.credential_spec(session.credential).filter(|c| c.account == session.account);
        let credential = credential.ok_or_else(|| refused("its credential is not known here"))?;
        let references = tables.references(session.account);
        let guard = elsewhere.guard.as_ref();
        let policy = bind::policy(&report.traffic_policy, guard, report.url.scheme(), report.binding, has)?;
        let engine = policy.as_ref().map(|policy| Engine::compile(policy, &references)).transpose()?;
        let endpoint = self.with(elsewhere, engine.map(Arc::new));
        bind::still_permit(tables, credential, &endpoint)?;
        Ok(Arc::new(endpoint))
    }

    fn with(&self, elsewhere: &ServedElsewhere, engine: Option<Arc<Engine>>) -> Endpoint {
        let Self { session, report, at, .. } = self;
        let before = match self.before.map(|endpoint| &endpoint.kind) {
            Some(Kind::Agent(agent)) => Some(agent),
            _ => None,
        };
        Endpoint {
            id: at.endpoint,
            account: session.account,
            url: report.url.clone(),
            binding: report.binding,
            facts: facts(at.endpoint, session, report),
            engine,
            kind: Kind::Agent(AgentRef {
                session: Arc::clone(self.way),
                bind: "".into(),
                // Which version is the business of its own edge, which makes the header.
                proxy_protocol: (elsewhere.shared_by == SharedBy::Visitor).then_some(ProxyProtocol::V2),
                tls_termination: (elsewhere.ends_tls && report.url.scheme() == Scheme::Tls)
                    .then(|| self.own_tls.map_or_else(default_settings, OwnTls::settings)),
                health: before.map_or_else(Arc::default, |agent| Arc::clone(&agent.health)),
                shows_client: elsewhere.shared_by == SharedBy::Source,
                identity: elsewhere.identity.as_str().into(),
                load: before.map_or_else(Arc::default, |agent| Arc::clone(&agent.load)),
                elsewhere: Some(Box::new(*at)),
            }),
            upstream_http2: report.upstream_protocol == "http2",
            pooling_enabled: report.pooling_enabled,
            own_load: Load::default(),
        }
    }
}

/// Whether an endpoint may still be served as it is under these Tables.
pub(super) fn may_stay(tables: &Tables, session: &SessionReport, endpoint: &Endpoint) -> bool {
    let credential = tables.credential_spec(session.credential).filter(|c| c.account == session.account);
    let passes = |at: &Elsewhere| at.passes_bare == passes_bare(tables, session);
    let is_as_bare =
        matches!(&endpoint.kind, Kind::Agent(agent) if agent.elsewhere.as_deref().is_none_or(passes));
    is_as_bare
        && credential.is_some_and(|credential| bind::still_permit(tables, credential, endpoint).is_ok())
}

/// Whether a visitor's own TLS may travel to the agent without a second encryption.
pub(super) fn passes_bare(tables: &Tables, session: &SessionReport) -> bool {
    tables.credential_spec(session.credential).is_some_and(may_pass_through)
}

fn facts(id: EndpointId, session: &SessionReport, report: &AgentEndpointReport) -> Arc<EndpointFacts> {
    let agent = AgentFacts {
        metadata: session.metadata.clone(),
        version: session.agent_version.clone(),
        os: session.os.clone(),
    };
    let member = MemberFacts {
        name: report.name.clone(),
        description: report.description.clone(),
        metadata: report.metadata.clone(),
        agent: Arc::new(agent),
    };
    Arc::new(EndpointFacts {
        member: Some(Box::new(member)),
        ..EndpointFacts::new(id.to_string(), report.url.clone())
    })
}
