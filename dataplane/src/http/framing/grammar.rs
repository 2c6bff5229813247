//! The grammar that both decoders share: lines, tokens, fields, targets, lengths (RFC 9110 section 5, RFC 9112 sections
//! 2-6, RFC 3986). Every function takes a slice and judges it; nothing is kept.

use std::fmt::Write as _;

use super::{FIELD_NAME_BYTES_MAX, Refusal};

/// Whether the byte may stand in a token (RFC 9110 section 5.6.2).
pub(super) fn is_token_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric()
        || matches!(
            b,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

/// Whether the text is a token.
pub(super) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().copied().all(is_token_byte)
}

/// Whether the byte ends a run of text: every control byte but the tab.
fn is_control(b: u8) -> bool {
    b.is_ascii_control() && b != b'\t'
}

/// Finds the end of a line or of a block of lines in bytes that may arrive in pieces. Refuses bytes that no line may hold
/// (RFC 9112 section 2.2: a bare CR or LF ends nothing here).
#[derive(Debug, Default, Clone)]
pub(super) struct LineScanner {
    scanned: usize,
    lines: usize,
    in_line: bool,
    after_cr: bool,
}

impl LineScanner {
    /// Scans what was not scanned yet. `Some(n)`: the block, its empty line included, is the first `n` bytes.
    pub(super) fn block(&mut self, input: &[u8], bytes_max: usize) -> Result<Option<usize>, Refusal> {
        while self.line_end(input, bytes_max)? {
            if !self.in_line {
                return Ok(Some(self.scanned));
            }
            self.in_line = false;
            self.lines += 1;
        }
        Ok(None)
    }

    /// Scans for the end of one line. `Some(n)`: the line, its CRLF included, is the first `n` bytes.
    pub(super) fn line(&mut self, input: &[u8], bytes_max: usize) -> Result<Option<usize>, Refusal> {
        Ok(self.line_end(input, bytes_max)?.then_some(self.scanned))
    }

    /// Lines found so far, without the empty one.
    pub(super) fn lines(&self) -> usize {
        self.lines
    }

    /// Scans to behind the next CRLF; false: it has not arrived.
    fn line_end(&mut self, input: &[u8], bytes_max: usize) -> Result<bool, Refusal> {
        while let Some((first, rest)) = input.get(self.scanned..).and_then(<[u8]>::split_first) {
            if self.scanned >= bytes_max {
                return Err(Refusal::HeadTooLarge);
            }
            if !is_control(*first) && !self.after_cr {
                let text = 1 + rest.iter().position(|b| is_control(*b)).unwrap_or(rest.len());
                self.scanned = (self.scanned + text).min(bytes_max);
                self.in_line = true;
                continue;
            }
            self.scanned += 1;
            match (*first, std::mem::take(&mut self.after_cr)) {
                (b'\n', true) => return Ok(true),
                (b'\n', false) => return Err(Refusal::BareLineFeed),
                (_, true) => return Err(Refusal::BareCarriageReturn),
                (b'\r', false) => self.after_cr = true,
                _ => return Err(Refusal::ControlByte),
            }
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

/// Whether a comma-separated list holds the option.
pub(super) fn has_option(value: &[u8], option: &[u8]) -> bool {
    value.split(|b| *b == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(option))
}

/// Gateways in the CGI tradition read `_` as `-`, so `Content_Length` would be a second Content-Length to them.
pub(super) fn imitates_framing(name: &[u8]) -> bool {
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
