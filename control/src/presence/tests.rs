//! Presence as its own edges fill it.

use super::*;
use ebbgate_model::feed::{HealthState, PeerEdge, ToEdge};
use ebbgate_model::{Binding, CredentialId, Ksuid};

fn ksuid(n: u8) -> Ksuid {
    Ksuid::new(1_700_000_000 + u64::from(n), [n; 16])
}

fn account(n: u8) -> AccountId {
    AccountId::new(ksuid(n))
}

fn session(n: u8) -> TunnelSessionId {
    TunnelSessionId::new(ksuid(n))
}

pub(crate) fn report(of: u8, endpoint: u8) -> SessionReport {
    let endpoint_report = AgentEndpointReport {
        url: format!("https://e{endpoint}.internal").parse().unwrap(),
        binding: Binding::Internal,
        name: String::new(),
        description: String::new(),
        metadata: String::new(),
        pooling_enabled: false,
        forwards_to: String::new(),
        upstream_protocol: "http1".into(),
        upstream_refused: false,
        drain: None,
        health: ebbgate_model::feed::HealthReport::default(),
        elsewhere: None,
        traffic_policy: String::new(),
        created_at: 0,
    };
    SessionReport {
        account: account(of),
        credential: CredentialId::new(ksuid(9)),
        agent_version: String::new(),
        user_agent: String::new(),
        os: String::new(),
        ip: String::new(),
        metadata: String::new(),
        started_at: 0,
        transport: String::new(),
        refusals: ebbgate_model::feed::CommandRefusals::default(),
        endpoints: [(EndpointId::new(ksuid(endpoint)), endpoint_report)].into(),
    }
}

fn edge(n: u8) -> EdgeId {
    EdgeId::new(ksuid(n))
}

#[test]
fn an_account_sees_its_own_sessions_and_endpoints_on_all_edges() {
    let presence = Presence::default();
    let (one, _commands) = presence.join(edge(1), "1".into(), 0);
    let (two, _commands) = presence.join(edge(2), "1".into(), 0);
    one.replace_sessions([(session(1), report(1, 11)), (session(2), report(2, 12))].into());
    two.session(session(3), report(1, 13));
    let ids = |n| presence.endpoints(account(n)).into_iter().map(|e| e.id).collect::<Vec<_>>();
    assert_eq!(ids(1), [11, 13].map(|n| EndpointId::new(ksuid(n))));
    assert_eq!(ids(2), [EndpointId::new(ksuid(12))]);
    assert!(presence.session(account(1), session(3)).is_some());
    assert!(presence.session(account(2), session(3)).is_none());
    one.replace_sessions(BTreeMap::new());
    assert_eq!(ids(1), [EndpointId::new(ksuid(13))]);
}

#[test]
fn sessions_outlive_a_broken_feed_by_the_lease_and_no_longer() {
    let presence = Presence::default();
    let (hold, _commands) = presence.join(edge(1), "1".into(), 0);
    hold.session(session(1), report(1, 11));
    drop(hold);
    let now = Instant::now();
    let lease = Duration::from_secs(LEASE_SECS);
    presence.expire(now);
    assert_eq!(presence.sessions(account(1)).len(), 1);
    assert_eq!(presence.live_generation(), None, "a broken feed has nothing in force that we know of");
    let stop = || presence.command(account(1), session(1), SessionCommand::Stop).map(drop);
    assert_eq!(stop(), Err(CommandError::Unreachable));
    let (hold, _commands) = presence.join(edge(1), "1".into(), 7);
    assert_eq!(presence.sessions(account(1)).len(), 1, "listed until the edge reports anew");
    presence.expire(now + lease * 2);
    assert_eq!(presence.live_generation(), Some(7));
    drop(hold);
    presence.expire(Instant::now() + lease);
    assert_eq!(presence.edges(), []);
    assert_eq!(stop(), Err(CommandError::Offline));
}

/// All that an edge is told until it knows everything.
fn told(hold: &Hold) -> Vec<ToEdge> {
    std::iter::from_fn(|| hold.news()).collect()
}

#[tokio::test]
async fn an_edge_is_told_of_the_others_once_and_of_what_changes_after() {
    let presence = Presence::default();
    let (one, _commands) = presence.join(edge(1), "1".into(), 0);
    assert_eq!(told(&one), [ToEdge::PeersTold], "nobody else is there");
    one.session(session(1), report(1, 11));
    let reach = EdgeReach { peers: "one.test:4485".into(), ..EdgeReach::default() };
    one.set_reach(reach.clone());
    let (two, _commands) = presence.join(edge(2), "1".into(), 0);
    let peer = |draining| ToEdge::Peer(PeerEdge { edge: edge(1), reach: reach.clone(), draining });
    let has = |n: u8, endpoint| ToEdge::PeerSession {
        edge: edge(1),
        session: session(n),
        report: Arc::new(report(1, endpoint)),
    };
    let gone = |n: u8| ToEdge::PeerSessionEnded { edge: edge(1), session: session(n) };
    assert_eq!(told(&two), [peer(false), has(1, 11), ToEdge::PeersTold]);
    assert!(matches!(told(&one)[..], [ToEdge::Peer(PeerEdge { edge: of, .. })] if of == edge(2)));

    // What is as before costs nothing; changes that pile up become one.
    one.session(session(1), report(1, 11));
    assert_eq!(told(&two), []);
    one.session(session(1), report(1, 12));
    one.session(session(1), report(1, 13));
    one.replace_sessions([(session(1), report(1, 13)), (session(2), report(1, 14))].into());
    tokio::time::timeout(Duration::from_secs(30), two.news_came()).await.unwrap();
    assert_eq!(told(&two), [has(1, 13), has(2, 14)]);
    one.session_ended(session(1));
    one.drains();
    assert_eq!(told(&two), [peer(true), gone(1)]);

    // A feed that breaks withdraws nothing before its lease ends.
    drop(one);
    presence.expire(Instant::now());
    assert_eq!(told(&two), []);
    presence.expire(Instant::now() + Duration::from_secs(LEASE_SECS));
    assert_eq!(told(&two), [ToEdge::PeerGone { edge: edge(1) }, gone(2)]);
    let (_one, _commands) = presence.join(edge(1), "1".into(), 0);
    assert_eq!(told(&two).len(), 1);
    presence.remove(edge(1));
    assert_eq!(told(&two), [ToEdge::PeerGone { edge: edge(1) }], "one that is removed has no lease");
}

#[test]
fn address_data_is_that_of_all_edges_that_are_there() {
    let presence = Presence::default();
    let (one, _commands) = presence.join(edge(1), "1".into(), 0);
    let (two, _commands) = presence.join(edge(2), "1".into(), 0);
    one.replace_address_data(["as.number".to_owned()].into());
    two.replace_address_data(["as.number".to_owned(), "is_tor_node".to_owned()].into());
    assert_eq!(presence.address_data(), ["as.number".to_owned(), "is_tor_node".to_owned()].into());
    assert!(!presence.has_core_rule_set());
    two.set_core_rule_set(true);
    assert!(presence.has_core_rule_set());
    let (_two, _commands) = presence.join(edge(2), "1".into(), 0);
    assert_eq!(presence.address_data(), ["as.number".to_owned()].into(), "it says anew what it has");
    assert!(!presence.has_core_rule_set(), "it says anew");
}

#[test]
fn enforcement_is_known_of_every_edge_and_only_while_it_is_there() {
    use ebbgate_model::feed::Enforcer;
    let endpoint = EndpointId::new(ksuid(11));
    let report = |passed| EnforcementReport {
        by: Enforcer::Xdp,
        reason: String::new(),
        interfaces: BTreeMap::new(),
        passed,
        dropped: BTreeMap::new(),
    };
    let presence = Presence::default();
    let (one, _commands) = presence.join(edge(1), "1".into(), 0);
    let (two, _commands) = presence.join(edge(2), "1".into(), 0);
    one.replace_enforcement([(endpoint, report(1))].into());
    two.replace_enforcement([(endpoint, report(2))].into());
    let passed = || presence.enforcement(endpoint).iter().map(|report| report.passed).collect::<Vec<_>>();
    assert_eq!(passed(), [1, 2]);
    let (_one, _commands) = presence.join(edge(1), "1".into(), 0);
    assert_eq!(passed(), [2], "an edge that comes back says anew what holds");
    one.replace_enforcement([(endpoint, report(9))].into());
    assert_eq!(passed(), [2]);
    two.replace_enforcement([(endpoint, report(3))].into());
    assert_eq!(passed(), [3]);
    drop(two);
    presence.expire(Instant::now() + Duration::from_secs(LEASE_SECS));
    assert!(passed().is_empty());
}

#[test]
fn a_replaced_feed_changes_nothing_any_more() {
    let presence = Presence::default();
    let (first, _commands) = presence.join(edge(1), "1".into(), 0);
    let (second, _commands) = presence.join(edge(1), "1".into(), 0);
    drop(second);
    let (third, _commands) = presence.join(edge(1), "1".into(), 3);
    first.applied(99);
    first.session(session(1), report(1, 11));
    assert!(!first.is_current() && third.is_current());
    drop(first);
    assert_eq!(presence.live_generation(), Some(3));
    assert!(presence.sessions(account(1)).is_empty());
}

#[test]
fn a_process_that_drains_beside_its_edge_changes_nothing_and_is_not_replaced() {
    let presence = Presence::default();
    let (serving, _commands) = presence.join(edge(1), "2".into(), 5);
    let (draining, mut commands) = presence.beside(edge(1));
    draining.applied(99);
    draining.session(session(1), report(1, 11));
    assert!(draining.is_current() && serving.is_current());
    assert_eq!(presence.live_generation(), Some(5));
    assert!(presence.sessions(account(1)).is_empty());
    assert!(commands.try_recv().is_err_and(|error| error == mpsc::error::TryRecvError::Empty));
    drop(draining);
    assert!(serving.is_current() && presence.edges()[0].connected);
}

#[test]
fn commands_nobody_takes_are_refused_not_queued_for_ever() {
    let presence = Presence::default();
    let (hold, commands) = presence.join(edge(1), "1".into(), 0);
    hold.session(session(1), report(1, 11));
    let stop = || presence.command(account(1), session(1), SessionCommand::Stop).map(drop);
    let taken = std::iter::repeat_with(stop).take_while(Result::is_ok).count();
    assert_eq!(taken, COMMANDS_MAX);
    drop(commands);
    assert_eq!(stop(), Err(CommandError::Unreachable));
}

#[test]
fn sessions_that_begin_and_end_are_told_once() {
    let presence = Presence::default();
    let (sender, mut told) = mpsc::channel(10);
    presence.tell(sender);
    let mut seen = || {
        let mut all = Vec::new();
        while let Ok(change) = told.try_recv() {
            all.push((change.id, change.kind == SessionChangeKind::Began));
        }
        all
    };
    let (hold, commands) = presence.join(edge(1), "1".into(), 0);
    hold.session(session(1), report(1, 11));
    hold.session(session(1), report(1, 11));
    hold.session(session(2), report(1, 12));
    assert_eq!(seen(), [(session(1), true), (session(2), true)]);
    // The feed breaks and comes back within its lease: nothing happened.
    drop((hold, commands));
    let (hold, _commands) = presence.join(edge(1), "1".into(), 0);
    hold.replace_sessions([(session(2), report(1, 12)), (session(3), report(1, 13))].into());
    assert_eq!(seen(), [(session(3), true), (session(1), false)]);
    hold.session_ended(session(3));
    hold.session_ended(session(3));
    drop(hold);
    presence.expire(Instant::now() + Duration::from_secs(LEASE_SECS));
    assert_eq!(seen(), [(session(3), false), (session(2), false)]);
}

#[test]
fn an_edge_that_is_drained_is_told_at_once_and_again_at_each_feed_and_so_are_the_others() {
    let presence = Presence::default();
    let told = |hold: &Hold| std::iter::from_fn(|| hold.news()).collect::<Vec<_>>();
    let drain = |drain| ToEdge::Drain { drain };
    let peer = |draining| ToEdge::Peer(PeerEdge { edge: edge(1), reach: EdgeReach::default(), draining });
    let (one, _commands) = presence.join(edge(1), "1".into(), 0);
    let (two, _commands) = presence.join(edge(2), "1".into(), 0);
    drop((told(&one), told(&two)));
    presence.set_drained(edge(1), true);
    presence.set_drained(edge(1), true);
    assert_eq!((told(&one), told(&two)), (vec![drain(true)], vec![peer(true)]));
    assert!(presence.edges()[0].draining && !presence.edges()[1].draining);
    drop(one);
    let (one, _commands) = presence.join(edge(1), "1".into(), 0);
    assert_eq!(told(&one).first(), Some(&drain(true)));
    told(&two);
    presence.set_drained(edge(1), false);
    assert_eq!((told(&one), told(&two)), (vec![drain(false)], vec![peer(false)]));
    presence.set_drained(edge(1), true);
    presence.remove(edge(1));
    let (one, _commands) = presence.join(edge(1), "1".into(), 0);
    assert!(!told(&one).contains(&drain(true)));
}

#[test]
fn an_endpoint_that_gets_no_new_work_is_told_once_and_so_is_its_return() {
    let presence = Presence::default();
    let (told, mut changes) = mpsc::channel(8);
    presence.tell(told);
    let (hold, _commands) = presence.join(EdgeId::new(ksuid(1)), "1".into(), 0);
    let with = |state| {
        let mut report = report(1, 1);
        for endpoint in report.endpoints.values_mut() {
            endpoint.health.state = state;
        }
        report
    };
    hold.session(session(1), with(HealthState::Unknown));
    assert_eq!(changes.try_recv().unwrap().kind, SessionChangeKind::Began);
    for (state, expect) in [
        (HealthState::Healthy, None),
        (HealthState::Unhealthy, Some(HealthState::Healthy)),
        (HealthState::Ejected, None),
        (HealthState::Healthy, Some(HealthState::Ejected)),
        (HealthState::Drained, Some(HealthState::Healthy)),
        (HealthState::Drained, None),
        (HealthState::Unhealthy, Some(HealthState::Drained)),
        (HealthState::Drained, Some(HealthState::Unhealthy)),
        (HealthState::Healthy, Some(HealthState::Drained)),
    ] {
        hold.session(session(1), with(state));
        let before = match changes.try_recv().map(|change| change.kind) {
            Ok(SessionChangeKind::Health { before, .. }) => Some(before),
            _ => None,
        };
        assert_eq!(before, expect, "{state:?}");
    }
    hold.replace_sessions(BTreeMap::from([(session(1), with(HealthState::Unreachable))]));
    assert!(matches!(changes.try_recv().unwrap().kind, SessionChangeKind::Health { .. }));
}
