//! `KeyRing`: seals what a browser keeps for us, and opens it again (AES-256-GCM, key id in front).
//!
//! Decrypts with every key it has, encrypts with the newest that is in force: so a new key ends no session, and edges that
//! hear of a key a little later than others open what those sealed. Pure: time and nonces are arguments.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Length of a key in bytes.
pub const SEALING_KEY_BYTES: usize = 32;
/// Length of a nonce in bytes. Each seals one text.
pub const SEALING_NONCE_BYTES: usize = NONCE_LEN;
/// Most keys of a ring.
pub const SEALING_KEYS_MAX: usize = 16;
/// Bytes that name the key.
const ID_BYTES: usize = 4;
/// Longest sealed text that is looked at: browsers keep no longer cookie.
const SEALED_BYTES_MAX: usize = 4096;

/// A key of a ring. Its `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct SealingKey {
    /// Names it in what it sealed.
    pub id: u32,
    /// Unix seconds from which it seals.
    pub from_unix_secs: i64,
    /// The key.
    pub key: [u8; SEALING_KEY_BYTES],
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealingKey").field("id", &self.id).finish_non_exhaustive()
    }
}

struct Entry {
    id: u32,
    from_unix_secs: i64,
    key: LessSafeKey,
}

/// See the module.
#[derive(Default)]
pub struct KeyRing(Vec<Entry>);

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyRing({})", self.0.len())
    }
}

impl KeyRing {
    /// A ring of these keys, at most [`SEALING_KEYS_MAX`] of the newest.
    #[must_use]
    pub fn new(keys: impl IntoIterator<Item = SealingKey>) -> Self {
        let mut keys: Vec<SealingKey> = keys.into_iter().collect();
        keys.sort_by_key(|key| std::cmp::Reverse(key.from_unix_secs));
        keys.truncate(SEALING_KEYS_MAX);
        let entry = |SealingKey { id, from_unix_secs, key }: SealingKey| {
            let key = UnboundKey::new(&AES_256_GCM, &key).ok()?;
            Some(Entry { id, from_unix_secs, key: LessSafeKey::new(key) })
        };
        Self(keys.into_iter().filter_map(entry).collect())
    }

    /// Whether it has no key, and so seals nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Seals a text for a place, in characters that a cookie takes. None: there is no key.
    pub(crate) fn seal(
        &self,
        now_unix_secs: i64,
        nonce: [u8; SEALING_NONCE_BYTES],
        place: &[u8],
        text: &[u8],
    ) -> Option<String> {
        let usable = self.0.iter().find(|entry| entry.from_unix_secs <= now_unix_secs);
        let entry = usable.or_else(|| self.0.last())?;
        let mut sealed = text.to_vec();
        let used = Nonce::assume_unique_for_key(nonce);
        entry.key.seal_in_place_append_tag(used, Aad::from(place), &mut sealed).ok()?;
        Some(URL_SAFE_NO_PAD.encode([&entry.id.to_be_bytes()[..], &nonce, &sealed].concat()))
    }

    /// Opens what was sealed for the same place. None: it was not, or its key is gone.
    pub(crate) fn open(&self, place: &[u8], sealed: &str) -> Option<Vec<u8>> {
        if sealed.len() > SEALED_BYTES_MAX {
            return None;
        }
        let mut bytes = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (id, rest) = bytes.split_first_chunk_mut::<ID_BYTES>()?;
        let id = u32::from_be_bytes(*id);
        let (nonce, sealed) = rest.split_first_chunk_mut::<SEALING_NONCE_BYTES>()?;
        let entry = self.0.iter().find(|entry| entry.id == id)?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = entry.key.open_in_place(nonce, Aad::from(place), sealed).ok()?;
        Some(opened.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: u32, from_unix_secs: i64) -> SealingKey {
        SealingKey { id, from_unix_secs, key: [u8::try_from(id).unwrap(); SEALING_KEY_BYTES] }
    }

    #[test]
    fn what_is_sealed_opens_in_its_place_only_and_unchanged_only() {
        let ring = KeyRing::new([key(1, 0)]);
        let sealed = ring.seal(10, [3; 12], b"here", b"text").unwrap();
        assert_eq!(ring.open(b"here", &sealed).as_deref(), Some(&b"text"[..]));
        assert_eq!(ring.open(b"there", &sealed), None);
        for (at, _) in sealed.char_indices() {
            let mut forged = sealed.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(ring.open(b"here", &String::from_utf8(forged).unwrap()), None, "{at}");
        }
        for bad in ["", "AAAA", "no base64!", &sealed[..sealed.len() - 3], &"A".repeat(5000)] {
            assert_eq!(ring.open(b"here", bad), None, "{bad}");
        }
        assert_eq!(KeyRing::default().seal(10, [3; 12], b"here", b"text"), None);
    }

    #[test]
    fn old_keys_open_and_the_newest_of_now_seals() {
        let old = KeyRing::new([key(1, 0)]).seal(10, [1; 12], b"p", b"t").unwrap();
        let ring = KeyRing::new([key(1, 0), key(2, 100)]);
        assert!(ring.open(b"p", &old).is_some(), "an old key opens");
        let before = ring.seal(99, [2; 12], b"p", b"t").unwrap();
        assert!(KeyRing::new([key(1, 0)]).open(b"p", &before).is_some(), "the new key's time has not come");
        let after = ring.seal(100, [3; 12], b"p", b"t").unwrap();
        assert!(KeyRing::new([key(1, 0)]).open(b"p", &after).is_none());
        assert!(KeyRing::new([key(2, 100)]).open(b"p", &after).is_some());
        assert!(KeyRing::new([key(2, 100)]).open(b"p", &old).is_none(), "its key was removed");
        assert!(!format!("{ring:?} {:?}", key(7, 0)).contains("7, 7"));
    }
}
