//! What visitors saw: each exchange with its moments, its edge and its kind.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

/// What a visitor does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Requests on a connection that is kept.
    Requests,
    /// Requests, each on a connection of its own.
    NewRequests,
    /// A long TCP stream.
    Stream,
    /// A connection that became a `WebSocket`.
    WebSocket,
}

/// Counts of a time.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Seen {
    /// Requests that were answered 200.
    pub requests: u64,
    /// Requests that failed.
    pub failed_requests: u64,
    /// TCP streams that were cut or not served.
    pub cut_streams: u64,
    /// `WebSocket`s that were cut or not served.
    pub cut_websockets: u64,
    /// Connections that could not be made, of all the above.
    pub refused: u64,
    /// Milliseconds of the slowest request, answered or not.
    pub slowest_request_ms: u128,
    /// Milliseconds of the slowest word on a stream or a `WebSocket`, heard or not.
    pub slowest_word_ms: u128,
}

impl Seen {
    /// Whatever failed.
    pub fn failures(&self) -> u64 {
        self.failed_requests + self.cut_streams + self.cut_websockets
    }

    fn add(&mut self, told: &Told) {
        let took = told.ended.saturating_duration_since(told.began).as_millis();
        let failed = u64::from(told.failed);
        match told.kind {
            Kind::Requests | Kind::NewRequests => {
                self.requests += u64::from(!told.failed);
                self.failed_requests += failed;
                self.slowest_request_ms = self.slowest_request_ms.max(took);
            }
            Kind::Stream => self.cut_streams += failed,
            Kind::WebSocket => self.cut_websockets += failed,
        }
        if matches!(told.kind, Kind::Stream | Kind::WebSocket) {
            self.slowest_word_ms = self.slowest_word_ms.max(took);
        }
        self.refused += u64::from(told.refused);
    }
}

/// One exchange of a visitor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told {
    pub(super) edge: usize,
    pub(super) kind: Kind,
    pub(super) began: Instant,
    pub(super) ended: Instant,
    /// When its connection was asked for.
    pub(super) connected: Instant,
    pub(super) failed: bool,
    /// No connection could be made.
    pub(super) refused: bool,
}

/// See the module. Shared by all visitors.
#[derive(Debug, Default)]
pub(super) struct Tally(Mutex<Vec<Told>>);

impl Tally {
    /// A visitor was served, or not.
    pub(super) fn tell(&self, told: Told) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(told);
    }

    /// Forgets everything.
    pub(super) fn reset(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// What ended at some edges since a moment.
    pub(super) fn since(&self, from: Instant, at: impl Fn(usize) -> bool) -> Seen {
        self.all(|told| told.ended >= from && at(told.edge))
    }

    /// The same of new work: requests that were made, and streams that were opened, later than a moment.
    pub(super) fn new_since(&self, from: Instant, at: impl Fn(usize) -> bool) -> Seen {
        self.between(from, None, at)
    }

    /// The same, of what ended before another moment.
    pub(super) fn between(&self, from: Instant, until: Option<Instant>, at: impl Fn(usize) -> bool) -> Seen {
        self.all(|told| {
            let is_request = matches!(told.kind, Kind::Requests | Kind::NewRequests);
            let is_new = if is_request { told.began >= from } else { told.connected >= from };
            is_new && at(told.edge) && until.is_none_or(|until| told.ended < until)
        })
    }

    fn all(&self, counts: impl Fn(&Told) -> bool) -> Seen {
        let mut seen = Seen::default();
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.iter().filter(|told| counts(told)).for_each(|told| seen.add(told));
        seen
    }
}

/// A moment later by milliseconds.
pub(super) fn after(moment: Instant, ms: u64) -> Instant {
    moment + Duration::from_millis(ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_of_some_edges_and_of_a_time() {
        let tally = Tally::default();
        let start = Instant::now();
        let tell = |edge, kind, began, ended, failed| {
            let (began, ended) = (after(start, began), after(start, ended));
            tally.tell(Told {
                edge,
                kind,
                began,
                ended,
                connected: began,
                failed,
                refused: failed && edge == 0,
            });
        };
        tell(0, Kind::Requests, 0, 5, true);
        tell(0, Kind::Requests, 20, 35, false);
        tell(1, Kind::Stream, 12, 40, true);
        tell(1, Kind::WebSocket, 0, 10, true);
        tell(1, Kind::NewRequests, 5, 50, true);
        let counts =
            |seen: Seen| (seen.requests, seen.failed_requests, seen.cut_streams, seen.cut_websockets);
        let from = after(start, 10);
        let seen = tally.since(from, |edge| edge == 1);
        assert_eq!(counts(seen), (0, 1, 1, 1));
        assert_eq!((seen.slowest_request_ms, seen.slowest_word_ms, seen.refused), (45, 28, 0));
        assert_eq!(seen.failures(), 3);
        assert_eq!(counts(tally.since(from, |edge| edge == 0)), (1, 0, 0, 0));
        assert_eq!(counts(tally.new_since(from, |_| true)), (1, 0, 1, 0), "what began before is not new");
        let until = Some(after(start, 40));
        assert_eq!(
            counts(tally.between(from, until, |_| true)),
            (1, 0, 0, 0),
            "what ended later is left out"
        );
        assert_eq!(tally.since(start, |_| true).refused, 1);
        tally.reset();
        assert_eq!(counts(tally.since(start, |_| true)), (0, 0, 0, 0));
    }
}
