//! The grammar both framers share: lines, tokens, fields, authorities, lengths (RFC 9110 section 5, RFC 9112 sections
//! 2-6, RFC 3986). Every function takes a slice and judges it; nothing is kept.

use std::fmt::Write as _;

use ebbgate_model::Host;

use super::{BodyFraming, FIELD_NAME_BYTES_MAX, FIELDS_MAX, Refusal};

/// Whether the byte may stand in a token (RFC 9110 section 5.6.2).
pub(super) fn is_token_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

/// Whether the text is a token.
pub(super) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().copied().all(is_token_byte)
}

/// Finds the end of a block of lines, however it arrives, and refuses bytes no line may hold.
#[derive(Debug, Default, Clone)]
pub(super) struct LineScanner {
    scanned: usize,
    line: usize,
    after_cr: bool,
}

impl LineScanner {
    /// Scans what was not scanned yet. `Some(n)`: the block, its empty line included, is the first `n` bytes.
    pub(super) fn block(&mut self, input: &[u8], bytes_max: usize) -> Result<Option<usize>, Refusal> {
        for &b in input.get(self.scanned..).unwrap_or_default() {
            if self.scanned >= bytes_max {
                return Err(Refusal::HeadTooLarge);
            }
            self.scanned += 1;
            if self.line_ended(b)? {
                if self.line == 0 {
                    return Ok(Some(self.scanned));
                }
                self.line = 0;
            }
        }
        Ok(None)
    }

    /// Scans for the end of one line. `Some(n)`: the line, its CRLF included, is the first `n` bytes.
    pub(super) fn line(&mut self, input: &[u8], bytes_max: usize) -> Result<Option<usize>, Refusal> {
        for &b in input.get(self.scanned..).unwrap_or_default() {
            if self.scanned >= bytes_max {
                return Err(Refusal::HeadTooLarge);
            }
            self.scanned += 1;
            if self.line_ended(b)? {
                return Ok(Some(self.scanned));
            }
        }
        Ok(None)
    }

    fn line_ended(&mut self, b: u8) -> Result<bool, Refusal> {
        match (b, self.after_cr) {
            (b'\n', true) => {
                self.after_cr = false;
                return Ok(true);
            }
            (b'\n', false) => return Err(Refusal::BareLineFeed),
            (_, true) => return Err(Refusal::BareCarriageReturn),
            (b'\r', false) => self.after_cr = true,
            (b'\t', _) => self.line += 1,
            _ if b.is_ascii_control() => return Err(Refusal::ControlByte),
            _ => self.line += 1,
        }
        Ok(false)
    }
}

/// The lines of a scanned block without their CRLF, and without the empty line at its end.
pub(super) fn lines(block: &[u8]) -> impl Iterator<Item = &[u8]> {
    let block = block.strip_suffix(b"\r\n\r\n").or_else(|| block.strip_suffix(b"\r\n")).unwrap_or(block);
    block.split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

/// Splits a header line into its name and its trimmed value.
pub(super) fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Refusal> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Refusal::Folded);
    }
    let colon = line.iter().position(|b| *b == b':').ok_or(Refusal::FieldName)?;
    let (name, value) = line.split_at_checked(colon).ok_or(Refusal::FieldName)?;
    if !is_token(name) || name.len() > FIELD_NAME_BYTES_MAX {
        return Err(Refusal::FieldName);
    }
    Ok((name, value.get(1..).unwrap_or_default().trim_ascii()))
}

/// The fields of a message that decide its framing and what happens around it.
#[derive(Debug, Default)]
pub(super) struct Fields<'a> {
    pub(super) host: Option<&'a [u8]>,
    pub(super) upgrade: bool,
    pub(super) expectation: Option<&'a [u8]>,
    pub(super) connection_upgrade: bool,
    pub(super) count: usize,
    length: Option<u64>,
    chunked: bool,
}

impl<'a> Fields<'a> {
    /// Reads every field once and refuses what has more than one reading.
    pub(super) fn read(lines: impl Iterator<Item = &'a [u8]>) -> Result<Self, Refusal> {
        let mut fields = Self::default();
        for (n, line) in lines.enumerate() {
            if n >= FIELDS_MAX {
                return Err(Refusal::HeadTooLarge);
            }
            let (name, value) = field(line)?;
            fields.take(name, value)?;
            fields.count = n + 1;
        }
        if fields.chunked && fields.length.is_some() {
            return Err(Refusal::BothFramings);
        }
        Ok(fields)
    }

    fn take(&mut self, name: &[u8], value: &'a [u8]) -> Result<(), Refusal> {
        let is = |expect: &str| name.eq_ignore_ascii_case(expect.as_bytes());
        if is("host") {
            if self.host.replace(value).is_some() {
                return Err(Refusal::HostCount);
            }
        } else if is("content-length") {
            if self.length.replace(length(value)?).is_some() {
                return Err(Refusal::LengthCount);
            }
        } else if is("transfer-encoding") {
            if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Refusal::Coding);
            }
            self.chunked = true;
        } else if is("connection") {
            self.connection_upgrade |= has_option(value, b"upgrade");
        } else if is("upgrade") {
            self.upgrade = true;
        } else if is("expect") {
            if !value.eq_ignore_ascii_case(b"100-continue") {
                return Err(Refusal::Expectation);
            }
            self.expectation = Some(value);
        } else if imitates_framing(name) {
            return Err(Refusal::FieldNameImitation);
        }
        Ok(())
    }

    /// The framing the fields declare.
    pub(super) fn framing(&self) -> Option<BodyFraming> {
        match (self.chunked, self.length) {
            (true, _) => Some(BodyFraming::Chunked),
            (false, Some(0)) => Some(BodyFraming::None),
            (false, Some(length)) => Some(BodyFraming::Length(length)),
            (false, None) => None,
        }
    }
}

/// Whether a comma-separated list holds the option.
fn has_option(value: &[u8], option: &[u8]) -> bool {
    value.split(|b| *b == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(option))
}

/// Gateways in the CGI tradition read `_` as `-`, so `Content_Length` would be a second Content-Length to them.
fn imitates_framing(name: &[u8]) -> bool {
    let reads_as = |expect: &[u8]| {
        name.len() == expect.len()
            && name.iter().zip(expect).all(|(b, e)| b.eq_ignore_ascii_case(e) || (*b == b'_' && *e == b'-'))
    };
    reads_as(b"content-length") || reads_as(b"transfer-encoding")
}

/// A plain decimal length: digits only, no sign, no list, no needless zero (RFC 9110 section 8.6).
pub(in crate::http) fn length(text: &[u8]) -> Result<u64, Refusal> {
    let plain = text.iter().all(u8::is_ascii_digit) && (text.len() == 1 || text.first() != Some(&b'0'));
    let text = std::str::from_utf8(text).map_err(|_| Refusal::Length)?;
    if plain { text.parse().map_err(|_| Refusal::Length) } else { Err(Refusal::Length) }
}

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

/// Whether the bytes are a field value as it stands in HTTP/2: no control bytes, no white space around it.
pub(in crate::http) fn is_field_value(value: &[u8]) -> bool {
    value.trim_ascii().len() == value.len() && value.iter().all(|b| *b == b'\t' || !b.is_ascii_control())
}

/// Whether the bytes are a target in origin form.
pub(in crate::http) fn is_target(target: &[u8]) -> bool {
    target.first() == Some(&b'/') && is_path_and_query(target)
}

/// Whether the bytes can stand in a path and query. A path holds visible ASCII without what RFC 3986 keeps out of URIs, less
/// the braces, bars, brackets and carets that browsers send unescaped. A query holds all visible ASCII but `#`: the
/// WHATWG URL standard leaves `\` and backticks in it, scripts leave quotes and angle brackets.
pub(super) fn is_path_and_query(text: &[u8]) -> bool {
    let (path, query) = split_query(text);
    path.iter().all(|b| b.is_ascii_graphic() && !b"#<>\"\\`".contains(b))
        && query.iter().all(|b| b.is_ascii_graphic() && *b != b'#')
}

/// The path, and the query with its question mark.
fn split_query(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|b| *b == b'?').unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, &[]))
}

/// Bytes of a query that `http::Uri` takes in percent-encoding only.
const ENCODED_IN_QUERIES: [u8; 3] = *b"\"<>";

/// The path and query as `http::Uri` takes it; none if it takes it as it is.
pub(super) fn encoded(target: &[u8]) -> Option<String> {
    let (_, query) = split_query(target);
    if !query.iter().any(|b| ENCODED_IN_QUERIES.contains(b)) {
        return None;
    }
    let mut text = String::with_capacity(target.len() + 64);
    for b in target {
        if ENCODED_IN_QUERIES.contains(b) {
            // A string takes everything.
            let _ = write!(text, "%{b:02X}");
        } else {
            text.push(char::from(*b));
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_plain_numbers() {
        let check =
            |text: &str, expect: Option<u64>| assert_eq!(length(text.as_bytes()).ok(), expect, "{text:?}");
        check("0", Some(0));
        check("10", Some(10));
        check("18446744073709551615", Some(u64::MAX));
        for odd in
            ["", "00", "01", "+1", "-1", "1,1", "1 1", "0x1", "1.0", "18446744073709551616", "1\0", "１"]
        {
            check(odd, None);
        }
    }

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

    #[test]
    fn fields_split_at_the_first_colon_and_names_are_tokens() {
        assert_eq!(field(b"a:b"), Ok((&b"a"[..], &b"b"[..])));
        assert_eq!(field(b"a: \t b:c \t"), Ok((&b"a"[..], &b"b:c"[..])));
        assert_eq!(field(b"a:"), Ok((&b"a"[..], &b""[..])));
        assert_eq!(field(b" a: b"), Err(Refusal::Folded));
        for bad in [&b"a : b"[..], b"a", b"", b":b", b"a\tb: c", b"a(b: c", b"\xff: c", b"a\x0b: c"] {
            assert_eq!(field(bad), Err(Refusal::FieldName), "{bad:?}");
        }
    }

    #[test]
    fn queries_hold_what_browsers_and_scripts_leave_in_them() {
        for good in [
            "/",
            "/q?path=C:\\Users",
            "/q?f=`id`",
            "/q?f={a|b}^[]",
            "/q?f={\"a\":\"<b>\"}",
            "/a|b{c}",
            "/?a?b",
        ] {
            assert!(is_target(good.as_bytes()), "{good}");
        }
        for bad in
            ["", "q", "/a\\b", "/a`b", "/a\"b", "/a<b", "/q?a#b", "/q?a b", "/q?\u{e9}", "/q?\x7f", "/q?\0"]
        {
            assert!(!is_target(bad.as_bytes()), "{bad}");
        }
        assert_eq!(encoded(b"/a?b=`c`"), None);
        assert_eq!(encoded(b"/a?b=\"<c>\"").as_deref(), Some("/a?b=%22%3Cc%3E%22"));
    }

    #[test]
    fn every_target_that_passes_is_one_that_the_libraries_take() {
        for b in 0..=u8::MAX {
            let mut target = b"/a?b".to_vec();
            target.push(b);
            for target in [target.clone(), vec![b'/', b]] {
                if is_target(&target) {
                    let text = encoded(&target).unwrap_or_else(|| String::from_utf8(target).unwrap());
                    assert!(
                        text.parse::<http::uri::PathAndQuery>().is_ok_and(|path| path.as_str() == text),
                        "{text}"
                    );
                }
            }
        }
    }

    #[test]
    fn names_that_imitate_framing_headers() {
        assert!(imitates_framing(b"Content_Length"));
        assert!(imitates_framing(b"TRANSFER_ENCODING"));
        assert!(!imitates_framing(b"content_type"));
    }
}
