//! Whether the log is what was written: every entry against its hash, every hash against the one before, the end against
//! the signed head, and all of it against heads that were remembered elsewhere. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use super::chain::{Hash, Tip, hex};
use super::checkpoint::{Checkpoint, Verifier};
use super::page::Page;
use super::record::{HEAD_KEY, Head, LOG_PREFIX, NEW_PREFIX, PRUNED_KEY};
use crate::record::parse;
use crate::store::Item;

/// Defects that are listed.
const DEFECTS_MAX: usize = 100;

/// What is wrong with the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Defect {
    /// Its hash does not fit.
    #[error("entry {0} was changed, or the one before it: its hash does not fit")]
    Changed(u64),
    /// They are not there.
    #[error("entries {0} to {1} were removed")]
    Removed(u64, u64),
    /// A page cannot be read.
    #[error("the entries under {0} cannot be read")]
    Unreadable(String),
    /// There are fewer than the head says.
    #[error("the log was cut off: the signed head counts {signed} entries, {found} are there")]
    CutOff {
        /// By the head.
        signed: u64,
        /// In the log.
        found: u64,
    },
    /// There are more than the head says.
    #[error("entries {0} to {1} stand after the signed head: control did not write them")]
    Added(u64, u64),
    /// All hashes fit each other, but not what was signed.
    #[error("the log was written anew: entry {0} is not the one that was signed")]
    Restamped(u64),
    /// The head or the beginning was not signed by the log's key.
    #[error("the signature under {0} is not one of the log's key")]
    Signature(&'static str),
    /// There is a log and no head.
    #[error("the signed head is missing")]
    NoHead,
    /// A remembered head counts more entries than there are.
    #[error("the log was cut off: a remembered head counts {remembered} entries, {found} are there")]
    Forgotten {
        /// By the head remembered.
        remembered: u64,
        /// In the log.
        found: u64,
    },
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Entries in the chain, those removed for age or size included.
    pub entries: u64,
    /// Number of the first entry kept.
    pub first: u64,
    /// Hash of the last entry, in hexadecimal.
    pub hash: String,
    /// Entries written and not yet in the chain.
    pub waiting: usize,
    /// Remembered heads that fit.
    pub remembered: usize,
    /// Remembered heads of before the first entry kept, of which nothing can be told.
    pub remembered_before_first: usize,
}

/// Judges everything under [`super::AUDIT_PREFIX`].
pub(super) fn verify(
    items: &[Item],
    signer: &Verifier,
    remembered: &[Checkpoint],
) -> Result<Verified, (Verified, Vec<Defect>)> {
    let mut walk = Walk { remembered: by_count(remembered), ..Walk::default() };
    let pages: BTreeMap<&str, &Item> =
        items.iter().filter(|item| item.key.starts_with(LOG_PREFIX)).map(|item| (&*item.key, item)).collect();
    let start = walk.signed(items, PRUNED_KEY, signer);
    let start = start.unwrap_or_default();
    walk.at = start;
    walk.meet(start.count, &start.hash);
    for (key, item) in pages {
        match Page::parse(key, &item.value).filter(|_| !item.damaged) {
            Some(page) => walk.page(&page),
            None => walk.defects.push(Defect::Unreadable(key.to_owned())),
        }
    }
    walk.end(items, signer);
    let (found, known) = (walk.at, remembered.len());
    let early = remembered.iter().filter(|head| head.tip.count < start.count).count();
    let verified = Verified {
        entries: found.count,
        first: start.count + 1,
        hash: hex(&found.hash),
        waiting: items.iter().filter(|item| item.key.starts_with(NEW_PREFIX)).map(written).sum(),
        remembered: known - early,
        remembered_before_first: early,
    };
    walk.defects.truncate(DEFECTS_MAX);
    if walk.defects.is_empty() { Ok(verified) } else { Err((verified, walk.defects)) }
}

fn written(item: &Item) -> usize {
    parse::<Vec<String>>(item).map_or(1, |entries| entries.len())
}

fn by_count(remembered: &[Checkpoint]) -> BTreeMap<u64, Vec<Hash>> {
    let mut all: BTreeMap<u64, Vec<Hash>> = BTreeMap::new();
    for head in remembered {
        all.entry(head.tip.count).or_default().push(head.tip.hash);
    }
    all
}

#[derive(Default)]
struct Walk {
    at: Tip,
    /// Whether the hash before the next entry is known.
    is_broken: bool,
    remembered: BTreeMap<u64, Vec<Hash>>,
    defects: Vec<Defect>,
}

impl Walk {
    fn page(&mut self, page: &Page) {
        for (number, hash, content) in page.numbered() {
            let expected = self.at.count + 1;
            if number > expected {
                self.defects.push(Defect::Removed(expected, number - 1));
                self.is_broken = true;
            } else if number < expected {
                self.defects.push(Defect::Changed(number));
                continue;
            }
            let computed = Tip { count: number - 1, ..self.at }.with(content);
            if !self.is_broken && computed.hash != *hash {
                self.defects.push(Defect::Changed(number));
            }
            self.is_broken = false;
            self.at = Tip { count: number, hash: *hash };
            self.meet(number, hash);
        }
    }

    /// Compares with what was remembered of the chain when it had this many entries.
    fn meet(&mut self, count: u64, hash: &Hash) {
        let known = self.remembered.get(&count).into_iter().flatten();
        if known.clone().any(|known| known != hash) {
            self.defects.push(Defect::Restamped(count));
        }
    }

    /// Compares the end with the signed head and with remembered ones.
    fn end(&mut self, items: &[Item], signer: &Verifier) {
        let found = self.at;
        match self.signed(items, HEAD_KEY, signer) {
            None if found.count > 0 => self.defects.push(Defect::NoHead),
            Some(head) if head.count > found.count => {
                self.defects.push(Defect::CutOff { signed: head.count, found: found.count });
            }
            Some(head) if head.count < found.count => {
                self.defects.push(Defect::Added(head.count + 1, found.count));
            }
            Some(head) if head.hash != found.hash && self.defects.is_empty() => {
                self.defects.push(Defect::Restamped(head.count));
            }
            _ => {}
        }
        if let Some((&remembered, _)) =
            self.remembered.last_key_value().filter(|(count, _)| **count > found.count)
        {
            self.defects.push(Defect::Forgotten { remembered, found: found.count });
        }
    }

    /// A stored head that has our signature and says the same as its fields.
    fn signed(&mut self, items: &[Item], key: &'static str, signer: &Verifier) -> Option<Tip> {
        let item = items.iter().find(|item| item.key == key)?;
        let head = parse::<Head>(item).ok().and_then(|head| Some((head.tip()?, head.note)));
        let genuine = head.filter(|(tip, note)| {
            signer.read(note).is_ok_and(|read| matches!(read.as_slice(), [one] if one.tip == *tip))
        });
        if genuine.is_none() {
            self.defects.push(Defect::Signature(key));
        }
        genuine.map(|(tip, _)| tip)
    }
}
