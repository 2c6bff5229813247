//! `DirLock`: one process per data directory, for as long as it lives; a killed process leaves no lock behind.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::error::{StoreError, file_error};
use crate::disk::unwritable;

/// Longest process id in bytes that is read from a lock file.
const HOLDER_BYTES_MAX: u64 = 20;

/// The lock, held until dropped.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

impl DirLock {
    /// Id of the process that holds the lock of a directory now, as it wrote it; None: no process does.
    pub fn holder(dir: &Path) -> Option<u32> {
        let file = File::open(dir.join("control.lock")).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                file.take(HOLDER_BYTES_MAX).read_to_string(&mut holder).ok()?;
                holder.trim().parse().ok()
            }
            _ => None,
        }
    }

    /// Takes `DIR/control.lock` and writes this process's id into it.
    pub fn take(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join("control.lock");
        let broken = |e| file_error(&path, e);
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = match options.open(&path) {
            Ok(file) => file,
            // Nothing can be written there: the file as it is, or else the directory, is held instead.
            Err(_) if unwritable(dir).is_some() => {
                File::open(&path).or_else(|_| File::open(dir)).map_err(broken)?
            }
            Err(error) => return Err(broken(error)),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.take(HOLDER_BYTES_MAX).read_to_string(&mut holder);
                return Err(StoreError::InUse { path, holder: holder.trim().to_owned() });
            }
            Err(TryLockError::Error(error)) => return Err(broken(error)),
        }
        // Whose it is helps an operator, but a full disk must not keep control from reading.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self { _file: file })
    }
}
