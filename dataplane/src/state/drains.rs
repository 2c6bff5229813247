//! `Drains`: operators' last words on members of pools, as far as this edge has heard them. Kept while the members are away, so
//! that one that comes back is drained again; and by every edge, so that it may come back anywhere.
//!
//! Kept on disk, too: an edge that starts again knows which members are drained. Knows neither sessions nor routes.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};
use ebbgate_model::AccountId;
use ebbgate_model::feed::{Drain, DrainReport};

use super::disk::Disk;
use super::kept;

/// Members of one account with a word that is kept. A further one takes the place of one that is not drained, if there is one; of
/// several, of the one that was asked for least lately.
const OF_ACCOUNT_MAX: usize = 1_000;
/// The same in all; then it takes the place of one of the account that has most.
const MEMBERS_MAX: usize = 65_536;

/// For the log.
const WHAT: &str = "what operators drain";

/// See the module.
#[derive(Debug, Default)]
pub struct Drains(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    accounts: BTreeMap<AccountId, HashMap<String, Word>>,
    members: usize,
    /// Counts words.
    words: u64,
    /// Counts questions and words.
    clock: u64,
}

#[derive(Debug, Clone, Copy)]
struct Word {
    drain: Drain,
    /// When it was asked for last.
    used: u64,
}

/// By what an endpoint of an agent's process is known in words: of the same length whatever the process calls itself.
pub fn member(account: AccountId, identity: &str) -> String {
    let mut context = Context::new(&SHA256);
    context.update(account.to_string().as_bytes());
    context.update(&[0]);
    context.update(identity.as_bytes());
    let digest = context.finish();
    let first = digest.as_ref().first_chunk().copied().unwrap_or_default();
    format!("{:032x}", u128::from_be_bytes(first))
}

/// Keeps operators' words on disk, for ever.
pub async fn keep(drains: Arc<Drains>, disk: Arc<Disk>, file: PathBuf) {
    kept::keep(disk, file, WHAT, || drains.words(), || drains.all()).await;
}

impl Drains {
    /// The last word on a member.
    pub fn get(&self, account: AccountId, member: &str) -> Drain {
        let mut inner = self.locked();
        inner.clock += 1;
        let now = inner.clock;
        let word = inner.accounts.get_mut(&account).and_then(|members| members.get_mut(member));
        word.map_or_else(Drain::default, |word| {
            word.used = now;
            word.drain
        })
    }

    /// Writes operators' words to disk, now.
    pub fn save(&self, disk: &Disk, file: &Path) {
        kept::save(disk, file, &self.all(), WHAT);
    }

    /// An operator says so here, at `now_ms`. It overrides what another edge may know, be it the same word again.
    pub fn say(&self, account: AccountId, member: &str, drained: bool, now_ms: i64) {
        let mut inner = self.locked();
        let before = inner.accounts.get(&account).and_then(|members| members.get(member));
        let before = before.map_or_else(Drain::default, |word| word.drain);
        inner.keep(account, member, before.then(drained, now_ms));
    }

    /// Another edge has heard this word. True: it is news here.
    pub fn hear(&self, account: AccountId, member: &str, drain: Drain) -> bool {
        let mut inner = self.locked();
        let before = inner.accounts.get(&account).and_then(|members| members.get(member));
        let is_news = drain.overrides(before.map_or_else(Drain::default, |word| word.drain));
        if is_news {
            inner.keep(account, member, drain);
        }
        is_news
    }

    /// Takes up what was kept.
    pub fn restore(&self, file: &Path) {
        let lost = "what operators drained is not known; drain it again";
        for (account, said) in kept::read::<Vec<(AccountId, DrainReport)>>(file, lost).unwrap_or_default() {
            if let Some(word) = said.word() {
                self.hear(account, &said.member, word);
            }
        }
    }

    /// Words so far.
    fn words(&self) -> u64 {
        self.locked().words
    }

    /// Everything, in order.
    fn all(&self) -> Vec<(AccountId, DrainReport)> {
        let mut all: Vec<_> = {
            let inner = self.locked();
            let all = inner.accounts.iter().flat_map(|(account, members)| {
                members.iter().map(|(member, word)| (*account, DrainReport::new(member.clone(), word.drain)))
            });
            all.collect()
        };
        all.sort_by(|(a, one), (b, other)| (a, &one.member).cmp(&(b, &other.member)));
        all
    }

    fn locked(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn keep(&mut self, account: AccountId, member: &str, drain: Drain) {
        self.clock += 1;
        self.words += 1;
        let word = Word { drain, used: self.clock };
        let members = self.accounts.entry(account).or_default();
        if members.insert(member.to_owned(), word).is_some() {
            return;
        }
        self.members += 1;
        let from = if members.len() > OF_ACCOUNT_MAX {
            Some(account)
        } else if self.members > MEMBERS_MAX {
            self.accounts.iter().max_by_key(|(_, members)| members.len()).map(|(account, _)| *account)
        } else {
            None
        };
        if let Some(from) = from {
            self.forget_one(from, member);
        }
    }

    /// Makes room for the word on `newest`.
    fn forget_one(&mut self, account: AccountId, newest: &str) {
        let Some(members) = self.accounts.get_mut(&account) else { return };
        let others = members.iter().filter(|(member, _)| *member != newest);
        let oldest = others.min_by_key(|(_, word)| (word.drain.drained, word.used));
        if let Some(oldest) = oldest.map(|(member, _)| member.clone()) {
            members.remove(&oldest);
            self.members = self.members.saturating_sub(1);
        }
        if members.is_empty() {
            self.accounts.remove(&account);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::endpoint::fixture::account;

    #[test]
    fn the_latest_word_holds_wherever_it_was_said() {
        let (one, two) = (Drains::default(), Drains::default());
        let (owner, name) = (account(1), member(account(1), "cr_1/process/1"));
        assert_eq!(one.get(owner, &name), Drain::default());
        one.say(owner, &name, true, 5_000);
        let drained = one.get(owner, &name);
        one.say(owner, &name, true, 9_000);
        let again = one.get(owner, &name);
        assert_eq!(
            (drained.at_ms, again),
            (5_000, Drain { at_ms: 9_000, drained: true }),
            "the newer word is kept"
        );
        let drained = again;
        assert!(two.hear(owner, &name, drained) && !two.hear(owner, &name, drained), "news once");
        // The other edge's clock is far behind.
        two.say(owner, &name, false, 10);
        let back = two.get(owner, &name);
        assert!(!back.drained && back.overrides(drained));
        assert!(!two.hear(owner, &name, drained), "what is older does not come back");
        assert!(one.hear(owner, &name, back) && !one.get(owner, &name).drained);
        assert_eq!(one.get(account(2), &name), Drain::default(), "each account has its own");
        assert_ne!(member(account(2), "cr_1/process/1"), name);
        assert_eq!(member(owner, &"x".repeat(10_000)).len(), name.len());
    }

    #[test]
    fn an_edge_that_starts_again_knows_what_was_said() {
        let dir = tempfile::tempdir().unwrap();
        let (drains, disk, file) = (Drains::default(), Disk::new(dir.path()), dir.path().join("drains.json"));
        drains.say(account(1), "a", true, 5);
        drains.say(account(2), "b", true, 6);
        drains.say(account(2), "b", false, 7);
        drains.save(&disk, &file);
        let again = Drains::default();
        again.restore(&file);
        assert_eq!((again.all(), again.words()), (drains.all(), 2));
        assert!(again.get(account(1), "a").drained && !again.get(account(2), "b").drained);
        for damaged in ["{", "[]", r#"[["x",{}]]"#] {
            std::fs::write(&file, damaged).unwrap();
            let nothing = Drains::default();
            nothing.restore(&file);
            assert_eq!(nothing.all(), [], "{damaged}");
        }
        let none = Drains::default();
        none.restore(&dir.path().join("nothing"));
        assert_eq!(none.words(), 0);
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_account_with_most_makes_room() {
        let drains = Drains::default();
        let full = |owner| drains.0.lock().unwrap().accounts[&owner].len();
        for n in 0..OF_ACCOUNT_MAX {
            drains.say(account(1), &n.to_string(), true, 1);
        }
        assert!(drains.get(account(1), "0").drained);
        drains.say(account(1), "one more", true, 1);
        assert_eq!(full(account(1)), OF_ACCOUNT_MAX);
        assert!(drains.get(account(1), "0").drained, "it was asked for lately");
        assert!(!drains.get(account(1), "1").drained);
        drains.say(account(1), "0", false, 1);
        assert_eq!(full(account(1)), OF_ACCOUNT_MAX, "a further word on the same member takes no room");
        drains.say(account(1), "unheard", false, 1);
        assert_eq!(
            (drains.get(account(1), "unheard").at_ms, full(account(1))),
            (1, OF_ACCOUNT_MAX),
            "it was said now"
        );
        assert!(
            !drains.0.lock().unwrap().accounts[&account(1)].contains_key("0"),
            "one that is not drained makes room"
        );
        // As if other accounts had filled the rest.
        drains.0.lock().unwrap().members = MEMBERS_MAX;
        drains.say(account(2), "small", true, 1);
        assert_eq!((full(account(1)), full(account(2))), (OF_ACCOUNT_MAX - 1, 1));
        assert_eq!(drains.0.lock().unwrap().members, MEMBERS_MAX);
    }
}
