//! Requests of agents that wait for news from control, counted in all and by source: made-up ones wait in their own source's
//! room.

use std::net::IpAddr;
use std::sync::Arc;

use crate::net::listen::{ConnLimits, ConnPermit, PeerKind};

/// Requests of one kind. One that finds no room is judged by what is known.
pub struct Waiting(Arc<ConnLimits>);

impl Waiting {
    /// Room for so many at once, and for so many of one source.
    pub(super) fn new(requests_max: usize, of_source_max: usize) -> Self {
        Self(ConnLimits::new(requests_max, of_source_max))
    }

    /// Requests that wait now.
    pub fn count(&self) -> usize {
        self.0.total()
    }

    /// Room for one request, until it is dropped. None: enough of them wait.
    pub(super) fn room(&self, source: IpAddr) -> Option<ConnPermit> {
        self.0.admit(source, PeerKind::Agent).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_in_all_and_by_source() {
        let waiting = Waiting::new(20, 8);
        let of = |n: u8| IpAddr::from([192, 0, 2, n]);
        let rooms: Vec<_> = std::iter::from_fn(|| waiting.room(of(0))).collect();
        assert_eq!(rooms.len(), 8);
        let others: Vec<_> = (1..=u8::MAX).filter_map(|n| waiting.room(of(n))).collect();
        assert_eq!(rooms.len() + others.len(), 20);
        drop(rooms);
        assert!(waiting.room(of(0)).is_some());
    }
}
