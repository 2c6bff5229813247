//! Endpoints and policies as the edge holds them.

use std::sync::Arc;

use ebbgate_edge::state::endpoint::{Endpoint, Kind};
use ebbgate_edge::tunnel::load::Load;
use ebbgate_edge::tunnel::session::{AgentRef, SessionState};
use ebbgate_model::{AccountId, EndpointId, EndpointUrl, Ksuid, TunnelSessionId};
use ebbgate_policy::{EndpointFacts, Engine, References};
use ebbgate_tunnel::driver::SessionHandle;
use serde_json::Value;

/// Seconds since the Unix epoch in every id.
const UNIX_SECS: u64 = 1_700_000_000;
/// Streams a session takes.
const IN_FLIGHT_MAX: usize = 4_096;

fn ksuid(n: u32) -> Ksuid {
    let mut entropy = [0; 16];
    entropy.iter_mut().zip(n.to_be_bytes()).for_each(|(to, from)| *to = from);
    Ksuid::new(UNIX_SECS, entropy)
}

/// The one account.
pub fn account() -> AccountId {
    AccountId::new(ksuid(1))
}

/// The session of all agent endpoints' agent.
pub fn session_id() -> TunnelSessionId {
    TunnelSessionId::new(ksuid(1))
}

/// Compiles a policy written as JSON, which must be right.
pub fn engine(policy: Value) -> Arc<Engine> {
    let policy = serde_json::from_value(policy).expect("the policy has the form of a policy");
    Arc::new(Engine::compile(&policy, &References::default()).expect("the policy compiles"))
}

/// A cloud endpoint.
pub fn cloud(n: u32, url: &str, engine: Option<Arc<Engine>>) -> Arc<Endpoint> {
    endpoint(n, url, Kind::Cloud, engine)
}

/// An agent's endpoint without a policy of its own.
pub fn agent(n: u32, url: &str) -> Arc<Endpoint> {
    let session =
        Arc::new(SessionState::new(session_id(), SessionHandle::ended(), Arc::default(), IN_FLIGHT_MAX));
    let agent = AgentRef {
        session,
        bind: "bind".into(),
        proxy_protocol: None,
        tls_termination: None,
        health: Arc::default(),
        shows_client: false,
        identity: "process".into(),
        load: Arc::default(),
        elsewhere: None,
    };
    endpoint(n, url, Kind::Agent(agent), None)
}

fn endpoint(n: u32, url: &str, kind: Kind, engine: Option<Arc<Engine>>) -> Arc<Endpoint> {
    let id = EndpointId::new(ksuid(n));
    let url: EndpointUrl = url.parse().expect("the URL is one of an endpoint");
    Arc::new(Endpoint {
        id,
        account: account(),
        binding: url.implied_binding(),
        facts: Arc::new(EndpointFacts::new(id.to_string(), url.clone())),
        url,
        engine,
        kind,
        upstream_http2: false,
        pooling_enabled: true,
        own_load: Load::default(),
    })
}
