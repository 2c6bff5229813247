//! What stands in etcd for a value: a mark of its form, a checksum, then the value. What comes back is what was written, or
//! is known not to be: etcd's own checksums cover its log and not its pages.

use aws_lc_rs::digest::{Context, SHA256};
use bytes::{BufMut, Bytes, BytesMut};

/// The one form there is.
const FORM: u8 = 1;
/// Bytes before the value.
pub(super) const HEAD_BYTES: usize = 9;

/// A value as it is stored under a key.
pub(super) fn wrap(key: &str, value: &[u8]) -> Bytes {
    let mut stored = BytesMut::with_capacity(HEAD_BYTES + value.len());
    stored.put_u8(FORM);
    stored.put_slice(&sum(key, value));
    stored.put_slice(value);
    stored.freeze()
}

/// The value in what is stored under a key. None: it is not what was written.
pub(super) fn unwrap(key: &str, stored: &Bytes) -> Option<Bytes> {
    let (head, value) = stored.split_at_checked(HEAD_BYTES)?;
    let intact = head.first() == Some(&FORM) && head.get(1..) == Some(&sum(key, value));
    intact.then(|| stored.slice_ref(value))
}

/// The first eight bytes of a SHA-256 over key and value. The key's length keeps one from being taken for the other.
fn sum(key: &str, value: &[u8]) -> [u8; 8] {
    let mut hash = Context::new(&SHA256);
    hash.update(&(key.len() as u64).to_be_bytes());
    hash.update(key.as_bytes());
    hash.update(value);
    *hash.finish().as_ref().first_chunk().expect("a SHA-256 has more than eight bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_byte_can_change_unseen() {
        let stored = wrap("/a", b"value");
        assert_eq!(unwrap("/a", &stored).as_deref(), Some(&b"value"[..]));
        assert_eq!(unwrap("/b", &stored), None, "under another key it is another's");
        for at in 0..stored.len() {
            let mut changed = stored.to_vec();
            changed[at] ^= 1;
            assert_eq!(unwrap("/a", &changed.into()), None, "byte {at}");
        }
        for short in 0..stored.len() {
            assert_eq!(unwrap("/a", &stored.slice(..short)), None, "{short} bytes");
        }
        assert_eq!(unwrap("/a", &wrap("/a", b"")).as_deref(), Some(&b""[..]));
    }
}
