//! From revisions to Programs: one task that watches the store and publishes the newest plan.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::planned::Planned;
use crate::error_chain::ErrorChain;
use crate::metrics::Metrics;
use crate::plan::fit::{TooLarge, fit};
use crate::plan::{left_out, plan, unsent_bytes};
use crate::room::Room;
use crate::secret::Vault;
use crate::snapshot::Snapshot;
use crate::store::{Batch, Range, Store, StoreError, Watch};

/// Changes that follow each other within this many milliseconds share one plan.
const DEBOUNCE_MS: u64 = 5;
/// Changes that keep coming are planned at the latest after this many milliseconds.
const DEBOUNCE_MS_MAX: u64 = 50;
/// Seconds until the store is asked again after it failed.
const RETRY_SECS: u64 = 1;

#[derive(Debug, thiserror::Error)]
enum PlanError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the watch of the store ended")]
    Ended,
}

/// What planning needs besides the store.
#[derive(Clone)]
pub struct Planner {
    /// Opens sealed keys.
    pub vault: Arc<Vault>,
    /// Where the plans go.
    pub publish: watch::Sender<Planned>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// How much an edge takes, and how much of it is in use.
    pub room: Arc<Room>,
}

/// Follows the store for ever. After any error it says so and reads everything anew; the last good plan stays.
pub async fn follow(store: Arc<dyn Store>, planner: Planner) {
    loop {
        let Err(error) = planner.follow_from_now(&*store).await;
        if !matches!(error, PlanError::Store(StoreError::Compacted { .. })) {
            let trouble = ErrorChain(&error).to_string();
            tracing::error!(error = trouble, "planning stopped; edges keep what they have");
            planner.publish.send_modify(|planned| planned.trouble = Some(trouble));
            sleep(Duration::from_secs(RETRY_SECS)).await;
        }
    }
}

impl Planner {
    async fn follow_from_now(&self, store: &dyn Store) -> Result<std::convert::Infallible, PlanError> {
        let everything = store.range(Range::all("/")).await?;
        let mut snapshot = Snapshot::read(&everything.items, everything.revision, &self.vault);
        let mut changes = store.watch("/".into(), snapshot.revision);
        drop(everything);
        loop {
            self.plan(&snapshot);
            for batch in next_batches(&mut changes).await? {
                snapshot.follow(&batch.changes, batch.revision, &self.vault);
            }
        }
    }

    /// Plans a snapshot. What cannot be read or sent is left out and told; everything else goes on.
    fn plan(&self, snapshot: &Snapshot) {
        let program = plan(snapshot);
        let generation = program.generation;
        match fit(program, self.room.bytes_max()) {
            Ok(fitted) => {
                self.metrics.plans.inc();
                tracing::debug!(generation, "planned");
                let in_use = fitted.bytes_whole + unsent_bytes(snapshot, &fitted.program);
                self.room.planned(generation, in_use, snapshot.accounts.len());
                let mut left_out = left_out(snapshot);
                left_out.extend(fitted.left_out);
                self.tell(generation, &left_out);
                self.publish.send_replace(Planned {
                    program: Some(Arc::new(fitted.program)),
                    digest: Some(fitted.digest),
                    left_out: Arc::new(left_out),
                    trouble: None,
                });
            }
            Err(error @ TooLarge { .. }) => {
                let trouble = error.to_string();
                tracing::error!(generation, trouble, "edges keep what they have");
                self.publish.send_modify(|planned| planned.trouble = Some(trouble));
            }
        }
    }

    /// Logs what is left out from now on.
    fn tell(&self, generation: u64, left_out: &BTreeMap<String, String>) {
        let before = Arc::clone(&self.publish.borrow().left_out);
        for (key, reason) in left_out.iter().filter(|(key, _)| !before.contains_key(*key)) {
            tracing::error!(generation, key, reason, "a record is left out of what edges get");
        }
    }
}

/// Waits for a change, then a little longer for those that belong to it.
async fn next_batches(changes: &mut Watch) -> Result<Vec<Batch>, PlanError> {
    let mut batches = vec![changes.next().await.ok_or(PlanError::Ended)??];
    let more = async {
        while let Ok(batch) = timeout(Duration::from_millis(DEBOUNCE_MS), changes.next()).await {
            batches.push(batch.ok_or(PlanError::Ended)??);
        }
        Ok(())
    };
    timeout(Duration::from_millis(DEBOUNCE_MS_MAX), more).await.unwrap_or(Ok::<_, PlanError>(()))?;
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
    fn following(lab: &Lab) -> (tokio::task::JoinHandle<()>, watch::Receiver<Planned>) {
        let (publish, planned) = watch::channel(Planned::default());
        let app = lab.app.clone();
        let task = Planner { vault: app.vault, publish, metrics: app.metrics, room: app.room };
        (tokio::spawn(follow(app.store, task)), planned)
    }

    async fn commit(lab: &Lab, txn: Txn) -> u64 {
        match lab.app.store.commit(txn).await {
            Ok(Outcome::Committed(revision)) => revision,
            other => panic!("{other:?}"),
        }
    }

    fn generation(planned: &Planned) -> u64 {
        planned.program.as_ref().map_or(0, |program| program.generation)
    }

    #[tokio::test]
    async fn a_damaged_record_of_one_account_keeps_no_change_of_another_from_being_planned() {
        let lab = Lab::new().await;
        let (following, mut planned) = following(&lab);
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
        assert_eq!(wait(made).await.program.unwrap().credentials.len(), 2);

        let damaged = commit(&lab, Txn::new().put(others.key(), "damage")).await;
        let now = wait(damaged).await;
        assert_eq!(now.trouble, None);
        assert!(now.left_out.keys().eq([&others.key()]), "{:?}", now.left_out);
        assert!(now.program.unwrap().credentials.keys().eq([&own.id]), "closed, and nobody else");

        let revoked = commit(&lab, Txn::new().delete(own.key())).await;
        assert!(wait(revoked).await.program.unwrap().credentials.is_empty(), "a revocation is planned");
        let gone = commit(&lab, Txn::new().delete(others.key())).await;
        assert!(wait(gone).await.left_out.is_empty());
        following.abort();
    }

    #[tokio::test]
    async fn the_installation_that_was_planned_stays_when_its_record_is_damaged() {
        let lab = Lab::new().await;
        let (following, mut planned) = following(&lab);
        let good = commit(&lab, Txn::new().put(INSTALLATION_KEY, encode(&*lab.app.installation))).await;
        planned.wait_for(|planned| generation(planned) == good).await.unwrap();
        let damaged = commit(&lab, Txn::new().put(INSTALLATION_KEY, "damage")).await;
        let now = planned.wait_for(|planned| generation(planned) == damaged).await.unwrap().clone();
        assert_eq!(now.program.unwrap().settings.region, lab.app.installation.region);
        assert!(now.left_out.keys().eq([INSTALLATION_KEY]));
        following.abort();
    }
}
