//! `Edges`: the edges that the agent knows, and which of its sessions goes to which. Each session has an edge of its own, so
//! that the end of one edge leaves the others.
//!
//! Dials nothing. Edges are those of the configuration and those that edges name.

use std::collections::{BTreeMap, BTreeSet};
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
    /// Whether an edge let each session in.
    online: Vec<bool>,
    /// Edges that asked to be left, until another edge names them.
    left: BTreeSet<ConnectAddress>,
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

    /// Whether another session is online at an edge that did not ask to be left.
    fn has_other(&self, session: usize) -> bool {
        let stays = |place: &Option<ConnectAddress>| {
            place.as_ref().is_some_and(|address| !self.left.contains(address))
        };
        let mut others = self.places.iter().zip(&self.online).enumerate();
        others.any(|(index, (place, online))| index != session && *online && stays(place))
    }

    /// The free edge that did not fail, or that failed the longest time ago; the order of names decides among equals. One that
    /// asked to be left is taken only where no other session is online elsewhere.
    fn choice(&self, session: usize) -> Option<&ConnectAddress> {
        let may_return = !self.has_other(session);
        let free = self.known().filter(|address| !self.is_taken(session, address));
        let free = free.filter(|address| may_return || !self.left.contains(address));
        free.min_by_key(|address| self.failed.get(address).copied().unwrap_or(0))
    }

    /// See [`Book::choice`]. Earlier sessions choose first.
    fn next(&mut self, session: usize) -> Option<ConnectAddress> {
        let waits = |(index, place): (usize, &Option<ConnectAddress>)| {
            place.is_none() && self.choice(index).is_some()
        };
        if self.places.iter().enumerate().take(session).any(waits) {
            return None;
        }
        let next = self.choice(session).cloned();
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
        self.left.retain(|address| known.contains(address));
    }
}

impl Edges {
    /// For as many sessions, at the edges of the configuration.
    pub fn new(configured: Vec<ConnectAddress>, sessions: usize) -> Self {
        let book = Book {
            configured,
            told: Vec::new(),
            places: vec![None; sessions],
            online: vec![false; sessions],
            left: BTreeSet::new(),
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
            if let Some(next) = self.next_now(session) {
                return next;
            }
            changed.await;
        }
    }

    /// The edge that a session tries next. None: every edge has another session.
    pub fn next_now(&self, session: usize) -> Option<ConnectAddress> {
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
        next
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
        if let Some(online) = book.online.get_mut(session) {
            *online = true;
        }
        Ok(())
    }

    /// The edge of a session asks to be left.
    pub fn leave(&self, session: usize) {
        let mut book = self.book();
        if let Some(address) = book.places.get(session).cloned().flatten() {
            book.left.insert(address);
        }
    }

    /// A session lost its edge or did not reach it: others are tried before this one. Until the session goes to another, the
    /// edge stays its own.
    pub fn failed(&self, session: usize) {
        {
            let mut book = self.book();
            let Some(address) = book.places.get(session).cloned().flatten() else { return };
            if let Some(online) = book.online.get_mut(session) {
                *online = false;
            }
            book.failures += 1;
            let failures = book.failures;
            book.failed.insert(address, failures);
        }
        // A session that waits may go back to an edge that asked to be left.
        self.changed.notify_waiters();
    }

    /// An edge names the others that take agents, each `host:port`; what is none is left out.
    pub fn told<'a>(&self, addresses: impl IntoIterator<Item = &'a str>) {
        let read = addresses.into_iter().filter_map(|text| ConnectAddress::parse(text).ok());
        {
            let mut book = self.book();
            book.told = read.take(TOLD_MAX).collect();
            let told = book.told.clone();
            book.left.retain(|address| !told.contains(address));
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

    #[test]
    fn an_edge_that_asked_to_be_left_is_gone_back_to_only_where_nothing_else_is_online() {
        let edges = edges("a:1,b:1", 2);
        for session in [0, 1] {
            next(&edges, session);
            edges.let_in(session, "").unwrap();
        }
        edges.leave(0);
        edges.failed(0);
        assert_eq!(next(&edges, 0), None, "the other session serves");
        edges.failed(1);
        assert_eq!(next(&edges, 0).as_deref(), Some("a:1"));
        assert_eq!(next(&edges, 1).as_deref(), Some("b:1"));
        edges.let_in(0, "").unwrap();
        edges.let_in(1, "").unwrap();
        edges.leave(0);
        edges.failed(0);
        assert_eq!(next(&edges, 0), None);
        assert_eq!(next(&edges, 1).as_deref(), Some("b:1"), "who waits in vain keeps nobody waiting");
        edges.told(["a:1"]);
        assert_eq!(next(&edges, 0).as_deref(), Some("a:1"), "it takes agents again");
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
