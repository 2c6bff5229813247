//! Keeps the registry of managed names at what is stored.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::sleep;

use super::name::ACME_PREFIX;
use crate::App;
use crate::store::{Change, Range, StoreError};

/// Seconds until the store is asked again after it failed.
const RETRY_SECS: u64 = 1;

/// Follows the store for ever.
pub async fn watch_names(app: App) {
    loop {
        match follow(&app).await {
            Ok(()) | Err(StoreError::Compacted { .. }) => {}
            Err(error) => tracing::warn!(%error, "what is known of certificate orders may be old"),
        }
        sleep(Duration::from_secs(RETRY_SECS)).await;
    }
}

async fn follow(app: &App) -> Result<(), StoreError> {
    let page = app.store.range(Range::all(ACME_PREFIX)).await?;
    app.acme.clear();
    for item in &page.items {
        app.acme.set(&item.key, Some(item));
    }
    let mut changes = app.store.watch(ACME_PREFIX.into(), page.revision);
    while let Some(batch) = changes.next().await {
        for change in batch?.changes {
            match change {
                Change::Put(item) => app.acme.set(&item.key, Some(&item)),
                Change::Delete { key, .. } => app.acme.set(&key, None),
            }
        }
    }
    Ok(())
}
