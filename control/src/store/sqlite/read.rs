//! Reads of the database, and what its errors mean.

use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, ErrorCode, params};

use super::super::error::StoreError;
use super::super::txn::{Change, Page, Range};
use super::sum::{change, item};

/// First key that no longer has the prefix: no key contains the greatest character.
pub(super) fn end_of(prefix: &str) -> String {
    format!("{prefix}\u{10FFFF}")
}

pub(super) fn read_range(db: &Connection, range: &Range) -> rusqlite::Result<Page> {
    let order = if range.reverse { "DESC" } else { "ASC" };
    let mut select = db.prepare_cached(&format!(
        "SELECT key, value, created, modified, lease, sum FROM entries WHERE key >= ?1 AND key < ?2 ORDER BY key {order} LIMIT ?3"
    ))?;
    let end = range.before.clone().unwrap_or_else(|| end_of(&range.prefix)).min(end_of(&range.prefix));
    // One more than wanted tells whether something was cut off; -1 means no limit in SQL.
    let limit = range.limit.map_or(-1, |limit| i64::try_from(limit).unwrap_or(i64::MAX - 1) + 1);
    let rows = select.query_map(params![range.prefix, end, limit], item)?;
    let mut items = rows.collect::<Result<Vec<_>, _>>()?;
    let more = range.limit.is_some_and(|limit| items.len() > limit);
    items.truncate(range.limit.unwrap_or(usize::MAX));
    let revision = db.query_row("SELECT revision FROM state", [], |row| row.get(0))?;
    Ok(Page { items, more, revision })
}

/// None: one of them is damaged.
pub(super) fn read_changes(
    db: &Connection,
    prefix: &str,
    after: u64,
    upto: u64,
) -> rusqlite::Result<Option<Vec<Change>>> {
    let mut select = db.prepare_cached(
        "SELECT key, value, created, revision, lease, sum FROM log
         WHERE revision > ?1 AND revision <= ?2 AND key >= ?3 AND key < ?4 ORDER BY revision, sequence",
    )?;
    let rows = select.query_map(params![after, upto, prefix, end_of(prefix)], change)?;
    rows.collect()
}

/// What an error of the engine means to an operator.
pub(super) fn engine_error(path: &Path, error: rusqlite::Error) -> StoreError {
    let path = path.to_owned();
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full { path },
        Some(ErrorCode::ReadOnly) => StoreError::ReadOnly { path },
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StoreError::Damaged { path, detail: error.to_string() }
        }
        _ => StoreError::Engine { path, source: Arc::new(error) },
    }
}
