//! `Edges`: the edges that the agent knows, and which of its sessions goes to which. Each session has an edge of its own, so
//! that the end of one edge leaves the others.
//!
//! Dials nothing. Edges are those of the configuration and those that edges name.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::config::ConnectAddress;

/// Edges that are remembered beside those of the configuration.
pub const TOLD_MAX: usize = 64;
/// Bytes of an edge's id that are remembered.
const ID_BYTES_MAX: usize = 64;

/// The session went to an edge that has one of this agent's already.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is an edge that this agent is at already")]
pub struct SameEdge(ConnectAddress);

/// See the module. Sessions are counted from 0.
#[derive(Debug)]
pub struct Edges {
    book: Mutex<Book>,
    changed: Notify,
}

#[derive(Debug)]
struct Book {
    configured: Vec<ConnectAddress>,
    /// What edges named last.
    told: Vec<ConnectAddress>,
    /// What each session is at, or on its way to.
    places: Vec<Option<ConnectAddress>>,
    /// Ids of edges, as they gave them.
    ids: BTreeMap<ConnectAddress, String>,
    /// When an edge failed last, by a count of failures; those that did not are absent.
    failed: BTreeMap<ConnectAddress, u64>,
    failures: u64,
}

impl Book {
    fn known(&self) -> impl Iterator<Item = &ConnectAddress> {
        let told = self.told.iter().filter(|address| !self.configured.contains(address));
        self.configured.iter().chain(told)
    }

    /// The edge of another session, by address or id.
    fn is_taken(&self, session: usize, address: &ConnectAddress) -> bool {
        let id = self.ids.get(address);
        let others = self.places.iter().enumerate().filter(|(index, _)| *index != session);
        others.filter_map(|(_, place)| place.as_ref()).any(|other| {
            other == address || id.is_some_and(|id| self.ids.get(other).is_some_and(|known| known == id))
        })
    }

    /// The free edge that did not fail, or that failed the longest time ago; the order of names decides among equals. Earlier
    /// sessions choose first.
    fn next(&mut self, session: usize) -> Option<ConnectAddress> {
        if self.places.iter().take(session).any(Option::is_none) {
            return None;
        }
        let free = self.known().filter(|address| !self.is_taken(session, address));
        let next = free.min_by_key(|address| self.failed.get(address).copied().unwrap_or(0)).cloned();
        if let Some(place) = self.places.get_mut(session) {
            place.clone_from(&next);
        }
        next
    }

    /// Forgets what is known of edges that nobody names any more.
    fn forget(&mut self) {
        let known: Vec<ConnectAddress> = self.known().chain(self.places.iter().flatten()).cloned().collect();
        self.ids.retain(|address, _| known.contains(address));
        self.failed.retain(|address, _| known.contains(address));
    }
}

impl Edges {
    /// For as many sessions, at the edges of the configuration.
    pub fn new(configured: Vec<ConnectAddress>, sessions: usize) -> Self {
        let book = Book {
            configured,
            told: Vec::new(),
            places: vec![None; sessions],
            ids: BTreeMap::new(),
            failed: BTreeMap::new(),
            failures: 0,
        };
        Self { book: Mutex::new(book), changed: Notify::new() }
    }

    /// The edge that a session tries next; waits while every edge has another session. Cancel-safe.
    pub async fn next(&self, session: usize) -> ConnectAddress {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on no change is missed.
            changed.as_mut().enable();
            let (next, has_moved) = {
                let mut book = self.book();
                let before = book.places.get(session).cloned().flatten();
                let next = book.next(session);
                let has_moved = before != next;
                (next, has_moved)
            };
            if has_moved {
                // Another session may choose now, or go where this one was.
                self.changed.notify_waiters();
            }
            if let Some(next) = next {
                return next;
            }
            changed.await;
        }
    }

    /// How many edges a session may go to: what fails is tried on as many before the session pauses.
    pub fn choices(&self, session: usize) -> usize {
        let book = self.book();
        book.known().filter(|address| !book.is_taken(session, address)).count()
    }

    /// A session is let in by the edge of this id; empty: the edge gives none. Err: another session is at that edge.
    pub fn let_in(&self, session: usize, id: &str) -> Result<(), SameEdge> {
        let mut book = self.book();
        let Some(address) = book.places.get(session).cloned().flatten() else { return Ok(()) };
        if !id.is_empty() && id.len() <= ID_BYTES_MAX {
            book.ids.insert(address.clone(), id.to_owned());
        }
        if book.is_taken(session, &address) {
            return Err(SameEdge(address));
        }
        book.failed.remove(&address);
        Ok(())
    }

    /// A session lost its edge or did not reach it: others are tried before this one. Until the session goes to another, the
    /// edge stays its own.
    pub fn failed(&self, session: usize) {
        let mut book = self.book();
        let Some(address) = book.places.get(session).cloned().flatten() else { return };
        book.failures += 1;
        let failures = book.failures;
        book.failed.insert(address, failures);
    }

    /// An edge names the others, each `host:port`; what is none is left out.
    pub fn told<'a>(&self, addresses: impl IntoIterator<Item = &'a str>) {
        let read = addresses.into_iter().filter_map(|text| ConnectAddress::parse(text).ok());
        {
            let mut book = self.book();
            book.told = read.take(TOLD_MAX).collect();
            book.forget();
        }
        self.changed.notify_waiters();
    }

    /// The edge a session is at or tries, for people.
    pub fn place(&self, session: usize) -> Option<ConnectAddress> {
        self.book().places.get(session).cloned().flatten()
    }

    /// The edges of the configuration, for people.
    pub fn configured(&self) -> String {
        let book = self.book();
        book.configured.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn edges(configured: &str, sessions: usize) -> Edges {
        Edges::new(crate::config::parse_addresses(configured).unwrap(), sessions)
    }

    /// The next edge, if there is one now.
    fn next(edges: &Edges, session: usize) -> Option<String> {
        edges.book().next(session).map(|address| address.to_string())
    }

    #[test]
    fn each_session_has_an_edge_of_its_own_in_the_order_of_names() {
        let edges = edges("a:1,b:1,c:1", 2);
        assert_eq!(next(&edges, 0).as_deref(), Some("a:1"));
        assert_eq!(next(&edges, 1).as_deref(), Some("b:1"));
        edges.let_in(0, "edge_a").unwrap();
        edges.let_in(1, "edge_b").unwrap();
        assert_eq!(edges.choices(1), 2, "its own and the third");
    }

    #[test]
    fn what_failed_longest_ago_is_tried_again_first() {
        let edges = edges("a:1,b:1,c:1", 1);
        let mut tried = Vec::new();
        for _ in 0..5 {
            tried.extend(next(&edges, 0));
            edges.failed(0);
        }
        assert_eq!(tried, ["a:1", "b:1", "c:1", "a:1", "b:1"]);
        next(&edges, 0);
        edges.let_in(0, "").unwrap();
        edges.failed(0);
        assert_eq!(
            next(&edges, 0).as_deref(),
            Some("a:1"),
            "a lost edge comes after those that failed before"
        );
    }

    #[test]
    fn two_names_of_one_edge_are_found_out() {
        let edges = edges("a:1,b:1,c:1", 2);
        next(&edges, 0);
        edges.let_in(0, "edge_a").unwrap();
        assert_eq!(next(&edges, 1).as_deref(), Some("b:1"));
        let refused = edges.let_in(1, "edge_a").unwrap_err();
        assert_eq!(refused.to_string(), "`b:1` is an edge that this agent is at already");
        edges.failed(1);
        assert_eq!(next(&edges, 1).as_deref(), Some("c:1"));
        edges.let_in(1, "edge_c").unwrap();
        edges.failed(0);
        assert_eq!(next(&edges, 0).as_deref(), Some("b:1"), "nobody is there now");
    }

    #[test]
    fn a_single_edge_leaves_the_second_session_without_one_until_an_edge_names_another() {
        let edges = edges("a:1", 2);
        assert_eq!(next(&edges, 1), None, "the first session chooses first");
        assert_eq!(next(&edges, 0).as_deref(), Some("a:1"));
        assert_eq!(next(&edges, 1), None);
        edges.told(["a:1", "nonsense:0", "b:2", "http://c"]);
        assert_eq!(next(&edges, 1).as_deref(), Some("b:2"));
        edges.failed(1);
        edges.told([]);
        assert_eq!(next(&edges, 1), None, "it is named no more");
        edges.told([]);
        assert!(edges.book().failed.is_empty(), "and forgotten");
        let many: Vec<String> = (0..200).map(|n| format!("e{n}:1")).collect();
        edges.told(many.iter().map(String::as_str));
        assert_eq!(edges.choices(1), TOLD_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_without_an_edge_waits_for_one() {
        let edges = Arc::new(edges("a:1", 2));
        next(&edges, 0);
        let waiting = tokio::spawn({
            let edges = Arc::clone(&edges);
            async move { edges.next(1).await.to_string() }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        edges.told(["b:1"]);
        assert_eq!(waiting.await.unwrap(), "b:1");
        edges.failed(0);
        assert_eq!(next(&edges, 0).as_deref(), Some("a:1"), "the second session did not take it away");
        // The first goes to another edge, and the second may have the one it left.
        edges.told(["b:1", "c:1"]);
        edges.failed(0);
        let waiting = tokio::spawn({
            let edges = Arc::clone(&edges);
            edges.told(["c:1"]);
            edges.failed(1);
            async move { (edges.next(0).await.to_string(), edges.next(1).await.to_string()) }
        });
        assert_eq!(waiting.await.unwrap(), ("c:1".to_owned(), "a:1".to_owned()));
    }
}
