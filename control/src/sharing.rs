//! `sharing`: what controls on one store tell each other of the edges that they feed, so that each of them knows all.
//!
//! An edge has a head (`presence/heads/EDGE`), which names its control and an epoch, and lives by a lease that its control keeps.
//! The edge's sessions are in the chunks of that epoch, which have no lease: a lease with very many keys blocks etcd when it
//! ends. A control writes chunks first, then the head. Of two controls that feed an edge one after the other the head's revision
//! decides. Chunks without a head are deleted after a minute by whichever control has that job.
//!
//! Only controls write here, each by the id that an edge's certificate has. Knows no API and no feed.

mod chunks;
mod commands;
mod keys;
mod ledger;
mod message;
mod shared;
mod sweep;
mod tell;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ebbgate_model::EdgeId;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::error_chain::ErrorChain;
use crate::leader::Candidate;
use crate::store::{StoreError, Txn};
pub use shared::{LEASE_SECS, Sharing};

use shared::{COMMANDS_MAX, RETRY_SECS};

/// Seconds between two signs of life of this control in the store.
const BEAT_SECS: u64 = 5;
/// Seconds between two looks for edges that began to be fed here.
const LOOK_SECS: u64 = 1;

/// Shares until dropped. `candidate`: by which this control asks for the job of removing what nobody needs.
pub async fn run(sharing: Arc<Sharing>, candidate: Candidate) {
    tokio::join!(
        watch::follow(&sharing),
        tell_edges(&sharing),
        beat(&sharing),
        send_commands(&sharing),
        sweep::lead(&sharing, &candidate),
    );
}

/// Keeps a task for every edge that is fed here.
async fn tell_edges(sharing: &Arc<Sharing>) {
    let mut tasks = JoinSet::new();
    let mut told = BTreeMap::<EdgeId, AbortHandle>::new();
    loop {
        while tasks.try_join_next().is_some() {}
        told.retain(|_, task| !task.is_finished());
        for edge in sharing.presence.own_edges() {
            told.entry(edge).or_insert_with(|| {
                let sharing = Arc::clone(sharing);
                tasks.spawn(async move { tell::edge(&sharing, edge).await })
            });
        }
        // The look finds an edge that came back while its task was about to end.
        let _ = timeout(Duration::from_secs(LOOK_SECS), sharing.began.notified()).await;
    }
}

/// Says that this control is there, for ever.
async fn beat(sharing: &Sharing) {
    loop {
        let Err(error) = beat_with_lease(sharing).await;
        tracing::debug!(error = %ErrorChain(&error), "this control could not say that it is there");
        sleep(Duration::from_secs(RETRY_SECS)).await;
    }
}

async fn beat_with_lease(sharing: &Sharing) -> Result<std::convert::Infallible, StoreError> {
    let lease = sharing.store.grant(Duration::from_secs(LEASE_SECS)).await?;
    let (key, value) = (keys::control(&sharing.name), sharing.at.clone().unwrap_or_default());
    loop {
        let _ = sharing.store.commit(Txn::new().put_leased(&key, value.clone(), lease)).await?;
        sleep(Duration::from_secs(BEAT_SECS)).await;
        sharing.store.keep_alive(lease).await?;
    }
}

async fn send_commands(sharing: &Arc<Sharing>) {
    let mut asked = sharing.asked.lock().await;
    let mut tasks = JoinSet::new();
    while let Some(command) = asked.recv().await {
        while tasks.try_join_next().is_some() {}
        if tasks.len() < COMMANDS_MAX {
            let sharing = Arc::clone(sharing);
            tasks.spawn(async move { commands::send(&sharing, command).await });
        }
    }
    // Presence holds the other end as long as this control runs.
    std::future::pending::<()>().await;
}
