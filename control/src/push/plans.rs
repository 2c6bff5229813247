//! From revisions to what edges must have: one task that watches the store and publishes the newest plan.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ebbgate_model::EndpointId;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::planned::{Planned, RolledOut};
use super::published::Published;
use super::tallies::{Tallies, Watched};
use crate::error_chain::ErrorChain;
use crate::metrics::Metrics;
use crate::plan::live::Live;
use crate::plan::overlay::{Overlay, Ring, overlay};
use crate::plan::planner::Planner;
use crate::record::rollout::RolloutState;
use crate::record::{self, Endpoint};
use crate::room::{Count, Room};
use crate::secret::Vault;
use crate::snapshot::Staged;
use crate::store::{Batch, Page, Store, StoreError, Watch};

/// Seconds until the store is asked again after it failed.
const RETRY_SECS: u64 = 1;
/// Items read at once at the start.
const PAGE_ITEMS: usize = 5_000;
/// Batches of the watch planned at once: under load changes come in faster than plans, and share one.
const BATCHES_MAX: usize = 100;

#[derive(Debug, thiserror::Error)]
enum PlanError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the watch of the store ended")]
    Ended,
    #[error("planning ended half way")]
    Broken,
}

/// What planning needs besides the store.
#[derive(Clone)]
pub struct Follower {
    /// Opens sealed keys.
    pub vault: Arc<Vault>,
    /// What feeds send.
    pub published: Arc<Published>,
    /// Where the news goes.
    pub publish: watch::Sender<Planned>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// How much edges take, and how much of it is in use.
    pub room: Arc<Room>,
    /// Where edges' words on changes are counted that not all of them have.
    pub tallies: Arc<Tallies>,
}

/// Follows the store for ever. After any error it says so and reads everything anew; the last good plan stays.
pub async fn follow(store: Arc<dyn Store>, follower: Follower) {
    loop {
        let Err(error) = follower.follow_from_now(&*store).await;
        if !matches!(error, PlanError::Store(StoreError::Compacted { .. })) {
            let trouble = ErrorChain(&error).to_string();
            tracing::error!(error = trouble, "planning stopped; edges keep what they have");
            follower.publish.send_modify(|planned| planned.trouble = Some(trouble));
            sleep(Duration::from_secs(RETRY_SECS)).await;
        }
    }
}

impl Follower {
    async fn follow_from_now(&self, store: &dyn Store) -> Result<std::convert::Infallible, PlanError> {
        let mut planner = self.read_all(store).await?;
        let mut changes = store.watch("/".into(), planner.revision());
        planner = self.on_own_thread(planner, Self::plan_anew).await?;
        loop {
            let batches = next_batches(&mut changes).await?;
            let work = move |this: &Self, planner: &mut Planner| {
                this.take(planner, &batches);
                this.plan(planner);
            };
            planner = self.on_own_thread(planner, work).await?;
        }
    }

    /// Reads everything there is at one revision.
    async fn read_all(&self, store: &dyn Store) -> Result<Planner, PlanError> {
        // The next page is read while the one before is taken in.
        let (pages, mut queue) = mpsc::channel::<Page>(1);
        let (vault, bytes_max) = (Arc::clone(&self.vault), self.room.bytes_max());
        let taking_in = spawn_blocking(move || {
            let mut planner = Planner::new(bytes_max);
            while let Some(page) = queue.blocking_recv() {
                planner.read(&page.items, &vault);
                planner.snapshot.revision = page.revision;
            }
            planner
        });
        let mut scan = store.scan("/".into(), PAGE_ITEMS);
        while let Some(page) = scan.next().await {
            pages.send(page?).await.map_err(|_| PlanError::Broken)?;
        }
        drop(pages);
        taking_in.await.map_err(|_| PlanError::Broken)
    }

    /// Large changes take their time, and others want the runtime's threads.
    async fn on_own_thread(
        &self,
        mut planner: Planner,
        work: impl FnOnce(&Self, &mut Planner) + Send + 'static,
    ) -> Result<Planner, PlanError> {
        let this = self.clone();
        let run = move || {
            work(&this, &mut planner);
            planner
        };
        spawn_blocking(run).await.map_err(|_| PlanError::Broken)
    }

    fn take(&self, planner: &mut Planner, batches: &[Batch]) {
        for batch in batches {
            planner.follow(batch, &self.vault);
        }
    }

    /// Plans everything aside: feeds go on meanwhile with what they have.
    fn plan_anew(&self, planner: &mut Planner) {
        let mut live = Live::anew();
        planner.plan(&mut live);
        let rollouts = rollouts(planner);
        let mut state = self.published.0.blocking_write();
        let [canary, rest] = self.overlays(planner, &live, &rollouts);
        state.stage(canary, rest);
        state.replace(live, planner.revision());
        drop(state);
        let count = Count::Anew(planner.holdings.all());
        self.tell(planner, rollouts, count);
    }

    /// What the rings see otherwise. What is counted is set before any edge can get a change.
    fn overlays(&self, planner: &Planner, live: &Live, rollouts: &Rollouts) -> [Overlay; 2] {
        let watched = |rollout: &RolledOut| Watched {
            account: rollout.staged.record.account,
            url: rollout.url.clone(),
            policy: rollout.policy,
            from: rollout.staged.modified,
        };
        let under_way = rollouts.iter().filter(|(_, it)| it.staged.record.state != RolloutState::Returned);
        self.tallies.watch(under_way.map(|(id, rollout)| (*id, watched(rollout))).collect());
        [Ring::Canary, Ring::Rest].map(|ring| overlay(&planner.snapshot, live, ring))
    }

    fn plan(&self, planner: &mut Planner) {
        let mut state = self.published.0.blocking_write();
        planner.plan(&mut state.live);
        let rollouts = rollouts(planner);
        let [canary, rest] = self.overlays(planner, &state.live, &rollouts);
        state.stage(canary, rest);
        state.publish(planner.revision());
        drop(state);
        let count = Count::Changed(planner.holdings.take_changed());
        self.tell(planner, rollouts, count);
    }

    /// Says how far planning has come. What cannot be read or sent is left out and told; everything else goes on.
    fn tell(&self, planner: &Planner, rollouts: Rollouts, count: Count) {
        let generation = planner.revision();
        self.metrics.plans.inc();
        tracing::debug!(generation, "planned");
        self.room.counted(count, generation, planner.snapshot.bytes, planner.snapshot.accounts.len());
        let before = Arc::clone(&self.publish.borrow().left_out);
        let mut left_out = if planner.leaves_out() { planner.left_out() } else { BTreeMap::new() };
        left_out.extend(returned(&rollouts));
        let (left_out, rollouts) = (Arc::new(left_out), Arc::new(rollouts));
        for (key, reason) in left_out.iter().filter(|(key, _)| !before.contains_key(*key)) {
            tracing::error!(generation, key, reason, "a record is left out of what edges get");
        }
        let trouble = planner.trouble(&self.published.0.blocking_read().live);
        if let Some(trouble) = &trouble {
            tracing::error!(generation, trouble, "edges get more than they are said to take");
        }
        self.publish.send_replace(Planned { generation: Some(generation), left_out, trouble, rollouts });
    }
}

/// Changes of endpoints that are there and not all edges have.
type Rollouts = BTreeMap<EndpointId, RolledOut>;

fn rollouts(planner: &Planner) -> Rollouts {
    let all = planner.snapshot.rollouts.all().iter();
    let of = |(id, staged): (&EndpointId, &Staged)| {
        let spec = &planner.snapshot.endpoints.get(id)?.spec;
        let rolled_out = RolledOut { staged: staged.clone(), url: spec.url.clone(), policy: spec.policy };
        (spec.account == staged.record.account).then_some((*id, rolled_out))
    };
    all.filter_map(of).collect()
}

/// What was taken back, by the key of the endpoint's record, each with the reason.
fn returned(rollouts: &Rollouts) -> impl Iterator<Item = (String, String)> {
    let returned = rollouts.iter().filter(|(_, it)| it.staged.record.state == RolloutState::Returned);
    returned.map(|(id, it)| {
        let record = &it.staged.record;
        let reason =
            format!("its newest policy was taken back ({}), and edges use the one before", record.reason);
        (record::key::<Endpoint>(record.account, *id), reason)
    })
}

/// Waits for a change, and takes those along that have come meanwhile. Nothing waits for more: one change goes out at once.
async fn next_batches(changes: &mut Watch) -> Result<Vec<Batch>, PlanError> {
    let mut batches = vec![changes.next().await.ok_or(PlanError::Ended)??];
    while batches.len() < BATCHES_MAX
        && let Some(batch) = changes.next().now_or_never()
    {
        batches.push(batch.ok_or(PlanError::Ended)??);
    }
    Ok(batches)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::testing::Lab;
    use crate::record::{self, Credential, INSTALLATION_KEY, Record, encode};
    use crate::store::{Outcome, Txn};
    use ebbgate_model::{Acl, CredentialId, TokenHash};

    /// A planner that follows a lab's store, and where its plans arrive.
    fn following(lab: &Lab) -> (tokio::task::JoinHandle<()>, Arc<Published>, watch::Receiver<Planned>) {
        let (publish, planned) = watch::channel(Planned::default());
        let (app, published) = (lab.app.clone(), Arc::<Published>::default());
        let task = Follower {
            vault: app.vault,
            published: Arc::clone(&published),
            publish,
            metrics: app.metrics,
            room: app.room,
            tallies: app.tallies,
        };
        (tokio::spawn(follow(app.store, task)), published, planned)
    }

    async fn commit(lab: &Lab, txn: Txn) -> u64 {
        match lab.app.store.commit(txn).await {
            Ok(Outcome::Committed(revision)) => revision,
            other => panic!("{other:?}"),
        }
    }

    fn generation(planned: &Planned) -> u64 {
        planned.generation.unwrap_or_default()
    }

    #[tokio::test]
    async fn a_damaged_record_of_one_account_keeps_no_change_of_another_from_being_planned() {
        let lab = Lab::new().await;
        let (following, published, mut planned) = following(&lab);
        let credential = |account| Credential {
            id: CredentialId::new(lab.app.ksuid()),
            account,
            description: String::new(),
            metadata: String::new(),
            acl: Acl::default(),
            owner: None,
            hash: TokenHash([1; 32]),
            created_at: 0,
        };
        let (account, first, _) = crate::account::create("b", 0, &*lab.app.entropy);
        let (own, others) = (credential(lab.account), credential(account.id));
        let txn = crate::account::add(Txn::new(), &account, &first);
        let made = commit(&lab, record::create(record::create(txn, &own), &others)).await;
        let mut wait = async |revision| {
            planned.wait_for(|planned| generation(planned) == revision).await.unwrap().clone()
        };
        wait(made).await;
        assert_eq!(published.program().await.credentials.len(), 2);

        let damaged = commit(&lab, Txn::new().put(others.key(), "damage")).await;
        let now = wait(damaged).await;
        assert_eq!(now.trouble, None);
        assert!(now.left_out.keys().eq([&others.key()]), "{:?}", now.left_out);
        assert!(published.program().await.credentials.keys().eq([&own.id]), "closed, and nobody else");

        let revoked = commit(&lab, Txn::new().delete(own.key())).await;
        wait(revoked).await;
        assert!(published.program().await.credentials.is_empty(), "a revocation is planned");
        let gone = commit(&lab, Txn::new().delete(others.key())).await;
        assert!(wait(gone).await.left_out.is_empty());
        following.abort();
    }

    #[tokio::test]
    async fn the_installation_that_was_planned_stays_when_its_record_is_damaged() {
        let lab = Lab::new().await;
        let (following, published, mut planned) = following(&lab);
        let good = commit(&lab, Txn::new().put(INSTALLATION_KEY, encode(&*lab.app.installation))).await;
        planned.wait_for(|planned| generation(planned) == good).await.unwrap();
        let damaged = commit(&lab, Txn::new().put(INSTALLATION_KEY, "damage")).await;
        let now = planned.wait_for(|planned| generation(planned) == damaged).await.unwrap().clone();
        assert_eq!(published.program().await.settings.region, lab.app.installation.region);
        assert!(now.left_out.keys().eq([INSTALLATION_KEY]));
        following.abort();
    }
}
