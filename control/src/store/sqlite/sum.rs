//! Checksums of rows: what comes back is what was written, or is known not to be.

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use rusqlite::Row;
use rusqlite::types::ValueRef;

use super::super::{Change, Item, LeaseId, Revision};

/// The first eight bytes of a SHA-256 over everything a row says. None as value: a deletion.
pub(super) fn sum(
    key: &str,
    value: Option<&[u8]>,
    created: Revision,
    modified: Revision,
    lease: Option<u64>,
) -> i64 {
    let mut hash = Context::new(&SHA256);
    // Lengths keep what belongs to one part from being taken for another's.
    for number in [key.len() as u64, created, modified, u64::from(lease.is_some()), lease.unwrap_or(0)] {
        hash.update(&number.to_be_bytes());
    }
    hash.update(key.as_bytes());
    hash.update(&[u8::from(value.is_some())]);
    hash.update(value.unwrap_or_default());
    let digest = hash.finish();
    let (head, _) = digest.as_ref().split_first_chunk().expect("a SHA-256 has more than eight bytes");
    i64::from_be_bytes(*head)
}

/// A row of key, value, created, modified, lease and checksum. Nothing in it is trusted, not even its types.
pub(super) fn item(row: &Row<'_>) -> rusqlite::Result<Item> {
    let (key, is_text) = match row.get_ref(0)? {
        ValueRef::Text(text) => match std::str::from_utf8(text) {
            Ok(text) => (text.to_owned(), true),
            Err(_) => (String::from_utf8_lossy(text).into_owned(), false),
        },
        _ => (String::new(), false),
    };
    let number = |at| -> rusqlite::Result<Option<u64>> {
        match row.get_ref(at)? {
            ValueRef::Integer(number) => Ok(u64::try_from(number).ok()),
            _ => Ok(None),
        }
    };
    let (created, modified, lease) = (number(2)?, number(3)?, number(4)?);
    let (bytes, is_blob) = match row.get_ref(1)? {
        ValueRef::Blob(bytes) => (bytes, true),
        _ => (&[][..], false),
    };
    let expected = sum(&key, Some(bytes), created.unwrap_or(0), modified.unwrap_or(0), lease);
    let intact = is_text && is_blob && row.get_ref(5)? == ValueRef::Integer(expected);
    Ok(Item {
        key,
        value: if intact { Bytes::copy_from_slice(bytes) } else { Bytes::new() },
        created: created.unwrap_or(0),
        modified: modified.unwrap_or(0),
        lease: lease.map(LeaseId),
        damaged: !intact,
    })
}

/// A row of the log: as [`item`], or a deletion, with NULL as its value. None: it is damaged.
pub(super) fn change(row: &Row<'_>) -> rusqlite::Result<Option<Change>> {
    if row.get_ref(1)? != ValueRef::Null {
        return Ok(Some(item(row)?).filter(|item| !item.damaged).map(Change::Put));
    }
    let item = item(row)?;
    let expected = sum(&item.key, None, 0, item.modified, None);
    let intact = row.get_ref(5)? == ValueRef::Integer(expected);
    Ok(intact.then_some(Change::Delete { key: item.key, modified: item.modified }))
}
