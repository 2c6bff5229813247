//! Secrets: fresh tokens and their hashes, comparison in constant time, and private keys sealed at rest.
//!
//! Knows no records and no HTTP. The sealing key lives in `DIR/secret.key`; a copy of the database alone opens nothing.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::{constant_time, digest, rand};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ebbgate_model::{Ksuid, TOKEN_SECRET_CHARS, Token, TokenHash};
use serde::{Deserialize, Serialize};

/// Length of the sealing key in bytes.
pub const SEAL_KEY_BYTES: usize = 32;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A source of random bytes, so that tests can fix them.
pub trait Entropy: Send + Sync + 'static {
    /// Fills the whole buffer.
    fn fill(&self, buffer: &mut [u8]);
}

/// The operating system's random numbers.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEntropy;

/// Tries the generator once, so that it cannot fail later.
pub fn check_generator() -> Result<(), aws_lc_rs::error::Unspecified> {
    rand::fill(&mut [0; 16])
}

impl Entropy for SystemEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        rand::fill(buffer).expect("the random generator works once the program has started");
    }
}

/// A new identifier.
pub fn ksuid(entropy: &dyn Entropy, unix_secs: i64) -> Ksuid {
    let mut bytes = [0; 16];
    entropy.fill(&mut bytes);
    Ksuid::new(u64::try_from(unix_secs).unwrap_or(0), bytes)
}

/// A new token for the object with this KSUID. Show it once; store [`hash`] of it.
pub fn token(entropy: &dyn Entropy, ksuid: Ksuid) -> Token {
    Token::new(ksuid, &base62(entropy, TOKEN_SECRET_CHARS)).expect("a fresh secret has the right form")
}

/// Random base62 text. Bytes of 248 and more are drawn again, so that every character is equally likely.
pub fn base62(entropy: &dyn Entropy, chars: usize) -> String {
    let mut text = String::with_capacity(chars);
    while text.len() < chars {
        let mut bytes = [0; 32];
        entropy.fill(&mut bytes);
        let fair = bytes.iter().filter(|b| **b < 248).filter_map(|b| BASE62.get(usize::from(b % 62)));
        text.extend(fair.take(chars - text.len()).map(|b| char::from(*b)));
    }
    text
}

/// SHA-256 of a whole token.
pub fn hash(token: &str) -> TokenHash {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
    TokenHash(bytes)
}

/// SHA-256 of bytes that are no secret, in hexadecimal.
pub fn hash_hex(bytes: &[u8]) -> String {
    let hash = digest::digest(&digest::SHA256, bytes);
    hash.as_ref().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Whether the token has this hash; takes the same time whatever the answer.
pub fn matches(token: &str, expected: &TokenHash) -> bool {
    same(&hash(token).0, &expected.0)
}

/// Equality in constant time.
pub fn same(one: &[u8], other: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(one, other).is_ok()
}

/// A sealed secret: nonce, ciphertext and tag in base64.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sealed(String);

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealed(…)")
    }
}

impl Sealed {
    /// What a file held.
    pub fn from_text(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// What to write to a file.
    pub fn text(&self) -> &str {
        &self.0
    }
}

/// A sealed secret that does not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the secret of {context} does not open with this secret.key: put back the secret.key the data directory was made with"
)]
pub struct OpenError {
    /// What it was sealed for.
    pub context: String,
}

/// Seals and opens private keys (AES-256-GCM). The context ties a secret to its place: it opens nowhere else.
pub struct Vault(RandomizedNonceKey);

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vault(…)")
    }
}

impl Vault {
    /// A vault under this key.
    pub fn new(key: &[u8; SEAL_KEY_BYTES]) -> Self {
        Self(RandomizedNonceKey::new(&AES_256_GCM, key).expect("AES-256 takes 32 bytes"))
    }

    /// Seals a text for a place, usually the key it will be stored under.
    pub fn seal(&self, context: &str, secret: &str) -> Sealed {
        let mut sealed = secret.as_bytes().to_vec();
        let nonce = self.0.seal_in_place_append_tag(Aad::from(context), &mut sealed);
        let nonce = nonce.expect("secrets are far below the limit of AES-GCM");
        Sealed(STANDARD.encode([nonce.as_ref().as_slice(), &sealed].concat()))
    }

    /// Opens what was sealed for the same place.
    pub fn open(&self, context: &str, sealed: &Sealed) -> Result<String, OpenError> {
        self.try_open(context, sealed).ok_or_else(|| OpenError { context: context.to_owned() })
    }

    fn try_open(&self, context: &str, sealed: &Sealed) -> Option<String> {
        let mut bytes = STANDARD.decode(&sealed.0).ok()?;
        let (nonce, _) = bytes.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut sealed = bytes.split_off(NONCE_LEN);
        let length = self.0.open_in_place(nonce, Aad::from(context), &mut sealed).ok()?.len();
        sealed.truncate(length);
        String::from_utf8(sealed).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_its_ids_other_half_and_matches_its_hash_only() {
        let id = ksuid(&SystemEntropy, 1_700_000_000);
        let token = token(&SystemEntropy, id);
        assert_eq!(token.ksuid(), id);
        assert!(matches(token.expose(), &hash(token.expose())));
        assert!(!matches(token.expose(), &hash(&base62(&SystemEntropy, 49))));
    }

    #[test]
    fn base62_draws_unfair_bytes_again() {
        struct Counting(std::sync::atomic::AtomicU8);
        impl Entropy for Counting {
            fn fill(&self, buffer: &mut [u8]) {
                for byte in buffer {
                    *byte = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
            }
        }
        let text = base62(&Counting(240.into()), 16);
        assert_eq!(text, "stuvwxyz01234567", "240 to 247, then 248 to 255 left out, then 0 and on");
    }

    #[test]
    fn a_sealed_secret_opens_in_its_place_only() {
        let vault = Vault::new(&[7; SEAL_KEY_BYTES]);
        let sealed = vault.seal("/a/x", "secret");
        assert_eq!(vault.open("/a/x", &sealed).as_deref(), Ok("secret"));
        assert!(vault.open("/a/y", &sealed).is_err());
        assert!(Vault::new(&[8; SEAL_KEY_BYTES]).open("/a/x", &sealed).is_err());
        for damaged in ["", "AAAA", "no base64!", &sealed.0[4..]] {
            assert!(vault.open("/a/x", &Sealed(damaged.into())).is_err(), "{damaged}");
        }
        assert_ne!(vault.seal("/a/x", "secret"), sealed, "nonces are fresh");
        assert!(!format!("{sealed:?}").contains(&sealed.0));
    }
}
