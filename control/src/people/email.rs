//! `Email`: an address by which a person is known, in one spelling.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest address in bytes (RFC 5321 section 4.5.3.1.3, without the brackets).
pub const EMAIL_BYTES_MAX: usize = 254;
/// Longest part before the `@` in bytes (RFC 5321 section 4.5.3.1.1).
const LOCAL_BYTES_MAX: usize = 64;

/// An address in lower case, ASCII only: two spellings that look the same must not be two people.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Email(String);

impl Email {
    /// The address.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text is no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "an e-mail address is like ann@example.com: at most 254 ASCII characters, one `@`, a name before it and a domain after it"
)]
pub struct EmailError;

impl FromStr for Email {
    type Err = EmailError;

    fn from_str(text: &str) -> Result<Self, EmailError> {
        let text = text.trim().to_ascii_lowercase();
        let (local, domain) = text.split_once('@').ok_or(EmailError)?;
        let fits = text.len() <= EMAIL_BYTES_MAX && (1..=LOCAL_BYTES_MAX).contains(&local.len());
        // The atoms of RFC 5322 section 3.2.3 and dots between them; quoted forms are not taken. `/` would part a key.
        let is_atom = |atom: &str| {
            let taken = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-=?^_`{|}~".contains(&b);
            !atom.is_empty() && atom.bytes().all(taken)
        };
        let is_label =
            |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let sound = fits && local.split('.').all(is_atom) && domain.split('.').all(is_label);
        if sound { Ok(Self(text)) } else { Err(EmailError) }
    }
}

impl Serialize for Email {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Email {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_has_one_spelling() {
        let check = |text: &str, expect: Option<&str>| {
            assert_eq!(text.parse::<Email>().ok().as_ref().map(Email::as_str), expect, "{text}");
        };
        check("ann@example.com", Some("ann@example.com"));
        check(" Ann.B+x@Example.COM ", Some("ann.b+x@example.com"));
        check("ann@localhost", Some("ann@localhost"));
        let long = format!("{}@example.com", "a".repeat(65));
        for bad in [
            "",
            "@",
            "ann",
            "ann@",
            "@example.com",
            "a@b@c",
            "a b@example.com",
            "a/b@example.com",
            "a@exa/mple",
            "ann@example..com",
            ".ann@example.com",
            "ann.@example.com",
            "änn@example.com",
            "ann@exämple.com",
            "a\n@example.com",
            "a@example.com\r\nBcc: b@example.com",
            "\"a\"@example.com",
            &long,
        ] {
            check(bad, None);
        }
    }
}
