//! Where the store's keys lie in etcd, and how etcd's revisions and values become the store's.

use bytes::Bytes;

use super::envelope;
use super::wire::{EVENT_DELETE, Event, KeyValue};
use crate::store::{Change, Item, LeaseId, Revision};

/// First key that no longer has a prefix: no key contains the greatest character.
pub(super) fn end_of(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    end.extend_from_slice("\u{10FFFF}".as_bytes());
    end.into()
}

/// One store in an etcd: what its keys begin with, and the etcd revision at which it was at revision 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Keys {
    prefix: String,
    /// Negative where a restored store goes on with greater revisions than etcd has.
    offset: i64,
}

impl Keys {
    pub(super) fn new(prefix: &str, offset: i64) -> Self {
        Self { prefix: prefix.to_owned(), offset }
    }

    /// etcd's key for a key of the store.
    pub(super) fn of(&self, key: &str) -> Bytes {
        format!("{}k{key}", self.prefix).into()
    }

    /// etcd's key for something of this module's own.
    pub(super) fn own(&self, name: &str) -> Bytes {
        format!("{}{name}", self.prefix).into()
    }

    /// etcd's revision for one of the store's.
    pub(super) fn etcd(&self, revision: Revision) -> i64 {
        i64::try_from(revision).unwrap_or(i64::MAX).saturating_add(self.offset)
    }

    /// The store's revision for one of etcd's.
    pub(super) fn revision(&self, etcd: i64) -> Revision {
        u64::try_from(etcd.saturating_sub(self.offset)).unwrap_or(0)
    }

    /// The store's key in one of etcd's. What is no text comes back with its bytes replaced, and its value damaged.
    pub(super) fn name(&self, key: &Bytes) -> String {
        let skipped = self.prefix.len() + 1;
        String::from_utf8_lossy(key.get(skipped..).unwrap_or_default()).into_owned()
    }

    pub(super) fn item(&self, kv: &KeyValue) -> Item {
        let key = self.name(&kv.key);
        let value = envelope::unwrap(&key, &kv.value);
        Item {
            created: self.revision(kv.create_revision),
            modified: self.revision(kv.mod_revision),
            lease: u64::try_from(kv.lease).ok().filter(|lease| *lease != 0).map(LeaseId),
            damaged: value.is_none(),
            value: value.unwrap_or_default(),
            key,
        }
    }

    /// None: an event without a key, which etcd does not send.
    pub(super) fn change(&self, event: &Event) -> Option<Change> {
        let kv = event.kv.as_ref()?;
        Some(if event.r#type == EVENT_DELETE {
            Change::Delete { key: self.name(&kv.key), modified: self.revision(kv.mod_revision) }
        } else {
            Change::Put(self.item(kv))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_count_from_where_the_store_began() {
        for (offset, revision, etcd) in [(2, 0, 2), (2, 5, 7), (-90, 100, 10), (0, 3, 3)] {
            let keys = Keys::new("/p/", offset);
            assert_eq!((keys.etcd(revision), keys.revision(etcd)), (etcd, revision));
        }
        assert_eq!(Keys::new("/p/", 9).revision(3), 0, "what is older than the store is nothing of it");
    }

    #[test]
    fn a_value_under_another_key_is_damaged() {
        let keys = Keys::new("/p/", 0);
        let item = |key: &str, value: Bytes| {
            keys.item(&KeyValue { key: keys.of(key), value, ..KeyValue::default() })
        };
        let good = item("/a", envelope::wrap("/a", b"1"));
        assert_eq!((good.key.as_str(), &good.value[..], good.damaged), ("/a", &b"1"[..], false));
        let moved = item("/b", envelope::wrap("/a", b"1"));
        assert!(moved.damaged && moved.value.is_empty());
    }
}
