//! `leader`: a job that one control process does at a time: the replica that holds the job's claim.
//!
//! A claim is a key with a lease. Two processes may both believe for a moment that they hold it (one was stopped, or cut
//! off): so a job writes only what [`Claim::fence`] ties to its claim, and the store refuses what comes too late. A lost
//! claim stops a job and changes nothing else. Knows no job.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::{Instant, sleep, timeout};

use crate::error_chain::ErrorChain;
use crate::secret::{self, Entropy};
use crate::store::{LeaseId, Outcome, Revision, Store, StoreError, Txn};

/// Seconds after which the claim of a process that died is free.
pub const LEASE_SECS: u64 = 15;
/// Seconds between two renewals of a claim.
const KEEP_SECS: u64 = 4;
/// Seconds without a renewal after which a process gives its claim up by itself: before the store does.
const TRUST_SECS: u64 = 10;
/// Seconds until the store is asked again after an error, and until a job that ended may begin anew.
const RETRY_SECS: u64 = 1;
/// What claims' keys begin with. Not below `/`: edges get no new generation for a claim.
pub const PREFIX: &str = "leader/";
/// Name of a process that is the only one; no replica's name is as short.
const ALONE: &str = "alone";
/// Base62 characters of a replica's name.
const NAME_CHARS: usize = 16;

/// One control process as it asks for jobs. Cheap to clone; all clones are the same process.
#[derive(Clone)]
pub struct Candidate {
    store: Arc<dyn Store>,
    name: Arc<str>,
    /// Leases of the claims it holds.
    held: Arc<Mutex<BTreeSet<LeaseId>>>,
}

/// That a job is this process's, as long as the store says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    key: String,
    token: Revision,
}

impl Claim {
    /// Grows with each claim of the job: a process that has seen a greater one need not listen to this.
    pub fn token(&self) -> Revision {
        self.token
    }

    /// Ties a transaction to the claim: it conflicts once another process, or this one anew, has claimed the job.
    #[must_use]
    pub fn fence(&self, txn: Txn) -> Txn {
        txn.if_unchanged(&self.key, self.token)
    }

    /// Whether a transaction conflicted because the claim is lost ([`Outcome::Conflict`] carries the key).
    pub fn is_lost(&self, conflict: &str) -> bool {
        self.key == conflict
    }
}

impl Candidate {
    /// The only process that can write to its store: what it claimed before it was restarted is still its own.
    pub fn alone(store: Arc<dyn Store>) -> Self {
        Self::named(store, ALONE)
    }

    /// Whether no other process can write to the store.
    pub fn is_alone(&self) -> bool {
        &*self.name == ALONE
    }

    /// One of several processes on a store, with a name of its own.
    pub fn replica(store: Arc<dyn Store>, entropy: &dyn Entropy) -> Self {
        Self::named(store, &secret::base62(entropy, NAME_CHARS))
    }

    fn named(store: Arc<dyn Store>, name: &str) -> Self {
        Self { store, name: name.into(), held: Arc::default() }
    }

    /// Does a job whenever this process holds its claim, for ever. `work` is dropped at its next await when the claim is
    /// lost, and begun anew a second after it ended by itself.
    pub async fn lead<W, F>(&self, job: &str, work: W) -> Infallible
    where
        W: Fn(Claim) -> F,
        F: Future<Output = ()>,
    {
        loop {
            let seen = self.store.revision();
            match self.claim(job).await {
                Ok(Some((claim, lease))) => {
                    tracing::info!(job, token = claim.token, "this control does the job");
                    tokio::select! {
                        () = work(claim) => self.release(lease).await,
                        () = self.keep(lease) => {
                            tracing::warn!(job, "the claim of the job is lost; another control may have it");
                            self.forget(lease);
                        }
                    }
                    sleep(Duration::from_secs(RETRY_SECS)).await;
                }
                Ok(None) => self.wait_free(job, seen).await,
                Err(error) => {
                    tracing::warn!(job, error = %ErrorChain(&error), "the job could not be claimed; trying again");
                    sleep(Duration::from_secs(RETRY_SECS)).await;
                }
            }
        }
    }

    /// Gives all claims back, so that others need not wait for leases to end.
    pub async fn resign(&self) {
        let held = std::mem::take(&mut *self.held.lock().unwrap_or_else(PoisonError::into_inner));
        for lease in held {
            self.release(lease).await;
        }
    }

    /// Takes a job that nobody has. None: another process has it.
    async fn claim(&self, job: &str) -> Result<Option<(Claim, LeaseId)>, StoreError> {
        let key = format!("{PREFIX}{job}");
        let free = match self.store.get(&key).await? {
            None => Txn::new().if_absent(&key),
            // Of this process before it was restarted, or of a claim it gave up: nobody else has this name.
            Some(item) if item.value == self.name.as_bytes() => Txn::new().if_unchanged(&key, item.modified),
            Some(_) => return Ok(None),
        };
        let lease = self.store.grant(Duration::from_secs(LEASE_SECS)).await?;
        self.held.lock().unwrap_or_else(PoisonError::into_inner).insert(lease);
        let name = self.name.as_bytes().to_vec();
        match self.store.commit(free.put_leased(&key, name, lease)).await {
            Ok(Outcome::Committed(token)) => Ok(Some((Claim { key, token }, lease))),
            Ok(Outcome::Conflict(_)) => {
                self.release(lease).await;
                Ok(None)
            }
            // Whether it is claimed is not known; the lease decides.
            Err(error) => {
                self.release(lease).await;
                Err(error)
            }
        }
    }

    /// Claims a job that no other process has, for a test of the job. It is kept as long as its lease.
    #[cfg(test)]
    pub(crate) async fn claimed(&self, job: &str) -> Claim {
        self.claim(job).await.expect("a working store").expect("a job that is free").0
    }

    /// Keeps a claim alive. Returns when it is lost, or cannot be relied on any more.
    async fn keep(&self, lease: LeaseId) {
        let mut kept = Instant::now();
        let mut pause = KEEP_SECS;
        loop {
            sleep(Duration::from_secs(pause)).await;
            let asked = Instant::now();
            let left = (kept + Duration::from_secs(TRUST_SECS)).saturating_duration_since(asked);
            match timeout(left, self.store.keep_alive(lease)).await {
                Ok(Ok(())) => (kept, pause) = (asked, KEEP_SECS),
                Ok(Err(StoreError::LeaseUnknown(_))) | Err(_) => return,
                Ok(Err(_)) => pause = RETRY_SECS,
            }
        }
    }

    /// Waits until the job may be free: for a change since a revision. A watch alone is not relied on.
    async fn wait_free(&self, job: &str, seen: Revision) {
        let mut changes = self.store.watch(format!("{PREFIX}{job}"), seen);
        let change = timeout(Duration::from_secs(LEASE_SECS), changes.next()).await;
        if !matches!(change, Ok(Some(Ok(_)))) {
            sleep(Duration::from_secs(RETRY_SECS)).await;
        }
    }

    async fn release(&self, lease: LeaseId) {
        self.forget(lease);
        if let Err(error) = self.store.revoke(lease).await {
            tracing::debug!(error = %ErrorChain(&error), "a lease was not revoked; it ends by itself");
        }
    }

    fn forget(&self, lease: LeaseId) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&lease);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Sqlite;
    use tokio::sync::mpsc;

    /// Longest wait for something that must happen.
    const PATIENCE: Duration = Duration::from_mins(1);

    fn store() -> (Arc<dyn Store>, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        (Arc::new(Sqlite::create(&dir.path().join("control.db")).unwrap()), dir)
    }

    /// A process that tells its claims of a job, and never ends the job by itself.
    fn leading(candidate: &Candidate) -> (tokio::task::JoinHandle<Infallible>, mpsc::Receiver<Claim>) {
        let (tell, claims) = mpsc::channel(8);
        let candidate = candidate.clone();
        let work = move |claim| {
            let tell = tell.clone();
            async move {
                tell.send(claim).await.unwrap();
                std::future::pending::<()>().await;
            }
        };
        (tokio::spawn(async move { candidate.lead("job", work).await }), claims)
    }

    async fn next(claims: &mut mpsc::Receiver<Claim>) -> Claim {
        timeout(PATIENCE, claims.recv()).await.expect("a claim in time").unwrap()
    }

    #[tokio::test]
    async fn one_of_two_does_a_job_and_the_other_follows_when_it_resigns() {
        let (store, _dir) = store();
        let (first, second) =
            (Candidate::named(store.clone(), "first"), Candidate::named(store.clone(), "second"));
        let (running, mut of_first) = leading(&first);
        let claim = next(&mut of_first).await;
        let (_following, mut of_second) = leading(&second);
        assert_eq!(second.claim("job").await.unwrap(), None, "it is taken");
        assert!(second.claim("other").await.unwrap().is_some(), "jobs are apart");
        running.abort();
        first.resign().await;
        let later = next(&mut of_second).await;
        assert!(later.token() > claim.token());
        // The first does not know it yet: what it writes is refused.
        let write = |claim: &Claim| claim.fence(Txn::new().put("/x", "by it"));
        let refused = store.commit(write(&claim)).await.unwrap();
        assert!(matches!(refused, Outcome::Conflict(key) if claim.is_lost(&key)));
        assert!(matches!(store.commit(write(&later)).await.unwrap(), Outcome::Committed(_)));
    }

    #[tokio::test]
    async fn a_process_alone_takes_its_claim_up_again_after_a_restart_without_waiting() {
        let (store, _dir) = store();
        let (before, _lease) = Candidate::alone(store.clone()).claim("job").await.unwrap().unwrap();
        let (after, _lease) = Candidate::alone(store.clone()).claim("job").await.unwrap().unwrap();
        assert!(after.token() > before.token());
        let late = store.commit(before.fence(Txn::new().put("/x", "late"))).await.unwrap();
        assert!(matches!(late, Outcome::Conflict(_)), "what is left of the process before writes nothing");
    }

    #[tokio::test]
    async fn a_job_stops_when_its_lease_is_lost_and_is_claimed_anew() {
        let (store, _dir) = store();
        let candidate = Candidate::named(store.clone(), "only");
        let (_running, mut claims) = leading(&candidate);
        let first = next(&mut claims).await;
        let lease = *candidate.held.lock().unwrap().first().unwrap();
        store.revoke(lease).await.unwrap();
        assert!(next(&mut claims).await.token() > first.token());
    }
}
