//! Keeps the keys as they are to be: at start and every hour.

use super::{SESSION_KEYS_KEY, SessionKeys, open};
use crate::app::App;
use crate::leader::Claim;
use crate::record::{self, RecordError};
use crate::store::{Outcome, Txn};

/// Makes the first key, replaces one that has sealed long enough, and forgets those that nobody needs. A record that cannot be
/// read is made anew: then visitors sign in again.
pub async fn renew(app: &App, claim: Option<&Claim>) -> Result<bool, RecordError> {
    let item = app.store.get(SESSION_KEYS_KEY).await?;
    let readable = item.as_ref().filter(|item| open::<Box<dyn std::error::Error>>(item, &app.vault).is_ok());
    let stored = readable.and_then(|item| record::parse::<SessionKeys>(item).ok()).unwrap_or_default();
    let Some(renewed) = stored.renewed(app.now(), &*app.entropy, &app.vault) else { return Ok(false) };
    let txn = match &item {
        Some(item) => Txn::new().if_unchanged(SESSION_KEYS_KEY, item.modified),
        None => Txn::new().if_absent(SESSION_KEYS_KEY),
    };
    let txn = txn.put(SESSION_KEYS_KEY, record::encode(&renewed));
    let txn = match claim {
        Some(claim) => claim.fence(txn),
        None => txn,
    };
    let outcome = app.store.commit(txn).await?;
    tracing::info!(?outcome, "visitors' sessions are sealed with another key from now on, or in an hour");
    Ok(matches!(outcome, Outcome::Committed(_)))
}
