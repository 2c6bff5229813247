//! Pages of the hash chain: as many entries as one value of the store holds, and how they are written and read. Pure; knows
//! no store, no signature and nothing of what an entry says.

use super::chain::{Hash, Tip, hex, unhex};
use super::record::{page_key, sequence_of};

/// Most entries of a page.
pub(super) const PAGE_ENTRIES_MAX: usize = 64;
/// Most bytes of entries in a page of several.
pub(super) const PAGE_BYTES_MAX: usize = 512 << 10;

/// Entries that follow each other, as one value of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Page {
    /// Number of its first entry; the first of all is 1.
    pub(super) first: u64,
    /// Each with its hash.
    pub(super) entries: Vec<(Hash, String)>,
}

impl Page {
    /// The next page after `tip`, and how far the chain goes with it.
    pub(super) fn after(tip: Tip, contents: impl IntoIterator<Item = String>) -> (Self, Tip) {
        let mut page = Self { first: tip.count + 1, entries: Vec::new() };
        let mut tip = tip;
        for content in contents {
            tip = tip.with(&content);
            page.entries.push((tip.hash, content));
        }
        (page, tip)
    }

    /// The key it is stored under.
    pub(super) fn key(&self) -> String {
        page_key(self.first)
    }

    /// Its value: JSON, a list of pairs, each the hash in hexadecimal and the entry's text as it was hashed.
    pub(super) fn encode(&self) -> Vec<u8> {
        let pairs: Vec<_> = self.entries.iter().map(|(hash, content)| (hex(hash), content)).collect();
        serde_json::to_vec(&pairs).expect("pairs of texts are JSON")
    }

    /// Reads a page. None: the key or the value is none.
    pub(super) fn parse(key: &str, value: &[u8]) -> Option<Self> {
        let pairs: Vec<(String, String)> = serde_json::from_slice(value).ok()?;
        let entry = |(hash, content): (String, String)| Some((unhex(&hash)?, content));
        Some(Self { first: sequence_of(key)?, entries: pairs.into_iter().map(entry).collect::<Option<_>>()? })
    }

    /// Each entry with its number.
    pub(super) fn numbered(&self) -> impl Iterator<Item = (u64, &Hash, &str)> {
        (self.first..).zip(&self.entries).map(|(number, (hash, content))| (number, hash, content.as_str()))
    }

    /// How far the chain goes with this page. None: it is empty.
    pub(super) fn tip(&self) -> Option<Tip> {
        let (count, hash, _) = self.numbered().last()?;
        Some(Tip { count, hash: *hash })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_round_trip_and_a_hash_covers_place_and_text() {
        let (page, tip) = Page::after(Tip::default(), ["{\"a\":1}".to_owned(), "{}".to_owned()]);
        assert_eq!(Page::parse(&page.key(), &page.encode()), Some(page.clone()));
        assert_eq!((tip.count, page.tip()), (2, Some(tip)));
        let (next, _) = Page::after(tip, ["{}".to_owned()]);
        assert_eq!(next.first, 3);
        assert_ne!(next.entries[0].0, page.entries[1].0, "the same text elsewhere has another hash");
        for (key, value) in
            [("audit/log/x", r#"[["00","{}"]]"#), (&*page.key(), r#"[["zz","{}"]]"#), (&*page.key(), "{}")]
        {
            assert_eq!(Page::parse(key, value.as_bytes()), None, "{key} {value}");
        }
    }
}
