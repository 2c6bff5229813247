//! Query strings, read strictly: codes 230 (malformed), 231 (unknown name) and 232 (given twice).
//!
//! Knows nothing of what a parameter means.

use std::fmt::Write;

use super::failure::ApiError;

/// Longest query string in bytes.
pub(super) const QUERY_BYTES_MAX: usize = 8 * 1024;

/// The decoded pairs of one query string.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Decodes a query string and refuses names that are not in `known`.
    ///
    /// Names in `repeatable` may be given more than once.
    pub(super) fn parse(text: &str, known: &[&str], repeatable: &[&str]) -> Result<Self, ApiError> {
        if text.len() > QUERY_BYTES_MAX {
            return Err(ApiError::bad(
                230,
                format!("the query string is longer than {QUERY_BYTES_MAX} bytes"),
            ));
        }
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name)?, decode(value)?);
            if !known.contains(&name.as_str()) && !repeatable.contains(&name.as_str()) {
                return Err(unknown(&name, known, repeatable));
            }
            if !repeatable.contains(&name.as_str()) && pairs.iter().any(|(n, _)| *n == name) {
                return Err(ApiError::bad(
                    232,
                    format!("the query parameter `{name}` is given more than once"),
                ));
            }
            pairs.push((name, value));
        }
        Ok(Self(pairs))
    }

    /// The value of a parameter, empty or not, if it is there.
    pub(super) fn given(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The value of a parameter, if it is there and not empty.
    pub(super) fn one(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, v)| n == name && !v.is_empty()).map(|(_, v)| v.as_str())
    }

    /// Every non-empty value of the parameters named.
    pub(super) fn all<'a>(&'a self, names: &'a [&str]) -> impl Iterator<Item = &'a str> {
        let matching = self.0.iter().filter(move |(n, v)| names.contains(&n.as_str()) && !v.is_empty());
        matching.map(|(_, v)| v.as_str())
    }

    /// The parameters named, encoded again to be appended to a URL, each with `&` in front.
    pub(super) fn again(&self, names: &[&str]) -> String {
        let matching = self.0.iter().filter(|(n, v)| names.contains(&n.as_str()) && !v.is_empty());
        matching.fold(String::new(), |url, (name, value)| url + "&" + name + "=" + &encode(value))
    }
}

/// Percent-encodes all but the unreserved characters of RFC 3986.
fn encode(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("writing to a string succeeds");
        }
        encoded
    })
}

fn unknown(name: &str, known: &[&str], repeatable: &[&str]) -> ApiError {
    let all: Vec<&str> = known.iter().chain(repeatable).copied().collect();
    let message = match all.as_slice() {
        [] => format!("the query parameter `{name}` is unknown; this call takes none"),
        all => format!("the query parameter `{name}` is unknown; this call takes {}", all.join(", ")),
    };
    ApiError::bad(231, message)
}

/// Percent-decoding that refuses what a lenient decoder would guess at.
fn decode(text: &str) -> Result<String, ApiError> {
    let malformed =
        |why: &str| ApiError::bad(230, format!("the query string is malformed at `{text}`: {why}"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
                let pair = digit(rest.next()).zip(digit(rest.next()));
                let (high, low) = pair.ok_or_else(|| malformed("`%` needs two hexadecimal digits"))?;
                u8::try_from(high * 16 + low).map_err(|_| malformed("not a byte"))?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).map_err(|_| malformed("not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> Option<u32> {
        Query::parse(text, &["limit", "before_id"], &["id"])
            .err()?
            .code()
            .map(ebbgate_model::ErrorCode::number)
    }

    #[test]
    fn reads_strictly() {
        let query =
            Query::parse("limit=5&id=a%20b&id=c+d&before_id=", &["limit", "before_id"], &["id"]).unwrap();
        assert_eq!(query.one("limit"), Some("5"));
        assert_eq!(query.one("before_id"), None);
        assert_eq!(query.all(&["id"]).collect::<Vec<_>>(), ["a b", "c d"]);
        assert_eq!(query.again(&["id"]), "&id=a%20b&id=c%20d");
        for (text, expect) in [
            ("", None),
            ("&&", None),
            ("limit", None),
            ("limit=%2", Some(230)),
            ("limit=%zz", Some(230)),
            ("limit=%ff", Some(230)),
            ("limits=5", Some(231)),
            ("Limit=5", Some(231)),
            ("limit=5&limit=5", Some(232)),
        ] {
            assert_eq!(code(text), expect, "{text}");
        }
        assert_eq!(code(&"&".repeat(QUERY_BYTES_MAX + 1)), Some(230));
    }
}
