//! `Room`: how much of what an edge takes is in use, so that a write that could not be sent is refused before it is stored.
//!
//! Told by the planner after every plan; asked by every write. Knows sizes, no objects.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::store::Revision;

/// Most bytes of a Program: more objects no edge is expected to hold in memory.
pub const PROGRAM_BYTES_MAX: usize = 64 << 30;
/// Bytes of a Program unless the operator says otherwise.
pub const PROGRAM_BYTES_DEFAULT: usize = 4 << 30;
/// One in so many bytes is kept for what grows without a write: renewed certificates.
const GROWTH_PART: usize = 64;
/// One in so many bytes is kept for accounts that have less than their share.
const SHARE_PART: usize = 4;

/// The room of an installation.
#[derive(Debug)]
pub struct Room {
    bytes_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    revision: Revision,
    in_use: usize,
    accounts: usize,
    /// Writes that no plan has counted yet: bytes, and the revision once it is known.
    pending: BTreeMap<u64, (usize, Option<Revision>)>,
    next: u64,
}

/// A write has no room.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "with this change the objects of all accounts would take {} KiB, and edges take {} KiB of an account that has more than its share of {} KiB: delete or shorten some of this account's objects first",
    bytes.div_ceil(1024), bytes_max >> 10, share >> 10
)]
pub struct NoRoom {
    /// Bytes after the change.
    pub bytes: usize,
    /// Most bytes for this account's changes.
    pub bytes_max: usize,
    /// What each account has by right.
    pub share: usize,
}

impl Default for Room {
    fn default() -> Self {
        Self::new(PROGRAM_BYTES_DEFAULT)
    }
}

impl Room {
    /// An empty one. At most [`PROGRAM_BYTES_MAX`].
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max: bytes_max.min(PROGRAM_BYTES_MAX), state: Mutex::default() }
    }

    /// Most bytes that all objects may take.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// A plan counted everything up to a revision.
    pub fn planned(&self, revision: Revision, in_use: usize, accounts: usize) {
        let mut state = self.state();
        (state.revision, state.in_use, state.accounts) = (revision, in_use, accounts);
        state.pending.retain(|_, (_, at)| at.is_none_or(|at| at > revision));
    }

    /// Room for a write that adds bytes, by an account that has `own` already. Keep it until the write is done.
    pub fn reserve(self: &Arc<Self>, own: usize, more: usize) -> Result<Reservation, NoRoom> {
        let mut state = self.state();
        let pending: usize = state.pending.values().map(|(bytes, _)| bytes).sum();
        let bytes = state.in_use.saturating_add(pending).saturating_add(more);
        let all = self.bytes_max - self.bytes_max / GROWTH_PART;
        let share = all / state.accounts.max(1);
        let is_modest = own.saturating_add(more) <= share;
        let bytes_max = if is_modest { all } else { all - all / SHARE_PART };
        // What makes nothing larger is always right: it may be the way out.
        if more > 0 && bytes > bytes_max {
            return Err(NoRoom { bytes, bytes_max, share });
        }
        let number = state.next;
        state.next += 1;
        state.pending.insert(number, (more, None));
        Ok(Reservation { room: Arc::clone(self), number })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room for a write that is under way; given back when dropped.
#[derive(Debug)]
#[must_use]
pub struct Reservation {
    room: Arc<Room>,
    number: u64,
}

impl Reservation {
    /// The write was done by this revision: its room is taken until a plan counts it.
    pub fn done(self, revision: Revision) {
        let mut state = self.room.state();
        if revision > state.revision
            && let Some((_, at)) = state.pending.get_mut(&self.number)
        {
            *at = Some(revision);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut state = self.room.state();
        if state.pending.get(&self.number).is_some_and(|(_, at)| at.is_none()) {
            state.pending.remove(&self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_refused_when_it_and_those_under_way_would_not_fit() {
        let room = Arc::new(Room::new(6_400));
        // 6,300 may be used: a 64th is kept.
        let one = room.reserve(0, 3_000).unwrap();
        let two = room.reserve(0, 3_000).unwrap();
        let refused = room.reserve(0, 301).unwrap_err();
        assert_eq!((refused.bytes, refused.bytes_max), (6_301, 6_300));
        drop(room.reserve(0, 300).unwrap());
        drop(two);
        drop(room.reserve(0, 3_300).expect("what did not happen takes no room"));
        one.done(5);
        assert!(room.reserve(0, 3_301).is_err(), "done, and not counted yet");
        room.planned(4, 0, 1);
        assert!(room.reserve(0, 3_301).is_err(), "the plan is of before");
        room.planned(5, 2_000, 1);
        drop(room.reserve(0, 4_300).unwrap());
        assert!(room.reserve(0, 4_301).is_err());
        room.planned(6, 9_999, 1);
        drop(room.reserve(0, 0).expect("what makes nothing larger"));
    }

    #[test]
    fn accounts_above_their_share_leave_a_quarter_to_those_below() {
        let room = Arc::new(Room::new(6_400));
        room.planned(1, 4_725, 10);
        assert!(room.reserve(4_000, 1).is_err());
        let refused = room.reserve(630, 1).unwrap_err();
        assert_eq!((refused.bytes_max, refused.share), (4_725, 630));
        drop(room.reserve(100, 530).expect("below its share"));
        assert!(refused.to_string().contains("share"));
    }

    #[test]
    fn a_plan_that_comes_before_the_answer_of_its_write_counts_it_once() {
        let room = Arc::new(Room::new(6_400));
        let write = room.reserve(0, 3_000).unwrap();
        room.planned(7, 3_000, 1);
        write.done(7);
        drop(room.reserve(0, 3_300).unwrap());
    }
}
