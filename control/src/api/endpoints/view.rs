//! How endpoints look to clients: one shape for cloud and agent endpoints, every field always there.

use ebbgate_model::feed::{AgentEndpointReport, HealthReport};
use ebbgate_model::{Binding, EndpointId, EndpointUrl, Scheme};
use serde::Serialize;
use utoipa::ToSchema;

use super::super::call::Call;
use super::super::credentials::Credentials;
use super::super::failure::ApiError;
use super::super::principal;
use super::super::reply::{Ref, timestamp};
use super::super::reserved_addrs::ReservedAddrs;
use super::super::reserved_domains::ReservedDomains;
use super::super::resource::Resource;
use super::enforcement::{self, Enforcement};
use super::place;
use crate::presence::LiveEndpoint;
use crate::record::{Endpoint, Record as _};

/// A cloud or agent endpoint.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Endpoint)]
pub(in super::super) struct View {
    id: String,
    region: String,
    created_at: String,
    updated_at: String,
    /// Old name of `url`.
    public_url: String,
    /// Old name of `scheme`.
    proto: String,
    scheme: String,
    hostport: String,
    host: String,
    port: u16,
    /// `cloud` or `agent`.
    r#type: String,
    metadata: String,
    description: String,
    domain: Option<Ref>,
    tcp_addr: Option<Ref>,
    tunnel: Option<Ref>,
    /// Legacy; always null.
    edge: Option<Ref>,
    principal: Option<Ref>,
    tunnel_session: Option<Ref>,
    upstream_url: String,
    upstream_protocol: String,
    /// Whether the agent could not reach its upstream last; a pool passes such a member over.
    upstream_refused: bool,
    /// Whether new work comes to it; null for cloud endpoints.
    health: Option<Health>,
    url: String,
    traffic_policy: String,
    bindings: Vec<String>,
    uri: String,
    /// Name in the agent's file.
    name: String,
    pooling_enabled: bool,
    /// What is doubtful about it now: near misses of its policy come and go with the endpoints they name.
    warnings: Vec<String>,
    /// How its address rules are enforced; null when it has none or no edge serves it.
    enforcement: Option<Enforcement>,
}

/// Whether new work comes to an agent endpoint.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EndpointHealth)]
struct Health {
    /// `unknown` (nobody checks it), `healthy`, `unhealthy` (checks fail), `unreachable` (no connection for a visitor),
    /// `ejected` (too many errors) or `drained` (an operator keeps new work from it).
    state: String,
    /// Since when.
    since: String,
    /// Why; empty where nothing is wrong.
    reason: String,
    /// Kind of the agent's check: `tcp`, `tls`, `http`, `postgres`; empty where there is none.
    check: String,
}

impl Health {
    fn of(report: &AgentEndpointReport) -> Self {
        let HealthReport { state, since, reason, check } = report.health.clone();
        let since = if since == 0 { report.created_at } else { since };
        Self { state: state.as_str().to_owned(), since: timestamp(since), reason, check }
    }
}

fn at(call: &Call, id: EndpointId, url: &EndpointUrl, binding: Binding) -> View {
    View {
        id: id.to_string(),
        region: call.app.installation.region.clone(),
        created_at: String::new(),
        updated_at: String::new(),
        public_url: url.to_string(),
        proto: url.scheme().to_string(),
        scheme: url.scheme().to_string(),
        hostport: url.hostport(),
        host: url.host().to_string(),
        port: url.port(),
        r#type: String::new(),
        metadata: String::new(),
        description: String::new(),
        domain: None,
        tcp_addr: None,
        tunnel: None,
        edge: None,
        principal: None,
        tunnel_session: None,
        upstream_url: String::new(),
        upstream_protocol: String::new(),
        upstream_refused: false,
        health: None,
        url: url.to_string(),
        traffic_policy: String::new(),
        bindings: vec![binding.as_str().to_owned()],
        uri: call.reference(Endpoint::COLLECTION, id).uri,
        name: String::new(),
        pooling_enabled: false,
        warnings: Vec::new(),
        enforcement: enforcement::sum(&call.app.presence.enforcement(id)),
    }
}

/// A cloud endpoint.
pub(super) fn of_cloud(call: &Call, record: &Endpoint) -> View {
    View {
        created_at: timestamp(record.created_at),
        updated_at: timestamp(record.updated_at),
        r#type: "cloud".to_owned(),
        metadata: record.metadata.clone(),
        description: record.description.clone(),
        domain: record.domain.map(|id| call.reference(ReservedDomains::PATH, id)),
        tcp_addr: record.address.map(|id| call.reference(ReservedAddrs::PATH, id)),
        principal: Some(principal::reference(call, &record.principal)),
        traffic_policy: record.traffic_policy.clone(),
        pooling_enabled: record.pooling_enabled,
        warnings: record.warnings.clone(),
        ..at(call, record.id, &record.url, record.binding)
    }
}

impl View {
    /// With what is doubtful beside what else is there.
    pub(super) fn warning_of(mut self, live: Vec<String>) -> Self {
        self.warnings.extend(live);
        self
    }
}

/// An agent endpoint that is online.
pub(in super::super) async fn of_agent(call: &Call, endpoint: &LiveEndpoint) -> Result<View, ApiError> {
    let report = &endpoint.report;
    let (mut domain, mut tcp_addr) = (None, None);
    if report.binding == Binding::Public {
        if report.url.scheme() == Scheme::Tcp {
            tcp_addr = place::address(call, &report.url).await?;
        } else {
            domain = place::domain(call, report.url.host()).await?;
        }
    }
    Ok(View {
        created_at: timestamp(report.created_at),
        updated_at: timestamp(report.created_at),
        r#type: "agent".to_owned(),
        metadata: report.metadata.clone(),
        description: report.description.clone(),
        domain: domain.map(|stored| call.reference(ReservedDomains::PATH, stored.record.id)),
        tcp_addr: tcp_addr.map(|stored| call.reference(ReservedAddrs::PATH, stored.record.id)),
        tunnel: Some(call.reference("tunnels", format!("tn_{}", endpoint.id.ksuid()))),
        principal: Some(call.reference(Credentials::PATH, endpoint.session.report.credential)),
        tunnel_session: Some(call.reference("tunnel_sessions", endpoint.session.id)),
        upstream_url: report.forwards_to.clone(),
        upstream_protocol: report.upstream_protocol.clone(),
        upstream_refused: report.upstream_refused,
        health: Some(Health::of(report)),
        traffic_policy: report.traffic_policy.clone(),
        name: report.name.clone(),
        pooling_enabled: report.pooling_enabled,
        ..at(call, endpoint.id, &report.url, report.binding)
    })
}
