//! A directory for a run's files. A run that is killed leaves it behind, and the next run of its kind removes it.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;

use anyhow::Result;
use tempfile::TempDir;

/// Locked as long as the run lives, whichever way it ends.
const LOCK: &str = "run.lock";

/// See the module; gone when dropped.
#[derive(Debug)]
pub struct Scratch {
    dir: TempDir,
    _lock: File,
}

impl Scratch {
    /// A new directory in the system's temporary folder. `prefix` says which kind of run it is.
    pub fn new(prefix: &str) -> Result<Self> {
        Self::below(&std::env::temp_dir(), prefix)
    }

    fn below(folder: &Path, prefix: &str) -> Result<Self> {
        for entry in fs::read_dir(folder)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(prefix)
                && let Some(_lock) = left(&entry.path())
            {
                match fs::remove_dir_all(entry.path()) {
                    // Another run has removed it.
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    done => done?,
                }
            }
        }
        loop {
            let dir = tempfile::Builder::new().prefix(prefix).tempdir_in(folder)?;
            let lock = File::create(dir.path().join(LOCK))?;
            lock.lock()?;
            // Another run may have removed it before it was locked.
            if dir.path().join(LOCK).exists() {
                return Ok(Self { dir, _lock: lock });
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// The lock of a directory whose run has ended.
fn left(dir: &Path) -> Option<File> {
    File::open(dir.join(LOCK)).ok().filter(|lock| lock.try_lock().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_run_left_is_removed_and_what_a_run_uses_stays() {
        let folder = tempfile::tempdir().unwrap();
        let names = || fs::read_dir(folder.path()).unwrap().count();
        let runs = Scratch::below(folder.path(), "ebb-one-").unwrap();
        let Scratch { dir, _lock: lock } = Scratch::below(folder.path(), "ebb-one-").unwrap();
        let left = dir.keep();
        drop(lock);
        let other = Scratch::below(folder.path(), "ebb-other-").unwrap();
        assert!(left.exists() && names() == 3);
        let next = Scratch::below(folder.path(), "ebb-one-").unwrap();
        assert!(!left.exists() && runs.path().exists() && other.path().exists());
        drop((runs, next, other));
        assert_eq!(names(), 0);
    }
}
