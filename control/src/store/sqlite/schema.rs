//! The file: how it is made, checked, brought up to date and copied.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags, params};

use super::super::SCHEMA;
use super::super::error::{StoreError, file_error};
use super::super::{Page, Range};
use super::read::{engine_error, read_range};
use super::sum::sum;
use crate::disk::{Unwritable, unwritable};

/// Marks the file as ours: `EbGt` in ASCII.
const APPLICATION_ID: i32 = 0x4562_4774;
/// The first schema with checksums of values.
const SUMS_SINCE: u32 = 2;
/// Damage that no page shows.
const BEHIND: &str = "its revision is behind that of its records";
/// Makes one schema version out of the one before.
struct Migration {
    sql: &'static str,
    /// What SQL alone cannot do.
    then: fn(&Connection) -> rusqlite::Result<()>,
}

/// One entry per schema version, run in order. Never edit one that was released.
const MIGRATIONS: &[Migration] = &[
    Migration {
        sql: "
    CREATE TABLE entries (
        key TEXT PRIMARY KEY NOT NULL, value BLOB NOT NULL,
        created INTEGER NOT NULL, modified INTEGER NOT NULL, lease INTEGER
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX entries_of_lease ON entries (lease) WHERE lease IS NOT NULL;
    CREATE TABLE log (
        revision INTEGER NOT NULL, sequence INTEGER NOT NULL, key TEXT NOT NULL,
        value BLOB, created INTEGER NOT NULL, lease INTEGER,
        PRIMARY KEY (revision, sequence)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE leases (id INTEGER PRIMARY KEY AUTOINCREMENT, ttl_ms INTEGER NOT NULL) STRICT;
    CREATE TABLE state (revision INTEGER NOT NULL, compacted INTEGER NOT NULL) STRICT;
    INSERT INTO state VALUES (0, 0);
",
        then: |_| Ok(()),
    },
    // No watcher outlives the process, so the old log is not needed.
    Migration {
        sql: "
    ALTER TABLE entries ADD COLUMN sum INTEGER NOT NULL DEFAULT 0;
    DROP TABLE log;
    CREATE TABLE log (
        revision INTEGER NOT NULL, sequence INTEGER NOT NULL, key TEXT NOT NULL,
        value BLOB, created INTEGER NOT NULL, lease INTEGER, sum INTEGER NOT NULL,
        PRIMARY KEY (revision, sequence)
    ) STRICT, WITHOUT ROWID;
    UPDATE state SET compacted = revision;
",
        then: sum_all,
    },
    // Records of this release may have fields that older ones refuse: the number alone keeps those away.
    Migration { sql: "", then: |_| Ok(()) },
];
/// How long a statement waits for the other connection, in milliseconds.
const BUSY_MS: u64 = 10_000;
/// For SQLite: all pages in one step of a backup.
const ALL_PAGES: i32 = -1;
/// How often a backup is tried while the database is locked.
const BACKUP_TRIES_MAX: u32 = 100;
/// Pause between two tries in milliseconds.
const BACKUP_PAUSE_MS: u64 = 100;

/// Makes an empty file that only its owner can read; SQLite gives its side files the same mode.
pub(super) fn create(path: &Path) -> Result<(), StoreError> {
    create_private(path)?;
    let mut db = connect(path)?;
    let made = db.pragma_update(None, "application_id", APPLICATION_ID).and_then(|()| migrate(&mut db, 0));
    made.map_err(|e| engine_error(path, e))
}

/// Opens the file for writing: checks it, then brings its schema up to date.
pub(super) fn open(path: &Path) -> Result<Connection, StoreError> {
    open_after(path, check)
}

/// Opens the file for writing after a look at it, then brings its schema up to date.
pub(super) fn open_after(
    path: &Path,
    first: fn(&Connection, &Path) -> Result<(), StoreError>,
) -> Result<Connection, StoreError> {
    // Looked at before it is touched: a file that is not ours must not even change its journal mode.
    first(&connect_to_read(path)?, path)?;
    // SQLite would open it for reading, and go on so for ever.
    if unwritable(path) == Some(Unwritable::ReadOnly) {
        return Err(unwritable_error(path));
    }
    let mut db = connect(path)?;
    let version = check_version(&db, path)?;
    migrate(&mut db, version).map_err(|e| engine_error(path, e))?;
    Ok(db)
}

/// Everything a database holds, without changing it, in use or not. None: it is of before there were checksums, and gets
/// them when control next opens it.
pub fn read_database(path: &Path) -> Result<Option<Page>, StoreError> {
    let db = connect_to_read(path)?;
    check(&db, path)?;
    if check_version(&db, path)? < SUMS_SINCE {
        return Ok(None);
    }
    let read = || {
        let snapshot = db.unchecked_transaction()?;
        read_range(&snapshot, &Range::all(""))
    };
    read().map(Some).map_err(|e| engine_error(path, e))
}

/// Whether a database has this release's schema: opening it to write changes nothing of it.
pub fn is_current(path: &Path) -> Result<bool, StoreError> {
    let db = connect_to_read(path)?;
    check(&db, path)?;
    Ok(check_version(&db, path)? == SCHEMA)
}

/// A second connection that cannot write.
pub(super) fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    let db = connect(path)?;
    db.pragma_update(None, "query_only", true).map_err(|e| engine_error(path, e))?;
    Ok(db)
}

/// Checks a database file without changing it, in use or not.
pub fn verify_database(path: &Path) -> Result<(), StoreError> {
    let db = connect_to_read(path)?;
    check(&db, path)
}

/// Copies a database to a new file while it may be in use. The copy is complete and checked, or removed again.
pub fn copy_database(from: &Path, to: &Path) -> Result<(), StoreError> {
    let source = connect_to_read(from)?;
    create_private(to)?;
    let copied = copy(&source, from, to);
    if copied.is_err() {
        let _ = std::fs::remove_file(to);
    }
    copied
}

fn copy(source: &Connection, from: &Path, to: &Path) -> Result<(), StoreError> {
    let mut target = Connection::open(to).map_err(|e| engine_error(to, e))?;
    let backup = Backup::new(source, &mut target).map_err(|e| engine_error(from, e))?;
    // All pages at once: between two steps another process may write, and then the copy begins anew, for ever.
    let mut tries = 0;
    while backup.step(ALL_PAGES).map_err(|e| engine_error(to, e))? != StepResult::Done {
        tries += 1;
        if tries == BACKUP_TRIES_MAX {
            return Err(StoreError::Busy);
        }
        std::thread::sleep(Duration::from_millis(BACKUP_PAUSE_MS));
    }
    drop(backup);
    check(&target, to)?;
    drop(target);
    File::open(to).and_then(|file| file.sync_all()).map_err(|e| file_error(to, e))
}

pub(super) fn connect_to_read(path: &Path) -> Result<Connection, StoreError> {
    if !path.exists() {
        return Err(StoreError::Missing { path: path.to_owned() });
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connect = || {
        let db = Connection::open_with_flags(path, flags)?;
        db.busy_timeout(Duration::from_millis(BUSY_MS))?;
        // Reads the header and, in WAL mode, needs the index of the log beside the file.
        db.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        Ok(db)
    };
    connect().or_else(|error: rusqlite::Error| {
        let has_log = beside(path, "-wal").metadata().is_ok_and(|log| log.len() > 0);
        if has_log || unwritable(path).is_none() {
            return Err(engine_error(path, error));
        }
        // No log, and none can be made: then the file is all there is, and no process changes it.
        let name = path.to_string_lossy().replace('%', "%25").replace('?', "%3f").replace('#', "%23");
        let flags = flags | OpenFlags::SQLITE_OPEN_URI;
        Connection::open_with_flags(format!("file:{name}?immutable=1"), flags)
            .map_err(|e| engine_error(path, e))
    })
}

/// Opens a database on a disk that takes no writes: checked, of this release's schema, for reading.
pub(super) fn open_frozen(path: &Path) -> Result<Connection, StoreError> {
    let db = connect_to_read(path)?;
    check(&db, path)?;
    if check_version(&db, path)? == latest() { Ok(db) } else { Err(unwritable_error(path)) }
}

/// What a write meets on a disk that takes none.
pub(super) fn unwritable_error(path: &Path) -> StoreError {
    let path = path.to_owned();
    match unwritable(&path) {
        Some(Unwritable::ReadOnly) => StoreError::ReadOnly { path },
        _ => StoreError::Full { path },
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let connect = || {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(path, flags)?;
        db.busy_timeout(Duration::from_millis(BUSY_MS))?;
        db.pragma_update(None, "journal_mode", "wal")?;
        // FULL: the log is flushed at every commit. With NORMAL a power cut loses acknowledged commits.
        db.pragma_update(None, "synchronous", "full")?;
        Ok(db)
    };
    connect().map_err(|e| engine_error(path, e))
}

/// Bytes of a database and its log. 0: there is none.
pub(super) fn bytes(path: &Path) -> u64 {
    let bytes = |path: &Path| path.metadata().map_or(0, |file| file.len());
    bytes(path) + bytes(&beside(path, "-wal"))
}

/// Refuses files that are not ours, newer than this program, or damaged where little reading tells: cut off (SQLite
/// says so), without its first or last records, or with a log that is ahead.
pub(super) fn look(db: &Connection, path: &Path) -> Result<(), StoreError> {
    check_version(db, path)?;
    let newest = "SELECT max(coalesce((SELECT revision FROM log ORDER BY revision DESC LIMIT 1), 0),
        coalesce((SELECT modified FROM entries ORDER BY key LIMIT 1), 0),
        coalesce((SELECT modified FROM entries ORDER BY key DESC LIMIT 1), 0))";
    let read =
        |sql| db.query_row(sql, [], |row| row.get::<_, u64>(0)).map_err(|error| engine_error(path, error));
    if read(newest)? > read("SELECT revision FROM state")? {
        return Err(StoreError::Damaged { path: path.to_owned(), detail: BEHIND.to_owned() });
    }
    Ok(())
}

/// Refuses files that are damaged, not ours, or newer than this program.
pub(super) fn check(db: &Connection, path: &Path) -> Result<(), StoreError> {
    check_version(db, path)?;
    let report = db.pragma_query_value(None, "quick_check", |row| row.get::<_, String>(0));
    let detail = match report.map_err(|e| engine_error(path, e))? {
        report if report == "ok" => None,
        detail => Some(detail),
    };
    let behind = "SELECT EXISTS (SELECT 1 FROM entries, state WHERE modified > revision)";
    let behind: bool = db.query_row(behind, [], |row| row.get(0)).map_err(|e| engine_error(path, e))?;
    match detail.or_else(|| behind.then(|| BEHIND.to_owned())) {
        None => Ok(()),
        Some(detail) => Err(StoreError::Damaged { path: path.to_owned(), detail }),
    }
}

/// Gives every value its checksum.
fn sum_all(db: &Connection) -> rusqlite::Result<()> {
    let mut select = db.prepare("SELECT key, value, created, modified, lease FROM entries")?;
    let mut put = db.prepare("UPDATE entries SET sum = ?2 WHERE key = ?1")?;
    let mut rows = select.query([])?;
    let mut sums = Vec::new();
    while let Some(row) = rows.next()? {
        let key: String = row.get(0)?;
        let value: Vec<u8> = row.get(1)?;
        let sum = sum(&key, Some(&value), row.get(2)?, row.get(3)?, row.get(4)?);
        sums.push((key, sum));
    }
    drop(rows);
    sums.into_iter().try_for_each(|(key, sum)| put.execute(params![key, sum]).map(drop))
}

/// Gives the schema version found, unless the file is not ours or newer.
fn check_version(db: &Connection, path: &Path) -> Result<u32, StoreError> {
    let ask = |pragma: &str| db.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let id = ask("application_id").map_err(|e| engine_error(path, e))?;
    if id != i64::from(APPLICATION_ID) {
        let detail = "it is not a database of ebbgate-control".to_owned();
        return Err(StoreError::Damaged { path: path.to_owned(), detail });
    }
    let version = ask("user_version").map_err(|e| engine_error(path, e))?;
    let (found, known) = (u32::try_from(version).unwrap_or(u32::MAX), latest());
    if found > known {
        return Err(StoreError::TooNew { path: path.to_owned(), found, known });
    }
    Ok(found)
}

fn latest() -> u32 {
    u32::try_from(MIGRATIONS.len()).expect("there are few migrations")
}

fn migrate(db: &mut Connection, from: u32) -> rusqlite::Result<()> {
    let migrations = MIGRATIONS.iter().zip(1u32..).skip_while(|(_, version)| *version <= from);
    for (migration, version) in migrations {
        let step = db.transaction()?;
        step.execute_batch(migration.sql)?;
        (migration.then)(&step)?;
        step.pragma_update(None, "user_version", version)?;
        step.commit()?;
    }
    Ok(())
}

fn create_private(path: &Path) -> Result<(), StoreError> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    made.map(drop).map_err(|e| file_error(path, e))
}
