//! `ebbgate-control restore`: puts a backup in the database's place. What was there is kept beside it.

use std::path::{Path, PathBuf};

use crate::dir::DataDir;
use crate::file::{self, FileError};
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

/// Replaces the database by a checked copy of `backup`. The database before is kept as `control.db.replaced`.
///
/// Killed half way, it can be run again. The secrets of the directory stay: a backup opens only with the `secret.key` it
/// was made beside.
pub fn restore(dir: &DataDir, backup: &Path) -> Result<PathBuf, RestoreError> {
    let _lock = DirLock::take(dir.path())?;
    verify_database(backup)?;
    let (database, new) = (dir.database(), dir.unfinished_database());
    let replaced = database.with_extension("db.replaced");
    for suffix in SIDE_FILES {
        file::remove(&beside(&new, suffix))?;
    }
    copy_database(backup, &new)?;
    // The log goes with its database: beside another one it would be damage.
    for suffix in SIDE_FILES.iter().rev() {
        let (from, to) = (beside(&database, suffix), beside(&replaced, suffix));
        if from.exists() {
            file::rename(&from, &to)?;
        }
    }
    file::rename(&new, &database)?;
    Ok(replaced)
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
        assert!(restore(&dir, &temporary.path().join("none.db")).is_err());
        let value = async |path: &Path| Sqlite::open(path).unwrap().get("/a").await.unwrap().unwrap().value;
        assert_eq!(value(&dir.database()).await, "later", "a failed restore changes nothing");
        let replaced = restore(&dir, &backup).unwrap();
        assert_eq!(value(&dir.database()).await, "backed up");
        assert_eq!(value(&replaced).await, "later");
        restore(&dir, &backup).expect("it can be run again");
    }
}
