//! `Muxes`: the connections that carry a session's streams. An agent's session has one for all its life; that of another edge
//! has several, which come and go.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use ebbgate_tunnel::driver::SessionHandle;

/// See the module. Every shard may read and change it.
#[derive(Debug)]
pub(super) struct Muxes {
    open: ArcSwap<Vec<Arc<SessionHandle>>>,
    turn: AtomicUsize,
}

impl Muxes {
    pub(super) fn new(first: Option<SessionHandle>) -> Self {
        let open = first.into_iter().map(Arc::new).collect();
        Self { open: ArcSwap::from_pointee(open), turn: AtomicUsize::new(0) }
    }

    /// Whether there is one.
    pub(super) fn any(&self) -> bool {
        !self.open.load().is_empty()
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.open.load().len()
    }

    /// The one that is next.
    pub(super) fn next(&self) -> Option<Arc<SessionHandle>> {
        let open = self.open.load();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed).checked_rem(open.len())?;
        open.get(turn).cloned()
    }

    pub(super) fn add(&self, mux: &Arc<SessionHandle>) {
        self.open.rcu(|open| open.iter().chain([mux]).cloned().collect::<Vec<_>>());
    }

    pub(super) fn remove(&self, mux: &Arc<SessionHandle>) {
        let others = |open: &Arc<Vec<Arc<SessionHandle>>>| {
            open.iter().filter(|other| !Arc::ptr_eq(other, mux)).cloned().collect::<Vec<_>>()
        };
        self.open.rcu(others);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_take_turns_over_those_that_are_open() {
        let muxes = Muxes::new(None);
        assert!(!muxes.any() && muxes.next().is_none());
        let (one, two) = (Arc::new(SessionHandle::ended()), Arc::new(SessionHandle::ended()));
        muxes.add(&one);
        muxes.add(&two);
        let next = || muxes.next().unwrap();
        let (first, second, third) = (next(), next(), next());
        assert!(!Arc::ptr_eq(&first, &second) && Arc::ptr_eq(&first, &third));
        muxes.remove(&one);
        muxes.remove(&one);
        assert!(Arc::ptr_eq(&next(), &two) && Arc::ptr_eq(&next(), &two) && muxes.count() == 1);
    }
}
