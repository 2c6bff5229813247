//! `Follower`: every change below a key, without gaps, over as many streams as it takes.
//!
//! A stream that breaks, hangs, or is ended because its member lost the others is opened anew, at the next member, right
//! after the last revision seen. Only events move that revision: an answer about progress may overtake them in etcd 3.4.
//! An event that was seen already is dropped.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tonic::Streaming;

use super::cluster::Cluster;
use super::keys::end_of;
use super::wire::watch_request::RequestUnion;
use super::wire::{Event, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse, path};

/// Milliseconds of silence after which the member is asked for a sign of life.
const ASK_MS: u64 = 1_000;
/// Signs of life that may be missing before another member is watched.
const ASKED_MAX: u32 = 3;
/// Milliseconds between two attempts to watch.
const RETRY_MS: u64 = 200;

/// A watch goes on nowhere: etcd has forgotten what comes next. Carries the oldest revision it can begin after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Compacted(pub i64);

/// Where a watch is.
pub(super) struct Follower {
    cluster: Arc<Cluster>,
    key: Bytes,
    /// Last revision of which every event was given.
    seen: i64,
    open: Option<Open>,
    /// Events of revisions that may not be complete.
    held: Vec<Event>,
}

struct Open {
    ask: mpsc::Sender<WatchRequest>,
    answers: Streaming<WatchResponse>,
    member: usize,
    /// Signs of life asked for since the last answer.
    asked: u32,
}

impl Follower {
    /// Begins after a revision.
    pub(super) fn new(cluster: Arc<Cluster>, key: Bytes, after: i64) -> Self {
        Self { cluster, key, seen: after, open: None, held: Vec::new() }
    }

    /// Waits for the next events: at least one, and all of each revision among them.
    pub(super) async fn next(&mut self) -> Result<Vec<Event>, Compacted> {
        loop {
            let Some(open) = &mut self.open else {
                self.connect().await;
                continue;
            };
            match timeout(Duration::from_millis(ASK_MS), open.answers.message()).await {
                Ok(Ok(Some(answer))) => {
                    open.asked = 0;
                    if answer.compact_revision > self.seen + 1 {
                        return Err(Compacted(answer.compact_revision - 1));
                    }
                    if answer.canceled {
                        self.leave(&answer.cancel_reason).await;
                        continue;
                    }
                    let events = self.whole_revisions(answer.events, answer.fragment);
                    if !events.is_empty() {
                        return Ok(events);
                    }
                }
                Ok(Ok(None)) => self.leave("the stream ended").await,
                Ok(Err(status)) => self.leave(status.message()).await,
                Err(_) => {
                    open.asked += 1;
                    let sign = RequestUnion::Progress(WatchProgressRequest {});
                    let asked = open.ask.try_send(WatchRequest { request_union: Some(sign) });
                    if open.asked > ASKED_MAX || asked.is_err() {
                        self.leave("no sign of life").await;
                    }
                }
            }
        }
    }

    async fn connect(&mut self) {
        self.held.clear();
        let create = WatchCreateRequest {
            key: self.key.clone(),
            range_end: end_of(&self.key),
            start_revision: self.seen + 1,
            // Answers stay below the size of a request, whatever is in them.
            fragment: true,
        };
        let request = WatchRequest { request_union: Some(RequestUnion::Create(create)) };
        match self.cluster.stream(path::WATCH, request).await {
            Ok((ask, answers, member)) => self.open = Some(Open { ask, answers, member, asked: 0 }),
            Err(status) => {
                tracing::debug!(store = %self.cluster.name(), %status, "a watch could not be opened");
                sleep(Duration::from_millis(RETRY_MS)).await;
            }
        }
    }

    async fn leave(&mut self, reason: &str) {
        if let Some(open) = self.open.take() {
            tracing::warn!(store = %self.cluster.name(), reason, seen = self.seen, "a watch of etcd broke; watching anew");
            self.cluster.leave(open.member);
        }
        sleep(Duration::from_millis(RETRY_MS)).await;
    }

    /// Takes events in; gives those of revisions that are complete, and keeps the last revision of a fragment.
    fn whole_revisions(&mut self, events: Vec<Event>, fragment: bool) -> Vec<Event> {
        let of = |event: &Event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
        self.held.extend(events);
        let seen = self.seen;
        self.held.retain(|event| of(event) > seen);
        let Some(last) = self.held.last().map(of) else { return Vec::new() };
        let held = std::mem::take(&mut self.held);
        let (given, kept): (Vec<_>, Vec<_>) =
            held.into_iter().partition(|event| !fragment || of(event) < last);
        self.held = kept;
        if let Some(newest) = given.last().map(of) {
            self.seen = newest;
        }
        given
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::KeyValue;
    use super::*;
    use crate::store::etcd::address::{Address, Place};

    fn follower(seen: i64) -> Follower {
        let place = Place { url: "etcd://127.0.0.1:1".parse().unwrap(), ca: None, identity: None };
        let cluster = Cluster::new(&Address::read(&place).unwrap()).unwrap();
        Follower::new(Arc::new(cluster), Bytes::from("/p/"), seen)
    }

    fn events(revisions: &[i64]) -> Vec<Event> {
        let event = |mod_revision: &i64| Event {
            r#type: 0,
            kv: Some(KeyValue { mod_revision: *mod_revision, ..KeyValue::default() }),
        };
        revisions.iter().map(event).collect()
    }

    #[tokio::test]
    async fn a_revision_is_given_whole_and_once() {
        let mut follower = follower(4);
        assert_eq!(
            follower.whole_revisions(events(&[4, 5, 5]), true),
            [],
            "5 may go on in the next fragment"
        );
        assert_eq!(follower.seen, 4);
        assert_eq!(follower.whole_revisions(events(&[5, 6, 7]), true), events(&[5, 5, 5, 6]));
        assert_eq!(follower.seen, 6);
        assert_eq!(follower.whole_revisions(events(&[]), false), events(&[7]));
        assert_eq!(follower.whole_revisions(events(&[6, 7]), false), [], "seen already");
        assert_eq!(follower.whole_revisions(events(&[9]), false), events(&[9]));
        assert_eq!(follower.seen, 9);
    }
}
