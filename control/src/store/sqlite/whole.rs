//! A database written at once, from records that came from elsewhere.

use std::fs::File;
use std::path::Path;

use rusqlite::{Connection, params};

use super::super::error::{StoreError, file_error};
use super::super::{Item, Revision};
use super::read::engine_error;
use super::schema;
use super::sum::sum;

/// Makes a new database with these records, which begins at a revision, durably. Leases stay behind, and so do their keys.
pub fn write_database(path: &Path, items: &[Item], revision: Revision) -> Result<(), StoreError> {
    schema::create(path)?;
    let failed = |e| engine_error(path, e);
    let mut db = Connection::open(path).map_err(failed)?;
    write(&mut db, items, revision).map_err(failed)?;
    db.close().map_err(|(_, e)| failed(e))?;
    File::open(path).and_then(|file| file.sync_all()).map_err(|e| file_error(path, e))
}

fn write(db: &mut Connection, items: &[Item], revision: Revision) -> rusqlite::Result<()> {
    let step = db.transaction()?;
    {
        let mut put = step.prepare("INSERT INTO entries VALUES (?1, ?2, ?3, ?4, NULL, ?5)")?;
        for item in items.iter().filter(|item| item.lease.is_none()) {
            let sum = if item.damaged {
                0
            } else {
                sum(&item.key, Some(&item.value), item.created, item.modified, None)
            };
            put.execute(params![item.key, &item.value[..], item.created, item.modified, sum])?;
        }
    }
    step.execute("UPDATE state SET revision = ?1, compacted = ?1", [revision])?;
    step.commit()?;
    // One file, without a log beside it.
    db.pragma_update(None, "journal_mode", "delete")
}
