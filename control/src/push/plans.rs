//! From revisions to Programs: one task that watches the store and publishes the newest plan.

use std::sync::Arc;
use std::time::Duration;

use ebbgate_model::Program;
use ebbgate_model::feed::{LINE_BYTES_MAX, ToEdge};
use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::metrics::Metrics;
use crate::plan::plan;
use crate::secret::Vault;
use crate::snapshot::{Snapshot, SnapshotError};
use crate::store::{Batch, Range, Store, StoreError, Watch};
use crate::trouble::Trouble;

/// Changes that follow each other within this many milliseconds share one plan.
const DEBOUNCE_MS: u64 = 5;
/// Changes that keep coming are planned at the latest after this many milliseconds.
const DEBOUNCE_MS_MAX: u64 = 50;
/// Seconds until the store is asked again after it failed.
const RETRY_SECS: u64 = 1;

/// The newest plan, and what keeps a newer one from being made.
#[derive(Debug, Clone, Default)]
pub struct Planned {
    /// None until the first plan.
    pub program: Option<Arc<Program>>,
    /// Why the plan is not the newest, for the operator.
    pub trouble: Option<String>,
}

#[derive(Debug, thiserror::Error)]
enum PlanError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error("the watch of the store ended")]
    Ended,
}

/// Follows the store for ever. After any error it says so and reads everything anew; the last good plan stays.
pub async fn follow(
    store: Arc<dyn Store>,
    vault: Arc<Vault>,
    publish: watch::Sender<Planned>,
    metrics: Arc<Metrics>,
) {
    loop {
        let Err(error) = follow_from_now(&*store, &vault, &publish, &metrics).await;
        if !matches!(error, PlanError::Store(StoreError::Compacted { .. })) {
            let trouble = Trouble(&error).to_string();
            tracing::error!(error = trouble, "planning stopped; edges keep what they have");
            publish.send_modify(|planned| planned.trouble = Some(trouble));
            sleep(Duration::from_secs(RETRY_SECS)).await;
        }
    }
}

async fn follow_from_now(
    store: &dyn Store,
    vault: &Vault,
    publish: &watch::Sender<Planned>,
    metrics: &Metrics,
) -> Result<std::convert::Infallible, PlanError> {
    let everything = store.range(Range::all("/")).await?;
    let mut snapshot = Snapshot::read(&everything.items, everything.revision, vault)?;
    let mut changes = store.watch("/".into(), snapshot.revision);
    drop(everything);
    loop {
        let program = plan(&snapshot);
        let generation = program.generation;
        match fit(program, LINE_BYTES_MAX) {
            Ok(program) => {
                metrics.plans.inc();
                tracing::debug!(generation, "planned");
                publish.send_replace(Planned { program: Some(Arc::new(program)), trouble: None });
            }
            Err(trouble) => {
                tracing::error!(generation, trouble, "edges keep what they have");
                publish.send_modify(|planned| planned.trouble = Some(trouble));
            }
        }
        for batch in next_batches(&mut changes).await? {
            snapshot.follow(&batch.changes, batch.revision, vault)?;
        }
    }
}

/// The Program, if an edge that starts with nothing can still be sent the whole of it.
fn fit(program: Program, line_bytes_max: usize) -> Result<Program, String> {
    let mut line = Counter::default();
    let message = ToEdge::Program(Box::new(program));
    let counted = serde_json::to_writer(&mut line, &message);
    let ToEdge::Program(program) = message else { return Err("a Program became another message".into()) };
    match counted {
        Ok(()) if line.0 < line_bytes_max => Ok(*program),
        Ok(()) => Err(format!(
            "all that is stored makes a Program of {} MiB, and an edge takes {} MiB: delete endpoints, certificates or IP policy rules",
            line.0 >> 20,
            line_bytes_max >> 20
        )),
        Err(error) => Err(format!("the Program cannot be written down: {error}")),
    }
}

/// Counts bytes and keeps none.
#[derive(Default)]
struct Counter(usize);

impl std::io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
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
    use crate::record::{INSTALLATION_KEY, encode};
    use crate::store::{Outcome, Txn};

    #[test]
    fn what_no_edge_could_be_sent_whole_is_not_planned() {
        let program = Program { generation: 7, ..Program::default() };
        let line = serde_json::to_vec(&ToEdge::Program(Box::new(program.clone()))).unwrap();
        // One byte more for the end of the line.
        assert_eq!(fit(program.clone(), line.len() + 1), Ok(program.clone()));
        assert!(fit(program, line.len()).unwrap_err().contains("an edge takes"));
    }

    #[tokio::test]
    async fn the_newest_revision_is_planned_and_a_damaged_record_stops_only_what_is_newer() {
        let lab = Lab::new().await;
        let (publish, mut planned) = watch::channel(Planned::default());
        let app = lab.app.clone();
        let following = tokio::spawn(follow(app.store, app.vault, publish, app.metrics));
        let commit = async |value: Vec<u8>| match lab
            .app
            .store
            .commit(Txn::new().put(INSTALLATION_KEY, value))
            .await
        {
            Ok(Outcome::Committed(revision)) => revision,
            other => panic!("{other:?}"),
        };
        let mut wait = async |is: &dyn Fn(&Planned) -> bool| planned.wait_for(is).await.unwrap().clone();
        let generation = |planned: &Planned| planned.program.as_ref().map(|program| program.generation);

        let good = commit(encode(&*lab.app.installation)).await;
        let now = wait(&|planned| generation(planned) == Some(good)).await;
        assert_eq!(now.program.unwrap().settings.region, lab.app.installation.region);

        commit(b"damage".to_vec()).await;
        let now = wait(&|planned| planned.trouble.is_some()).await;
        assert_eq!(generation(&now), Some(good), "the last good plan stays");
        assert!(now.trouble.unwrap().contains(INSTALLATION_KEY));

        let repaired = commit(encode(&*lab.app.installation)).await;
        let now = wait(&|planned| generation(planned) == Some(repaired)).await;
        assert_eq!(now.trouble, None);
        following.abort();
    }
}
