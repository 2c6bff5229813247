//! Questions that wait, fair between accounts: each account has so many places, and their turns come round. Pure.

use std::collections::{BTreeMap, VecDeque};

use ebbgate_model::AccountId;

/// Questions that wait, of all accounts.
pub(super) const WAITING_MAX: usize = 256;
/// Questions of one account that wait.
pub(super) const WAITING_PER_ACCOUNT_MAX: usize = 32;

/// See the module.
pub(super) struct Queue<J> {
    /// Only accounts with something in it.
    accounts: BTreeMap<AccountId, Share<J>>,
    /// Accounts with questions that wait, the next first.
    turns: VecDeque<AccountId>,
    waiting: usize,
}

struct Share<J> {
    waiting: VecDeque<J>,
    /// Questions of it that are being asked.
    asked: usize,
}

/// Why a question may not wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Full {
    /// Of this account.
    #[error("{WAITING_PER_ACCOUNT_MAX} messages of this account wait for the Core Rule Set already")]
    Account,
    /// Of all.
    #[error("{WAITING_MAX} messages wait for the Core Rule Set already")]
    All,
}

impl<J> Default for Queue<J> {
    fn default() -> Self {
        Self { accounts: BTreeMap::new(), turns: VecDeque::new(), waiting: 0 }
    }
}

impl<J> Queue<J> {
    /// Puts a question at the end of its account's.
    pub(super) fn push(&mut self, account: AccountId, job: J) -> Result<(), Full> {
        let has = self.accounts.get(&account).map_or(0, |share| share.waiting.len());
        if has >= WAITING_PER_ACCOUNT_MAX {
            return Err(Full::Account);
        }
        if self.waiting >= WAITING_MAX {
            return Err(Full::All);
        }
        if has == 0 {
            self.turns.push_back(account);
        }
        let share =
            self.accounts.entry(account).or_insert_with(|| Share { waiting: VecDeque::new(), asked: 0 });
        share.waiting.push_back(job);
        self.waiting += 1;
        Ok(())
    }

    /// The next question, of an account of which fewer than `asked_max` are being asked. Tell [`Queue::done`] afterwards.
    pub(super) fn take(&mut self, asked_max: usize) -> Option<(AccountId, J)> {
        let accounts = &self.accounts;
        let may = |account: &AccountId| accounts.get(account).is_some_and(|share| share.asked < asked_max);
        let at = self.turns.iter().position(may)?;
        let account = self.turns.remove(at)?;
        let share = self.accounts.get_mut(&account)?;
        let job = share.waiting.pop_front()?;
        self.waiting -= 1;
        share.asked += 1;
        if !share.waiting.is_empty() {
            self.turns.push_back(account);
        }
        Some((account, job))
    }

    /// A question of this account has its answer.
    pub(super) fn done(&mut self, account: AccountId) {
        let Some(share) = self.accounts.get_mut(&account) else { return };
        share.asked = share.asked.saturating_sub(1);
        if share.asked == 0 && share.waiting.is_empty() {
            self.accounts.remove(&account);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebbgate_model::Ksuid;

    fn account(n: u8) -> AccountId {
        AccountId::new(Ksuid::new(1_700_000_000, [n; 16]))
    }

    #[test]
    fn turns_come_round_and_no_account_is_asked_about_by_all() {
        let mut queue = Queue::default();
        for job in 0..3 {
            queue.push(account(1), (1, job)).unwrap();
        }
        queue.push(account(2), (2, 0)).unwrap();
        queue.push(account(3), (3, 0)).unwrap();
        let mut next = |asked_max| queue.take(asked_max).map(|(_, job)| job);
        assert_eq!(next(1), Some((1, 0)));
        assert_eq!(next(1), Some((2, 0)));
        assert_eq!(next(1), Some((3, 0)));
        assert_eq!(next(1), None, "each is being asked about");
        assert_eq!(next(2), Some((1, 1)));
        queue.done(account(1));
        queue.done(account(1));
        assert_eq!(queue.take(1), Some((account(1), (1, 2))));
        for account in [1, 2, 3].map(account) {
            queue.done(account);
        }
        assert!(queue.take(9).is_none() && queue.accounts.is_empty() && queue.turns.is_empty());
    }

    #[test]
    fn an_account_fills_its_share_alone() {
        let mut queue = Queue::default();
        for _ in 0..WAITING_PER_ACCOUNT_MAX {
            queue.push(account(1), ()).unwrap();
        }
        assert_eq!(queue.push(account(1), ()), Err(Full::Account));
        let others = u8::try_from(WAITING_MAX / WAITING_PER_ACCOUNT_MAX).unwrap();
        for n in 2..=others {
            for _ in 0..WAITING_PER_ACCOUNT_MAX {
                queue.push(account(n), ()).unwrap();
            }
        }
        assert_eq!(queue.push(account(99), ()), Err(Full::All));
        queue.take(1).unwrap();
        queue.push(account(99), ()).unwrap();
    }
}
