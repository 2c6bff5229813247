//! Reads the files of a `ProgramLog` in the order they were written, several records at a time.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use ebbgate_model::{Changes, Digests};

use super::frames::{Ending, Frames};
use super::record::{Record, changes_name, snapshot_name};

/// Records that are read and not yet taken, for each thread that reads them.
const AHEAD_MAX: usize = 8;
/// Threads that read records at most.
const THREADS_MAX: usize = 4;

/// What the files hold, in order.
#[derive(Debug)]
pub enum Held {
    /// Objects of a snapshot.
    Objects(Box<Changes>),
    /// There are no more of them.
    Snapshot {
        /// Their generation.
        generation: u64,
        /// Their digests.
        digests: Box<Digests>,
    },
    /// A change of the generation before.
    Change {
        /// Generation it leads to.
        generation: u64,
        /// The objects.
        changes: Box<Changes>,
    },
}

/// What was found on disk.
#[derive(Debug, Default)]
pub struct Found {
    /// Whether something was read that cannot be used; what was given must be forgotten.
    pub is_damaged: bool,
    /// Whether what follows could not be kept, as the disk was full: control must tell it again.
    pub(super) is_cut: bool,
    /// Number of the file that changes are appended to.
    pub(super) number: u64,
    pub(super) bytes: u64,
    pub(super) last: u64,
    pub(super) snapshot_bytes: u64,
    /// Where the last file was torn.
    pub(super) torn_at: Option<u64>,
}

/// Why files cannot be used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} is damaged at byte {at}")]
    Damaged { path: PathBuf, at: u64 },
    #[error("{path} has a record before byte {at} that is no record of this release: {source}")]
    Unknown { path: PathBuf, at: u64, source: serde_json::Error },
    #[error("{path} does not go on where the file before it ends")]
    Gap { path: PathBuf },
}

impl Found {
    pub(super) fn read(dir: &Path, take: &mut dyn FnMut(Held)) -> Self {
        let mut found = Self::default();
        if let Err(error) = found.read_all(dir, take) {
            tracing::error!(%error, "what control told before cannot be read; starting without it");
            found.is_damaged = true;
        }
        found
    }

    fn read_all(&mut self, dir: &Path, take: &mut dyn FnMut(Held)) -> Result<(), Unusable> {
        let names = names(dir).map_err(|source| Unusable::Io { path: dir.to_owned(), source })?;
        let first = numbers(&names, "snapshot-").max();
        self.number = first.unwrap_or_default();
        if let Some(number) = first {
            self.snapshot_bytes = self.read_snapshot(&dir.join(snapshot_name(number)), take)?;
        }
        let mut changes: Vec<u64> = numbers(&names, "changes-").filter(|n| *n >= self.number).collect();
        changes.sort_unstable();
        let last = changes.last().copied();
        for number in changes {
            self.number = number;
            if !self.is_cut {
                self.read_changes(&dir.join(changes_name(number)), Some(number) == last, take)?;
            }
        }
        Ok(())
    }

    /// Gives the bytes of the snapshot.
    fn read_snapshot(&mut self, path: &Path, take: &mut dyn FnMut(Held)) -> Result<u64, Unusable> {
        let mut has_ended = false;
        let (ending, at) = read_records(path, &mut |record| match record {
            Record::Objects(objects) if !has_ended => {
                take(Held::Objects(objects));
                true
            }
            Record::End { generation, last, digests: buckets } if !has_ended => {
                (has_ended, self.last) = (true, last);
                let mut digests = Box::<Digests>::default();
                buckets.into_iter().enumerate().for_each(|(bucket, digest)| digests.add(bucket, digest));
                take(Held::Snapshot { generation, digests });
                true
            }
            _ => false,
        })?;
        // It was renamed when it was whole.
        let whole = has_ended && ending == Ending::Whole;
        if whole { Ok(at) } else { Err(Unusable::Damaged { path: path.to_owned(), at }) }
    }

    fn read_changes(
        &mut self,
        path: &Path,
        is_last: bool,
        take: &mut dyn FnMut(Held),
    ) -> Result<(), Unusable> {
        let (mut is_first, mut has_gap) = (true, false);
        let (ending, at) = read_records(path, &mut |record| {
            let Record::Change { number, generation, changes } = record else { return false };
            has_gap = number != self.last + 1;
            if has_gap {
                return false;
            }
            (is_first, self.last) = (false, number);
            take(Held::Change { generation, changes });
            true
        })?;
        self.bytes += at;
        match ending {
            // It was begun after the disk had not taken some, and its snapshot was never finished.
            _ if has_gap && is_first => {
                self.is_cut = true;
                Ok(())
            }
            _ if has_gap => Err(Unusable::Gap { path: path.to_owned() }),
            Ending::Whole => Ok(()),
            // A file before the last one was whole when the next began.
            Ending::Torn if is_last => {
                self.torn_at = Some(at);
                Ok(())
            }
            Ending::Torn | Ending::Damaged => Err(Unusable::Damaged { path: path.to_owned(), at }),
        }
    }
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

fn numbers<'a>(names: &'a [String], prefix: &'a str) -> impl Iterator<Item = u64> + 'a {
    names.iter().filter_map(move |name| name.strip_prefix(prefix)?.parse().ok())
}

/// Gives the records of a file to `take` in their order, until it says false. Then how the file ends, and where its whole
/// records do. Several threads make records of text, which takes the most time by far.
fn read_records(path: &Path, take: &mut dyn FnMut(Record) -> bool) -> Result<(Ending, u64), Unusable> {
    let failed = |source| Unusable::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let threads = thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    let (texts, for_readers) = sync_channel::<(u64, u64, Vec<u8>)>(threads);
    let for_readers = &Mutex::new(for_readers);
    let (records, read) = sync_channel(threads * AHEAD_MAX);
    thread::scope(|scope| {
        let ending = scope.spawn(move || split(file, &texts));
        for _ in 0..threads {
            let records = records.clone();
            scope.spawn(move || parse(for_readers, &records));
        }
        drop(records);
        let taken = in_order(path, &read, take);
        // Threads that still have something to give end when nobody takes it.
        drop(read);
        let ending = ending.join().unwrap_or_else(|_| Err(io::Error::other("the reader panicked")));
        match taken {
            Ok(true) => ending.map_err(failed),
            Ok(false) => Ok((Ending::Damaged, 0)),
            Err(error) => Err(error),
        }
    })
}

/// Cuts a file into numbered records.
fn split(file: File, texts: &SyncSender<(u64, u64, Vec<u8>)>) -> io::Result<(Ending, u64)> {
    let mut frames = Frames::new(BufReader::with_capacity(1 << 20, file));
    for number in 0.. {
        let Some(text) = frames.next()? else { break };
        if texts.send((number, frames.position(), text)).is_err() {
            break;
        }
    }
    Ok((frames.ending(), frames.position()))
}

type Read = (u64, u64, Result<Record, serde_json::Error>);

fn parse(texts: &Mutex<Receiver<(u64, u64, Vec<u8>)>>, records: &SyncSender<Read>) {
    loop {
        let next = texts.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((number, at, text)) = next else { return };
        if records.send((number, at, serde_json::from_slice(&text))).is_err() {
            return;
        }
    }
}

/// Whether all were taken.
fn in_order(
    path: &Path,
    read: &Receiver<Read>,
    take: &mut dyn FnMut(Record) -> bool,
) -> Result<bool, Unusable> {
    let (mut next, mut early) = (0, BTreeMap::new());
    while let Ok((number, at, record)) = read.recv() {
        early.insert(number, (at, record));
        while let Some((at, record)) = early.remove(&next) {
            next += 1;
            let record = record.map_err(|source| Unusable::Unknown { path: path.to_owned(), at, source })?;
            if !take(record) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}
