//! What the edge keeps on disk between runs: what control told it (`log`), its own name, the key of its tickets. All files are
//! 0600. Small ones are replaced whole, so that a crash leaves the old or the new, never half of either.

mod frames;
pub mod log;
mod old;
mod record;
pub mod replay;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ebbgate_model::{EdgeId, Program};
use ebbgate_wire::ticket::KEY_BYTES;
use tokio::time::Duration;

use self::log::ProgramLog;
use self::replay::{Found, Held};
use super::disk::{Disk, is_unwritable, private};
use super::identity::Identity;

/// Seconds to wait for an edge that is just stopping to let go of the directory.
const LOCK_SECS_MAX: u64 = 5;
const LOCK_PAUSE: Duration = Duration::from_millis(50);
const LOCK_FILE: &str = "lock";
const PROGRAM_DIR: &str = "program";
/// Until release 0.1 had a log, the whole Program was one file.
const OLD_PROGRAM_FILE: &str = "program.json";
const ID_FILE: &str = "id";
const KEY_FILE: &str = "ticket.key";
const BOUND_FILE: &str = "bound.json";
const DRAINS_FILE: &str = "drains.json";
const IDENTITY_FILE: &str = "identity.json";

/// Why state cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// The file system refuses.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What it says.
        source: io::Error,
    },
    /// Another edge runs on the directory.
    #[error("{path} is in use by another edge; stop it, or give this one a directory of its own")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The identity is not what was written.
    #[error("{path} is damaged ({reason}); remove it and let the edge join anew")]
    Identity {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file is not what was written.
    #[error("{path} is damaged ({reason}); remove it, the edge makes or fetches it anew")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// The directory, locked for this process.
#[derive(Debug)]
pub struct Saved {
    dir: PathBuf,
    /// None: the disk took no file to lock, and then it holds none to protect; or another process has it.
    lock: Mutex<Option<File>>,
    disk: Arc<Disk>,
}

impl Saved {
    /// Makes the directory if missing and locks it; waits a moment for a predecessor to end.
    pub fn open(dir: &Path) -> Result<Self, SavedError> {
        let failed = |source| SavedError::Io { path: dir.to_owned(), source };
        let disk = Arc::new(Disk::new(dir));
        let lock = match open_lock(dir) {
            Ok(lock) => lock,
            Err(error) if is_unwritable(&error) => {
                tracing::error!(%error, dir = %dir.display(), "nothing can be kept on disk; serving all the same");
                disk.takes_not(&dir.join(LOCK_FILE), &error);
                return Ok(Self { dir: dir.to_owned(), lock: Mutex::default(), disk });
            }
            Err(error) => return Err(failed(error)),
        };
        let tries = Duration::from_secs(LOCK_SECS_MAX).as_millis() / LOCK_PAUSE.as_millis();
        for _ in 0..tries {
            match lock.try_lock() {
                Ok(()) => {
                    return Ok(Self { dir: dir.to_owned(), lock: Mutex::new(Some(lock)), disk });
                }
                Err(fs::TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
                Err(fs::TryLockError::Error(source)) => return Err(failed(source)),
            }
        }
        Err(SavedError::InUse { path: dir.to_owned() })
    }

    /// The directory that another process has locked, with its lock: the lock belongs to the open file, and so to all that
    /// have it.
    pub fn take_over(dir: &Path, lock: Option<File>) -> Self {
        Self { dir: dir.to_owned(), lock: Mutex::new(lock), disk: Arc::new(Disk::new(dir)) }
    }

    /// A copy of the lock for a process that takes over. None: there was no lock to be had.
    pub fn lock_copy(&self) -> io::Result<Option<File>> {
        self.lock().as_ref().map(File::try_clone).transpose()
    }

    /// Leaves the directory to a process that has taken over: nothing is written there from now on, and when that process ends
    /// the directory is free.
    pub fn leave(&self) {
        self.disk.leave();
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<File>> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives what the log holds to `take`, and changes nothing: another process writes it.
    pub fn read_log(&self, take: &mut dyn FnMut(Held)) -> Found {
        Found::read(&self.dir.join(PROGRAM_DIR), take)
    }

    /// The disk it is on.
    pub fn disk(&self) -> Arc<Disk> {
        Arc::clone(&self.disk)
    }

    /// Opens the log of what control told, and gives what it holds to `take`.
    pub fn log(&self, take: &mut dyn FnMut(Held)) -> (ProgramLog, Found) {
        ProgramLog::open(&self.dir.join(PROGRAM_DIR), self.disk(), take)
    }

    /// The whole Program that an older release kept, if it did.
    pub fn old_program(&self) -> Result<Option<Program>, SavedError> {
        let Some(bytes) = self.read(OLD_PROGRAM_FILE)? else { return Ok(None) };
        old::read(&bytes).map(Some).map_err(|reason| self.damaged(OLD_PROGRAM_FILE, reason))
    }

    /// Removes the Program that an older release kept: it is in the log now, or cannot be used.
    pub fn remove_old_program(&self) {
        match fs::remove_file(self.dir.join(OLD_PROGRAM_FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, file = OLD_PROGRAM_FILE, "what an older release kept is still there");
            }
            _ => {}
        }
    }

    /// What control made of this edge, if it joined from another machine.
    pub fn identity(&self) -> Result<Option<Identity>, SavedError> {
        let Some(bytes) = self.read(IDENTITY_FILE)? else { return Ok(None) };
        let damaged = |error: serde_json::Error| SavedError::Identity {
            path: self.identity_file(),
            reason: error.to_string(),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(damaged)
    }

    /// Keeps what control made of this edge.
    pub fn save_identity(&self, identity: &Identity) -> Result<(), SavedError> {
        self.write(IDENTITY_FILE, identity.text().as_bytes())
    }

    /// The file that proves which edge this is.
    pub fn identity_file(&self) -> PathBuf {
        self.dir.join(IDENTITY_FILE)
    }

    /// The edge's stable name: of its identity, or `fresh` from the first run on.
    pub fn edge_id(&self, fresh: EdgeId) -> Result<EdgeId, SavedError> {
        if let Some(identity) = self.identity()? {
            return Ok(identity.edge);
        }
        match self.read(ID_FILE)? {
            Some(bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                text.trim().parse().map_err(|e: ebbgate_model::IdError| self.damaged(ID_FILE, e.to_string()))
            }
            None => self.write_if_possible(ID_FILE, format!("{fresh}\n").as_bytes()).map(|()| fresh),
        }
    }

    /// The key that seals cookies and bind tokens; kept, so that agents resume after a restart.
    pub fn ticket_key(&self, fresh: [u8; KEY_BYTES]) -> Result<[u8; KEY_BYTES], SavedError> {
        match self.read(KEY_FILE)? {
            Some(bytes) => bytes
                .try_into()
                .map_err(|_| self.damaged(KEY_FILE, format!("it must hold {KEY_BYTES} bytes"))),
            None => self.write_if_possible(KEY_FILE, &fresh).map(|()| fresh),
        }
    }

    /// The file that says what agents had bound last.
    pub fn bound_file(&self) -> PathBuf {
        self.dir.join(BOUND_FILE)
    }

    /// The file for [`super::drains`].
    pub fn drains_file(&self) -> PathBuf {
        self.dir.join(DRAINS_FILE)
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, SavedError> {
        match fs::read(self.dir.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(SavedError::Io { path: self.dir.join(name), source }),
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), SavedError> {
        let path = self.dir.join(name);
        self.disk.write(&path, bytes).map_err(|source| SavedError::Io { path, source })
    }

    /// What is made anew at the next start if it must be: no reason not to serve now.
    fn write_if_possible(&self, name: &str, bytes: &[u8]) -> Result<(), SavedError> {
        match self.write(name, bytes) {
            Err(SavedError::Io { source, .. }) if is_unwritable(&source) => {
                tracing::error!(error = %source, file = name, "not kept on disk; the next start makes another");
                Ok(())
            }
            written => written,
        }
    }

    fn damaged(&self, name: &str, reason: String) -> SavedError {
        SavedError::Damaged { path: self.dir.join(name), reason }
    }
}

/// The lock's file; on a disk that takes no writes, one that is there already.
fn open_lock(dir: &Path) -> io::Result<File> {
    let path = dir.join(LOCK_FILE);
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    let opened = made.and_then(|()| private().create(true).truncate(false).open(&path));
    opened.or_else(|error| match File::open(&path) {
        Ok(file) if is_unwritable(&error) => Ok(file),
        _ => Err(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebbgate_model::Ksuid;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn state_survives_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (EdgeId::new(Ksuid::new(1, [1; 16])), EdgeId::new(Ksuid::new(1, [2; 16])));
        {
            let saved = Saved::open(dir.path()).unwrap();
            assert_eq!(saved.edge_id(one).unwrap(), one);
            assert_eq!(saved.ticket_key([1; 32]).unwrap(), [1; 32]);
        }
        let saved = Saved::open(dir.path()).unwrap();
        assert_eq!(saved.edge_id(two).unwrap(), one);
        assert_eq!(saved.ticket_key([2; 32]).unwrap(), [1; 32]);
        for name in [ID_FILE, KEY_FILE] {
            let mode = fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn alock_stays_while_a_process_that_took_over_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let before = Saved::open(dir.path()).unwrap();
        let after = Saved::take_over(dir.path(), before.lock_copy().unwrap());
        before.leave();
        let other = File::open(dir.path().join(LOCK_FILE)).unwrap();
        assert!(matches!(other.try_lock(), Err(fs::TryLockError::WouldBlock)));
        drop(after);
        other.try_lock().unwrap();
    }

    #[test]
    fn damage_is_named_with_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let saved = Saved::open(dir.path()).unwrap();
        fs::write(dir.path().join(OLD_PROGRAM_FILE), b"{\"generation\":").unwrap();
        let message = saved.old_program().unwrap_err().to_string();
        assert!(message.contains("program.json is damaged") && message.contains("remove it"), "{message}");
        saved.remove_old_program();
        assert_eq!(saved.old_program().unwrap(), None);
    }
}
