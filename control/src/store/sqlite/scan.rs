//! Reads very many keys as of one revision: by a connection of its own, so that other reads go on meanwhile.

use std::path::{Path, PathBuf};

use futures_util::{StreamExt, stream};
use rusqlite::Connection;
use tokio::sync::mpsc;

use super::super::error::StoreError;
use super::super::{Item, Page, Scan};
use super::read::{end_of, engine_error};
use super::schema::connect_to_read;
use super::sum::item;

/// Pages that are read and not yet taken.
const AHEAD_MAX: usize = 2;

/// Everything below a prefix, in pages of so many keys.
pub(super) fn scan(path: PathBuf, prefix: String, page: usize) -> Scan {
    let (pages, queue) = mpsc::channel(AHEAD_MAX);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = connect_to_read(&path).and_then(|db| read(&db, &path, &prefix, page, &pages)) {
            // Nobody waits for it: then it is nobody's error.
            let _ = pages.blocking_send(Err(error));
        }
    });
    stream::unfold(queue, |mut queue| async { queue.recv().await.map(|page| (page, queue)) }).boxed()
}

fn read(
    db: &Connection,
    path: &Path,
    prefix: &str,
    page: usize,
    pages: &mpsc::Sender<Result<Page, StoreError>>,
) -> Result<(), StoreError> {
    let each = || -> rusqlite::Result<()> {
        let snapshot = db.unchecked_transaction()?;
        let revision = snapshot.query_row("SELECT revision FROM state", [], |row| row.get(0))?;
        let mut select = snapshot.prepare(
            "SELECT key, value, created, modified, lease, sum FROM entries WHERE key >= ?1 AND key < ?2 ORDER BY key",
        )?;
        let mut rows = select.query([prefix, &end_of(prefix)])?;
        let mut items: Vec<Item> = Vec::with_capacity(page);
        while let Some(row) = rows.next()? {
            // The one before is sent when it is known that more follows.
            if items.len() >= page.max(1) {
                let items = std::mem::replace(&mut items, Vec::with_capacity(page));
                if pages.blocking_send(Ok(Page { items, more: true, revision })).is_err() {
                    return Ok(());
                }
            }
            items.push(item(row)?);
        }
        // Nobody waits for it: then nobody lacks it.
        let _ = pages.blocking_send(Ok(Page { items, more: false, revision }));
        Ok(())
    };
    each().map_err(|error| engine_error(path, error))
}
