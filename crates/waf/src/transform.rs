//! Transformations (`t:`): what is done to a value before an operator sees it, as `ModSecurity`'s reference manual says. Pure, over bytes.

use std::borrow::Cow;
use std::sync::Arc;

use zentinel_modsec::transformations::{Transformation, create_transformation};

use crate::decode;
use crate::error::EngineError;

/// A value without what the transformation takes away or decodes. None: nothing changes.
type Step = fn(&[u8]) -> Option<Vec<u8>>;

/// One transformation.
#[derive(Clone)]
pub(crate) enum Transform {
    Step(Step),
    /// One of the engine's own, over text.
    Text(Arc<dyn Transformation>),
}

impl Transform {
    /// The transformation of a name, in any case. None: `none`, which takes away those before it.
    pub(crate) fn named(name: &str) -> Result<Option<Self>, EngineError> {
        let step: Step = match name.to_ascii_lowercase().as_str() {
            "none" => return Ok(None),
            "lowercase" => lowercase,
            "urldecode" => |value| decode::url(value, false),
            "urldecodeuni" => |value| decode::url(value, true),
            "htmlentitydecode" => decode::html,
            "jsdecode" => decode::javascript,
            "cssdecode" => decode::css,
            "base64decode" => |value| Some(decode::base64(value, false)),
            "base64decodeext" => |value| Some(decode::base64(value, true)),
            "removenulls" => |value| without(value, |byte| byte == 0),
            "removewhitespace" => |value| without(value, is_space),
            "compresswhitespace" => compress_whitespace,
            "replacecomments" => replace_comments,
            "cmdline" => command_line,
            "normalisepath" | "normalizepath" => |value| path(value, false),
            "normalisepathwin" | "normalizepathwin" => |value| path(value, true),
            "utf8tounicode" => utf8_to_unicode,
            "hexencode" => |value| Some(value.iter().flat_map(|byte| hex(*byte)).collect()),
            "length" => |value| Some(value.len().to_string().into_bytes()),
            _ => {
                let text = create_transformation(name);
                return Ok(Some(Self::Text(text.map_err(|error| EngineError(error.to_string()))?)));
            }
        };
        Ok(Some(Self::Step(step)))
    }

    /// What becomes of a value. None: nothing changes.
    pub(crate) fn apply(&self, value: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Step(step) => step(value),
            Self::Text(text) => {
                let before = String::from_utf8_lossy(value);
                match text.transform(&before) {
                    Cow::Borrowed(_) => None,
                    Cow::Owned(after) => Some(after.into_bytes()),
                }
            }
        }
    }
}

fn hex(byte: u8) -> [u8; 2] {
    let digit = |four: u8| char::from_digit(u32::from(four), 16).map_or(b'0', |digit| digit as u8);
    [digit(byte >> 4), digit(byte & 15)]
}

fn lowercase(value: &[u8]) -> Option<Vec<u8>> {
    value.iter().any(u8::is_ascii_uppercase).then(|| value.to_ascii_lowercase())
}

/// White space of C, and the no-break space of Latin-1.
fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || matches!(byte, 0x0b | 0xa0)
}

fn without(value: &[u8], goes: fn(u8) -> bool) -> Option<Vec<u8>> {
    let any = value.iter().any(|byte| goes(*byte));
    any.then(|| value.iter().copied().filter(|byte| !goes(*byte)).collect())
}

fn compress_whitespace(value: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(value.len());
    let mut in_space = false;
    for byte in value {
        let space = is_space(*byte);
        if !space {
            out.push(*byte);
        } else if !in_space {
            out.push(b' ');
        }
        in_space = space;
    }
    (out != value).then_some(out)
}

/// Each comment of C becomes a blank; one that does not end, too.
fn replace_comments(value: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some(at) = find(rest, b"/*") {
        let (before, comment) = rest.split_at(at);
        out.extend_from_slice(before);
        out.push(b' ');
        let inside = comment.get(2..).unwrap_or_default();
        rest = find(inside, b"*/").and_then(|end| inside.get(end + 2..)).unwrap_or_default();
    }
    out.extend_from_slice(rest);
    (out != value).then_some(out)
}

/// Where a text stands first.
pub(crate) fn find(value: &[u8], text: &[u8]) -> Option<usize> {
    value.windows(text.len().max(1)).position(|window| window == text)
}

/// What a shell would make of it: quotes and escapes go, separators become one blank, blanks before `/` and `(` go.
fn command_line(value: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(value.len());
    for byte in value {
        match byte {
            b'"' | b'\'' | b'\\' | b'^' => {}
            b' ' | b',' | b';' | b'\t' | b'\r' | b'\n' => {
                if out.last() != Some(&b' ') {
                    out.push(b' ');
                }
            }
            b'/' | b'(' => {
                if out.last() == Some(&b' ') {
                    out.pop();
                }
                out.push(*byte);
            }
            byte => out.push(byte.to_ascii_lowercase()),
        }
    }
    (out != value).then_some(out)
}

/// A path without empty parts, `.` and `x/..`. `windows`: a backslash parts too.
fn path(value: &[u8], windows: bool) -> Option<Vec<u8>> {
    let is_slash = |byte: &u8| *byte == b'/' || (windows && *byte == b'\\');
    let is_absolute = value.first().is_some_and(is_slash);
    let mut parts: Vec<&[u8]> = Vec::new();
    let mut ends_in_slash = false;
    for part in value.split(is_slash) {
        ends_in_slash = matches!(part, b"" | b"." | b"..");
        match part {
            b"" | b"." => {}
            b".." if parts.last().is_some_and(|last| *last != b"..") => {
                parts.pop();
            }
            b".." if is_absolute => {}
            part => parts.push(part),
        }
    }
    let mut out = Vec::with_capacity(value.len());
    if is_absolute {
        out.push(b'/');
    }
    out.extend_from_slice(&parts.join(&b'/'));
    if ends_in_slash && !parts.is_empty() && parts.last() != Some(&&b".."[..]) {
        out.push(b'/');
    }
    (out != value).then_some(out)
}

/// Characters of more than a byte become `%uHHHH`; bytes that are no UTF-8 stay.
fn utf8_to_unicode(value: &[u8]) -> Option<Vec<u8>> {
    if value.is_ascii() {
        return None;
    }
    let mut out = Vec::with_capacity(value.len() * 2);
    for chunk in value.utf8_chunks() {
        for char in chunk.valid().chars() {
            if char.is_ascii() {
                out.push(char as u8);
            } else {
                out.extend_from_slice(format!("%u{:04x}", u32::from(char)).as_bytes());
            }
        }
        out.extend_from_slice(chunk.invalid());
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_does_what_the_manual_says() {
        let check = |name: &str, before: &[u8], after: &[u8]| {
            let transform = Transform::named(name).unwrap().unwrap();
            let made = transform.apply(before).unwrap_or_else(|| before.to_vec());
            let (made, after) = (String::from_utf8_lossy(&made), String::from_utf8_lossy(after));
            assert_eq!(made, after, "{name} of {:?}", String::from_utf8_lossy(before));
        };
        check("lowerCase", b"SeLeCT", b"select");
        check("removeNulls", b"a\0b", b"ab");
        check("removeWhitespace", b" a\t\x0b\xa0b\n", b"ab");
        check("compressWhitespace", b"a \t b", b"a b");
        check("replaceComments", b"UNI/**/ON/* x */1/* open", b"UNI ON 1 ");
        check("cmdLine", b"C^md \"/c\",,; Di'R (x)", b"cmd/c dir(x)");
        check("normalizePath", b"/a/./b//../../etc/", b"/etc/");
        check("normalizePath", b"/../../etc/passwd", b"/etc/passwd");
        check("normalizePath", b"../../etc", b"../../etc");
        check("normalisePathWin", b"c:\\x\\..\\boot.ini", b"c:/boot.ini");
        check("utf8toUnicode", "a\u{ff1c}".as_bytes(), b"a%uff1c");
        check("utf8toUnicode", b"a\xff", b"a\xff");
        check("hexEncode", b"\x00\xff", b"00ff");
        check("length", b"abc", b"3");
        check("trim", b" a ", b"a");
        assert!(Transform::named("none").unwrap().is_none());
        assert!(Transform::named("unheard").is_err());
    }
}
