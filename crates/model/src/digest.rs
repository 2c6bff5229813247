//! `ProgramDigest`: tells whether two processes hold the same Program. Knows no hash function; the callers compute it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Bytes of a SHA-256.
const DIGEST_BYTES: usize = 32;

/// SHA-256 of a Program as compact JSON, the bytes of `serde_json::to_vec`. The generation is part of them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ProgramDigest(pub [u8; DIGEST_BYTES]);

impl fmt::Display for ProgramDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(&self.0).fmt(f)
    }
}

impl fmt::Debug for ProgramDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProgramDigest({self})")
    }
}

impl Serialize for ProgramDigest {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        to_hex(&self.0, s)
    }
}

impl<'de> Deserialize<'de> for ProgramDigest {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        from_hex(d, "a digest is 64 hexadecimal digits").map(Self)
    }
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// Writes a SHA-256 as lower-case hexadecimal digits.
pub(crate) fn to_hex<S: serde::Serializer>(bytes: &[u8; DIGEST_BYTES], s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(&Hex(bytes))
}

/// Reads a SHA-256; anything but its digits is the error `expected`.
pub(crate) fn from_hex<'de, D: serde::Deserializer<'de>>(
    d: D,
    expected: &'static str,
) -> Result<[u8; DIGEST_BYTES], D::Error> {
    let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
    let mut bytes = [0; DIGEST_BYTES];
    if text.len() != 2 * DIGEST_BYTES || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(serde::de::Error::custom(expected));
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        let pair = std::str::from_utf8(pair).unwrap_or("");
        *byte = u8::from_str_radix(pair, 16).map_err(serde::de::Error::custom)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_its_hexadecimal_digits_and_nothing_else() {
        let digest = ProgramDigest([0xab; DIGEST_BYTES]);
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(json, format!("\"{digest}\""));
        assert_eq!(serde_json::from_str::<ProgramDigest>(&json).unwrap(), digest);
        for bad in ["", "abcd", &"+a".repeat(DIGEST_BYTES), &"é".repeat(DIGEST_BYTES)] {
            assert!(serde_json::from_str::<ProgramDigest>(&format!("\"{bad}\"")).is_err(), "{bad}");
        }
    }
}
