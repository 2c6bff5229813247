//! `ebbgate-control restore`: puts a backup in the database's place. What was there is kept in a folder of its own.
//!
//! Whatever it is killed between, control then finds the old database whole, none at all, or the new one: never one
//! database beside the log of another, nor one without its log.

use std::path::{Path, PathBuf};

use crate::dir::DataDir;
use crate::file::{self, FileError};
use crate::record::UnixSecs;
use crate::store::{DirLock, StoreError, copy_database, verify_database};

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The backup or the lock.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Folders tried for what is replaced.
const FOLDERS_MAX: u32 = 1000;

/// Replaces the database by a checked copy of `backup`. The database before is kept, with its log, in a new folder
/// `control.db.replaced-<now>`, which is given.
///
/// Killed half way, it can be run again. The secrets of the directory stay: a backup opens only with the `secret.key` it
/// was made beside.
pub fn restore(dir: &DataDir, backup: &Path, now: UnixSecs) -> Result<PathBuf, RestoreError> {
    let _lock = DirLock::take(dir.path())?;
    verify_database(backup)?;
    let (database, new) = (dir.database(), dir.unfinished_database());
    for suffix in SIDE_FILES {
        file::remove(&beside(&new, suffix))?;
    }
    copy_database(backup, &new)?;
    let replaced = folder(&database, now)?;
    // First everything gets its second name, then the old names go, the database's before its log's: without a database
    // control does not start, and says so.
    for suffix in SIDE_FILES {
        let old = beside(&database, suffix);
        if old.exists() {
            file::link(&old, &beside(&replaced.join("control.db"), suffix))?;
        }
    }
    for suffix in SIDE_FILES {
        file::remove(&beside(&database, suffix))?;
    }
    file::rename(&new, &database)?;
    Ok(replaced)
}

/// A new folder for what is replaced: two restores in a second have two.
fn folder(database: &Path, now: UnixSecs) -> Result<PathBuf, RestoreError> {
    let name = |n: u32| match n {
        0 => database.with_extension(format!("db.replaced-{now}")),
        n => database.with_extension(format!("db.replaced-{now}-{n}")),
    };
    let free = (0..FOLDERS_MAX).map(name).find(|path| !path.exists());
    let folder = free.unwrap_or_else(|| name(FOLDERS_MAX));
    file::make_new_dir(&folder)?;
    Ok(folder)
}

/// The database itself, its write-ahead log and its index of the log.
pub const SIDE_FILES: [&str; 3] = ["", "-wal", "-shm"];

/// A side file of a database.
pub fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Sqlite, Store, Txn};

    #[tokio::test]
    async fn a_backup_takes_the_place_of_a_database_that_was_killed() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = DataDir::new(temporary.path());
        let store = Sqlite::create(&dir.database()).unwrap();
        let _ = store.commit(Txn::new().put("/a", "backed up")).await.unwrap();
        let backup = temporary.path().join("backup.db");
        store.backup(&backup).unwrap();
        let _ = store.commit(Txn::new().put("/a", "later")).await.unwrap();
        // Files as a kill leaves them: with a log that was never folded in.
        for suffix in SIDE_FILES {
            std::fs::copy(beside(&dir.database(), suffix), beside(&temporary.path().join("kept"), suffix))
                .unwrap();
        }
        drop(store);
        for suffix in SIDE_FILES {
            std::fs::copy(beside(&temporary.path().join("kept"), suffix), beside(&dir.database(), suffix))
                .unwrap();
        }
        assert!(restore(&dir, &temporary.path().join("none.db"), 7).is_err());
        let value = async |path: &Path| Sqlite::open(path).unwrap().get("/a").await.unwrap().unwrap().value;
        assert_eq!(value(&dir.database()).await, "later", "a failed restore changes nothing");
        let replaced = restore(&dir, &backup, 7).unwrap();
        assert_eq!(value(&dir.database()).await, "backed up");
        assert_eq!(value(&replaced.join("control.db")).await, "later", "its log went with it");
        let again = restore(&dir, &backup, 7).expect("it can be run again");
        assert_ne!(again, replaced);
        assert_eq!(value(&replaced.join("control.db")).await, "later", "what was kept stays as it was");
        assert_eq!(value(&again.join("control.db")).await, "backed up");
        // Killed after the database had lost its name: its log must not be taken for that of the restored one.
        std::fs::remove_file(dir.database()).unwrap();
        std::fs::write(beside(&dir.database(), "-wal"), "of another database").unwrap();
        restore(&dir, &backup, 8).unwrap();
        assert!(!beside(&dir.database(), "-wal").exists());
        assert_eq!(value(&dir.database()).await, "backed up");
    }
}
