//! What we say to the edge: Auth's description of this agent, and the Bind of a configured endpoint. Pure.

use std::time::Duration;

use ebbgate_model::Scheme;
use ebbgate_wire::rpc::{AuthExtra, Bind, BindExtra, Opts};
use serde_json::{Map, Value};

use crate::config::{AgentConfig, AppProtocol, EndpointConfig, Secret, UrlRequest};

/// Why Restart is refused.
pub(super) const RESTART_REFUSED: &str = "this agent is restarted by the service manager of its host";
/// Why Update is refused.
pub(super) const UPDATE_REFUSED: &str = "this agent is updated by the packages of its host";
/// Why Stop is refused when `remote_management` is off.
pub(super) const STOP_REFUSED: &str = "remote management is turned off in this agent's configuration";

/// Describes this agent. `hostname` is the caller's to find out.
pub fn hello(agent: &AgentConfig, hostname: &str, service: bool) -> AuthExtra {
    AuthExtra {
        os: std::env::consts::OS.into(),
        arch: std::env::consts::ARCH.into(),
        authtoken: agent.authtoken.clone().unwrap_or_default(),
        version: env!("CARGO_PKG_VERSION").into(),
        hostname: hostname.into(),
        user_agent: concat!("ebbgate/", env!("CARGO_PKG_VERSION")).into(),
        metadata: agent.metadata.clone(),
        cookie: Secret::default(),
        heartbeat_interval_ns: nanoseconds(agent.heartbeat_interval),
        heartbeat_tolerance_ns: nanoseconds(agent.heartbeat_tolerance),
        update_unsupported: Some(UPDATE_REFUSED.into()),
        stop_unsupported: Some(if agent.remote_management { "" } else { STOP_REFUSED }.into()),
        restart_unsupported: Some(RESTART_REFUSED.into()),
        proxy_type: agent
            .connect
            .first()
            .and_then(|edge| agent.proxy_to(edge))
            .map_or("none", |proxy| proxy.kind_name())
            .into(),
        mutual_tls: false,
        service_run: service,
        config_version: "3".into(),
        custom_interface: agent.interface.is_some(),
        custom_cas: agent.trust != crate::trust::Trust::Installed,
        client_type: "ebbgate".into(),
        moves: true,
        leg_number: 0,
        several_edges: agent.connect_edges > 1,
        process: String::new(),
        carriers: agent.carrier.wanted().iter().map(|&word| word.to_owned()).collect(),
    }
}

fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// The Bind of a configured endpoint.
pub fn bind_request(endpoint: &EndpointConfig) -> Bind {
    let scheme = endpoint.url.scheme();
    let mut opts = Map::new();
    let url = match &endpoint.url {
        UrlRequest::Exact(url) => url.to_string(),
        UrlRequest::Random(_) => String::new(),
    };
    opts.insert("URL".into(), url.into());
    opts.insert("ProxyProto".into(), endpoint.upstream.proxy_protocol.unwrap_or(0).into());
    opts.insert("TrafficPolicy".into(), endpoint.policy.clone().unwrap_or_default().into());
    if scheme == Scheme::Tls {
        let mutual = endpoint.termination.as_ref().is_some_and(crate::terminate::Terminator::is_mutual);
        opts.insert("MutualTLSAtAgent".into(), mutual.into());
    }
    Bind {
        id: String::new(),
        proto: scheme.to_string(),
        forwards_to: endpoint.upstream.address.to_string(),
        forwards_proto: forwards_proto(scheme, endpoint.upstream.protocol).into(),
        opts: Opts(Value::Object(opts)),
        extra: BindExtra {
            name: endpoint.name.clone(),
            token: Secret::default(),
            ip_policy_ref: String::new(),
            metadata: endpoint.metadata.clone(),
            description: endpoint.description.clone(),
            bindings: vec![endpoint.binding.as_str().into()],
            pooling_enabled: endpoint.pooling_enabled,
            shows_client: false,
            number: 0,
        },
    }
}

fn forwards_proto(scheme: Scheme, protocol: AppProtocol) -> &'static str {
    match (scheme.is_http(), protocol) {
        (true, AppProtocol::Http2) => "http2",
        (true, AppProtocol::Http1) => "http1",
        (false, _) => "",
    }
}
