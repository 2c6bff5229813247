//! What other controls tell: read once, then followed. After a gap it is read anew, and what is not there any more is gone.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::sleep;

use super::keys::Key;
use super::ledger::Ledger;
use super::shared::{RETRY_SECS, Sharing};
use super::{chunks, commands};
use crate::error_chain::ErrorChain;
use crate::presence::{Head, Told};
use crate::record;
use crate::store::{Batch, Change, Item, PASSING_PREFIX, StoreError};

/// Keys read at once.
const PAGE_KEYS: usize = 256;

/// Follows the others for ever.
pub(super) async fn follow(sharing: &Arc<Sharing>) -> Infallible {
    loop {
        let Err(error) = follow_from_now(sharing).await;
        if !matches!(error, StoreError::Compacted { .. }) {
            sharing.metrics.presence_failures.inc();
            tracing::warn!(error = %ErrorChain(&error), "what other controls tell cannot be followed; reading it anew");
            sleep(Duration::from_secs(RETRY_SECS)).await;
        }
    }
}

async fn follow_from_now(sharing: &Arc<Sharing>) -> Result<Infallible, StoreError> {
    let (mut items, mut revision) = (Vec::new(), 0);
    let mut pages = sharing.store.scan(PASSING_PREFIX.into(), PAGE_KEYS);
    while let Some(page) = pages.next().await {
        let page = page?;
        revision = page.revision;
        items.extend(page.items);
    }
    take_all(sharing, &items);
    drop(items);
    let mut changes = sharing.store.watch(PASSING_PREFIX.into(), revision);
    while let Some(batch) = changes.next().await {
        take(sharing, &batch?);
    }
    Err(StoreError::Closed)
}

/// Takes in everything that there is.
fn take_all(sharing: &Arc<Sharing>, items: &[Item]) {
    let mut reading = Reading { sharing, told: Vec::new(), ledger: Ledger::default() };
    for item in items {
        reading.put(item);
    }
    let Reading { told, mut ledger, .. } = reading;
    {
        let mut kept = sharing.ledger();
        ledger.follow(std::mem::take(&mut *kept));
        *kept = ledger;
    }
    sharing.presence.replace_others(told);
    commands::take_all(sharing, items.iter().filter_map(commands::asked).collect());
    sharing.see(0);
}

/// Takes in what changed.
fn take(sharing: &Arc<Sharing>, batch: &Batch) {
    let told = {
        let mut kept = sharing.ledger();
        let mut reading = Reading { sharing, told: Vec::new(), ledger: std::mem::take(&mut *kept) };
        for change in &batch.changes {
            match change {
                Change::Put(item) => reading.put(item),
                Change::Delete { key, .. } => reading.gone(key),
            }
        }
        *kept = reading.ledger;
        reading.told
    };
    sharing.presence.take_others(told);
    for change in &batch.changes {
        match change {
            Change::Put(item) => {
                if let Some(asked) = commands::asked(item) {
                    commands::take(sharing, asked);
                }
            }
            Change::Delete { key, .. } => commands::gone(sharing, key),
        }
    }
    let bytes = |change: &Change| match change {
        Change::Put(item) => item.value.len(),
        Change::Delete { .. } => 0,
    };
    sharing.see(batch.changes.iter().map(bytes).sum());
}

/// Values of the store on their way to Presence.
struct Reading<'s> {
    sharing: &'s Sharing,
    told: Vec<Told>,
    ledger: Ledger,
}

impl Reading<'_> {
    /// A value that cannot be read is skipped: what was known before stays.
    fn put(&mut self, item: &Item) {
        let skipped = |reason: String| {
            tracing::error!(
                key = item.key,
                reason,
                "what another control told cannot be read; it is skipped"
            );
        };
        match Key::parse(&item.key) {
            Some(Key::Head(edge)) => match record::parse::<Head>(item) {
                Ok(head) => {
                    self.ledger.head(edge, Some(head.epoch.clone()));
                    let is_own = head.control == self.sharing.name;
                    let told = Told::Head { edge, revision: item.modified, head: Arc::new(head) };
                    self.told.push(if is_own { Told::HeadGone { edge } } else { told });
                }
                Err(error) => skipped(ErrorChain(&error).to_string()),
            },
            Some(Key::Chunk { edge, epoch, number }) => {
                self.ledger.put(edge, &epoch, number);
                if self.sharing.is_own(&epoch) {
                    return;
                }
                match chunks::read(&item.value) {
                    _ if item.damaged => skipped("its checksum does not fit".to_owned()),
                    Ok(sessions) => self.told.push(Told::Chunk { edge, epoch, number, sessions }),
                    Err(error) => skipped(error.to_string()),
                }
            }
            Some(Key::Command { .. } | Key::Answer { .. } | Key::Control(_)) => {}
            None => skipped("no control of this release writes such a key".to_owned()),
        }
    }

    fn gone(&mut self, key: &str) {
        match Key::parse(key) {
            Some(Key::Head(edge)) => {
                self.ledger.head(edge, None);
                self.told.push(Told::HeadGone { edge });
            }
            Some(Key::Chunk { edge, epoch, number }) => {
                self.ledger.gone(edge, &epoch, number);
                self.told.push(Told::ChunkGone { edge, epoch, number });
            }
            _ => {}
        }
    }
}
