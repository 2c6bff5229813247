//! `Authority`: the host and port that a Host header, an `:authority` or an absolute target names (RFC 9110 section 7.2).

use ebbgate_model::Host;

/// `host[:port]` as a Host header, an `:authority` or an absolute target has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Authority {
    /// The host, lower-cased, without a root dot.
    pub host: Host,
    /// The port, when one is written.
    pub port: Option<u16>,
}

/// The text is not `host[:port]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a host with an optional port")]
pub struct AuthorityError;

impl Authority {
    /// Parses the text. User information, wildcards and anything beyond are refused; an empty port is none (RFC 3986
    /// section 3.2.3).
    pub fn parse(text: &[u8]) -> Result<Self, AuthorityError> {
        let text = std::str::from_utf8(text).map_err(|_| AuthorityError)?;
        let (host, port) = split_port(text);
        let port = port.filter(|port| !port.is_empty()).map(port_number).transpose()?;
        if host.starts_with('[') != host.ends_with(']') || (!host.starts_with('[') && host.contains(':')) {
            return Err(AuthorityError);
        }
        let bracketed = host.starts_with('[');
        let host = Host::requested(host).map_err(|_| AuthorityError)?;
        if host.is_wildcard() || (bracketed && !host.as_str().starts_with('[')) {
            return Err(AuthorityError);
        }
        Ok(Self { host, port })
    }

    /// Whether both name the same place when the missing port is `default`.
    pub fn agrees(&self, other: &Self, default: u16) -> bool {
        self.host == other.host && self.port.unwrap_or(default) == other.port.unwrap_or(default)
    }
}

/// Splits at the colon that is not part of an IPv6 literal.
fn split_port(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    }
}

fn port_number(text: &str) -> Result<u16, AuthorityError> {
    if !text.bytes().all(|b| b.is_ascii_digit()) || text.len() > 5 {
        return Err(AuthorityError);
    }
    text.parse().ok().filter(|port| *port != 0).ok_or(AuthorityError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities() {
        let check = |text: &str, expect: Option<(&str, Option<u16>)>| {
            let found = Authority::parse(text.as_bytes()).ok();
            assert_eq!(found.as_ref().map(|a| (a.host.as_str(), a.port)), expect, "{text:?}");
        };
        check("API.example.com", Some(("api.example.com", None)));
        check("a.example:8080", Some(("a.example", Some(8080))));
        check("[::1]:443", Some(("[::1]", Some(443))));
        check("[::1]", Some(("[::1]", None)));
        check("127.0.0.1:80", Some(("127.0.0.1", Some(80))));
        check("a.example:", Some(("a.example", None)));
        check("[::1]:", Some(("[::1]", None)));
        check("Review_12.example", Some(("review_12.example", None)));
        check("qa--shop.example", Some(("qa--shop.example", None)));
        for bad in [
            "",
            ":80",
            ":",
            "a::",
            "a::80",
            "a:0",
            "a:65536",
            "a:+1",
            "a:1a",
            "u@a",
            "a/b",
            "*.a",
            "a b",
            "::1",
            "[::1",
            "::1]",
            "a,b",
            "a\0",
            "a:80:80",
            "a?x",
            "a#x",
            "http://a",
            "[a]b",
            "[::1]x:1",
            "[127.0.0.1]",
        ] {
            check(bad, None);
        }
    }
}
