//! The default store: one SQLite file in WAL mode with `synchronous=FULL`, written by a thread of its own.
//!
//! Writes that wait together are committed together, so that one disk flush serves many. Reads use a second connection
//! and see every commit that was answered. Keeping other processes out of the directory is `DirLock`'s business.

mod attached;
mod checking;
mod read;
mod scan;
mod schema;
mod sum;
mod whole;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use rusqlite::{Connection, OptionalExtension};
use tokio::sync::{oneshot, watch};

use super::{
    Batch, Item, LeaseId, Outcome, Page, Range, Reply, Revision, Scan, Store, StoreError, Txn, Usage, Watch,
};
pub use attached::{Attached, attach, attached, detach};
use checking::Checking;
use read::{end_of, engine_error, read_changes, read_range};
pub use schema::{copy_database, is_current, read_database, verify_database};
use sum::item;
pub use whole::write_database;
use writer::{Command, Writer};

use crate::error_chain::ErrorChain;

/// Writes waiting for the writer thread.
const QUEUE_MAX: usize = 1024;
/// Revisions a watch reads at once.
const WATCH_REVISIONS_MAX: u64 = 1000;

/// Opening checks all of a database of at most so many bytes. Of a larger one it checks a part, and the rest follows in use.
const CHECKED_FIRST_BYTES_MAX: u64 = 64 << 20;

/// The SQLite store.
#[derive(Debug)]
pub struct Sqlite {
    /// None: all of it was read before.
    checking: Option<Checking>,
    shared: Arc<Shared>,
    commands: Option<SyncSender<Command>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    /// Replaced when the database can be written again.
    reader: Arc<Mutex<Connection>>,
    revision: watch::Receiver<Revision>,
}

impl Sqlite {
    /// Makes a new database; an existing file is an error.
    pub fn create(path: &Path) -> Result<Self, StoreError> {
        schema::create(path)?;
        Self::open(path)
    }

    /// Opens an existing database: checks it, brings its schema up to date, starts the writer.
    ///
    /// The check of a large database goes on while it is in use; the store refuses writes once it finds damage. On a disk that takes no writes it is read, and every write fails until the disk takes them again.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_within(path, CHECKED_FIRST_BYTES_MAX)
    }

    fn open_within(path: &Path, checked_first_bytes_max: u64) -> Result<Self, StoreError> {
        let is_large = schema::bytes(path) > checked_first_bytes_max;
        let first = if is_large { schema::look } else { schema::check };
        let mut store = match schema::open_after(path, first) {
            Ok(connection) => Self::start(Some(connection), path)?,
            Err(error) if crate::disk::unwritable(path).is_some() => {
                tracing::error!(error = %ErrorChain(&error), "the database is read, and takes no writes for now");
                Self::start(None, path)?
            }
            Err(error) => return Err(error),
        };
        if is_large {
            store.checking = Some(Checking::begin(path)?);
        }
        Ok(store)
    }

    fn start(connection: Option<Connection>, path: &Path) -> Result<Self, StoreError> {
        let reader = match connection {
            Some(_) => schema::open_reader(path)?,
            None => schema::open_frozen(path)?,
        };
        let revision = reader.query_row("SELECT revision FROM state", [], |row| row.get(0));
        let (announce, announced) = watch::channel(revision.map_err(|e| engine_error(path, e))?);
        let reader = Arc::new(Mutex::new(reader));
        let writer = Writer::new(connection, path.to_owned(), announce, Arc::clone(&reader))?;
        let (commands, queue) = sync_channel(QUEUE_MAX);
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run(&queue))
            .map_err(|e| StoreError::Engine { path: path.to_owned(), source: Arc::new(e) })?;
        let shared = Shared { path: path.to_owned(), reader, revision: announced };
        Ok(Self { checking: None, shared: Arc::new(shared), commands: Some(commands), thread: Some(thread) })
    }

    /// Copies the database to a new file while it is in use.
    pub fn backup(&self, to: &Path) -> Result<(), StoreError> {
        copy_database(&self.shared.path, to)
    }

    fn send<T: Send + 'static>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Command,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        let (answer, answered) = oneshot::channel();
        let sent = match &self.commands {
            Some(commands) => commands.try_send(command(answer)).map_err(|e| match e {
                TrySendError::Full(_) => StoreError::Busy,
                TrySendError::Disconnected(_) => StoreError::Closed,
            }),
            None => Err(StoreError::Closed),
        };
        async move {
            sent?;
            answered.await.unwrap_or(Err(StoreError::Closed))
        }
        .boxed()
    }

    fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        self.shared.clone().read(read)
    }
}

impl Shared {
    /// Runs a read on a thread that may block.
    fn read<T: Send + 'static>(
        self: Arc<Self>,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        let run = move || {
            let connection = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
            read(&connection).map_err(|e| engine_error(&self.path, e))
        };
        async move { tokio::task::spawn_blocking(run).await.unwrap_or(Err(StoreError::Closed)) }.boxed()
    }
}

impl Drop for Sqlite {
    /// Finishes what was accepted and closes the file.
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Store for Sqlite {
    fn get<'a>(&'a self, key: &'a str) -> Reply<'a, Option<Item>> {
        let key = key.to_owned();
        self.read(move |db| {
            let mut select = db.prepare_cached(
                "SELECT key, value, created, modified, lease, sum FROM entries WHERE key = ?1",
            )?;
            select.query_row([key], item).optional()
        })
    }

    fn revision(&self) -> Revision {
        *self.shared.revision.borrow()
    }

    fn usage(&self, prefix: String) -> Reply<'_, Usage> {
        self.read(move |db| {
            let mut select = db.prepare_cached(
                "SELECT count(*), coalesce(sum(length(value)), 0) FROM entries WHERE key >= ?1 AND key < ?2",
            )?;
            select.query_row([&prefix, &end_of(&prefix)], |row| {
                Ok(Usage { keys: row.get(0)?, bytes: row.get(1)? })
            })
        })
    }

    fn range(&self, range: Range) -> Reply<'_, Page> {
        self.read(move |db| {
            let snapshot = db.unchecked_transaction()?;
            let page = read_range(&snapshot, &range)?;
            snapshot.finish()?;
            Ok(page)
        })
    }

    fn scan(&self, prefix: String, page: usize) -> Scan {
        scan::scan(self.shared.path.clone(), prefix, page)
    }

    fn commit(&self, txn: Txn) -> Reply<'_, Outcome> {
        match self.damage().map_or_else(|| txn.check(), Err) {
            Ok(()) => self.send(|answer| Command::Commit(txn, answer)),
            Err(error) => async { Err(error) }.boxed(),
        }
    }

    fn watch(&self, prefix: String, after: Revision) -> Watch {
        let cursor = Cursor { shared: self.shared.clone(), prefix, after };
        stream::unfold(Some(cursor), |cursor| async {
            let mut cursor = cursor?;
            match cursor.next().await {
                Ok(batch) => Some((Ok(batch), Some(cursor))),
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed()
    }

    fn damage(&self) -> Option<StoreError> {
        self.checking.as_ref().and_then(Checking::damage).cloned()
    }

    fn grant(&self, ttl: Duration) -> Reply<'_, LeaseId> {
        if ttl.as_secs() > super::LEASE_SECS_MAX {
            return async { Err(StoreError::TooLarge("a lease lasts at most an hour")) }.boxed();
        }
        self.send(|answer| Command::Grant(ttl, answer))
    }

    fn keep_alive(&self, lease: LeaseId) -> Reply<'_, ()> {
        self.send(|answer| Command::KeepAlive(lease, answer))
    }

    fn revoke(&self, lease: LeaseId) -> Reply<'_, ()> {
        self.send(|answer| Command::Revoke(lease, answer))
    }

    fn compact(&self, revision: Revision) -> Reply<'_, ()> {
        self.send(|answer| Command::Compact(revision, answer))
    }
}

/// Where a watch is.
struct Cursor {
    shared: Arc<Shared>,
    prefix: String,
    after: Revision,
}

impl Cursor {
    /// Waits for the next changes under the prefix.
    async fn next(&mut self) -> Result<Batch, StoreError> {
        let mut revision = self.shared.revision.clone();
        loop {
            let after = self.after;
            let now = *revision.wait_for(|now| *now > after).await.map_err(|_| StoreError::Closed)?;
            let upto = now.min(after + WATCH_REVISIONS_MAX);
            let prefix = self.prefix.clone();
            let read = self.shared.clone().read(move |db| {
                let snapshot = db.unchecked_transaction()?;
                let compacted: Revision =
                    snapshot.query_row("SELECT compacted FROM state", [], |r| r.get(0))?;
                let changes = read_changes(&snapshot, &prefix, after, upto)?;
                snapshot.finish()?;
                Ok((compacted, changes))
            });
            let (compacted, changes) = read.await?;
            if compacted > after {
                return Err(StoreError::Compacted { asked: after, oldest: compacted });
            }
            // What a damaged row said is lost, but what is stored now is read elsewhere.
            let changes = changes.ok_or(StoreError::Compacted { asked: after, oldest: upto })?;
            self.after = upto;
            if !changes.is_empty() {
                return Ok(Batch { changes, revision: upto });
            }
        }
    }
}

#[cfg(test)]
mod tests;
