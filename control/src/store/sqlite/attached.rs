//! Files that travel inside a copy of the database, in tables of their own. Knows no more of them than their names.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, params};

use super::super::error::{StoreError, file_error};
use super::read::engine_error;

/// No log beside it: the copy is one file, also where nothing can be written.
const TABLES: &str = "
    PRAGMA journal_mode = DELETE;
    CREATE TABLE bundle (made INTEGER NOT NULL, release TEXT NOT NULL) STRICT;
    CREATE TABLE bundle_files (name TEXT PRIMARY KEY NOT NULL, content BLOB NOT NULL, sum BLOB NOT NULL) STRICT;
";
/// What the files held must not stay in free pages of a database that goes on without them.
const FORGET: &str = "
    PRAGMA journal_mode = DELETE;
    PRAGMA secure_delete = ON;
    DROP TABLE bundle;
    DROP TABLE bundle_files;
    VACUUM;
";

/// Files beside a database, with their owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// When, in Unix seconds.
    pub made: i64,
    /// By which release.
    pub release: String,
    /// Content and checksum by name.
    pub files: BTreeMap<String, (Vec<u8>, Vec<u8>)>,
}

/// Puts files into a copy of a database that no process uses, durably.
pub fn attach(path: &Path, attached: &Attached) -> Result<(), StoreError> {
    change(path, |db| {
        db.execute_batch(TABLES)?;
        db.execute("INSERT INTO bundle VALUES (?1, ?2)", params![attached.made, attached.release])?;
        for (name, (content, sum)) in &attached.files {
            db.execute("INSERT INTO bundle_files VALUES (?1, ?2, ?3)", params![name, content, sum])?;
        }
        Ok(())
    })
}

/// The files in a copy of a database; None: it has none.
pub fn attached(path: &Path) -> Result<Option<Attached>, StoreError> {
    let db = super::schema::connect_to_read(path)?;
    read_attached(&db).map_err(|e| engine_error(path, e))
}

fn read_attached(db: &Connection) -> rusqlite::Result<Option<Attached>> {
    let known = "SELECT 1 FROM sqlite_schema WHERE name = 'bundle'";
    if db.query_row(known, [], |_| Ok(())).optional()?.is_none() {
        return Ok(None);
    }
    let about = db.query_row("SELECT made, release FROM bundle", [], |row| Ok((row.get(0)?, row.get(1)?)));
    let (made, release) = about?;
    let mut select = db.prepare("SELECT name, content, sum FROM bundle_files")?;
    let files = select.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))?;
    Ok(Some(Attached { made, release, files: files.collect::<Result<_, _>>()? }))
}

/// Takes the files out again, durably.
pub fn detach(path: &Path) -> Result<(), StoreError> {
    change(path, |db| db.execute_batch(FORGET))
}

fn change(path: &Path, work: impl FnOnce(&Connection) -> rusqlite::Result<()>) -> Result<(), StoreError> {
    let failed = |e| engine_error(path, e);
    let db = Connection::open(path).map_err(failed)?;
    work(&db).map_err(failed)?;
    db.close().map_err(|(_, e)| failed(e))?;
    File::open(path).and_then(|file| file.sync_all()).map_err(|e| file_error(path, e))
}
