//! What visitors saw: each failure with its moment, its edge and its kind.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde::Serialize;

/// What failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failed {
    /// A request that had no answer, or another than 200.
    Request,
    /// A stream that was cut, or a new one that was not served.
    Stream,
    /// The same of a WebSocket.
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
}

/// One thing that happened to a visitor.
#[derive(Debug, Clone, Copy)]
struct Told {
    at: Instant,
    edge: usize,
    /// None: a request was answered 200.
    failed: Option<Failed>,
}

/// See the module. Shared by all visitors.
#[derive(Debug, Default)]
pub(super) struct Tally(Mutex<Vec<Told>>);

impl Tally {
    /// A visitor of an edge was served, or not.
    pub(super) fn tell(&self, edge: usize, failed: Option<Failed>) {
        let told = Told { at: Instant::now(), edge, failed };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(told);
    }

    /// Forgets everything.
    pub(super) fn reset(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// What happened at some edges since a moment.
    pub(super) fn since(&self, from: Instant, at: impl Fn(usize) -> bool) -> Seen {
        let mut seen = Seen::default();
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for told in told.iter().filter(|told| told.at >= from && at(told.edge)) {
            match told.failed {
                None => seen.requests += 1,
                Some(Failed::Request) => seen.failed_requests += 1,
                Some(Failed::Stream) => seen.cut_streams += 1,
                Some(Failed::WebSocket) => seen.cut_websockets += 1,
            }
        }
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_of_some_edges_and_of_a_time() {
        let tally = Tally::default();
        tally.tell(0, Some(Failed::Request));
        let from = Instant::now();
        for (edge, failed) in
            [(0, None), (1, Some(Failed::Stream)), (1, Some(Failed::WebSocket)), (1, Some(Failed::Request))]
        {
            tally.tell(edge, failed);
        }
        let seen = tally.since(from, |edge| edge == 1);
        assert_eq!(
            (seen.requests, seen.failed_requests, seen.cut_streams, seen.cut_websockets),
            (0, 1, 1, 1)
        );
        assert_eq!(tally.since(from, |edge| edge == 0).requests, 1);
        tally.reset();
        assert_eq!(tally.since(from, |_| true).requests, 0);
    }
}
