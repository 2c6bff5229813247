//! The hash chain: pure functions. An entry's hash covers the hash before it, its number and its text, so that no entry can
//! change, move or go without all later hashes changing. Knows no keys of the store.

use aws_lc_rs::digest::{Context, SHA256};

/// SHA-256.
pub(super) type Hash = [u8; 32];
/// Keeps these hashes apart from every other use of SHA-256.
const DOMAIN: &[u8] = b"ebbgate audit entry v1\n";

/// How far a chain goes: the number of entries, and the hash of the last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tip {
    pub(super) count: u64,
    /// All zero before the first entry.
    pub(super) hash: Hash,
}

impl Tip {
    /// The chain with one entry more.
    pub(super) fn with(self, content: &str) -> Self {
        let count = self.count + 1;
        let mut hash = Context::new(&SHA256);
        hash.update(DOMAIN);
        hash.update(&self.hash);
        hash.update(&count.to_be_bytes());
        hash.update(content.as_bytes());
        let hash = hash.finish().as_ref().try_into().expect("a SHA-256 has 32 bytes");
        Self { count, hash }
    }
}

/// Lower-case hexadecimal.
pub(super) fn hex(hash: &Hash) -> String {
    hash.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Reads [`hex`].
pub(super) fn unhex(text: &str) -> Option<Hash> {
    let mut hash = [0; 32];
    if text.len() != 2 * hash.len() || !text.is_ascii() {
        return None;
    }
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(hash)
}
