//! One edge that this control feeds, as others are told of it: what changed, a bounded number of times a second.

use std::time::Duration;

use ebbgate_model::EdgeId;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::chunks::{Chunks, SESSION_BYTES_MAX};
use super::keys;
use super::shared::{LEASE_SECS, RETRY_SECS, Sharing};
use crate::error_chain::ErrorChain;
use crate::presence::{Head, OwnEdge};
use crate::record;
use crate::store::{Item, LeaseId, Outcome, Revision, StoreError, Txn};

/// Milliseconds between two writes about an edge, whatever happens there.
const PAUSE_MS: u64 = 500;
/// Seconds between two writes that only say which generation an edge has.
const APPLIED_SECS: u64 = 2;
/// Seconds that an edge gets to say which sessions it has, before others are told that it is fed here. What another control
/// told of it holds until then.
const REPORT_SECS_MAX: u64 = 5;
/// Bytes of chunks in one write.
const WRITE_BYTES: usize = 1 << 20;
/// Chunks in one write.
const WRITE_CHUNKS: usize = 100;
/// How often a head is written that another control writes at the same time.
const ATTEMPTS_MAX: usize = 8;
/// Milliseconds between two looks whether what another control told has come here.
const GIVE_UP_MS: u64 = 100;
/// How often that is looked for.
const GIVE_UP_TRIES: usize = 100;

/// Seconds between two attempts at most.
const RETRY_SECS_MAX: u64 = 8;

/// Tells others of an edge as long as it is fed here. An outage of the store has one line for each edge.
pub(super) async fn edge(sharing: &Sharing, edge: EdgeId) {
    // The newest feed by which this control has had the edge in the store.
    let (mut claimed, mut failures) = (0, 0);
    while sharing.presence.own_wake(edge).is_some() {
        let began = Instant::now();
        if let Err(error) = tell(sharing, edge, &mut claimed).await {
            sharing.metrics.presence_failures.inc();
            if began.elapsed() >= Duration::from_secs(LEASE_SECS) {
                failures = 0;
            }
            if failures == 0 {
                tracing::warn!(%edge, error = %ErrorChain(&error), "other controls are not told of an edge; trying again");
            }
            sleep(pause(failures)).await;
            failures += 1;
        }
    }
}

/// The wait after an attempt that followed as many failures.
fn pause(failures: u32) -> Duration {
    Duration::from_secs(RETRY_SECS.saturating_mul(1 << failures.min(16)).min(RETRY_SECS_MAX))
}

/// Tells everything, then what changes. Ends when the edge is not fed here any more.
async fn tell(sharing: &Sharing, edge: EdgeId, claimed: &mut u64) -> Result<(), StoreError> {
    let lease = sharing.store.grant(Duration::from_secs(LEASE_SECS)).await?;
    let epoch = sharing.new_epoch();
    let mut telling = Telling { sharing, edge, epoch, lease, head: None, chunks: Chunks::default() };
    let ended = tokio::select! {
        ended = telling.run(claimed) => ended,
        lost = sharing.keep(lease) => Err(lost),
    };
    if ended.is_ok() {
        // After an error the head stays: the next attempt puts another in its place.
        telling.withdraw().await?;
        sharing.release(lease).await;
    }
    ended
}

struct Telling<'s> {
    sharing: &'s Sharing,
    edge: EdgeId,
    epoch: String,
    lease: LeaseId,
    /// What last wrote the head; None: it is not known to be ours.
    head: Option<Revision>,
    chunks: Chunks,
}

impl Telling<'_> {
    async fn run(&mut self, claimed: &mut u64) -> Result<(), StoreError> {
        let presence = &self.sharing.presence;
        let report_until = Instant::now() + Duration::from_secs(REPORT_SECS_MAX);
        let (mut is_first, mut is_applied_due, mut head_at) = (true, false, Instant::now());
        loop {
            let Some(wake) = presence.own_wake(self.edge) else { return Ok(()) };
            let Some(own) = presence.own_edge(self.edge, is_first) else { return Ok(()) };
            if !is_first && own.is_new {
                // It was another control's meanwhile: what was told of it before is no start for this.
                return Ok(());
            }
            if is_first && !own.has_reported && Instant::now() < report_until {
                let _ = timeout_at(report_until, wake.notified()).await;
                continue;
            }
            is_applied_due |= own.is_applied_changed;
            let is_applied_now = is_applied_due && head_at.elapsed() >= Duration::from_secs(APPLIED_SECS);
            let is_head_due = is_first || own.is_head_changed || is_applied_now || own.joined != *claimed;
            is_first = false;
            self.take(&own);
            if !self.write_chunks().await? || is_head_due {
                if !self.write_head(&own, claimed).await? {
                    return Ok(());
                }
                (is_applied_due, head_at) = (false, Instant::now());
                // What did not get written while the head was another's.
                self.write_chunks().await?;
            }
            sleep(Duration::from_millis(PAUSE_MS)).await;
            let applied_at = head_at + Duration::from_secs(APPLIED_SECS);
            tokio::select! {
                () = wake.notified() => {}
                () = sleep_until(applied_at), if is_applied_due => {}
            }
        }
    }

    fn take(&mut self, own: &OwnEdge) {
        for (id, report) in &own.sessions {
            match report {
                Some(report) => {
                    if !self.chunks.put(*id, report) {
                        tracing::error!(edge = %self.edge, session = %id, "other controls are not told of a session: it has more than {SESSION_BYTES_MAX} bytes, or the edge too many sessions");
                    }
                }
                None => self.chunks.remove(*id),
            }
        }
    }

    /// A write that happens only while the head is ours; before there is one, whatever is there.
    fn fenced(&self) -> Txn {
        match self.head {
            Some(revision) => Txn::new().if_unchanged(keys::head(self.edge), revision),
            None => Txn::new(),
        }
    }

    /// Writes the chunks that changed. False: the head is not ours any more.
    async fn write_chunks(&mut self) -> Result<bool, StoreError> {
        let changed = self.chunks.changed();
        let mut left = changed.iter().peekable();
        while left.peek().is_some() {
            let (mut txn, mut bytes, mut numbers) = (self.fenced(), 0, Vec::new());
            while let Some((number, value)) = left.next_if(|(_, value)| {
                let more = value.as_ref().map_or(0, bytes::Bytes::len);
                numbers.is_empty() || numbers.len() < WRITE_CHUNKS && bytes + more <= WRITE_BYTES
            }) {
                let key = keys::chunk(self.edge, &self.epoch, *number);
                txn = match value {
                    Some(value) => txn.put(key, value.clone()),
                    None => txn.delete(key),
                };
                bytes += value.as_ref().map_or(0, bytes::Bytes::len);
                numbers.push(*number);
            }
            match self.sharing.write(txn).await? {
                Outcome::Committed(_) => self.chunks.written(&numbers),
                Outcome::Conflict(_) => {
                    self.head = None;
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Writes the head. False: another control has the edge, and Presence follows that one now.
    async fn write_head(&mut self, own: &OwnEdge, claimed: &mut u64) -> Result<bool, StoreError> {
        let key = keys::head(self.edge);
        let head = Head {
            control: self.sharing.name.clone(),
            control_at: self.sharing.at.clone(),
            epoch: self.epoch.clone(),
            about: own.about.clone(),
        };
        let value = record::encode(&head);
        for _ in 0..ATTEMPTS_MAX {
            let free = match self.head {
                Some(_) => self.fenced(),
                None => match self.sharing.store.get(&key).await? {
                    None => Txn::new().if_absent(&key),
                    Some(item) if is_no_newer_feed(own, *claimed) && self.is_of_another(&item) => {
                        self.give_up(own.joined, item.modified).await?;
                        return Ok(false);
                    }
                    Some(item) => Txn::new().if_unchanged(&key, item.modified),
                },
            };
            match self.sharing.write(free.put_leased(&key, value.clone(), self.lease)).await? {
                Outcome::Committed(revision) => {
                    self.head = Some(revision);
                    *claimed = own.joined;
                    return Ok(true);
                }
                Outcome::Conflict(_) => self.head = None,
            }
        }
        Err(StoreError::Busy)
    }

    /// Whether another control wrote it. What cannot be read is nobody's.
    fn is_of_another(&self, item: &Item) -> bool {
        record::parse::<Head>(item).is_ok_and(|head| head.control != self.sharing.name)
    }

    /// Another control has had the edge since a revision. What it tells comes by the watch.
    async fn give_up(&self, joined: u64, revision: Revision) -> Result<(), StoreError> {
        tracing::info!(edge = %self.edge, "another control feeds the edge now");
        for _ in 0..GIVE_UP_TRIES {
            if self.sharing.presence.give_up(self.edge, joined, revision) {
                return Ok(());
            }
            sleep(Duration::from_millis(GIVE_UP_MS)).await;
        }
        Err(StoreError::Busy)
    }

    /// Removes what was told: the head if it is ours, and the chunks.
    async fn withdraw(&mut self) -> Result<(), StoreError> {
        let numbers = self.chunks.numbers();
        let key = keys::head(self.edge);
        let mut first = self.head.map(|revision| Txn::new().if_unchanged(&key, revision).delete(&key));
        let mut left = numbers.chunks(WRITE_CHUNKS);
        loop {
            let some = left.next();
            let is_over = first.is_none() && some.is_none();
            if is_over {
                return Ok(());
            }
            let delete = |txn: Txn, number: &u16| txn.delete(keys::chunk(self.edge, &self.epoch, *number));
            let numbers = some.unwrap_or_default();
            let txn = numbers.iter().fold(first.take().unwrap_or_default(), delete);
            if let Outcome::Conflict(_) = self.sharing.write(txn).await? {
                // The head is another's; the chunks are ours all the same.
                let _ = self.sharing.write(numbers.iter().fold(Txn::new(), delete)).await?;
            }
        }
    }
}

/// Whether nothing says that the edge came here after it went to another control: it has no feed here, or one that others were
/// told of.
fn is_no_newer_feed(own: &OwnEdge, claimed: u64) -> bool {
    !own.about.connected || own.joined <= claimed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_get_rarer_up_to_a_bound() {
        let secs = |failures| pause(failures).as_secs();
        assert_eq!([0, 1, 2, 3, 4, u32::MAX].map(secs), [1, 2, 4, 8, 8, 8]);
    }
}
