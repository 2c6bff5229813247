//! `ProgramLog`: what control told, kept on disk: a snapshot of all objects and the changes since, each appended and synced
//! before it is acknowledged.
//!
//! Files: `snapshot-N` is what was held when `changes-N` began; the changes of later numbers follow. A snapshot is written
//! beside, synced and renamed, and then the files before it are removed: whatever a crash leaves is read as one history. No
//! ledger says where a file ends; its records do (`frames`). Records are numbered, so that none can be missing in between.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use ebbgate_model::{Changes, Digests};

use super::record::{Record, changes_name, snapshot_name};
use super::replay::{Found, Held};
use crate::state::disk::{Disk, is_unwritable, private};
use crate::state::objects::Objects;

/// Bytes of changes below which no snapshot is made of them.
const SNAPSHOT_BYTES_MIN: u64 = 4 << 20;
/// A snapshot is made when there are changes of this part of the last one: a start reads little more than one snapshot,
/// and all snapshots together are a few times the changes.
const SNAPSHOT_PART: u64 = 4;

/// What a snapshot is made of. A clone of it costs nothing that grows.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Generation of the objects.
    pub generation: u64,
    /// All of them.
    pub objects: Objects,
    /// Their digests.
    pub digests: Digests,
}

/// The log, open for one process.
#[derive(Debug)]
pub struct ProgramLog {
    dir: PathBuf,
    disk: Arc<Disk>,
    /// The file that is appended to; None while the disk does not have all that is in force.
    file: Option<File>,
    /// Number of the file.
    number: u64,
    /// Bytes of changes since the last snapshot.
    bytes: u64,
    /// Number of the last change.
    last: u64,
    snapshot_bytes: u64,
    writing: Option<JoinHandle<io::Result<u64>>>,
}

impl ProgramLog {
    /// Opens a directory and gives what it holds, part by part, to `take`. Makes it if it is missing.
    ///
    /// What cannot be read is set aside: then nothing is held, and control must send everything.
    pub fn open(dir: &Path, disk: Arc<Disk>, take: &mut dyn FnMut(Held)) -> (Self, Found) {
        let found = Found::read(dir, take);
        let mut log = Self {
            dir: dir.to_owned(),
            disk,
            file: None,
            number: found.number,
            bytes: found.bytes,
            last: found.last,
            snapshot_bytes: found.snapshot_bytes,
            writing: None,
        };
        let opened = if found.is_damaged {
            log.set_aside()
        } else if found.is_cut {
            Err(io::Error::other("some changes were not kept before the last stop"))
        } else {
            log.reopen(found.torn_at)
        };
        if let Err(error) = opened {
            log.falls_behind(&error);
        }
        (log, found)
    }

    /// Keeps a change that is in force; it is on the disk when this returns without an error.
    ///
    /// # Errors
    /// The disk does not take it. Nothing is kept then until [`ProgramLog::write_again`] has succeeded.
    pub fn append(&mut self, generation: u64, changes: &Changes) -> io::Result<()> {
        self.last += 1;
        let record = Record::Change { number: self.last, generation, changes: Box::new(changes.clone()) };
        let Some(file) = &mut self.file else {
            return Err(io::Error::other("the disk did not take a change before"));
        };
        let before = self.bytes;
        let written = record.framed().and_then(|frame| {
            file.write_all(&frame)?;
            file.sync_data()?;
            Ok(frame.len() as u64)
        });
        match written {
            Ok(bytes) => {
                self.bytes = before + bytes;
                Ok(())
            }
            Err(error) => {
                self.falls_behind(&error);
                Err(error)
            }
        }
    }

    /// Whether there are so many changes that a snapshot should be made.
    pub fn is_long(&mut self) -> bool {
        self.is_idle() && self.bytes > SNAPSHOT_BYTES_MIN.max(self.snapshot_bytes / SNAPSHOT_PART)
    }

    /// Whether the disk does not have all that is in force, and may be tried with a snapshot.
    pub fn is_behind(&mut self) -> bool {
        self.is_idle() && self.file.is_none()
    }

    /// Whether no snapshot is being made.
    fn is_idle(&mut self) -> bool {
        if self.writing.as_ref().is_some_and(JoinHandle::is_finished) {
            self.wait();
        }
        self.writing.is_none()
    }

    /// Makes a snapshot of what is in force now, on a thread of its own; changes go on meanwhile, into another file.
    pub fn begin_snapshot(&mut self, snapshot: Snapshot) {
        if let Err(error) = self.begin(snapshot) {
            self.falls_behind(&error);
        }
    }

    /// Makes a snapshot and waits for it: for changes that are too many for one record.
    ///
    /// # Errors
    /// The disk does not take it.
    pub fn snapshot(&mut self, snapshot: Snapshot) -> io::Result<()> {
        self.last += 1;
        self.wait();
        let began = self.begin(snapshot);
        if let Err(error) = began {
            self.falls_behind(&error);
            return Err(error);
        }
        self.wait();
        if self.file.is_some() { Ok(()) } else { Err(io::Error::other("the snapshot is not on disk")) }
    }

    /// Waits for the snapshot that is being made, if one is.
    pub fn wait(&mut self) {
        if let Some(writing) = self.writing.take() {
            let written = writing.join().unwrap_or_else(|_| Err(io::Error::other("the writer panicked")));
            match written {
                Ok(bytes) => {
                    self.snapshot_bytes = bytes;
                    if self.file.is_some() {
                        self.disk.takes(&self.dir);
                    }
                }
                Err(error) => self.falls_behind(&error),
            }
        }
    }

    fn begin(&mut self, snapshot: Snapshot) -> io::Result<()> {
        make_dir(&self.dir)?;
        let number = self.number + 1;
        let file = private().create(true).truncate(true).open(self.dir.join(changes_name(number)))?;
        File::open(&self.dir)?.sync_all()?;
        (self.file, self.number, self.bytes) = (Some(file), number, 0);
        let (dir, last) = (self.dir.clone(), self.last);
        let write = move || write_snapshot(&dir, number, last, &snapshot);
        self.writing = Some(std::thread::Builder::new().name("snapshot".into()).spawn(write)?);
        Ok(())
    }

    /// From now on the disk does not have all that is in force: what it has is older, and nothing is added to it.
    fn falls_behind(&mut self, error: &io::Error) {
        let is_news = self.file.take().is_some() || !self.disk.lacks(&self.dir);
        self.disk.takes_not(&self.dir, error);
        if is_news {
            tracing::error!(
                %error, dir = %self.dir.display(), is_full = is_unwritable(error),
                "what control tells is in force but not on disk; a restart would need control"
            );
        }
    }

    /// Goes on behind the last whole record.
    fn reopen(&mut self, torn_at: Option<u64>) -> io::Result<()> {
        remove(&self.dir, |name| Path::new(name).extension().is_some_and(|extension| extension == "new"))?;
        make_dir(&self.dir)?;
        let path = self.dir.join(changes_name(self.number));
        let file = private().create(true).append(true).open(&path)?;
        if let Some(at) = torn_at {
            tracing::warn!(path = %path.display(), at, "the last change was not whole on disk; it was never acknowledged");
            file.set_len(at)?;
            file.sync_all()?;
        }
        File::open(&self.dir)?.sync_all()?;
        self.file = Some(file);
        Ok(())
    }

    /// Keeps damaged files for whoever wants to look at them, the last damaged ones only, and begins anew.
    fn set_aside(&mut self) -> io::Result<()> {
        let aside = self.dir.with_extension("damaged");
        match fs::remove_dir_all(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::rename(&self.dir, &aside)?;
        tracing::error!(aside = %aside.display(), "the damaged files are set aside; waiting for control to send everything");
        (self.number, self.bytes, self.last, self.snapshot_bytes) = (0, 0, 0, 0);
        self.reopen(None)
    }
}

impl Drop for ProgramLog {
    fn drop(&mut self) {
        self.wait();
    }
}

/// Writes a snapshot, and removes what it stands for. Gives its bytes.
fn write_snapshot(dir: &Path, number: u64, last: u64, snapshot: &Snapshot) -> io::Result<u64> {
    let path = dir.join(snapshot_name(number));
    let beside = path.with_extension("new");
    let write = || {
        let mut file = BufWriter::new(private().create(true).truncate(true).open(&beside)?);
        snapshot.objects.parts(|part| file.write_all(&Record::Objects(Box::new(part)).framed()?))?;
        let (generation, digests) = (snapshot.generation, snapshot.digests.buckets().to_vec());
        file.write_all(&Record::End { generation, last, digests }.framed()?)?;
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        fs::rename(&beside, &path)?;
        file.metadata().map(|about| about.len())
    };
    // On a full disk half a file would only take the room of others.
    let bytes = write().inspect_err(|_| drop(fs::remove_file(&beside)))?;
    File::open(dir)?.sync_all()?;
    let (snapshot, changes) = (snapshot_name(number), changes_name(number));
    let is_before = |name: &str| {
        (name.starts_with("snapshot-") && name < snapshot.as_str())
            || (name.starts_with("changes-") && name < changes.as_str())
    };
    remove(dir, is_before)?;
    Ok(bytes)
}

fn make_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

fn remove(dir: &Path, which: impl Fn(&str) -> bool) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(&which) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
