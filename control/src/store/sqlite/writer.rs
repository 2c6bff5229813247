//! The writer thread: takes what waits, commits it together, wakes the watchers, then answers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use tokio::sync::{oneshot, watch};

use super::super::{Compare, LOG_BYTES_MAX, LeaseId, Op, Outcome, REVISIONS_KEPT, Revision, StoreError, Txn};
use super::read::{end_of, engine_error};
use super::schema;
use super::sum::sum;
use crate::error_chain::ErrorChain;

/// Transactions that share one disk flush.
const GROUP_MAX: usize = 128;
/// Revisions over [`REVISIONS_KEPT`] that are let pile up before the oldest are removed.
const COMPACT_STEP: u64 = 1000;
/// Wait for a command when no lease runs, in seconds.
const IDLE_SECS: u64 = 3600;
/// After a failed write, leases that had ended are tried again after this many seconds.
const RETRY_SECS: u64 = 1;

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the writer is asked to do.
#[derive(Debug)]
pub(super) enum Command {
    Commit(Txn, Answer<Outcome>),
    Grant(Duration, Answer<LeaseId>),
    KeepAlive(LeaseId, Answer<()>),
    Revoke(LeaseId, Answer<()>),
    Compact(Revision, Answer<()>),
}

/// A lease that is running.
#[derive(Debug)]
struct Running {
    ttl: Duration,
    ends: Instant,
}

pub(super) struct Writer {
    /// None: the disk took no writes when the store was opened.
    db: Option<Connection>,
    /// What reads use; it is replaced when the disk takes writes again.
    reader: Arc<Mutex<Connection>>,
    path: PathBuf,
    announce: watch::Sender<Revision>,
    compacted: Revision,
    /// Bytes of values in the log.
    log_bytes: u64,
    leases: BTreeMap<LeaseId, Running>,
}

impl Writer {
    /// Every lease begins anew: its holder could not keep it alive while the store was down.
    pub(super) fn new(
        db: Option<Connection>,
        path: PathBuf,
        announce: watch::Sender<Revision>,
        reader: Arc<Mutex<Connection>>,
    ) -> Result<Self, StoreError> {
        let mut writer =
            Self { db: None, reader, path, announce, compacted: 0, log_bytes: 0, leases: BTreeMap::new() };
        if let Some(db) = db {
            writer.begin(db)?;
        }
        Ok(writer)
    }

    fn begin(&mut self, db: Connection) -> Result<(), StoreError> {
        let (leases, compacted) = read_state(&db).map_err(|e| engine_error(&self.path, e))?;
        self.log_bytes = log_bytes(&db).map_err(|e| engine_error(&self.path, e))?;
        self.compacted = compacted;
        let ends = |ttl| Running { ttl, ends: Instant::now() + ttl };
        self.leases = leases.into_iter().map(|(id, ttl)| (id, ends(ttl))).collect();
        self.db = Some(db);
        Ok(())
    }

    /// Opens the database for writing if it is not; an error while the disk takes no writes.
    fn open(&mut self) -> Result<(), StoreError> {
        if self.db.is_some() {
            return Ok(());
        }
        if crate::disk::unwritable(&self.path).is_some() {
            return Err(schema::unwritable_error(&self.path));
        }
        let shared = Arc::clone(&self.reader);
        let mut reader = shared.lock().unwrap_or_else(PoisonError::into_inner);
        // A connection that could only read keeps the index of the log read-only for the whole process: it goes first.
        *reader = Connection::open_in_memory().map_err(|e| engine_error(&self.path, e))?;
        let opened = schema::open(&self.path).and_then(|db| Ok((db, schema::open_reader(&self.path)?)));
        match opened {
            Ok((db, new)) => {
                *reader = new;
                self.begin(db)?;
                tracing::info!("the disk takes writes again");
                Ok(())
            }
            Err(error) => {
                *reader = schema::open_frozen(&self.path)?;
                Err(error)
            }
        }
    }

    /// Serves until all senders are gone.
    pub(super) fn run(mut self, queue: &Receiver<Command>) {
        loop {
            let next_end = self.leases.values().map(|lease| lease.ends).min();
            let wait = next_end
                .map_or(Duration::from_secs(IDLE_SECS), |end| end.saturating_duration_since(Instant::now()));
            let mut commands = match queue.recv_timeout(wait) {
                Ok(command) => vec![command],
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let waiting = std::iter::from_fn(|| queue.try_recv().ok());
            commands.extend(waiting.take(GROUP_MAX - 1));
            self.keep_alive(&mut commands);
            self.write(commands);
        }
    }

    /// Keeping a lease alive touches no disk. It comes first, so that no lease ends beside its own renewal.
    fn keep_alive(&mut self, commands: &mut Vec<Command>) {
        for command in std::mem::take(commands) {
            let Command::KeepAlive(id, answer) = command else {
                commands.push(command);
                continue;
            };
            let lease = self.leases.get_mut(&id);
            let kept = lease.map(|lease| lease.ends = Instant::now() + lease.ttl);
            let _ = answer.send(kept.ok_or(StoreError::LeaseUnknown(id)));
        }
    }

    fn write(&mut self, commands: Vec<Command>) {
        let now = Instant::now();
        let ended: Vec<_> = self.leases.iter().filter(|(_, l)| l.ends <= now).map(|(id, _)| *id).collect();
        if commands.is_empty() && ended.is_empty() {
            return;
        }
        let before = *self.announce.borrow();
        let opened = self.open();
        let begun = match (opened, &mut self.db) {
            (Ok(()), Some(db)) => db
                .transaction_with_behavior(TransactionBehavior::Immediate)
                .map_err(|error| engine_error(&self.path, error)),
            (opened, _) => Err(opened.err().unwrap_or(StoreError::Closed)),
        };
        let mut group = Group::begin(begun, &self.path, before, self.compacted, self.log_bytes);
        for id in &ended {
            let _ = group.attempt(|group| group.end_lease(*id));
        }
        for command in commands {
            group.take(command);
        }
        let written = group.finish();
        if let Some(error) = &written.failure {
            tracing::error!(error = %ErrorChain(error), "a write to the store failed; nothing of it was kept");
            for lease in self.leases.values_mut().filter(|lease| lease.ends <= now) {
                lease.ends = now + Duration::from_secs(RETRY_SECS);
            }
        } else {
            self.compacted = written.compacted;
            self.log_bytes = written.log_bytes;
            for (id, ttl) in written.leases {
                match ttl {
                    Some(ttl) => self.leases.insert(id, Running { ttl, ends: now + ttl }),
                    None => self.leases.remove(&id),
                };
            }
            // Announced before answered: once a caller has its answer, the watchers are already woken.
            if written.revision != before {
                self.announce.send_replace(written.revision);
            }
        }
        for answer in written.answers {
            answer(written.failure.clone());
        }
    }
}

type State = (Vec<(LeaseId, Duration)>, Revision);

fn read_state(db: &Connection) -> rusqlite::Result<State> {
    let mut select = db.prepare("SELECT id, ttl_ms FROM leases")?;
    let leases =
        select.query_map([], |row| Ok((LeaseId(row.get(0)?), Duration::from_millis(row.get(1)?))))?;
    let compacted = db.query_row("SELECT compacted FROM state", [], |row| row.get(0))?;
    Ok((leases.collect::<Result<_, _>>()?, compacted))
}

fn log_bytes(db: &Connection) -> rusqlite::Result<u64> {
    db.query_row("SELECT coalesce(sum(length(value)), 0) FROM log", [], |row| row.get(0))
}

/// Gives the caller its answer, or the reason why the whole group failed.
type Due = Box<dyn FnOnce(Option<StoreError>)>;

/// What became of a group.
struct Written {
    revision: Revision,
    compacted: Revision,
    log_bytes: u64,
    /// Leases granted (with their time) and ended (without).
    leases: Vec<(LeaseId, Option<Duration>)>,
    answers: Vec<Due>,
    failure: Option<StoreError>,
}

/// Commands that share one transaction of the database. The first error of the engine fails all of them.
struct Group<'a> {
    db: Option<Transaction<'a>>,
    path: &'a Path,
    written: Written,
}

impl<'a> Group<'a> {
    fn begin(
        begun: Result<Transaction<'a>, StoreError>,
        path: &'a Path,
        revision: Revision,
        compacted: Revision,
        log_bytes: u64,
    ) -> Self {
        let (db, failure) = match begun {
            Ok(db) => (Some(db), None),
            Err(error) => (None, Some(error)),
        };
        let written =
            Written { revision, compacted, log_bytes, leases: Vec::new(), answers: Vec::new(), failure };
        Self { db, path, written }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Commit(txn, answer) => self.run(answer, |group| group.commit(&txn)),
            Command::Grant(ttl, answer) => self.run(answer, |group| group.grant(ttl)),
            Command::Revoke(id, answer) => self.run(answer, |group| group.end_lease(id)),
            Command::Compact(revision, answer) => self.run(answer, |group| group.compact(revision).map(Ok)),
            Command::KeepAlive(_, answer) => drop(answer),
        }
    }

    fn run<T: 'static>(
        &mut self,
        answer: Answer<T>,
        work: impl FnOnce(&mut Self) -> rusqlite::Result<Result<T, StoreError>>,
    ) {
        let result = self.attempt(work);
        self.written.answers.push(Box::new(move |failure| {
            let _ = answer.send(failure.map_or(result, Err));
        }));
    }

    /// Does the work unless the group has failed; an error of the engine fails it.
    fn attempt<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> rusqlite::Result<Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        if let Some(failure) = &self.written.failure {
            return Err(failure.clone());
        }
        work(self).unwrap_or_else(|error| {
            let error = engine_error(self.path, error);
            self.written.failure = Some(error.clone());
            Err(error)
        })
    }

    fn finish(mut self) -> Written {
        let _ = self.attempt(|group| group.save().map(Ok));
        if let Some(db) = self.db {
            let finished = if self.written.failure.is_none() { db.commit() } else { db.rollback() };
            if let Err(error) = finished {
                self.written.failure.get_or_insert(engine_error(self.path, error));
            }
        }
        self.written
    }

    /// Writes down where the store now is, and drops revisions that no watcher needs any more.
    fn save(&mut self) -> rusqlite::Result<()> {
        let oldest = self.written.revision.saturating_sub(REVISIONS_KEPT);
        if oldest >= self.written.compacted + COMPACT_STEP {
            self.compact(oldest)?;
        }
        if self.written.log_bytes > LOG_BYTES_MAX {
            let oldest = self.newest_half()?;
            self.compact(oldest)?;
        }
        let state = params![self.written.revision, self.written.compacted];
        self.db().execute("UPDATE state SET revision = ?1, compacted = ?2", state).map(drop)
    }

    fn commit(&mut self, txn: &Txn) -> rusqlite::Result<Result<Outcome, StoreError>> {
        for compare in &txn.compares {
            if let Some(conflict) = self.conflict(compare)? {
                return Ok(Ok(Outcome::Conflict(conflict)));
            }
        }
        for op in &txn.ops {
            if let Op::Put { lease: Some(lease), .. } = op
                && !self.lease_runs(*lease)?
            {
                return Ok(Err(StoreError::LeaseUnknown(*lease)));
            }
        }
        let revision = self.written.revision + 1;
        let mut sequence = 0u32;
        for op in &txn.ops {
            let changed = match op {
                Op::Put { key, value, lease } => self.put(revision, sequence, key, value, *lease)?,
                Op::Delete(key) => self.delete(revision, sequence, key)?,
            };
            sequence += u32::from(changed);
        }
        if sequence > 0 {
            self.written.revision = revision;
        }
        Ok(Ok(Outcome::Committed(self.written.revision)))
    }

    /// The key or prefix of a compare that does not hold.
    fn conflict(&self, compare: &Compare) -> rusqlite::Result<Option<String>> {
        let (key, holds) = match compare {
            Compare::Absent(key) => (key, self.modified(key)?.is_none()),
            Compare::Unchanged(key, revision) => (key, self.modified(key)? == Some(*revision)),
            Compare::NoneNewer(prefix, revision) => (prefix, !self.any_newer(prefix, *revision)?),
        };
        Ok((!holds).then(|| key.clone()))
    }

    fn modified(&self, key: &str) -> rusqlite::Result<Option<Revision>> {
        let mut select = self.db().prepare_cached("SELECT modified FROM entries WHERE key = ?1")?;
        select.query_row([key], |row| row.get(0)).optional()
    }

    fn any_newer(&self, prefix: &str, revision: Revision) -> rusqlite::Result<bool> {
        // The log has few revisions after one that was just read, however many keys there are.
        let sql = if revision >= self.written.compacted {
            "SELECT EXISTS (SELECT 1 FROM log CROSS JOIN entries USING (key)
             WHERE log.revision > ?3 AND log.key >= ?1 AND log.key < ?2 AND entries.modified > ?3)"
        } else {
            "SELECT EXISTS (SELECT 1 FROM entries WHERE key >= ?1 AND key < ?2 AND modified > ?3)"
        };
        let mut select = self.db().prepare_cached(sql)?;
        select.query_row(params![prefix, end_of(prefix), revision], |row| row.get(0))
    }

    fn lease_runs(&self, lease: LeaseId) -> rusqlite::Result<bool> {
        let mut select = self.db().prepare_cached("SELECT EXISTS (SELECT 1 FROM leases WHERE id = ?1)")?;
        select.query_row([lease.0], |row| row.get(0))
    }

    fn put(
        &mut self,
        revision: Revision,
        sequence: u32,
        key: &str,
        value: &[u8],
        lease: Option<LeaseId>,
    ) -> rusqlite::Result<bool> {
        let lease = lease.map(|lease| lease.0);
        let mut known = self.db().prepare_cached("SELECT created FROM entries WHERE key = ?1")?;
        let created: Option<Revision> = known.query_row([key], |row| row.get(0)).optional()?;
        let created = created.unwrap_or(revision);
        let sum = sum(key, Some(value), created, revision, lease);
        let mut put = self.db().prepare_cached(
            "INSERT INTO entries (key, value, created, modified, lease, sum) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (key) DO UPDATE SET value = ?2, modified = ?4, lease = ?5, sum = ?6",
        )?;
        put.execute(params![key, value, created, revision, lease, sum])?;
        let mut log = self.db().prepare_cached("INSERT INTO log VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
        log.execute(params![revision, sequence, key, value, created, lease, sum])?;
        drop((known, put, log));
        self.written.log_bytes += value.len() as u64;
        Ok(true)
    }

    fn delete(&self, revision: Revision, sequence: u32, key: &str) -> rusqlite::Result<bool> {
        if self.db().prepare_cached("DELETE FROM entries WHERE key = ?1")?.execute([key])? == 0 {
            return Ok(false);
        }
        let mut log = self.db().prepare_cached("INSERT INTO log VALUES (?1, ?2, ?3, NULL, 0, NULL, ?4)")?;
        log.execute(params![revision, sequence, key, sum(key, None, 0, revision, None)])?;
        Ok(true)
    }

    fn grant(&mut self, ttl: Duration) -> rusqlite::Result<Result<LeaseId, StoreError>> {
        let millis = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
        self.db().execute("INSERT INTO leases (ttl_ms) VALUES (?1)", [millis])?;
        let id = LeaseId(u64::try_from(self.db().last_insert_rowid()).unwrap_or_default());
        self.written.leases.push((id, Some(ttl)));
        Ok(Ok(id))
    }

    /// Ends a lease and removes its keys, as one revision.
    fn end_lease(&mut self, id: LeaseId) -> rusqlite::Result<Result<(), StoreError>> {
        if self.db().execute("DELETE FROM leases WHERE id = ?1", [id.0])? == 0 {
            return Ok(Err(StoreError::LeaseUnknown(id)));
        }
        self.written.leases.push((id, None));
        let mut select = self.db().prepare_cached("SELECT key FROM entries WHERE lease = ?1 ORDER BY key")?;
        let keys = select.query_map([id.0], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
        drop(select);
        let revision = self.written.revision + 1;
        for (key, sequence) in keys.iter().zip(0..) {
            self.delete(revision, sequence, key)?;
            self.written.revision = revision;
        }
        Ok(Ok(()))
    }

    fn compact(&mut self, revision: Revision) -> rusqlite::Result<()> {
        let revision = revision.min(self.written.revision);
        if revision > self.written.compacted {
            let goes = "SELECT coalesce(sum(length(value)), 0) FROM log WHERE revision <= ?1";
            let goes: u64 = self.db().query_row(goes, [revision], |row| row.get(0))?;
            self.db().execute("DELETE FROM log WHERE revision <= ?1", [revision])?;
            self.written.compacted = revision;
            self.written.log_bytes = self.written.log_bytes.saturating_sub(goes);
        }
        Ok(())
    }

    /// The revision up to which the log must go for half of its budget to be free.
    fn newest_half(&self) -> rusqlite::Result<Revision> {
        let mut select = self.db().prepare_cached(
            "SELECT revision, sum(coalesce(length(value), 0)) FROM log GROUP BY revision ORDER BY revision DESC",
        )?;
        let mut rows = select.query([])?;
        let mut bytes = 0;
        while let Some(row) = rows.next()? {
            bytes += row.get::<_, u64>(1)?;
            if bytes > LOG_BYTES_MAX / 2 {
                return row.get(0);
            }
        }
        Ok(0)
    }

    fn db(&self) -> &Transaction<'a> {
        self.db.as_ref().expect("work is attempted only after the transaction has begun")
    }
}
