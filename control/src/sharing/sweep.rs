//! Chunks that no head names are deleted, by one control at a time: those of controls that ended, and of epochs before.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::keys;
use super::ledger::Orphan;
use super::shared::Sharing;
use crate::error_chain::ErrorChain;
use crate::leader::{Candidate, Claim};
use crate::presence::Head;
use crate::record;
use crate::store::{Outcome, StoreError, Txn};

/// Seconds between two looks.
const SWEEP_SECS: u64 = 10;
/// Chunks deleted in one write.
const DELETES: usize = 100;
/// Chunks deleted in one look at most.
const DELETES_MAX: usize = 2_000;

/// Does the job whenever this control has it, for ever.
pub(super) async fn lead(sharing: &Arc<Sharing>, candidate: &Candidate) -> Infallible {
    let work = |claim: Claim| {
        let sharing = Arc::clone(sharing);
        async move {
            loop {
                sleep(Duration::from_secs(SWEEP_SECS)).await;
                if let Err(error) = sweep(&sharing, &claim, Instant::now()).await {
                    tracing::warn!(error = %ErrorChain(&error), "sessions of edges that are gone stay in the store a while");
                }
            }
        }
    };
    candidate.lead("presence", work).await
}

/// Deletes what is nobody's by now. Gives how many.
pub(super) async fn sweep(sharing: &Sharing, claim: &Claim, now: Instant) -> Result<usize, StoreError> {
    let orphans = sharing.ledger().orphans(now);
    let mut deleted = 0;
    for Orphan { edge, epoch, numbers } in orphans {
        let key = keys::head(edge);
        let unnamed = match sharing.store.get(&key).await? {
            None => Txn::new().if_absent(&key),
            Some(item) if record::parse::<Head>(&item).is_ok_and(|head| head.epoch == epoch) => continue,
            Some(item) => Txn::new().if_unchanged(&key, item.modified),
        };
        let numbers: Vec<_> = numbers.into_iter().take(DELETES_MAX.saturating_sub(deleted)).collect();
        for some in numbers.chunks(DELETES) {
            let delete = |txn: Txn, number: &u16| txn.delete(keys::chunk(edge, &epoch, *number));
            let txn = some.iter().fold(claim.fence(unnamed.clone()), delete);
            match sharing.write(txn).await? {
                Outcome::Committed(_) => deleted += some.len(),
                Outcome::Conflict(_) => break,
            }
        }
    }
    Ok(deleted)
}
