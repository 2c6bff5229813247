//! `Recorded`: a store that writes an entry of the audit log with every change of an object, in the same transaction.
//!
//! A note of the transaction says how an object is shown; without one its record is shown with secrets masked, so that no
//! way of changing something is without an entry.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ebbgate_model::EventId;
use futures_util::FutureExt;
use serde_json::{Value, json};

use super::actor::Actor;
use super::entry::Change;
use super::link::Link;
use super::record::NEW_PREFIX;
use super::subject::Subject;
use crate::api::timestamp;
use crate::clock::Clock;
use crate::record::{self, parse};
use crate::secret::{Entropy, ksuid};
use crate::store::{
    Compare, Item, LeaseId, Note, Op, Outcome, Page, Range, Reply, Revision, Scan, Store, StoreError, Txn,
    Usage, Watch,
};

/// Bytes of all entries of one transaction; beyond, they name their objects only.
const ENTRIES_BYTES_MAX: usize = 384 << 10;
/// How often a transaction is tried while its objects change between reading and writing.
const ATTEMPTS_MAX: usize = 16;

/// A store in front of a store.
#[derive(Clone)]
pub struct Recorded {
    inner: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    link: Link,
    /// Entries written by this process, which orders those of one second.
    count: Arc<AtomicU64>,
}

impl Recorded {
    /// Records what is committed through it.
    pub fn new(inner: Arc<dyn Store>, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>, link: Link) -> Self {
        Self { inner, clock, entropy, link, count: Arc::default() }
    }

    async fn record(&self, txn: Txn) -> Result<Outcome, StoreError> {
        let changed = changed(&txn);
        if changed.is_empty() {
            return self.inner.commit(txn).await;
        }
        let mut last = None;
        for _ in 0..ATTEMPTS_MAX {
            let (notes, compared) = self.notes(&txn, &changed).await?;
            let entries = self.entries(&changed, &notes);
            let is_told = !entries.is_empty();
            let mut tried = txn.clone();
            if is_told {
                tried = tried.put(self.new_key(), record::encode(&entries));
            }
            for (key, modified) in &compared {
                tried = match modified {
                    Some(modified) => tried.if_unchanged(key, *modified),
                    None => tried.if_absent(key),
                };
            }
            match self.inner.commit(tried).await? {
                Outcome::Conflict(key) if compared.iter().any(|(own, _)| *own == key) => {
                    last = Some(Outcome::Conflict(key));
                }
                Outcome::Conflict(key) => return Ok(Outcome::Conflict(key)),
                committed @ Outcome::Committed(_) => {
                    if is_told {
                        self.link.written.notify_one();
                    }
                    return Ok(committed);
                }
            }
        }
        Ok(last.unwrap_or(Outcome::Conflict(String::new())))
    }

    /// How each changed object is told. What no note tells is read, and must stay as it was read.
    async fn notes(
        &self,
        txn: &Txn,
        changed: &[(usize, Subject)],
    ) -> Result<(Vec<Note>, Vec<(String, Option<Revision>)>), StoreError> {
        let (mut notes, mut compared) = (Vec::new(), Vec::new());
        for (at, subject) in changed {
            let Some(op) = txn.ops.get(*at) else { continue };
            if let Some(note) = txn.notes.iter().find(|note| note.key == op.key()) {
                notes.push(note.clone());
                continue;
            }
            let before = self.inner.get(op.key()).await?;
            // A compare of the caller's own holds what was read just as well, and its conflict is the caller's.
            if !txn.compares.iter().any(|compare| names(compare, op.key())) {
                compared.push((op.key().to_owned(), before.as_ref().map(|item| item.modified)));
            }
            let after = match op {
                Op::Put { value, .. } => {
                    Some(serde_json::from_slice(value).unwrap_or_else(|_| unreadable(subject)))
                }
                Op::Delete(_) => None,
            };
            let before = before.map(|item| parse(&item).unwrap_or_else(|_| unreadable(subject)));
            notes.push(Note { key: op.key().to_owned(), before, after });
        }
        Ok((notes, compared))
    }

    /// The text of one entry for each change.
    fn entries(&self, changed: &[(usize, Subject)], notes: &[Note]) -> Vec<String> {
        let (at, actor) = (timestamp(self.clock.unix_secs()), Actor::current());
        let write = |with_content: bool| {
            let line = |((_, subject), note): (&(usize, Subject), &Note)| {
                let id = EventId::new(ksuid(&*self.entropy, self.clock.unix_secs())).to_string();
                let named = json!({ "id": subject.id });
                let shown = |object: &'_ Option<Value>| {
                    object.as_ref().map(|object| if with_content { object.clone() } else { named.clone() })
                };
                let (before, after) = (shown(&note.before), shown(&note.after));
                let change =
                    Change { subject: subject.clone(), before: before.as_ref(), after: after.as_ref() };
                change.event(&id, &at, &actor)
            };
            // Removing what was not there changes nothing.
            let happened = |((_, subject), note): &(&(usize, Subject), &Note)| {
                let both = note.before.is_some() && note.after.is_some();
                (note.before.is_some() || note.after.is_some()) && !(both && subject.is_touched())
            };
            changed.iter().zip(notes).filter(happened).map(line).collect::<Vec<String>>()
        };
        let whole = write(true);
        let fits = whole.iter().map(String::len).sum::<usize>() <= ENTRIES_BYTES_MAX;
        if fits { whole } else { write(false) }
    }

    /// Sorts by time, then by this process's order.
    fn new_key(&self) -> String {
        let now = self.clock.unix_secs();
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        format!("{NEW_PREFIX}{now:012}-{count:012}-{}", ksuid(&*self.entropy, now))
    }
}

/// Operations that change an object, by their place in the transaction. A leaf is told only where it changes alone.
fn changed(txn: &Txn) -> Vec<(usize, Subject)> {
    let all = txn.ops.iter().enumerate().filter_map(|(at, op)| Some((at, Subject::of(op.key())?)));
    let mut all: Vec<_> = all.collect();
    if all.iter().any(|(_, subject)| !subject.is_derived()) {
        all.retain(|(_, subject)| !subject.is_derived());
    }
    all
}

fn names(compare: &Compare, wanted: &str) -> bool {
    matches!(compare, Compare::Absent(key) | Compare::Unchanged(key, _) if key == wanted)
}

fn unreadable(subject: &Subject) -> Value {
    json!({ "id": subject.id, "unreadable": true })
}

impl Store for Recorded {
    fn get<'a>(&'a self, key: &'a str) -> Reply<'a, Option<Item>> {
        self.inner.get(key)
    }

    fn revision(&self) -> Revision {
        self.inner.revision()
    }

    fn usage(&self, prefix: String) -> Reply<'_, Usage> {
        self.inner.usage(prefix)
    }

    fn range(&self, range: Range) -> Reply<'_, Page> {
        self.inner.range(range)
    }

    fn scan(&self, prefix: String, page: usize) -> Scan {
        self.inner.scan(prefix, page)
    }

    fn commit(&self, txn: Txn) -> Reply<'_, Outcome> {
        self.record(txn).boxed()
    }

    fn watch(&self, prefix: String, after: Revision) -> Watch {
        self.inner.watch(prefix, after)
    }

    fn damage(&self) -> Option<StoreError> {
        self.inner.damage()
    }

    fn grant(&self, ttl: Duration) -> Reply<'_, LeaseId> {
        self.inner.grant(ttl)
    }

    fn keep_alive(&self, lease: LeaseId) -> Reply<'_, ()> {
        self.inner.keep_alive(lease)
    }

    fn revoke(&self, lease: LeaseId) -> Reply<'_, ()> {
        self.inner.revoke(lease)
    }

    fn compact(&self, revision: Revision) -> Reply<'_, ()> {
        self.inner.compact(revision)
    }
}
