//! Controls on one store, as they tell each other: on SQLite, and on an etcd that each test starts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ebbgate_lab::etcd::Etcd as Server;
use ebbgate_model::feed::{
    CommandOutcome, Drain, DrainReport, DrainWanted, EdgeReach, HealthState, SessionCommand, ToEdge,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::ledger::ORPHAN_SECS;
use super::testing::{account, edge, report, session};
use super::{Sharing, keys, sweep};
use crate::clock::SystemClock;
use crate::leader::Candidate;
use crate::metrics::Metrics;
use crate::presence::{Command, CommandError, Hold, LiveEdge, Presence};
use crate::secret::SystemEntropy;
use crate::store::{Etcd, Outcome, Place, Range, Sqlite, Store, Txn};

/// Longest wait for something that must happen.
const PATIENCE: Duration = Duration::from_mins(1);

type Shared = Arc<dyn Store>;

/// Runs each on both engines.
macro_rules! on_both_engines {
    ($($law:ident,)*) => {
        mod on_sqlite {$(
            #[tokio::test]
            async fn $law() {
                let dir = tempfile::tempdir().unwrap();
                let store = super::Sqlite::create(&dir.path().join("control.db")).unwrap();
                super::$law(std::sync::Arc::new(store)).await;
            }
        )*}

        mod on_etcd {$(
            #[tokio::test(flavor = "multi_thread")]
            async fn $law() {
                let dir = tempfile::tempdir().unwrap();
                let server = super::Server::start(dir.path(), 1).unwrap();
                let place = super::Place { url: server.url().parse().unwrap(), ca: None, identity: None };
                let store = super::Etcd::create(&place).await.unwrap();
                super::$law(std::sync::Arc::new(store)).await;
            }
        )*}
    };
}

on_both_engines! {
    each_control_knows_the_edges_of_the_other_and_what_they_have,
    an_edge_that_goes_to_another_control_never_flickers,
    a_control_whose_feed_broke_takes_no_edge_from_the_one_that_has_it,
    what_a_dead_control_told_ends_with_its_lease_and_is_swept,
    a_thousand_sessions_at_once_are_few_writes,
    what_cannot_be_read_is_skipped,
    a_command_reaches_a_session_of_another_control,
    a_drain_crosses_controls_and_health_that_flaps_costs_few_writes,
    a_lost_lease_is_granted_anew,
}

/// A control without an API. It ends at once when dropped, as a process that is killed.
struct Control {
    presence: Presence,
    sharing: Arc<Sharing>,
    running: JoinHandle<()>,
}

impl Drop for Control {
    fn drop(&mut self) {
        self.running.abort();
    }
}

fn control(store: &Shared, at: &str) -> Control {
    let (presence, metrics) = (Presence::default(), Arc::<Metrics>::default());
    let parts = (Arc::new(SystemClock) as _, Arc::new(SystemEntropy) as _);
    let sharing = Sharing::new(store.clone(), presence.clone(), metrics, parts, Some(at.to_owned()));
    let candidate = Candidate::replica(store.clone(), &SystemEntropy);
    let running = tokio::spawn(super::run(Arc::clone(&sharing), candidate));
    Control { presence, sharing, running }
}

type Joined = (Hold, mpsc::Receiver<Command>);

/// An edge connects and says which sessions it has.
fn join(control: &Control, n: u32, sessions: &[u32]) -> Joined {
    let (hold, commands) = control.presence.join(edge(n), "1".into(), 3);
    hold.set_reach(EdgeReach { peers: format!("edge{n}.test:4485"), ..EdgeReach::default() });
    hold.replace_sessions(sessions.iter().map(|n| (session(*n), report(""))).collect());
    (hold, commands)
}

async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < end, "waited too long for {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

async fn keys_below(store: &Shared, prefix: &str) -> Vec<String> {
    let page = store.range(Range::all(prefix)).await.unwrap();
    page.items.into_iter().map(|item| item.key).collect()
}

/// Waits until nothing is stored below a prefix.
async fn until_none(store: &Shared, prefix: &str) {
    let end = Instant::now() + PATIENCE;
    while !keys_below(store, prefix).await.is_empty() {
        assert!(Instant::now() < end, "{:?}", keys_below(store, prefix).await);
        sleep(Duration::from_millis(20)).await;
    }
}

impl Control {
    fn sessions(&self) -> Vec<u32> {
        let known: BTreeMap<_, _> = (0..2_000).map(|n| (session(n), n)).collect();
        self.presence.sessions(account()).iter().filter_map(|live| known.get(&live.id).copied()).collect()
    }

    fn edge(&self, n: u32) -> Option<LiveEdge> {
        self.presence.edges().into_iter().find(|live| live.id == edge(n))
    }

    /// Which control feeds the edge, as this one knows; `""`: this one.
    fn fed_by(&self, n: u32) -> Option<String> {
        let elsewhere = self.edge(n)?.elsewhere;
        Some(elsewhere.and_then(|head| head.control_at.clone()).unwrap_or_default())
    }
}

async fn each_control_knows_the_edges_of_the_other_and_what_they_have(store: Shared) {
    let (one, two) = (control(&store, "one:1"), control(&store, "two:1"));
    let (rome, _commands) = join(&one, 1, &[1, 2]);
    let (paris, _commands) = join(&two, 2, &[3]);
    until("both to know all", || one.sessions() == [1, 2, 3] && two.sessions() == [1, 2, 3]).await;
    assert_eq!((one.fed_by(1), one.fed_by(2)), (Some(String::new()), Some("two:1".into())));
    let known = two.edge(1).unwrap();
    assert_eq!((known.reach.peers.as_str(), known.applied, known.connected), ("edge1.test:4485", 3, true));

    // An edge of the other is told of it as of one that is fed here, and then that this is all.
    let mut told = Vec::new();
    until("paris to be told", || {
        told.extend(std::iter::from_fn(|| paris.news()));
        told.contains(&ToEdge::PeersTold)
    })
    .await;
    let is_session = |id| move |told: &ToEdge| matches!(told, ToEdge::PeerSession { edge: of, session, .. } if *of == edge(1) && *session == id);
    assert!(told.iter().any(is_session(session(1))) && told.iter().any(is_session(session(2))), "{told:?}");

    rome.session_ended(session(1));
    rome.session(session(7), report("new"));
    rome.drains();
    until("the change", || two.sessions() == [2, 3, 7] && two.edge(1).is_some_and(|edge| edge.draining))
        .await;
    rome.applied(9);
    until("the generation", || two.edge(1).is_some_and(|edge| edge.applied == 9)).await;
    drop(rome);
    until("the broken feed", || two.edge(1).is_some_and(|edge| !edge.connected)).await;
    assert_eq!(two.sessions(), [2, 3, 7], "they stay as long as the lease");
    one.presence.expire(Instant::now() + Duration::from_mins(1));
    until("its end", || two.edge(1).is_none() && two.sessions() == [3]).await;
    until_none(&store, &format!("presence/chunks/{}/", edge(1))).await;

    // One that is removed is gone at both, whatever is told of it later.
    one.presence.remove(edge(2));
    paris.session(session(8), report(""));
    until("the write", || two.sessions() == [3, 8]).await;
    let _later = join(&one, 5, &[5]);
    until("what was told after it", || two.sessions() == [3, 5, 8]).await;
    assert_eq!((one.edge(2).is_none(), one.sessions()), (true, vec![5]));
}

async fn an_edge_that_goes_to_another_control_never_flickers(store: Shared) {
    let (one, two, three) = (control(&store, "one:1"), control(&store, "two:1"), control(&store, "three:1"));
    let (watching, _commands) = join(&three, 9, &[]);
    let (first, _commands) = join(&one, 1, &[1, 2]);
    let (tell, mut events) = mpsc::channel(64);
    one.presence.tell(tell);
    let mut told = Vec::new();
    let seen = |told: &mut Vec<ToEdge>| {
        told.extend(std::iter::from_fn(|| watching.news()));
        assert!(three.sessions().is_empty() || three.sessions() == [1, 2], "{:?}", three.sessions());
        three.sessions() == [1, 2]
    };
    until("the third to know it", || seen(&mut told) && two.sessions() == [1, 2]).await;

    // Its feed at the first stands still, and it goes to the second.
    let (moved, _commands) = join(&two, 1, &[1, 2]);
    until("the move", || seen(&mut told) && three.fed_by(1) == Some("two:1".into())).await;
    until("the first to follow", || seen(&mut told) && one.fed_by(1) == Some("two:1".into())).await;
    assert!(!first.is_current() && moved.is_current(), "the feed that stands still has lost the edge");
    assert_eq!(one.sessions(), [1, 2]);
    assert!(events.try_recv().is_err(), "nothing began and nothing ended");
    drop(first);

    // Back, before the second knows that it is gone; the second says something about it all the same.
    let (back, _commands) = join(&one, 1, &[1, 2]);
    moved.applied(4);
    until("the way back", || seen(&mut told) && three.fed_by(1) == Some("one:1".into())).await;
    until("the second to follow", || seen(&mut told) && two.fed_by(1) == Some("one:1".into())).await;
    assert!(back.is_current());

    // The first is killed; the edge goes to the second, which says nothing before the edge has said what it has.
    drop(one);
    let (late, _commands) = two.presence.join(edge(1), "1".into(), 3);
    for _ in 0..20 {
        assert!(seen(&mut told));
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(three.fed_by(1), Some("one:1".into()));
    late.set_reach(EdgeReach { peers: "edge1.test:4485".into(), ..EdgeReach::default() });
    late.replace_sessions([1, 2].map(|n| (session(n), report(""))).into());
    until("the second to have it", || seen(&mut told) && three.fed_by(1) == Some("two:1".into())).await;
    let end = Instant::now() + Duration::from_secs(super::LEASE_SECS + 2);
    while Instant::now() < end {
        assert!(seen(&mut told), "the lease of the first takes nothing along");
        sleep(Duration::from_millis(20)).await;
    }
    let is_loss = |told: &&ToEdge| matches!(told, ToEdge::PeerGone { .. } | ToEdge::PeerSessionEnded { .. });
    assert_eq!(told.iter().find(is_loss), None);
}

async fn a_control_whose_feed_broke_takes_no_edge_from_the_one_that_has_it(store: Shared) {
    let (one, two, three) = (control(&store, "one:1"), control(&store, "two:1"), control(&store, "three:1"));
    // It says nothing before its feed breaks, so that others are told of it only later.
    let (silent, _commands) = one.presence.join(edge(1), "1".into(), 3);
    drop(silent);
    let _has = join(&two, 1, &[1, 2]);
    until("the third to know it", || three.fed_by(1) == Some("two:1".into())).await;
    until("the first to follow", || {
        assert_eq!((three.fed_by(1), three.sessions()), (Some("two:1".into()), vec![1, 2]));
        one.fed_by(1) == Some("two:1".into())
    })
    .await;
}

async fn what_a_dead_control_told_ends_with_its_lease_and_is_swept(store: Shared) {
    let (one, two) = (control(&store, "one:1"), control(&store, "two:1"));
    let (_hold, _commands) = join(&one, 1, &[1, 2]);
    until("the other to know it", || two.sessions() == [1, 2]).await;
    drop(one);
    until("the lease to end", || two.sessions().is_empty() && two.edge(1).is_none()).await;
    assert_eq!(keys_below(&store, "presence/chunks/").await.len(), 1, "its writer does not remove it");

    let claim = Candidate::replica(store.clone(), &SystemEntropy).claimed("other").await;
    let now = Instant::now();
    assert_eq!(sweep::sweep(&two.sharing, &claim, now).await.unwrap(), 0, "a head may come");
    let later = now + Duration::from_secs(2 * ORPHAN_SECS);
    let (_later, _commands) = join(&two, 2, &[3]);
    until("a head", || two.sharing.ledger().orphans(later).len() == 1).await;
    assert_eq!(sweep::sweep(&two.sharing, &claim, later).await.unwrap(), 1);
    until_none(&store, &format!("presence/chunks/{}/", edge(1))).await;
    assert_eq!(two.sessions(), [3], "and nothing of an edge that is there");
}

async fn a_thousand_sessions_at_once_are_few_writes(store: Shared) {
    let (one, two) = (control(&store, "one:1"), control(&store, "two:1"));
    let (hold, _commands) = join(&one, 1, &[0]);
    until("the edge", || two.sessions() == [0]).await;
    let before = one.sharing.metrics.presence_writes.get();
    for n in 0..1_000 {
        hold.session(session(n), report("moved"));
    }
    until("all of them", || two.sessions().len() == 1_000).await;
    let writes = one.sharing.metrics.presence_writes.get() - before;
    assert!(writes <= 20, "{writes} writes");
    let keys = keys_below(&store, "presence/chunks/").await.len();
    assert!(keys < 50, "{keys} keys");
}

async fn what_cannot_be_read_is_skipped(store: Shared) {
    let (one, two) = (control(&store, "one:1"), control(&store, "two:1"));
    let (hold, _commands) = join(&one, 1, &[1]);
    until("the edge", || two.sessions() == [1]).await;
    let epoch = &two.edge(1).unwrap().elsewhere.unwrap().epoch;
    let bad = Txn::new()
        .put(keys::chunk(edge(1), epoch, 9), "[]")
        .put(keys::head(edge(3)), "{\"control\":7}")
        .put(keys::command(&two.sharing.name, "x"), "no command")
        .put(keys::answer(&two.sharing.name, "x"), "no answer")
        .put("presence/heads/edge_x", "{}")
        .put("presence/of a later release/x", "{}");
    assert!(matches!(store.commit(bad).await.unwrap(), Outcome::Committed(_)));
    hold.session(session(2), report(""));
    until("what is told after it", || two.sessions() == [1, 2]).await;
    assert_eq!(two.presence.edges().len(), 1);
    // In the place of an edge's own head it is written over.
    let bad = Txn::new().put(keys::head(edge(1)), "{\"control\":7}");
    assert!(matches!(store.commit(bad).await.unwrap(), Outcome::Committed(_)));
    hold.session(session(3), report(""));
    until("what is told over it", || two.sessions() == [1, 2, 3]).await;
    hold.session_ended(session(3));
    until("the end", || two.sessions() == [1, 2]).await;
    // One that starts reads it all at once.
    let three = control(&store, "three:1");
    until("the third", || three.sessions() == [1, 2]).await;
}

async fn a_command_reaches_a_session_of_another_control(store: Shared) {
    let (one, two) = (control(&store, "one:1"), control(&store, "two:1"));
    let (hold, mut commands) = join(&one, 1, &[1]);
    until("the edge", || two.sessions() == [1]).await;
    let asked = two.presence.command(account(), session(1), SessionCommand::Restart).unwrap();
    let command = commands.recv().await.unwrap();
    assert_eq!((command.session, &command.command), (session(1), &SessionCommand::Restart));
    command.answer.send(CommandOutcome::Taken).unwrap();
    assert_eq!(asked.await, Ok(CommandOutcome::Taken));
    assert!(commands.try_recv().is_err(), "once");
    until_none(&store, "presence/commands/").await;

    // The edge ends before it answers.
    let asked = two.presence.command(account(), session(1), SessionCommand::Stop).unwrap();
    drop(commands.recv().await.unwrap());
    assert!(asked.await.is_err());
    // It is known that nobody takes it.
    drop((hold, commands));
    until("the broken feed", || two.edge(1).is_some_and(|edge| !edge.connected)).await;
    let refused = two.presence.command(account(), session(1), SessionCommand::Stop);
    assert_eq!(refused.map(drop), Err(CommandError::Unreachable));
}

async fn a_drain_crosses_controls_and_health_that_flaps_costs_few_writes(store: Shared) {
    let (one, two) = (control(&store, "one:1"), control(&store, "two:1"));
    let (hold, mut commands) = join(&one, 1, &[]);
    // An edge that the other control feeds, and one that this one feeds.
    let (listens, _commands) = join(&two, 2, &[]);
    let with = |state: HealthState, drain: Drain| {
        let mut report = crate::presence::tests::report(1, 2);
        report.account = account();
        for endpoint in report.endpoints.values_mut() {
            endpoint.drain = Some(Box::new(DrainReport::new("member".into(), drain)));
            endpoint.health.state = state;
        }
        report
    };
    let fit = with(HealthState::Healthy, Drain::default());
    let endpoint = *fit.endpoints.keys().next().unwrap();
    hold.session(session(1), fit);
    let seen = |control: &Control| {
        let all = control.presence.endpoints(account());
        all.first()
            .map(|live| (live.report.health.state, live.report.drain.as_ref().and_then(|said| said.word())))
    };
    until("the session", || seen(&two) == Some((HealthState::Healthy, None))).await;
    let wanted = SessionCommand::Drain(DrainWanted { endpoint, drain: true });
    let asked = two.presence.command(account(), session(1), wanted.clone()).unwrap();
    let command = commands.recv().await.unwrap();
    assert_eq!((command.session, command.command), (session(1), wanted));
    let word = Drain::default().then(true, 5_000);
    hold.session(session(1), with(HealthState::Drained, word));
    command.answer.send(CommandOutcome::Taken).unwrap();
    assert_eq!(asked.await, Ok(CommandOutcome::Taken));
    until("the drain", || seen(&two) == Some((HealthState::Drained, Some(word)))).await;

    let before = one.sharing.metrics.presence_writes.get();
    let back = word.then(false, 6_000);
    for n in 0..1_000 {
        let state = if n % 2 == 0 { HealthState::Healthy } else { HealthState::Unhealthy };
        hold.session(session(1), with(state, back));
        tokio::task::yield_now().await;
    }
    until("the last of it", || seen(&two) == Some((HealthState::Unhealthy, Some(back)))).await;
    let writes = one.sharing.metrics.presence_writes.get() - before;
    assert!(writes <= 20, "{writes} writes");
    // What the other's edge was not told yet is told once, as it is now.
    let is_of = |message: &ToEdge| matches!(message, ToEdge::PeerSession { .. });
    let told: Vec<_> = std::iter::from_fn(|| listens.news()).filter(is_of).collect();
    let last = Arc::new(with(HealthState::Unhealthy, back));
    assert_eq!(told, [ToEdge::PeerSession { edge: edge(1), session: session(1), report: last }]);
}

async fn a_lost_lease_is_granted_anew(store: Shared) {
    let (one, two) = (control(&store, "one:1"), control(&store, "two:1"));
    let (hold, _commands) = join(&one, 1, &[1]);
    until("the edge", || two.sessions() == [1]).await;
    let before = store.get(&keys::head(edge(1))).await.unwrap().unwrap();
    let epoch = |edge: LiveEdge| edge.elsewhere.map(|head| head.epoch.clone());
    let told = two.edge(1).and_then(epoch);
    store.revoke(before.lease.unwrap()).await.unwrap();
    until("the head to be gone", || two.edge(1).and_then(epoch) != told).await;
    hold.session(session(2), report(""));
    until("all of it again", || two.sessions() == [1, 2]).await;
    assert!(hold.is_current());
}
