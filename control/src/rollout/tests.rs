//! Changes from the write to what edges get, with a store, a planner and edges in memory.

use std::sync::Arc;
use std::time::Duration;

use ebbgate_model::event::RequestEvent;
use ebbgate_model::{
    AccountId, Action, Binding, EdgeId, EndpointId, ObjectKey, PolicyHash, Program, Rule, TrafficPolicy,
};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::judge::Seen;
use super::*;
use crate::App;
use crate::app::testing::Lab;
use crate::leader::Candidate;
use crate::plan::overlay::Ring;
use crate::presence::{Hold, Presence};
use crate::push::{Follower, Planned, Published, RolledOut, follow};
use crate::record::fleet::FleetEdge;
use crate::record::rollout::{ROLLOUT_KEY, Rollout, RolloutState};
use crate::record::{self, Endpoint, Record, encode};
use crate::secret::SystemEntropy;
use crate::store::{Outcome, Txn};

/// Seconds that canary edges have a change alone by default.
const SOAK: Duration = Duration::from_mins(1);

/// A control on a lab's store: its own planner, its own edges.
struct Control {
    app: App,
    published: Arc<Published>,
    planning: JoinHandle<()>,
}

impl Control {
    fn on(app: &App) -> Self {
        let (publish, planned) = watch::channel(Planned::default());
        let published = Arc::<Published>::default();
        let app = App { planned, presence: Presence::default(), tallies: Arc::default(), ..app.clone() };
        let follower = Follower {
            vault: app.vault.clone(),
            published: published.clone(),
            publish,
            metrics: app.metrics.clone(),
            room: app.room.clone(),
            tallies: app.tallies.clone(),
        };
        let planning = tokio::spawn(follow(app.store.clone(), follower));
        Self { app, published, planning }
    }

    /// Waits until everything that is stored is planned.
    async fn planned(&self) -> Planned {
        let revision = self.app.store.revision();
        let mut planned = self.app.planned.clone();
        planned.wait_for(|planned| planned.generation >= Some(revision)).await.unwrap().clone()
    }

    /// Which policy the edges of a ring have of an endpoint.
    async fn policy(&self, ring: Ring, id: EndpointId) -> Option<PolicyHash> {
        self.seen(ring).await.endpoints.get(&id).unwrap().policy
    }

    async fn seen(&self, ring: Ring) -> Program {
        self.planned().await;
        self.published.seen_by(ring).await
    }

    async fn rollout(&self, id: EndpointId) -> Option<RolledOut> {
        self.planned().await.rollouts.get(&id).cloned()
    }

    async fn state(&self, id: EndpointId) -> Option<RolloutState> {
        self.rollout(id).await.map(|rollout| rollout.staged.record.state)
    }

    async fn reason(&self, id: EndpointId) -> String {
        self.rollout(id).await.map(|rollout| rollout.staged.record.reason.clone()).unwrap_or_default()
    }

    async fn commit(&self, txn: Txn) {
        assert!(matches!(self.app.store.commit(txn).await.unwrap(), Outcome::Committed(_)));
    }

    /// A canary edge that is connected.
    async fn canary(&self) -> (EdgeId, Hold) {
        let id = EdgeId::new(self.app.ksuid());
        let edge = FleetEdge { id, name: "paris".into(), joined_at: 0, drained: false, canary: true };
        self.commit(Txn::new().put(FleetEdge::key(id), encode(&edge))).await;
        (id, self.connect(id))
    }

    fn connect(&self, edge: EdgeId) -> Hold {
        self.app.presence.set_canary(edge, true);
        self.app.presence.join(edge, "1".into(), 0).0
    }

    async fn endpoint(&self, account: AccountId, host: &str, policy: TrafficPolicy) -> Endpoint {
        let endpoint = Endpoint {
            id: EndpointId::new(self.app.ksuid()),
            account,
            url: format!("https://{host}").parse().unwrap(),
            binding: Binding::Public,
            description: String::new(),
            metadata: String::new(),
            pooling_enabled: false,
            traffic_policy: String::new(),
            policy: Some(policy),
            domain: None,
            address: None,
            principal: String::new(),
            updated_at: 0,
            warnings: Vec::new(),
            secrets: Vec::new(),
            created_at: 0,
        };
        self.commit(record::create(Txn::new(), &endpoint)).await;
        self.planned().await;
        endpoint
    }

    /// Writes a policy as the API does.
    async fn write(&self, of: &Endpoint, policy: TrafficPolicy) -> Endpoint {
        let stored = record::load::<Endpoint>(&*self.app.store, of.account, of.id).await.unwrap().unwrap();
        let new = Endpoint { policy: Some(policy), ..stored.record.clone() };
        let txn = stage(&self.app, &stored.record, &new, Txn::new()).await.unwrap();
        self.commit(record::replace(txn, &new, stored.modified)).await;
        self.planned().await;
        new
    }

    /// So many requests of an endpoint were answered by an edge, so many of them with errors.
    fn requests(&self, edge: EdgeId, of: &Endpoint, requests: u64, errors: u64) {
        for n in 0..requests {
            let event = RequestEvent {
                account: Some(of.account),
                endpoint: Some(of.id),
                status: if n < errors { 502 } else { 200 },
                ..RequestEvent::default()
            };
            self.app.tallies.request(edge, self.app.store.revision(), &event);
        }
    }

    /// The edge has all that is planned.
    async fn apply(&self, hold: &Hold) {
        hold.applied(self.planned().await.generation.unwrap());
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.planning.abort();
    }
}

fn answer(status: u16) -> TrafficPolicy {
    let action = Action { kind: "custom-response".into(), config: json!({ "status_code": status }) };
    let rule = Rule { name: None, expressions: Vec::new(), actions: vec![action] };
    TrafficPolicy { on_http_request: vec![rule], ..TrafficPolicy::default() }
}

/// Another account, active.
async fn other_account(control: &Control) -> AccountId {
    let (account, key, _) = crate::account::create("other", 0, &*control.app.entropy);
    control.commit(crate::account::add(Txn::new(), &account, &key)).await;
    account.id
}

#[tokio::test]
async fn a_bad_change_of_one_account_is_taken_back_and_delays_no_other() {
    let lab = Lab::new().await;
    let control = Control::on(&lab.app);
    let other = other_account(&control).await;
    let (canary, hold) = control.canary().await;
    let elsewhere = EdgeId::new(lab.app.ksuid());
    let [bad, good] = [(lab.account, "a.example.com"), (other, "b.example.com")];
    let bad = control.endpoint(bad.0, bad.1, answer(200)).await;
    let good = control.endpoint(good.0, good.1, answer(200)).await;
    let before = bad.policy.as_ref().unwrap().hash();
    let (broken, mended) = (answer(503), answer(204));
    control.write(&bad, broken.clone()).await;
    control.write(&good, mended.clone()).await;
    assert_eq!(control.policy(Ring::Canary, bad.id).await, Some(broken.hash()));
    assert_eq!(control.policy(Ring::Rest, bad.id).await, Some(before));
    let unseen = |program: &Program| !program.policies.contains_key(&broken.hash());
    assert!(unseen(&control.seen(Ring::Rest).await), "nobody else even reads it");

    let (mut judge, now) = (Seen::new(Instant::now()), Instant::now());
    control.apply(&hold).await;
    judge.judge(&control.app, now).await.unwrap();
    control.requests(canary, &bad, 30, 30);
    control.requests(canary, &good, 30, 0);
    control.requests(elsewhere, &bad, 30, 0);
    judge.judge(&control.app, now).await.unwrap();
    assert_eq!(control.state(bad.id).await, Some(RolloutState::Returned));
    assert!(control.reason(bad.id).await.contains("30 of 30"), "{}", control.reason(bad.id).await);
    assert_eq!(control.state(good.id).await, Some(RolloutState::Held));
    for ring in [Ring::Canary, Ring::Rest] {
        assert_eq!(control.policy(ring, bad.id).await, Some(before), "{ring:?}");
    }
    let told = control.planned().await.left_out.get(&bad.key()).cloned().unwrap();
    assert!(told.contains("taken back"), "the answer to GET warns: {told}");

    judge.judge(&control.app, now + SOAK).await.unwrap();
    assert_eq!(control.state(good.id).await, None);
    assert_eq!(control.policy(Ring::Rest, good.id).await, Some(mended.hash()));
    assert!(unseen(&control.seen(Ring::Rest).await));
    assert_eq!(control.state(bad.id).await, Some(RolloutState::Returned), "it stays");

    // Written anew, it begins anew; and an operator may give it to all.
    control.write(&bad, answer(500)).await;
    assert_eq!(control.state(bad.id).await, Some(RolloutState::Held));
    assert_eq!(control.policy(Ring::Rest, bad.id).await, Some(before));
    control.write(&bad, broken.clone()).await;
    assert_eq!(resume(&control.app, bad.id).await.unwrap(), (bad.id, "released"));
    assert_eq!(control.policy(Ring::Rest, bad.id).await, Some(broken.hash()));
}

#[tokio::test]
async fn a_control_that_starts_anew_and_another_on_the_same_store_hold_the_same() {
    let lab = Lab::new().await;
    let control = Control::on(&lab.app);
    let (canary, hold) = control.canary().await;
    let endpoint = control.endpoint(lab.account, "a.example.com", answer(200)).await;
    let (before, broken) = (answer(200).hash(), answer(503));
    let mut other = lab.app.clone();
    other.candidate = Candidate::replica(other.store.clone(), &SystemEntropy);
    let other = Control::on(&other);
    // It has not read yet what the first tells of its edges.
    other.app.presence.share(Arc::default(), mpsc::channel(1).0);
    control.write(&endpoint, broken.clone()).await;
    assert_eq!(other.policy(Ring::Rest, endpoint.id).await, Some(before), "of the same revision");
    assert_eq!(other.policy(Ring::Canary, endpoint.id).await, Some(broken.hash()));
    // Neither does one take back what it cannot see, nor give it to all.
    let (mut judge, now) = (Seen::new(Instant::now()), Instant::now());
    judge.judge(&other.app, now).await.unwrap();
    judge.judge(&other.app, now + SOAK * 2).await.unwrap();
    assert_eq!(control.state(endpoint.id).await, Some(RolloutState::Held));
    // A write by way of the other waits too.
    other.write(&endpoint, answer(500)).await;
    assert_eq!(control.policy(Ring::Rest, endpoint.id).await, Some(before));
    assert_eq!(control.rollout(endpoint.id).await.unwrap().staged.record.canaries, [canary]);

    drop(control);
    drop(hold);
    let restarted = Control::on(&lab.app);
    assert_eq!(restarted.policy(Ring::Rest, endpoint.id).await, Some(before));
    assert_eq!(restarted.policy(Ring::Canary, endpoint.id).await, Some(answer(500).hash()));
    // It gives the canary edge time to come back, and the change its whole time.
    let (mut judge, now) = (Seen::new(Instant::now()), Instant::now());
    judge.judge(&restarted.app, now).await.unwrap();
    let hold = restarted.connect(canary);
    restarted.apply(&hold).await;
    judge.judge(&restarted.app, now + Duration::from_secs(LOST_SECS - 1)).await.unwrap();
    judge.judge(&restarted.app, now + SOAK).await.unwrap();
    assert_eq!(restarted.state(endpoint.id).await, Some(RolloutState::Held));
    judge.judge(&restarted.app, now + SOAK + Duration::from_secs(LOST_SECS)).await.unwrap();
    assert_eq!(restarted.state(endpoint.id).await, None);
}

#[tokio::test]
async fn what_a_canary_edge_refuses_and_what_it_is_lost_with_is_taken_back() {
    let lab = Lab::new().await;
    let control = Control::on(&lab.app);
    let (canary, hold) = control.canary().await;
    let endpoint = control.endpoint(lab.account, "a.example.com", answer(200)).await;
    let (mut judge, now) = (Seen::new(Instant::now()), Instant::now());
    control.write(&endpoint, answer(201)).await;
    control.app.tallies.refused(canary, &ObjectKey::Policy(answer(201).hash()), "no such regex");
    judge.judge(&control.app, now).await.unwrap();
    assert_eq!(control.state(endpoint.id).await, Some(RolloutState::Returned));
    assert!(control.reason(endpoint.id).await.contains("no such regex"));
    let refused = pause(&control.app, endpoint.id).await.unwrap_err().to_string();
    assert!(refused.contains("rollout resume"), "{refused}");

    control.write(&endpoint, answer(202)).await;
    control.apply(&hold).await;
    judge.judge(&control.app, now).await.unwrap();
    drop(hold);
    judge.judge(&control.app, now + Duration::from_secs(LOST_SECS - 1)).await.unwrap();
    assert_eq!(control.state(endpoint.id).await, Some(RolloutState::Held), "it may come back");
    judge.judge(&control.app, now + Duration::from_secs(LOST_SECS)).await.unwrap();
    assert_eq!(control.state(endpoint.id).await, Some(RolloutState::Returned));
    assert!(control.reason(endpoint.id).await.contains("lost"));

    // Without a canary edge that is connected everything goes everywhere at once, and what was taken back is replaced.
    control.write(&endpoint, answer(203)).await;
    assert_eq!(control.state(endpoint.id).await, None);
    assert_eq!(control.policy(Ring::Rest, endpoint.id).await, Some(answer(203).hash()));
}

#[tokio::test]
async fn what_others_have_stays_what_all_had_last() {
    let lab = Lab::new().await;
    let control = Control::on(&lab.app);
    let (_, hold) = control.canary().await;
    let endpoint = control.endpoint(lab.account, "a.example.com", answer(200)).await;
    let rest = async || control.policy(Ring::Rest, endpoint.id).await.unwrap();
    for status in [201, 202, 203] {
        control.write(&endpoint, answer(status)).await;
        assert_eq!(rest().await, answer(200).hash());
    }
    // Back where it was: nothing waits.
    control.write(&endpoint, answer(200)).await;
    assert_eq!(control.state(endpoint.id).await, None);
    // What takes access away waits for nobody, and takes along what waited.
    control.write(&endpoint, answer(204)).await;
    control.write(&endpoint, answer(403)).await;
    assert_eq!((control.state(endpoint.id).await, rest().await), (None, answer(403).hash()));

    // Paused it stays, whatever the time, until it goes on.
    control.write(&endpoint, answer(205)).await;
    assert_eq!(pause_all(&control.app).await.unwrap(), [(endpoint.id, "paused")]);
    let (mut judge, now) = (Seen::new(Instant::now()), Instant::now());
    control.apply(&hold).await;
    for secs in [0, 60, 600] {
        control.planned().await;
        judge.judge(&control.app, now + Duration::from_secs(secs)).await.unwrap();
    }
    assert_eq!(rest().await, answer(403).hash());
    assert_eq!(resume_all(&control.app).await.unwrap(), [(endpoint.id, "held")]);
    control.planned().await;
    judge.judge(&control.app, now + Duration::from_secs(601)).await.unwrap();
    assert_eq!((control.state(endpoint.id).await, rest().await), (None, answer(205).hash()));
    let gone = resume(&control.app, endpoint.id).await.unwrap_err().to_string();
    assert!(gone.contains("no change of"), "{gone}");
}

#[tokio::test]
async fn an_account_with_very_many_changes_delays_no_other() {
    let lab = Lab::new().await;
    let control = Control::on(&lab.app);
    let other = other_account(&control).await;
    let (_, _hold) = control.canary().await;
    for n in 0..ROLLOUTS_OF_ACCOUNT_MAX {
        let endpoint = control.endpoint(lab.account, &format!("e{n}.example.com"), answer(200)).await;
        control.write(&endpoint, answer(201)).await;
        assert_eq!(control.state(endpoint.id).await, Some(RolloutState::Held), "{n}");
    }
    let more = control.endpoint(lab.account, "more.example.com", answer(200)).await;
    control.write(&more, answer(201)).await;
    assert_eq!(control.state(more.id).await, None, "one more does not wait");
    let others = control.endpoint(other, "other.example.com", answer(200)).await;
    control.write(&others, answer(201)).await;
    assert_eq!(control.state(others.id).await, Some(RolloutState::Held));
}

#[tokio::test]
async fn what_operators_see_names_the_edges_and_what_they_say() {
    let lab = Lab::new().await;
    let control = Control::on(&lab.app);
    let (canary, _hold) = control.canary().await;
    let endpoint = control.endpoint(lab.account, "a.example.com", answer(200)).await;
    control.write(&endpoint, answer(201)).await;
    control.requests(canary, &endpoint, 3, 1);
    control.requests(EdgeId::new(lab.app.ksuid()), &endpoint, 5, 2);
    let shown = status(&control.app).await.unwrap();
    let rollout = &shown["rollouts"][0];
    assert_eq!((&rollout["state"], &rollout["endpoint"]), (&json!("held"), &json!(endpoint.id)));
    assert_eq!(rollout["canaries"], json!([{"edge": canary, "requests": 3, "errors": 1, "refused": null}]));
    assert_eq!(rollout["others"], json!({"requests": 5, "errors": 2}));
    assert_eq!((&shown["canaries"], &shown["settings"]["soak_secs"]), (&json!([canary]), &json!(60)));
    let set = |soak_secs| SettingsChange { soak_secs: Some(soak_secs), ..SettingsChange::default() };
    for bad in [0, 86_401] {
        let refused = change_settings(&*control.app.store, &set(bad)).await.unwrap_err().to_string();
        assert!(refused.contains("write 1 to 86400"), "{refused}");
    }
    assert_eq!(change_settings(&*control.app.store, &set(5)).await.unwrap().soak_secs, 5);
    assert_eq!(change_settings(&*control.app.store, &set(6)).await.unwrap().most_errors_percent, 5);
    assert_eq!(status(&control.app).await.unwrap()["settings"]["soak_secs"], 6);
    let damaged = Txn::new().put(ROLLOUT_KEY, "no settings");
    assert!(matches!(control.app.store.commit(damaged).await.unwrap(), Outcome::Committed(_)));
    assert_eq!(status(&control.app).await.unwrap()["settings"]["soak_secs"], 60, "the default");
    assert_eq!(change_settings(&*control.app.store, &set(7)).await.unwrap().soak_secs, 7);
    assert_eq!(status(&control.app).await.unwrap()["settings"]["soak_secs"], 7);
    let naming = async |host| naming(&control.app, lab.account, host).await.unwrap().len();
    assert_eq!((naming("status_code").await, naming("b.internal").await), (1, 0));
    let _ = record::load::<Rollout>(&*control.app.store, lab.account, endpoint.id).await.unwrap().unwrap();
}
