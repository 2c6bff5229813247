//! `Disk`: whether the edge can write what it keeps. It serves all the same; the operator must know.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{StatVfsMountFlags, statvfs};

/// Bytes free below which a disk counts as full: the smallest files still need a few blocks.
const FREE_BYTES_MIN: u64 = 16 << 10;

/// What is known of the disk.
#[derive(Debug)]
pub struct Disk {
    dir: PathBuf,
    /// Another process writes there now.
    is_left: AtomicBool,
    unwritten: Mutex<BTreeMap<PathBuf, Unwritten>>,
}

/// A file that could not be written.
#[derive(Debug)]
struct Unwritten {
    reason: String,
    /// What it should hold; None: it is not written later.
    bytes: Option<Vec<u8>>,
}

impl Disk {
    /// The disk that holds a directory, or will.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), is_left: AtomicBool::new(false), unwritten: Mutex::default() }
    }

    /// Leaves the directory to a process that has taken over. Nothing is written from now on: what that process keeps is newer.
    pub fn leave(&self) {
        self.is_left.store(true, Ordering::Release);
        self.unwritten().clear();
    }

    /// Replaces a file; what the disk does not take is kept for [`Disk::write_again`]. Does nothing after [`Disk::leave`].
    pub fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        if self.is_left.load(Ordering::Acquire) {
            return Ok(());
        }
        let written = replace(path, bytes);
        match &written {
            Ok(()) => drop(self.unwritten().remove(path)),
            Err(error) => self.note(path, error, Some(bytes.to_vec())),
        }
        written
    }

    /// Takes note of a file that the disk did not take.
    pub fn takes_not(&self, path: &Path, error: &io::Error) {
        self.note(path, error, None);
    }

    /// The disk has taken what it did not take before.
    pub fn takes(&self, path: &Path) {
        self.unwritten().remove(path);
    }

    /// Whether the disk has not taken a file.
    pub fn lacks(&self, path: &Path) -> bool {
        self.unwritten().contains_key(path)
    }

    /// Writes what the disk did not take before, as far as it takes it now.
    pub fn write_again(&self) {
        self.unwritten().retain(|path, file| {
            let Some(bytes) = &file.bytes else { return true };
            match replace(path, bytes) {
                Ok(()) => {
                    tracing::info!(path = %path.display(), "written after all");
                    false
                }
                Err(error) => {
                    file.reason = error.to_string();
                    true
                }
            }
        });
    }

    fn note(&self, path: &Path, error: &io::Error, bytes: Option<Vec<u8>>) {
        self.unwritten().insert(path.to_owned(), Unwritten { reason: error.to_string(), bytes });
    }

    fn unwritten(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Unwritten>> {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What keeps the edge from writing, in a sentence; None: nothing does.
    pub fn trouble(&self) -> Option<String> {
        if let Some((path, file)) = self.unwritten().first_key_value() {
            return Some(format!("{} could not be written: {}", path.display(), file.reason));
        }
        let dir = self.dir.ancestors().find(|dir| dir.exists())?;
        let state = statvfs(dir).ok()?;
        if state.f_flag.contains(StatVfsMountFlags::RDONLY) {
            return Some(format!("the disk that holds {} is read-only", self.dir.display()));
        }
        // A file system without blocks says nothing of its room.
        let is_full = state.f_blocks > 0 && state.f_bavail.saturating_mul(state.f_frsize) < FREE_BYTES_MIN;
        is_full.then(|| format!("the disk that holds {} is full", self.dir.display()))
    }
}

/// Whether an error says that the disk takes no writes, rather than that something is set up wrongly.
pub fn is_unwritable(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), StorageFull | ReadOnlyFilesystem | QuotaExceeded)
}

/// Writes beside, syncs, renames over, syncs the directory.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    if !folder.exists() {
        DirBuilder::new().recursive(true).mode(0o750).create(folder)?;
    }
    let beside = path.with_extension("new");
    let write = || {
        let mut file = private().create(true).truncate(true).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    // On a full disk half a file would only take the room of others.
    write().inspect_err(|_| drop(fs::remove_file(&beside)))?;
    File::open(folder)?.sync_all()
}

/// How a file is opened that only its owner may read.
pub(super) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_written_is_told_until_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::new(&dir.path().join("not/there/yet"));
        assert_eq!(disk.trouble(), None);
        // A directory in the place of the file stands for whatever keeps a file from being written.
        let path = dir.path().join("program.json");
        fs::create_dir(&path).unwrap();
        assert!(disk.write(&path, b"whole").is_err());
        disk.write_again();
        let told = disk.trouble().unwrap();
        assert!(told.contains("program.json could not be written"), "{told}");
        assert!(!dir.path().join("program.new").exists(), "nothing half written is left");
        fs::remove_dir(&path).unwrap();
        disk.write_again();
        assert_eq!((disk.trouble(), fs::read(&path).unwrap()), (None, b"whole".to_vec()));
        disk.leave();
        disk.write(&path, b"older").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole", "a successor's file stays");
    }
}
