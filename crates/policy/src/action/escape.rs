//! Texts made ready to be read as URIs.

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

/// Characters that a URI may not hold (RFC 3986 section 2). A per cent sign is looked at apart.
const FORBIDDEN: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'<')
    .add(b'>')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// The text with everything escaped that a URI may not hold. Complete escapes stay.
pub(super) fn escaped(text: &str) -> String {
    let mut pieces = text.split('%');
    let mut out: String = utf8_percent_encode(pieces.next().unwrap_or_default(), FORBIDDEN).collect();
    for piece in pieces {
        let whole = piece.get(..2).is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        out.push_str(if whole { "%" } else { "%25" });
        out.extend(utf8_percent_encode(piece, FORBIDDEN));
    }
    out
}
