//! Reads the log backwards for one account: the newest entries that are looked for, a bounded piece of the chain at a time.
//! Judges no hash: that is `verify`'s business.

use ebbgate_model::AccountId;
use serde_json::Value;

use super::page::Page;
use super::record::{LOG_PREFIX, page_key, sequence_of};
use crate::store::{Range, Store, StoreError};

/// Entries given at once.
pub const ENTRIES_SHOWN_MAX: usize = 50;
/// Pages of the chain read in one step.
const PAGES_READ: usize = 16;
/// Bytes of pages after which a search that has not found enough gives what it has.
const SEARCHED_BYTES_MAX: usize = 8 << 20;

/// What is looked for.
#[derive(Debug, Clone)]
pub struct Sought {
    /// The account of the entries.
    pub account: AccountId,
    /// Part of the id, kind or address of an actor, in small letters; "" stands for all actors.
    pub actor: String,
    /// Part of an object's id or of the event's type, in small letters; "" is any.
    pub object: String,
    /// Only entries with smaller numbers.
    pub before: Option<u64>,
}

/// An entry and its place in the chain.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The first of all is 1.
    pub number: u64,
    /// The event it tells.
    pub event: Value,
}

/// What was found, the newest first.
#[derive(Debug, Default)]
pub struct Entries {
    /// At most [`ENTRIES_SHOWN_MAX`].
    pub entries: Vec<Entry>,
    /// Where to go on; None: nothing older is kept.
    pub next: Option<u64>,
    /// Whether something on the way could not be read.
    pub unreadable: bool,
}

/// The newest entries that fit. Fewer than there are when the search became too long: `next` goes on with it.
pub async fn entries(store: &dyn Store, sought: &Sought) -> Result<Entries, StoreError> {
    let mut found = Entries::default();
    let (mut before, mut searched) = (sought.before, 0);
    loop {
        let range = Range {
            before: before.map(page_key),
            limit: Some(PAGES_READ),
            reverse: true,
            ..Range::all(LOG_PREFIX)
        };
        let read = store.range(range).await?;
        for item in &read.items {
            searched += item.value.len();
            let Some(page) = Page::parse(&item.key, &item.value) else {
                found.unreadable = true;
                before = sequence_of(&item.key).or(before);
                continue;
            };
            let numbered: Vec<_> = page.numbered().collect();
            for (number, _, content) in numbered.into_iter().rev() {
                if sought.before.is_some_and(|limit| number >= limit) {
                    continue;
                }
                if found.entries.len() == ENTRIES_SHOWN_MAX {
                    found.next = Some(number + 1);
                    return Ok(found);
                }
                match serde_json::from_str::<Value>(content) {
                    Ok(event) if sought.fits(&event) => found.entries.push(Entry { number, event }),
                    Ok(_) => {}
                    Err(_) => found.unreadable = true,
                }
            }
            before = Some(page.first);
        }
        if !read.more {
            return Ok(found);
        }
        if searched > SEARCHED_BYTES_MAX {
            found.next = before;
            return Ok(found);
        }
    }
}

impl Sought {
    fn fits(&self, event: &Value) -> bool {
        let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let has = |wanted: &str, pointers: &[&str]| {
            wanted.is_empty() || pointers.iter().any(|at| text(at).to_lowercase().contains(wanted))
        };
        let actor =
            ["/principal/id", "/principal/api_key_id", "/principal/type", "/principal/source_address"];
        text("/account_id") == self.account.to_string()
            && has(&self.actor, &actor)
            && has(&self.object, &["/object/id", "/event_type"])
    }
}

#[cfg(test)]
mod tests {
    use super::super::chain::Tip;
    use super::*;
    use crate::store::{Sqlite, Txn};
    use ebbgate_model::Ksuid;
    use serde_json::json;

    fn account(n: u8) -> AccountId {
        AccountId::new(Ksuid::new(1_700_000_000, [n; 16]))
    }

    /// A chain of pages with so many entries each; every third entry is another account's.
    async fn chain(pages: &[usize]) -> (Sqlite, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let store = Sqlite::create(&dir.path().join("db")).unwrap();
        let mut tip = Tip::default();
        for count in pages {
            let first = tip.count;
            let entry = |n: usize| {
                let number = first + n as u64 + 1;
                let owner = account(if number.is_multiple_of(3) { 2 } else { 1 });
                let object = if number.is_multiple_of(2) { "ep_Even" } else { "rd_Odd" };
                json!({"account_id": owner, "event_type": "x_created.v0", "object": {"id": object},
                       "principal": {"type": "user", "id": format!("usr_{number}")}})
                .to_string()
            };
            let (page, next) = Page::after(tip, (0..*count).map(entry));
            let _ = store.commit(Txn::new().put(page.key(), page.encode())).await.unwrap();
            tip = next;
        }
        (store, dir)
    }

    fn sought(actor: &str, object: &str, before: Option<u64>) -> Sought {
        Sought { account: account(1), actor: actor.to_owned(), object: object.to_owned(), before }
    }

    #[tokio::test]
    async fn pages_follow_each_other_without_gap_or_repetition() {
        let (store, _dir) = chain(&[1, 64, 3, 64, 64, 1, 1]).await;
        for (object, expect) in [
            ("", (1..=198_u64).filter(|n| n % 3 != 0).rev().collect::<Vec<_>>()),
            ("ep_even", (1..=198).filter(|n| n % 3 != 0 && n % 2 == 0).rev().collect()),
            ("no such", vec![]),
        ] {
            let (mut before, mut all) = (None, Vec::new());
            loop {
                let found = entries(&store, &sought("", object, before)).await.unwrap();
                assert!(found.entries.len() <= ENTRIES_SHOWN_MAX && !found.unreadable);
                all.extend(found.entries.iter().map(|entry| entry.number));
                before = found.next;
                if before.is_none() {
                    break;
                }
            }
            assert_eq!(all, expect, "{object}");
        }
        let one = entries(&store, &sought("usr_77", "", None)).await.unwrap().entries;
        assert_eq!(one.iter().map(|entry| entry.number).collect::<Vec<_>>(), [77]);
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_passed_and_told() {
        let (store, _dir) = chain(&[2, 2]).await;
        let _ = store.commit(Txn::new().put(page_key(3), "damaged")).await.unwrap();
        let found = entries(&store, &sought("", "", None)).await.unwrap();
        assert!(found.unreadable);
        assert_eq!(found.entries.iter().map(|entry| entry.number).collect::<Vec<_>>(), [2, 1]);
    }
}
