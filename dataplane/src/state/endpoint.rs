//! An endpoint that is online, and what serves it.
//!
//! Plain data: it does not know how it is found (`route`), picked (`pool`) or served.

use std::sync::Arc;

use ebbgate_model::{AccountId, Binding, EndpointId, EndpointUrl};
use ebbgate_policy::{EndpointFacts, Engine};

use crate::tunnel::load::Load;
use crate::tunnel::session::AgentRef;

/// An endpoint that is online: a cloud endpoint of the Program, or one an agent has bound.
#[derive(Debug)]
pub struct Endpoint {
    /// Its id.
    pub id: EndpointId,
    /// Owner; forward-internal stays inside it.
    pub account: AccountId,
    /// Canonical URL.
    pub url: EndpointUrl,
    /// Whether it is public or internal.
    pub binding: Binding,
    /// What expressions see of it.
    pub facts: Arc<EndpointFacts>,
    /// Its policy. None on a cloud endpoint: none was saved yet, or it does not compile here; answer with an explanation.
    /// None on an agent's: none.
    pub engine: Option<Arc<Engine>>,
    /// Where its traffic goes when the policy does not end it.
    pub kind: Kind,
    /// Whether the agent's upstream wants HTTP/2 with prior knowledge.
    pub upstream_http2: bool,
    /// Whether it shares its URL with others that also do.
    pub pooling_enabled: bool,
    /// Its connections and requests, if it is a cloud endpoint; see [`Endpoint::load`].
    pub own_load: Load,
}

impl Endpoint {
    /// Its connections and requests now.
    pub fn load(&self) -> &Load {
        match &self.kind {
            Kind::Cloud => &self.own_load,
            Kind::Agent(agent) => &agent.load,
        }
    }
}

impl Endpoint {
    /// Whether the agent is connected to another edge.
    pub fn is_elsewhere(&self) -> bool {
        matches!(&self.kind, Kind::Agent(agent) if agent.elsewhere.is_some())
    }

    /// Whether an agent of this edge may take the URL beside this endpoint, though they do not share it: it is of the same
    /// process, at another edge, or at an edge that is not reached or not heard.
    pub fn gives_way_to(&self, newcomer: &Self) -> bool {
        match (&self.kind, &newcomer.kind) {
            (Kind::Agent(own), Kind::Agent(new)) if own.elsewhere.is_some() => {
                own.is_same_process(new) || own.session.carriers() == 0 || own.session.is_silent()
            }
            _ => false,
        }
    }
}

/// One connection or request of an endpoint, until it is dropped.
#[derive(Debug)]
pub struct InFlight(Arc<Endpoint>);

impl InFlight {
    /// One more of this endpoint.
    pub fn of(endpoint: &Arc<Endpoint>) -> Self {
        endpoint.load().begin();
        Self(Arc::clone(endpoint))
    }

    /// The endpoint.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.load().end();
    }
}

/// What serves an endpoint.
#[derive(Debug)]
pub enum Kind {
    /// Its policy alone.
    Cloud,
    /// An upstream of an agent.
    Agent(AgentRef),
}

/// Endpoints for tests.
#[cfg(test)]
pub(crate) mod fixture {
    use super::*;
    use ebbgate_model::{Ksuid, TunnelSessionId};
    use ebbgate_tunnel::driver::SessionHandle;

    use crate::tunnel::session::SessionState;

    /// Streams a fixture's session takes.
    pub(crate) const IN_FLIGHT_MAX: usize = 4;

    pub(crate) fn account(n: u8) -> AccountId {
        AccountId::new(Ksuid::new(1_700_000_000, [n; 16]))
    }

    pub(crate) fn endpoint(n: u8, url: &str, kind: Kind, engine: Option<Arc<Engine>>) -> Arc<Endpoint> {
        let id = EndpointId::new(Ksuid::new(1_700_000_000, [n; 16]));
        let url: EndpointUrl = url.parse().unwrap();
        Arc::new(Endpoint {
            id,
            account: account(1),
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

    pub(crate) fn cloud(n: u8, url: &str) -> Arc<Endpoint> {
        endpoint(n, url, Kind::Cloud, None)
    }

    pub(crate) fn agent(n: u8, url: &str) -> Arc<Endpoint> {
        let id = TunnelSessionId::new(Ksuid::new(1_700_000_000, [n; 16]));
        let session = Arc::new(SessionState::new(id, SessionHandle::ended(), Arc::default(), IN_FLIGHT_MAX));
        let bind = format!("bind-{n}").into();
        endpoint(
            n,
            url,
            Kind::Agent(AgentRef {
                session,
                bind,
                proxy_protocol: None,
                tls_termination: None,
                health: Arc::default(),
                shows_client: false,
                identity: format!("process-{n}").into(),
                load: Arc::default(),
                elsewhere: None,
            }),
            None,
        )
    }
}
