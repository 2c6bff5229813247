//! Judges changes that canary edges have, every second, and does what follows.
//!
//! Every control judges by what its own edges say, and a change is decided once: by a write that is tied to the record as it
//! was judged. A canary edge may be fed by another control, which judges by it; that one is lost every control sees.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use ebbgate_model::{EdgeId, EndpointId, PolicyHash};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::decide::{Canary, Decision, LOST_SECS, decide, decide_unseen};
use super::settings::settings;
use crate::App;
use crate::error_chain::ErrorChain;
use crate::fleet;
use crate::presence::LiveEdge;
use crate::push::{RolledOut, Tally};
use crate::record::rollout::{Rollout, RolloutState};
use crate::record::{self, RecordError};
use crate::store::{Outcome, Txn};

/// Seconds between two judgements.
const JUDGE_SECS: u64 = 1;

/// Judges for ever.
pub async fn judge(app: App) -> Infallible {
    let mut seen = Seen::new(Instant::now());
    let mut often = interval(Duration::from_secs(JUDGE_SECS));
    often.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        often.tick().await;
        if let Err(error) = seen.judge(&app, Instant::now()).await {
            let error = ErrorChain(&error).to_string();
            tracing::warn!(error, "changes that canary edges have could not be judged; trying again");
        }
    }
}

/// What this control has seen of canary edges.
#[derive(Debug)]
pub(super) struct Seen {
    began: Instant,
    /// When they were connected to this control last.
    connected: BTreeMap<EdgeId, Instant>,
    /// When they were connected to any control last.
    online: BTreeMap<EdgeId, Instant>,
    /// Since when they have a change.
    kept: BTreeMap<(EndpointId, EdgeId), Kept>,
}

/// Since when an edge has a policy on one connection.
#[derive(Debug)]
struct Kept {
    feed: u64,
    policy: Option<PolicyHash>,
    since: Instant,
}

impl Seen {
    pub(super) fn new(began: Instant) -> Self {
        Self { began, connected: BTreeMap::new(), online: BTreeMap::new(), kept: BTreeMap::new() }
    }

    /// Judges all changes once.
    pub(super) async fn judge(&mut self, app: &App, now: Instant) -> Result<(), RecordError> {
        let rollouts = app.planned.borrow().rollouts.clone();
        self.kept.retain(|(endpoint, _), _| rollouts.contains_key(endpoint));
        let under_way =
            |(_, it): &(&EndpointId, &RolledOut)| it.staged.record.state != RolloutState::Returned;
        if !rollouts.iter().any(|rollout| under_way(&rollout)) {
            self.connected.clear();
            self.online.clear();
            self.began = now;
            return Ok(());
        }
        let (settings, flagged) = (settings(&*app.store).await?, fleet::canaries(app).await?);
        let edges: BTreeMap<EdgeId, LiveEdge> =
            app.presence.edges().into_iter().map(|edge| (edge.id, edge)).collect();
        for edge in edges.values().filter(|edge| edge.feed.is_some()) {
            self.connected.insert(edge.id, now);
        }
        for edge in edges.values().filter(|edge| edge.connected) {
            self.online.insert(edge.id, now);
        }
        for (id, rollout) in rollouts.iter().filter(under_way) {
            let record = &rollout.staged.record;
            let tallies = app.tallies.of(*id);
            let wanted = record.canaries.iter().filter(|edge| flagged.contains(edge));
            let wanted: Vec<EdgeId> = wanted.copied().collect();
            let mut canaries = self.canaries(app, &wanted, (*id, rollout), &edges, now);
            for canary in &mut canaries {
                canary.tally = tallies.get(&canary.edge).cloned().unwrap_or_default();
            }
            let has_it = |edge: &EdgeId| flagged.contains(edge) || record.canaries.contains(edge);
            let others = others(&tallies, has_it);
            let age = u64::try_from(app.now().saturating_sub(record.changed_at)).unwrap_or_default();
            let decision = if canaries.is_empty() && !wanted.is_empty() {
                decide_unseen(record.state, age, &settings)
            } else {
                decide(record.state, age, &canaries, &others, &settings)
            };
            let done = match decision {
                Decision::Hold => Ok(()),
                Decision::Release(reason) => release(app, rollout, &reason).await,
                Decision::Return(reason) => take_back(app, rollout, reason).await,
            };
            if let Err(error) = done {
                let error = ErrorChain(&error).to_string();
                tracing::warn!(endpoint = %id, error, "what was decided of a change could not be written; trying again");
            }
        }
        Ok(())
    }

    /// What is known of the canary edges of a change. With several controls an edge that this one has not seen is another's.
    fn canaries(
        &mut self,
        app: &App,
        wanted: &[EdgeId],
        (endpoint, rollout): (EndpointId, &RolledOut),
        edges: &BTreeMap<EdgeId, LiveEdge>,
        now: Instant,
    ) -> Vec<Canary> {
        let secs = |since: Instant| now.saturating_duration_since(since).as_secs();
        let mut all = Vec::new();
        let (is_alone, knows_others) = (app.candidate.is_alone(), app.presence.knows_others());
        for edge in wanted.iter().copied() {
            let is_online = edges.get(&edge).is_some_and(|edge| edge.connected);
            let last = self.online.get(&edge).copied().unwrap_or(self.began);
            let gone_secs = if is_online || !knows_others { 0 } else { secs(last) };
            // An edge that was never fed here is judged by another control, as long as there is one that feeds it.
            if !is_alone && gone_secs < LOST_SECS && !self.connected.contains_key(&edge) {
                continue;
            }
            let feed = edges.get(&edge).and_then(|edge| Some((edge.feed?, edge.applied)));
            let kept_secs = feed.and_then(|(feed, applied)| {
                let key = (endpoint, edge);
                let is_same = |kept: &Kept| kept.feed == feed && kept.policy == rollout.policy;
                if !self.kept.get(&key).is_some_and(is_same) {
                    self.kept.remove(&key);
                    if applied >= rollout.staged.modified {
                        self.kept.insert(key, Kept { feed, policy: rollout.policy, since: now });
                    }
                }
                self.kept.get(&key).map(|kept| secs(kept.since))
            });
            all.push(Canary { edge, gone_secs, kept_secs, tally: Tally::default() });
        }
        all
    }
}

/// What edges with the policy before said.
fn others(tallies: &BTreeMap<EdgeId, Tally>, has_it: impl Fn(&EdgeId) -> bool) -> Tally {
    let others = tallies.iter().filter(|(edge, _)| !has_it(edge));
    others.fold(Tally::default(), |all, (_, tally)| Tally {
        requests: all.requests.saturating_add(tally.requests),
        errors: all.errors.saturating_add(tally.errors),
        refused: None,
    })
}

/// All edges get the change.
async fn release(app: &App, rollout: &RolledOut, reason: &str) -> Result<(), RecordError> {
    let (record, modified) = (&rollout.staged.record, rollout.staged.modified);
    let key = record::key::<Rollout>(record.account, record.id);
    let told = Rollout { reason: reason.to_owned(), ..Rollout::clone(record) };
    let txn = Txn::new().if_unchanged(&key, modified).note(&key, Some(told.shown()), None).delete(key);
    if let Outcome::Committed(_) = app.store.commit(txn).await? {
        tracing::info!(account = %record.account, endpoint = %record.id, reason, "all edges get a change");
    }
    Ok(())
}

/// No edge has the change any more.
async fn take_back(app: &App, rollout: &RolledOut, reason: String) -> Result<(), RecordError> {
    let (record, modified) = (&rollout.staged.record, rollout.staged.modified);
    tracing::error!(account = %record.account, endpoint = %record.id, reason, "a change is taken back from canary edges");
    let new =
        Rollout { state: RolloutState::Returned, changed_at: app.now(), reason, ..Rollout::clone(record) };
    let txn = record::replace(Txn::new(), &new, modified);
    let txn =
        txn.note(record::key::<Rollout>(record.account, record.id), Some(record.shown()), Some(new.shown()));
    let _ = app.store.commit(txn).await?;
    Ok(())
}
