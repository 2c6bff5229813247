//! The appender: moves written entries into the hash chain, signs its head, writes heads to a second place, and removes
//! what is older or more than the operator keeps. Several controls may run one: the head's revision decides which one appends.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::{Instant, sleep, timeout};

use super::chain::Tip;
use super::error::AuditError;
use super::key::SigningKey;
use super::link::Link;
use super::page::{PAGE_BYTES_MAX, PAGE_ENTRIES_MAX, Page};
use super::record::{HEAD_KEY, Head, LOG_PREFIX, NEW_PREFIX, PRUNED_KEY};
use crate::clock::{Clock, UnixSecs};
use crate::error_chain::ErrorChain;
use crate::record::{self, Stored};
use crate::store::{Item, Outcome, Range, Store, Txn};

/// Milliseconds that entries are gathered before they are appended.
pub const APPEND_MS: u64 = 250;
/// Seconds between two looks without a word from this process: another control may have died between write and append.
const LOOK_SECS: u64 = 5;
/// Seconds between two heads in the second place.
const HEADS_SECS: u64 = 60;
/// Seconds between two looks for entries to remove.
const PRUNE_SECS: u64 = 600;
/// Keys read in one step.
const KEYS_MAX: usize = 1_000;
/// Entries moved in one transaction: the operations of one are bounded.
const MOVED_MAX: usize = 60;
/// Pages removed in one transaction.
const PRUNED_MAX: usize = 100;
/// Seconds an entry waits for the control that appended it to deliver it, before another one does.
const DELIVERY_SECS: u64 = 30;
const DAY_SECS: i64 = 86_400;

/// How much of the log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Days.
    pub days: u32,
    /// Bytes of entries.
    pub bytes: usize,
}

/// Takes events for destinations; done when they are durable there.
pub type Deliver = Arc<dyn Fn(Vec<Value>) -> BoxFuture<'static, ()> + Send + Sync>;

/// The appender of one control.
pub struct Appender {
    /// The log.
    pub store: Arc<dyn Store>,
    /// Signs heads.
    pub key: SigningKey,
    /// Stamps heads.
    pub clock: Arc<dyn Clock>,
    /// Notified of new entries; told what is wrong.
    pub link: Link,
    /// What is kept.
    pub retention: Retention,
    /// The second place of signed heads: a file they are appended to.
    pub heads: Option<PathBuf>,
    /// Where entries go that are in the chain.
    pub deliver: Deliver,
}

impl Appender {
    /// Runs for ever.
    pub async fn run(self) {
        let mut told = Told { head: None, at: None, pruned: None, seen: None };
        loop {
            let done = self.step(&mut told).await;
            if let Err(error) = &done {
                tracing::error!(error = %ErrorChain(error), "the audit log could not be extended; trying again");
            }
            self.link.trouble.send_if_modified(|trouble| {
                let now = done.as_ref().err().map(|error| ErrorChain(error).to_string());
                std::mem::replace(trouble, now.clone()) != now
            });
            let _ = timeout(Duration::from_secs(LOOK_SECS), self.link.written.notified()).await;
            sleep(Duration::from_millis(APPEND_MS)).await;
        }
    }

    async fn step(&self, told: &mut Told) -> Result<(), AuditError> {
        let appended = self.append_all().await?;
        self.deliver_new(appended, told).await?;
        let now = Instant::now();
        let is_due =
            |last: Option<Instant>, secs| last.is_none_or(|last| now - last >= Duration::from_secs(secs));
        if is_due(told.at, HEADS_SECS) && self.tell_head(told).await? {
            told.at = Some(now);
        }
        if is_due(told.pruned, PRUNE_SECS) {
            self.prune().await?;
            told.pruned = Some(now);
        }
        Ok(())
    }

    async fn head(&self) -> Result<Option<Stored<Head>>, AuditError> {
        Ok(record::read::<Head>(&*self.store, HEAD_KEY).await?)
    }

    /// Appends what was written. Gives how far the chain goes when this control appended something.
    pub(super) async fn append_all(&self) -> Result<Option<u64>, AuditError> {
        let mut appended = None;
        loop {
            // The head first: what another control appends afterwards changes it, and then nothing here is written. Read after
            // the entries, it could be a head that has them already.
            let mut head = self.head().await?;
            let range = Range { limit: Some(KEYS_MAX), ..Range::all(NEW_PREFIX) };
            let page = self.store.range(range).await?;
            let mut items = page.items;
            // Transactions are in the order in which the store took them.
            items.sort_by_key(|item| item.created);
            let mut rest = items.as_slice();
            while !rest.is_empty() {
                let (now, later) = rest.split_at(fitting(rest));
                rest = later;
                // Another control was quicker.
                let Some(next) = self.append(head.as_ref(), now).await? else { return Ok(appended) };
                appended = Some(next.record.count);
                head = Some(next);
            }
            if !page.more {
                return Ok(appended);
            }
        }
    }

    /// Appends behind this head, and gives the one that follows. None: it is the head no more.
    async fn append(
        &self,
        head: Option<&Stored<Head>>,
        items: &[Item],
    ) -> Result<Option<Stored<Head>>, AuditError> {
        let tip = head.map_or(Some(Tip::default()), |head| head.record.tip()).ok_or(AuditError::Head)?;
        let (page, next) = Page::after(tip, items.iter().flat_map(contents));
        let delivered = head.map_or(0, |head| head.record.delivered);
        let new = Head { delivered, ..self.signed(next) };
        let txn = match head {
            Some(head) => Txn::new().if_unchanged(HEAD_KEY, head.modified),
            None => Txn::new().if_absent(HEAD_KEY),
        };
        let txn = txn.put(HEAD_KEY, record::encode(&new)).put(page.key(), page.encode());
        let txn = items.iter().fold(txn, |txn, item| txn.delete(&item.key));
        match self.store.commit(txn).await? {
            Outcome::Committed(modified) => Ok(Some(Stored { record: new, modified })),
            Outcome::Conflict(_) => Ok(None),
        }
    }

    fn signed(&self, tip: Tip) -> Head {
        let at = self.clock.unix_secs();
        Head { note: self.key.sign(tip, at), ..Head::of(tip, at) }
    }

    /// Gives entries to the destinations of events: those this control appended, and those that nobody delivered in time.
    async fn deliver_new(&self, appended: Option<u64>, told: &mut Told) -> Result<(), AuditError> {
        loop {
            let Some(head) = self.head().await? else { return Ok(()) };
            let (delivered, count) = (head.record.delivered, head.record.count);
            if delivered >= count {
                told.seen = None;
                return Ok(());
            }
            let since = *told.seen.get_or_insert((delivered, Instant::now()));
            let since = if since.0 == delivered { since } else { (delivered, Instant::now()) };
            told.seen = Some(since);
            let is_late = since.1.elapsed() >= Duration::from_secs(DELIVERY_SECS);
            if !is_late && appended.is_none_or(|own| delivered >= own) {
                return Ok(());
            }
            let Some(page) = self.page_with(delivered + 1).await? else { return Err(AuditError::Head) };
            let events = page.numbered().filter(|(number, ..)| *number > delivered);
            let events = events.filter_map(|(_, _, content)| serde_json::from_str(content).ok()).collect();
            let upto = page.tip().map_or(delivered + 1, |tip| tip.count);
            (self.deliver)(events).await;
            self.set_delivered(upto).await?;
        }
    }

    /// The page that holds an entry.
    async fn page_with(&self, number: u64) -> Result<Option<Page>, AuditError> {
        let before = Some(super::record::page_key(number + 1));
        let range = Range { before, limit: Some(1), reverse: true, prefix: LOG_PREFIX.into() };
        let items = self.store.range(range).await?.items;
        Ok(items.first().and_then(|item| Page::parse(&item.key, &item.value)))
    }

    async fn set_delivered(&self, upto: u64) -> Result<(), AuditError> {
        loop {
            let Some(head) = self.head().await? else { return Ok(()) };
            if head.record.delivered >= upto {
                return Ok(());
            }
            let new = Head { delivered: upto, ..head.record };
            let txn = Txn::new().if_unchanged(HEAD_KEY, head.modified).put(HEAD_KEY, record::encode(&new));
            if let Outcome::Committed(_) = self.store.commit(txn).await? {
                return Ok(());
            }
        }
    }

    /// Appends the newest head to the second place, if it is another than the last there.
    async fn tell_head(&self, told: &mut Told) -> Result<bool, AuditError> {
        let (Some(path), Some(head)) = (&self.heads, self.head().await?) else { return Ok(false) };
        let note = head.record.note;
        if told.head.as_ref() == Some(&note) {
            return Ok(false);
        }
        append_head(path, &note)?;
        told.head = Some(note);
        Ok(true)
    }

    /// Removes the oldest pages that are too old or too much; what begins the rest is signed.
    pub(super) async fn prune(&self) -> Result<(), AuditError> {
        let oldest = self.clock.unix_secs() - i64::from(self.retention.days) * DAY_SECS;
        loop {
            // First, as with the head: what another control removes afterwards changes it.
            let before = self.store.get(PRUNED_KEY).await?;
            let used = self.store.usage(LOG_PREFIX.into()).await?;
            let mut surplus = used.bytes.saturating_sub(self.retention.bytes);
            let range = Range { limit: Some(PRUNED_MAX + 1), ..Range::all(LOG_PREFIX) };
            let pages = self.store.range(range).await?.items;
            let mut going: Vec<(String, Tip)> = Vec::new();
            // The newest page stays, whatever it holds.
            for item in pages.iter().take(used.keys.saturating_sub(1).min(PRUNED_MAX)) {
                let Some(page) = Page::parse(&item.key, &item.value) else { break };
                let Some(tip) = page.tip() else { break };
                let is_old = written_at(&page).is_some_and(|at| at < oldest);
                if !is_old && surplus == 0 {
                    break;
                }
                surplus = surplus.saturating_sub(item.value.len());
                going.push((item.key.clone(), tip));
            }
            let Some((_, tip)) = going.last() else { return Ok(()) };
            let txn = match &before {
                Some(item) => Txn::new().if_unchanged(PRUNED_KEY, item.modified),
                None => Txn::new().if_absent(PRUNED_KEY),
            };
            let txn = txn.put(PRUNED_KEY, record::encode(&self.signed(*tip)));
            let txn = going.iter().fold(txn, |txn, (key, _)| txn.delete(key));
            if let Outcome::Conflict(_) = self.store.commit(txn).await? {
                return Ok(());
            }
            tracing::info!(upto = tip.count, "removed old entries of the audit log");
        }
    }
}

/// What a run remembers.
struct Told {
    /// The head last written to the second place.
    head: Option<String>,
    at: Option<Instant>,
    pruned: Option<Instant>,
    /// The last entry delivered, and since when it has been the last while there are more.
    seen: Option<(u64, Instant)>,
}

/// Adds a signed head to the file of remembered heads, durably.
pub(super) fn append_head(path: &std::path::Path, note: &str) -> Result<(), AuditError> {
    let write = || {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
        file.write_all(format!("{note}\n").as_bytes())?;
        file.sync_all()
    };
    write().map_err(|source| AuditError::Heads { path: path.to_owned(), source })
}

/// How many of the items fit in one page and one transaction; at least one.
fn fitting(items: &[Item]) -> usize {
    let (mut entries, mut bytes) = (0, 0);
    let fits = |item: &&Item| {
        entries += contents(item).len();
        bytes += item.value.len();
        entries <= PAGE_ENTRIES_MAX && bytes <= PAGE_BYTES_MAX
    };
    items.iter().take(MOVED_MAX).take_while(fits).count().max(1)
}

/// The entries of one transaction. What cannot be read is told by an entry in its place.
fn contents(item: &Item) -> Vec<String> {
    record::parse::<Vec<String>>(item).unwrap_or_else(|_| {
        let told = json!({ "event_type": "audit_entry_unreadable.v0", "object": { "id": item.key } });
        vec![told.to_string()]
    })
}

/// When the last entry of a page was written.
fn written_at(page: &Page) -> Option<UnixSecs> {
    let (_, content) = page.entries.last()?;
    let event: Value = serde_json::from_str(content).ok()?;
    let at = event.get("event_timestamp")?.as_str()?;
    OffsetDateTime::parse(at, &Rfc3339).ok().map(OffsetDateTime::unix_timestamp)
}
