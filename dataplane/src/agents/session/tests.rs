//! Changes of the Program that come while an agent binds and patches, one order of events each.

use super::*;
use crate::net::listen::ConnLimits;
use crate::state::edge::Waits;
use crate::state::endpoint::fixture;
use crate::state::jwks::Fetcher;
use crate::state::ports::Ports;
use ebbgate_model::{Binding, Ksuid, TunnelSessionId};
use ebbgate_wire::mux::{Limits, Role};
use ebbgate_wire::ticket::TicketKey;

/// An edge without listeners.
fn edge() -> Edge {
    let fetcher = Fetcher::new(None, true).unwrap();
    let ports = Ports::new("127.0.0.1".parse().unwrap(), 1);
    let waits = Waits { relay_idle_secs: 60, half_closed_secs: 60 };
    Edge::new(ConnLimits::new(9, 9), fetcher, TicketKey::new(&[7; 32]), waits, ports).0
}

/// A session of the one credential of `tables`.
fn session(tables: &Tables) -> AgentSession {
    let (io, _) = tokio::io::duplex(64);
    let (mux, _, _) = driver::connect(io, Role::Server, Limits::EDGE);
    let (credential, spec) = tables.credential(bind::tests::TOKEN).unwrap();
    let allowance = allowance::Allowances::default().of(spec.account);
    let text_bytes = Counter::new(0);
    let taken = || text_bytes.take(0).unwrap();
    AgentSession {
        state: Arc::new(SessionState::new(
            TunnelSessionId::new(Ksuid::new(1, [1; 16])),
            driver::SessionHandle::ended(),
            Arc::default(),
            1,
        )),
        several_edges: false,
        process: String::new(),
        client_id: String::new(),
        labels: Arc::default(),
        mux,
        moves: false,
        links: SessionLinks::new(None),
        _taken: (taken(), (taken(), taken())),
        allowance,
        text_bytes: Arc::clone(&text_bytes),
        inner: Mutex::new(Inner {
            report: SessionReport {
                account: spec.account,
                credential,
                agent_version: String::new(),
                user_agent: String::new(),
                os: String::new(),
                ip: "127.0.0.1".into(),
                metadata: String::new(),
                started_at: 0,
                transport: String::new(),
                refusals: ebbgate_model::feed::CommandRefusals::default(),
                endpoints: BTreeMap::new(),
            },
            bound: Vec::new(),
            over: false,
        }),
    }
}

fn bound(session: &AgentSession, endpoint: Arc<Endpoint>) -> Bound {
    let report = AgentEndpointReport {
        url: endpoint.url.clone(),
        binding: Binding::Internal,
        name: String::new(),
        description: String::new(),
        metadata: String::new(),
        pooling_enabled: true,
        forwards_to: String::new(),
        upstream_protocol: String::new(),
        traffic_policy: String::new(),
        created_at: 0,
        upstream_refused: false,
        drain: None,
        health: ebbgate_model::feed::HealthReport::default(),
        elsewhere: None,
    };
    let text = session.keep(0).unwrap();
    let report = Arc::new(report);
    Bound { id: "a".into(), endpoint, policy: None, guard: None, lent_port: None, report, _text: text }
}

#[tokio::test]
async fn only_what_is_still_served_is_replaced() {
    let edge = edge();
    let session = session(&bind::tests::tables(&[]));
    let first = fixture::agent(1, "tcp://a.internal:1");
    edge.routes.bind(first.clone()).unwrap();
    assert!(session.add(&edge, bound(&session, first.clone())));
    let replace = |before: &Arc<Endpoint>| {
        let changed = Arc::new(with_engine(before, None));
        let replaced = session.replace(&edge, before, bound(&session, changed.clone()), RouteTable::bind);
        (changed, replaced)
    };
    let (second, replaced) = replace(&first);
    assert_eq!(replaced, Ok(()));
    // Two changes of one endpoint: the later one was made from what is no more.
    assert_eq!(replace(&first).1, Err(NotReplaced::Gone));
    let served = || edge.routes.internal(first.account, &first.url);
    assert!(Arc::ptr_eq(&served().unwrap().members()[0], &second));
    assert_eq!((session.bound_count(), edge.metrics.agent_endpoints.get()), (1, 1));
    // A change of an endpoint that was unbound meanwhile does not bring it back.
    session.remove(&edge, "a").unwrap();
    assert_eq!(replace(&second).1, Err(NotReplaced::Gone));
    assert!(served().is_none() && session.bound_count() == 0);
}

#[tokio::test]
async fn a_program_that_came_during_a_bind_is_obeyed() {
    let edge = edge();
    let judged = Arc::new(bind::tests::tables(&["bind:a.internal"]));
    let session = session(&judged);
    edge.tables.store(Arc::clone(&judged));
    assert!(session.add(&edge, bound(&session, fixture::agent(1, "tcp://a.internal:1"))));
    assert_eq!(session.recheck_endpoint(&edge, "a", Arc::clone(&judged)), Ok(()));
    // Its recheck ran before the endpoint was added.
    edge.tables.store(Arc::new(bind::tests::tables(&["bind:b.internal"])));
    let refusal = session.recheck_endpoint(&edge, "a", Arc::clone(&judged)).unwrap_err();
    assert_eq!(refusal.code, Some(ErrorCode::ACL_NAME));
    assert!(session.recheck_endpoint(&edge, "b", judged).is_err(), "stopped meanwhile");
}
