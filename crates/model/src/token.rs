//! Authtokens and API keys: `<KSUID>_<21 base62 characters>`. The KSUID is the object's public id, the rest is secret.
//!
//! Only the hash is ever stored. Hashing and comparing belong to the crates that have a cryptographic library.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest;
use crate::id::{KSUID_CHARS, Ksuid};

/// Length of the secret half: 21 base62 characters carry 125 bits.
pub const TOKEN_SECRET_CHARS: usize = 21;

/// A token as its owner holds it. `Debug` shows the public half only.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    text: Box<str>,
    ksuid: Ksuid,
}

impl Token {
    /// Joins an object's KSUID and a fresh secret.
    pub fn new(ksuid: Ksuid, secret: &str) -> Result<Self, TokenError> {
        format!("{ksuid}_{secret}").parse()
    }

    /// The token with its secret. Show it once and never log it.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// The public half: the id of the credential or key, without prefix.
    pub fn ksuid(&self) -> Ksuid {
        self.ksuid
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}_…)", self.ksuid)
    }
}

/// The text is not a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a token is 27 characters, an underscore and 21 characters of 0-9, A-Z and a-z")]
pub struct TokenError;

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let (ksuid, secret) = text.split_at_checked(KSUID_CHARS).ok_or(TokenError)?;
        let secret = secret.strip_prefix('_').ok_or(TokenError)?;
        if secret.len() != TOKEN_SECRET_CHARS || !secret.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(TokenError);
        }
        Ok(Self { text: text.into(), ksuid: ksuid.parse().map_err(|_| TokenError)? })
    }
}

/// SHA-256 of a whole token. Enough for a 125-bit secret: there is nothing to guess faster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenHash(pub [u8; 32]);

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(…)")
    }
}

impl Serialize for TokenHash {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        digest::to_hex(&self.0, s)
    }
}

impl<'de> Deserialize<'de> for TokenHash {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        digest::from_hex(d, "a token hash is 64 hexadecimal digits").map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn form_and_secrecy() {
        let ksuid = Ksuid::new(1_700_000_000, [3; 16]);
        let token = Token::new(ksuid, "abcdefghijklmnopqrstu").unwrap();
        assert_eq!(token.expose().parse::<Token>().unwrap().ksuid(), ksuid);
        assert!(!format!("{token:?}").contains("abcdefg"));
        for bad in ["", "x_y", &token.expose()[1..], &format!("{}x", token.expose()), "é"] {
            assert_eq!(bad.parse::<Token>(), Err(TokenError), "{bad}");
        }
        assert!(Token::new(ksuid, "abc-efghijklmnopqrstu").is_err());
    }

    #[test]
    fn hash_round_trips_as_hex() {
        let hash = TokenHash([0xab; 32]);
        let json = serde_json::to_string(&hash).unwrap();
        assert_eq!(serde_json::from_str::<TokenHash>(&json).unwrap(), hash);
        assert!(serde_json::from_str::<TokenHash>("\"abcd\"").is_err());
    }
}
