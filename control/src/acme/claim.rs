//! One issuer at a time: the key that says which replica of control talks to the authority, held by a lease.
//!
//! Every write of the issuer depends on that key, so that one whose lease has ended changes nothing any more.

use std::time::Duration;

use tokio::time::interval;

use crate::App;
use crate::secret;
use crate::store::{LeaseId, Outcome, Revision, StoreError, Txn};

/// Key of the claim.
const CLAIM_KEY: &str = "/system/acme_issuer";
/// Seconds that a claim outlives its holder.
const LEASE_SECS: u64 = 15;
/// Seconds between two signs of life.
const KEEP_SECS: u64 = 5;

/// The right to talk to the authority.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claim {
    lease: LeaseId,
    taken: Revision,
}

impl Claim {
    /// Takes the claim. None: another has it.
    pub(super) async fn take(app: &App) -> Result<Option<Self>, StoreError> {
        if app.store.get(CLAIM_KEY).await?.is_some() {
            return Ok(None);
        }
        let lease = app.store.grant(Duration::from_secs(LEASE_SECS)).await?;
        let holder = secret::base62(&*app.entropy, 16);
        let txn = Txn::new().if_absent(CLAIM_KEY).put_leased(CLAIM_KEY, holder.clone(), lease);
        let taken = match app.store.commit(txn).await {
            Ok(Outcome::Committed(_)) => {
                app.store.get(CLAIM_KEY).await?.filter(|item| item.value == holder.as_bytes())
            }
            Ok(Outcome::Conflict(_)) => None,
            Err(error) => {
                // Whether it was written is not known: without its lease it goes.
                let _ = app.store.revoke(lease).await;
                return Err(error);
            }
        };
        match taken {
            Some(item) => Ok(Some(Self { lease, taken: item.modified })),
            None => {
                app.store.revoke(lease).await?;
                Ok(None)
            }
        }
    }

    /// Keeps the claim; ends when it is lost.
    pub(super) async fn keep(self, app: &App) {
        let mut often = interval(Duration::from_secs(KEEP_SECS));
        loop {
            often.tick().await;
            if let Err(error) = app.store.keep_alive(self.lease).await {
                tracing::warn!(%error, "the claim on the ACME orders is lost; another replica goes on, or this one again");
                return;
            }
        }
    }

    /// The same transaction, which happens only while the claim is held.
    pub(super) fn guard(self, txn: Txn) -> Txn {
        txn.if_unchanged(CLAIM_KEY, self.taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::testing::Lab;

    #[tokio::test]
    async fn one_has_the_claim_and_without_it_nothing_is_written() {
        let lab = Lab::new().await;
        let first = Claim::take(&lab.app).await.unwrap().expect("nobody has it");
        assert!(Claim::take(&lab.app).await.unwrap().is_none());
        let write = |claim: Claim, key: &str| claim.guard(Txn::new().put(key, "x"));
        let done = lab.app.store.commit(write(first, "/one")).await.unwrap();
        assert!(matches!(done, Outcome::Committed(_)));
        lab.app.store.revoke(first.lease).await.unwrap();
        let second = Claim::take(&lab.app).await.unwrap().expect("it is free again");
        let late = lab.app.store.commit(write(first, "/two")).await.unwrap();
        assert!(matches!(late, Outcome::Conflict(_)), "of an issuer that lost its claim");
        let done = lab.app.store.commit(write(second, "/two")).await.unwrap();
        assert!(matches!(done, Outcome::Committed(_)));
    }
}
