//! `Room`: how much of what an edge takes is in use, so that a write that could not be sent is refused before it is stored.
//!
//! Told by the planner after every plan; asked by every write. Knows sizes and counts, no objects.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use ebbgate_model::AccountId;

use crate::holdings::Owned;
use crate::store::{Revision, Usage};

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
    /// What accounts have; None until all has been counted.
    owned: Option<HashMap<AccountId, Owned>>,
    /// Writes that no plan has counted yet.
    pending: BTreeMap<u64, Pending>,
    next: u64,
}

/// A write that no plan has counted yet.
#[derive(Debug)]
struct Pending {
    write: Write,
    /// Known once it is done.
    revision: Option<Revision>,
}

/// What a write adds.
#[derive(Debug, Clone, Copy)]
pub struct Write {
    /// Whose.
    pub account: AccountId,
    /// Collection of the object.
    pub collection: &'static str,
    /// Objects more.
    pub keys: usize,
    /// Bytes more in the store.
    pub bytes: usize,
    /// Bytes more that edges are sent.
    pub sent: usize,
}

impl State {
    fn count(&mut self, count: Count) {
        match (count, &mut self.owned) {
            (Count::Anew(all), _) => self.owned = Some(all),
            (Count::Changed(_), None) => {}
            (Count::Changed(changed), Some(owned)) => {
                for (account, has) in changed {
                    if has == Owned::default() {
                        owned.remove(&account);
                    } else {
                        owned.insert(account, has);
                    }
                }
            }
        }
    }
}

/// What accounts have.
#[derive(Debug)]
pub enum Count {
    /// All of them.
    Anew(HashMap<AccountId, Owned>),
    /// Those that have something else than before.
    Changed(Vec<(AccountId, Owned)>),
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
        self.counted(Count::Changed(Vec::new()), revision, in_use, accounts);
    }

    /// As [`Room::planned`], with what accounts have now.
    pub fn counted(&self, count: Count, revision: Revision, in_use: usize, accounts: usize) {
        let mut state = self.state();
        state.count(count);
        (state.revision, state.in_use, state.accounts) = (revision, in_use, accounts);
        state.pending.retain(|_, pending| pending.revision.is_none_or(|at| at > revision));
    }

    /// Objects an account has in a collection, and bytes in all, writes under way included. None: not counted yet.
    pub fn owned(&self, account: AccountId, collection: &str) -> Option<Usage> {
        let state = self.state();
        let has = state.owned.as_ref()?.get(&account);
        let keys = has.and_then(|has| has.keys.get(collection)).copied().unwrap_or_default();
        let mut usage = Usage { keys, bytes: has.map_or(0, |has| has.bytes) };
        for Pending { write, .. } in state.pending.values().filter(|pending| pending.write.account == account)
        {
            usage.bytes += write.bytes;
            usage.keys += if write.collection == collection { write.keys } else { 0 };
        }
        Some(usage)
    }

    /// What an account has, by collection. None: not counted yet.
    pub fn holds(&self, account: AccountId) -> Option<Owned> {
        let state = self.state();
        let mut has = state.owned.as_ref()?.get(&account).cloned().unwrap_or_default();
        // The account's own record is no object of its.
        has.keys.remove("account");
        has.keys.retain(|_, keys| *keys > 0);
        Some(has)
    }

    /// Room for a write, by an account that has `own` bytes already. Keep it until the write is done.
    pub fn reserve(self: &Arc<Self>, own: usize, write: Write) -> Result<Reservation, NoRoom> {
        let mut state = self.state();
        let more = write.sent;
        let pending: usize = state.pending.values().map(|pending| pending.write.sent).sum();
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
        state.pending.insert(number, Pending { write, revision: None });
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
            && let Some(pending) = state.pending.get_mut(&self.number)
        {
            pending.revision = Some(revision);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut state = self.room.state();
        if state.pending.get(&self.number).is_some_and(|pending| pending.revision.is_none()) {
            state.pending.remove(&self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebbgate_model::Ksuid;

    fn write(keys: usize, sent: usize) -> Write {
        let account = AccountId::new(Ksuid::new(1_700_000_000, [1; 16]));
        Write { account, collection: "endpoints", keys, bytes: sent, sent }
    }

    fn reserve(room: &Arc<Room>, own: usize, sent: usize) -> Result<Reservation, NoRoom> {
        room.reserve(own, write(1, sent))
    }

    #[test]
    fn what_an_account_has_is_known_at_once_and_counted_once() {
        let room = Arc::new(Room::new(64_000));
        let account = write(0, 0).account;
        assert_eq!(room.owned(account, "endpoints"), None, "nobody has counted");
        room.counted(Count::Anew(HashMap::new()), 1, 0, 0);
        let first = reserve(&room, 0, 100).unwrap();
        let refused = reserve(&room, 0, 100).unwrap();
        first.done(5);
        drop(refused);
        assert_eq!(room.owned(account, "endpoints"), Some(Usage { keys: 1, bytes: 100 }));
        assert_eq!(room.owned(account, "domains"), Some(Usage { keys: 0, bytes: 100 }));
        let has = Owned { bytes: 90, keys: [("endpoints".to_owned(), 1)].into() };
        room.counted(Count::Changed(vec![(account, has)]), 5, 100, 1);
        assert_eq!(room.owned(account, "endpoints"), Some(Usage { keys: 1, bytes: 90 }));
        room.counted(Count::Changed(vec![(account, Owned::default())]), 6, 0, 0);
        assert_eq!(room.owned(account, "endpoints"), Some(Usage::default()));
    }

    #[test]
    fn a_write_is_refused_when_it_and_those_under_way_would_not_fit() {
        let room = Arc::new(Room::new(6_400));
        // 6,300 may be used: a 64th is kept.
        let one = reserve(&room, 0, 3_000).unwrap();
        let two = reserve(&room, 0, 3_000).unwrap();
        let refused = reserve(&room, 0, 301).unwrap_err();
        assert_eq!((refused.bytes, refused.bytes_max), (6_301, 6_300));
        drop(reserve(&room, 0, 300).unwrap());
        drop(two);
        drop(reserve(&room, 0, 3_300).expect("what did not happen takes no room"));
        one.done(5);
        assert!(reserve(&room, 0, 3_301).is_err(), "done, and not counted yet");
        room.planned(4, 0, 1);
        assert!(reserve(&room, 0, 3_301).is_err(), "the plan is of before");
        room.planned(5, 2_000, 1);
        drop(reserve(&room, 0, 4_300).unwrap());
        assert!(reserve(&room, 0, 4_301).is_err());
        room.planned(6, 9_999, 1);
        drop(reserve(&room, 0, 0).expect("what makes nothing larger"));
    }

    #[test]
    fn accounts_above_their_share_leave_a_quarter_to_those_below() {
        let room = Arc::new(Room::new(6_400));
        room.planned(1, 4_725, 10);
        assert!(reserve(&room, 4_000, 1).is_err());
        let refused = reserve(&room, 630, 1).unwrap_err();
        assert_eq!((refused.bytes_max, refused.share), (4_725, 630));
        drop(reserve(&room, 100, 530).expect("below its share"));
        assert!(refused.to_string().contains("share"));
    }

    #[test]
    fn a_plan_that_comes_before_the_answer_of_its_write_counts_it_once() {
        let room = Arc::new(Room::new(6_400));
        let write = reserve(&room, 0, 3_000).unwrap();
        room.planned(7, 3_000, 1);
        write.done(7);
        drop(reserve(&room, 0, 3_300).unwrap());
    }
}
