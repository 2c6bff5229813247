//! Members of a pool that an operator drains, here and at another edge; and what another edge tells of their health.

use std::collections::BTreeMap;
use std::sync::Arc;

use ebbgate_edge::state::endpoint::{Endpoint, Kind};
use ebbgate_model::feed::{
    AgentEndpointReport, CommandOutcome, DrainWanted, FromEdge, HealthState, SessionCommand, SessionReport,
    ToEdge,
};
use ebbgate_model::{EndpointId, TunnelSessionId};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Duration, timeout};

use crate::health::say;
use crate::lab::{Agent, Lab, Previous, TOKEN, account, exchange};
use crate::links::soon;
use crate::peers::{Two, id};

const TARGET: &str = "tcp://db.clinic1.internal:433";
/// Seconds a test waits for an answer.
const WAIT_SECS_MAX: u64 = 30;

/// What control hears of the endpoints of an edge.
fn reported(lab: &Lab) -> BTreeMap<EndpointId, (TunnelSessionId, AgentEndpointReport)> {
    let FromEdge::Sessions { sessions } = lab.edge.reports.snapshot() else { panic!("no snapshot") };
    let of = |(session, report): (TunnelSessionId, SessionReport)| {
        report.endpoints.into_iter().map(move |(id, endpoint)| (id, (session, endpoint)))
    };
    sessions.into_iter().flat_map(of).collect()
}

fn states(lab: &Lab) -> Vec<HealthState> {
    reported(lab).values().map(|(_, endpoint)| endpoint.health.state).collect()
}

/// Has an edge drain an endpoint, or take that back, as control does.
async fn drain(lab: &mut Lab, endpoint: EndpointId, drain: bool) -> CommandOutcome {
    let session = reported(lab).get(&endpoint).map(|(session, _)| *session);
    let session = session.unwrap_or_else(|| *sessions(lab).first_key_value().unwrap().0);
    let wanted = SessionCommand::Drain(DrainWanted { endpoint, drain });
    lab.agents.command(session, wanted, 7);
    let answer = async {
        loop {
            if let Some(FromEdge::CommandAnswer { number: 7, outcome }) = lab.events.recv().await {
                return outcome;
            }
        }
    };
    timeout(Duration::from_secs(WAIT_SECS_MAX), answer).await.expect("an answer")
}

fn sessions(lab: &Lab) -> BTreeMap<TunnelSessionId, SessionReport> {
    let FromEdge::Sessions { sessions } = lab.edge.reports.snapshot() else { panic!("no snapshot") };
    sessions
}

/// An agent of a process with this name.
async fn process(lab: &Lab, name: &str) -> Agent {
    let previous = Previous { process: name.into(), ..Previous::default() };
    let agent = Agent::connect(lab, TOKEN, "localhost", &previous).await;
    agent.unwrap_or_else(|reply| panic!("{reply:?}"))
}

/// Serves the pool with it; its endpoint.
async fn serve(agent: &Agent) -> (EndpointId, String) {
    let reply = agent.try_bind(TARGET, json!({}), json!({ "PoolingEnabled": true, "Number": 1 })).await;
    assert_eq!(reply.error, "");
    let id = reply.extra.tunnel_id.strip_prefix("tn_").unwrap().parse().unwrap();
    (EndpointId::new(id), reply.id)
}

/// Which services answer, in so many visits.
async fn answers(lab: &Lab, visits: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..visits {
        let answer = exchange(lab.visit().await, b"").await.unwrap_or_default();
        *counts.entry(String::from_utf8(answer).unwrap()).or_default() += 1;
    }
    counts
}

fn all_by(who: &str, visits: usize) -> BTreeMap<String, usize> {
    BTreeMap::from([(who.to_owned(), visits)])
}

fn members(lab: &Lab) -> Vec<Arc<Endpoint>> {
    let pool = lab.edge.routes.internal(account(1), &TARGET.parse().unwrap());
    pool.map(|pool| pool.members().to_vec()).unwrap_or_default()
}

#[tokio::test]
async fn a_drained_member_gets_no_new_work_keeps_what_it_has_and_is_the_last_resort() {
    let mut lab = Lab::start();
    lab.tcp_to(TARGET);
    let (a, b) = (process(&lab, "one").await, process(&lab, "two").await);
    let ((id_a, _), (id_b, _)) = (serve(&a).await, serve(&b).await);
    let (a, b) = (a.echo(b"a"), b.echo(b"b"));
    assert_eq!(answers(&lab, 8).await, BTreeMap::from([("a".into(), 4), ("b".into(), 4)]));

    // What is in flight goes on.
    let mut open = lab.visit().await;
    open.write_all(b"1").await.unwrap();
    let mut word = [0; 2];
    open.read_exact(&mut word).await.unwrap();
    let (drained, other) = if word[0] == b'a' { (id_a, "b") } else { (id_b, "a") };
    assert_eq!(drain(&mut lab, drained, true).await, CommandOutcome::Taken);
    assert_eq!(answers(&lab, 8).await, all_by(other, 8));
    let mut byte = [0];
    for n in 0..10 {
        open.write_all(&[n]).await.unwrap();
        open.read_exact(&mut byte).await.unwrap();
        assert_eq!(byte, [n]);
    }

    // What is told.
    assert_eq!(lab.edge.metrics.endpoints_drained.get(), 1);
    let (_, report) = &reported(&lab)[&drained];
    let said = report.drain.as_ref().and_then(|said| said.word()).unwrap();
    assert_eq!((report.health.state, report.health.since), (HealthState::Drained, said.at_ms / 1000));
    assert!(report.health.reason.contains("an operator drains it"), "{}", report.health.reason);
    let nobody = EndpointId::new(crate::lab::ksuid(99));
    assert!(matches!(drain(&mut lab, nobody, true).await, CommandOutcome::Failed { .. }));

    // Drained as it is, it is asked where nobody else is left.
    let rest = if drained == id_a { id_b } else { id_a };
    assert_eq!(drain(&mut lab, rest, true).await, CommandOutcome::Taken);
    assert_eq!(answers(&lab, 8).await, BTreeMap::from([("a".into(), 4), ("b".into(), 4)]));
    assert_eq!(drain(&mut lab, rest, false).await, CommandOutcome::Taken);
    if other == "a" {
        a.kill();
    } else {
        b.kill();
    }
    soon("its end", || members(&lab).len() == 1).await;
    let last = if other == "a" { "b" } else { "a" };
    assert_eq!(answers(&lab, 4).await, all_by(last, 4));
    assert_eq!(drain(&mut lab, drained, false).await, CommandOutcome::Taken);
    assert_eq!(states(&lab), [HealthState::Unknown]);
    assert_eq!(lab.edge.metrics.endpoints_drained.get(), 0);
}

#[tokio::test]
async fn a_drain_follows_the_process_and_ends_with_it() {
    let mut lab = Lab::start();
    lab.tcp_to(TARGET);
    let (first, other) = (process(&lab, "one").await, process(&lab, "two").await);
    let (drained, _) = serve(&first).await;
    serve(&other).await;
    let (first, _other) = (first.echo(b"first"), other.echo(b"other"));
    assert_eq!(drain(&mut lab, drained, true).await, CommandOutcome::Taken);
    first.kill();
    soon("its end", || members(&lab).len() == 1).await;
    assert_eq!(lab.edge.metrics.endpoints_drained.get(), 0, "what is gone is not counted");

    let back = process(&lab, "one").await;
    let (again, _) = serve(&back).await;
    assert_ne!(again, drained);
    assert_eq!(reported(&lab)[&again].1.health.state, HealthState::Drained);
    assert_eq!(lab.edge.metrics.endpoints_drained.get(), 1);
    let back = back.echo(b"first");
    assert_eq!(answers(&lab, 6).await, all_by("other", 6));
    // Another endpoint of the same process is another member.
    let sibling = process(&lab, "one").await;
    let reply = sibling.try_bind(TARGET, json!({}), json!({ "PoolingEnabled": true, "Number": 2 })).await;
    assert_eq!(reply.error, "");
    assert_eq!(lab.edge.metrics.endpoints_drained.get(), 1);
    drop(sibling);
    back.kill();

    let anew = process(&lab, "three").await;
    let (started, _) = serve(&anew).await;
    assert_eq!(
        reported(&lab)[&started].1.health.state,
        HealthState::Unknown,
        "another process is another member"
    );
}

#[tokio::test]
async fn members_elsewhere_are_picked_by_what_their_agents_and_operators_say() {
    let mut two = Two::start();
    let (far, near) = (process(&two.agents, "far").await, process(&two.visitors, "near").await);
    let ((far_id, far_bind), (near_id, near_bind)) = (serve(&far).await, serve(&near).await);
    let (says_far, says_near) = (far.session(), near.session());
    let (_far, _near) = (far.echo(b"far"), near.echo(b"near"));
    two.told().await;
    assert_eq!(answers(&two.visitors, 6).await, all_by("near", 6));

    // A healthy one there comes before an unhealthy one here.
    assert_eq!(say(&says_near, &near_bind, false, "closed").await, "");
    assert_eq!(answers(&two.visitors, 6).await, all_by("far", 6));
    // Where none is healthy, all are tried, wherever they are; back there, and it has the work.
    assert_eq!(say(&says_far, &far_bind, false, "closed").await, "");
    let before = members(&two.visitors);
    two.told().await;
    let shares = answers(&two.visitors, 8).await;
    assert_eq!(shares, BTreeMap::from([("far".into(), 4), ("near".into(), 4)]), "each is tried");
    assert_eq!(say(&says_far, &far_bind, true, "").await, "");
    two.told().await;
    assert_eq!(answers(&two.visitors, 6).await, all_by("far", 6));
    let same = |(a, b): (&Arc<Endpoint>, &Arc<Endpoint>)| Arc::ptr_eq(a, b);
    assert!(before.iter().zip(&members(&two.visitors)).all(same), "and no policy is compiled for that");

    // A drained one that works comes before an unhealthy one, wherever it is; one that is both comes behind.
    assert_eq!(drain(&mut two.agents, far_id, true).await, CommandOutcome::Taken);
    two.told().await;
    assert_eq!(answers(&two.visitors, 6).await, all_by("far", 6));
    assert_eq!(say(&says_far, &far_bind, false, "closed").await, "");
    two.told().await;
    assert_eq!(answers(&two.visitors, 6).await, all_by("near", 6));
    assert_eq!(say(&says_far, &far_bind, true, "").await, "");
    two.told().await;
    assert_eq!(answers(&two.visitors, 6).await, all_by("far", 6));
    assert_eq!(say(&says_near, &near_bind, true, "").await, "");
    assert_eq!(answers(&two.visitors, 6).await, all_by("near", 6));
    assert_eq!(drain(&mut two.visitors, near_id, true).await, CommandOutcome::Taken);
    assert_eq!(answers(&two.visitors, 8).await.len(), 2, "both are drained");
    assert_eq!(drain(&mut two.agents, far_id, false).await, CommandOutcome::Taken);
    two.told().await;
    assert_eq!(answers(&two.visitors, 6).await, all_by("far", 6));
    assert_eq!(drain(&mut two.visitors, near_id, false).await, CommandOutcome::Taken);
    assert_eq!(answers(&two.visitors, 6).await, all_by("near", 6));
}

#[tokio::test]
async fn a_member_at_two_edges_is_drained_at_both_and_where_its_process_comes_next() {
    let mut two = Two::start();
    let far = process(&two.agents, "one").await;
    let (far_id, _) = serve(&far).await;
    let near = process(&two.visitors, "one").await;
    let (near_id, _) = serve(&near).await;
    two.told().await;
    assert_eq!(drain(&mut two.agents, far_id, true).await, CommandOutcome::Taken);
    assert_eq!(states(&two.visitors), [HealthState::Unknown], "it has not heard");
    two.told().await;
    assert_eq!(states(&two.visitors), [HealthState::Drained]);
    assert_eq!(two.visitors.edge.metrics.endpoints_drained.get(), 1);
    // What each says to the other is settled, and says no more.
    let word = |lab: &Lab, id: EndpointId| reported(lab)[&id].1.drain.clone();
    assert_eq!(word(&two.agents, far_id), word(&two.visitors, near_id));

    // Taken back at the other edge. What was said before, and comes later, changes nothing.
    let late = two.sessions();
    assert_eq!(drain(&mut two.visitors, near_id, false).await, CommandOutcome::Taken);
    for (session, report) in late {
        two.tell(ToEdge::PeerSession { edge: id(1), session, report: Arc::new(report) });
    }
    assert_eq!(states(&two.visitors), [HealthState::Unknown]);
    assert!(members(&two.visitors).iter().all(|member| match &member.kind {
        Kind::Agent(agent) => !agent.health.drain().drained,
        Kind::Cloud => false,
    }));
    for (session, report) in sessions(&two.visitors) {
        two.agents.agents.told_of_peer(ToEdge::PeerSession {
            edge: id(2),
            session,
            report: Arc::new(report),
        });
    }
    assert_eq!(states(&two.agents), [HealthState::Unknown]);

    // The edge that was told ends; the process comes to the other, which heard of it.
    assert_eq!(drain(&mut two.agents, far_id, true).await, CommandOutcome::Taken);
    two.told().await;
    two.tell(ToEdge::PeerGone { edge: id(1) });
    drop(near);
    soon("its end", || two.visitors.agents.sessions.all().is_empty()).await;
    let back = process(&two.visitors, "one").await;
    serve(&back).await;
    assert_eq!(states(&two.visitors), [HealthState::Drained]);
}

#[tokio::test]
async fn what_an_older_edge_or_control_tells_is_served_as_ever() {
    let two = Two::start();
    let far = process(&two.agents, "far").await;
    serve(&far).await;
    let _far = far.echo(b"far");
    for (session, mut report) in two.sessions() {
        for endpoint in report.endpoints.values_mut() {
            endpoint.drain = None;
            endpoint.health.state = HealthState::Other;
        }
        two.tell(ToEdge::PeerSession { edge: id(1), session, report: Arc::new(report) });
    }
    soon("a way there", || two.visitors.edge.peers.ways()[&id(1)].session.carriers() > 0).await;
    assert_eq!(answers(&two.visitors, 3).await, all_by("far", 3));
    // Words out of bounds are none.
    for (session, mut report) in two.sessions() {
        for endpoint in report.endpoints.values_mut() {
            let said = endpoint.drain.as_mut().unwrap();
            (said.drained, said.at_ms) = (true, i64::MAX);
        }
        two.tell(ToEdge::PeerSession { edge: id(1), session, report: Arc::new(report) });
    }
    assert!(members(&two.visitors).iter().all(|member| match &member.kind {
        Kind::Agent(agent) => !agent.health.drain().drained,
        Kind::Cloud => false,
    }));
}
