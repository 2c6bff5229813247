//! How changes are judged, as the operator wants it. Every control reads it anew for each judgement.

use serde::Deserialize;

use super::error::RolloutError;
use crate::record::rollout::{ROLLOUT_KEY, RolloutSettings};
use crate::record::{self, RecordError};
use crate::store::{Outcome, Store, Txn};

/// What of it changes; None: it stays.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SettingsChange {
    /// See [`RolloutSettings`].
    pub soak_secs: Option<u64>,
    /// See [`RolloutSettings`].
    pub least_requests: Option<u64>,
    /// See [`RolloutSettings`].
    pub most_errors_percent: Option<u64>,
}

/// What holds now.
pub(super) async fn settings(store: &dyn Store) -> Result<RolloutSettings, RecordError> {
    match record::read::<RolloutSettings>(store, ROLLOUT_KEY).await {
        Ok(stored) => Ok(stored.map(|stored| stored.record).unwrap_or_default()),
        // Changes go on being judged. What is set next takes its place.
        Err(RecordError::Damaged { .. }) => {
            tracing::error!(
                key = ROLLOUT_KEY,
                "the settings of rollouts cannot be read: the defaults hold until `rollout set`"
            );
            Ok(RolloutSettings::default())
        }
        Err(error) => Err(error),
    }
}

/// Changes what is given, and gives what holds now.
pub async fn change_settings(
    store: &dyn Store,
    change: &SettingsChange,
) -> Result<RolloutSettings, RolloutError> {
    let stored = store.get(ROLLOUT_KEY).await?;
    let old = settings(store).await?;
    let new = RolloutSettings {
        soak_secs: change.soak_secs.unwrap_or(old.soak_secs),
        least_requests: change.least_requests.unwrap_or(old.least_requests),
        most_errors_percent: change.most_errors_percent.unwrap_or(old.most_errors_percent),
    };
    new.check().map_err(RolloutError::Setting)?;
    let txn = match &stored {
        Some(stored) => Txn::new().if_unchanged(ROLLOUT_KEY, stored.modified),
        None => Txn::new().if_absent(ROLLOUT_KEY),
    };
    match store.commit(txn.put(ROLLOUT_KEY, record::encode(&new))).await? {
        Outcome::Committed(_) => Ok(new),
        Outcome::Conflict(_) => Err(RolloutError::Conflict),
    }
}
