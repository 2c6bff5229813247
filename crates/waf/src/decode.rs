//! Decodings that attackers hide in, as `ModSecurity` reads them: what is malformed stays, and a wide character becomes its low byte. Pure.

/// The value of a hexadecimal digit.
fn digit(byte: Option<&u8>) -> Option<u8> {
    let value = char::from(*byte?).to_digit(16)?;
    u8::try_from(value).ok()
}

/// The byte of two hexadecimal digits at the front.
fn two(text: &[u8]) -> Option<u8> {
    Some(digit(text.first())? << 4 | digit(text.get(1))?)
}

/// The byte of four hexadecimal digits at the front: the low one, and of a full-width character its plain form.
fn four(text: &[u8]) -> Option<u8> {
    let (high, low) = (two(text)?, two(text.get(2..)?)?);
    Some(narrowed(high == 0xff, low))
}

/// Full-width forms stand 0x20 below their plain ones in the page 0xff.
fn narrowed(is_full_width: bool, low: u8) -> u8 {
    if is_full_width && low > 0 && low < 0x5f { low + 0x20 } else { low }
}

/// `%HH` in a path, where `+` is itself.
pub(crate) fn percent(value: &[u8]) -> Vec<u8> {
    let parts: Vec<Vec<u8>> = value
        .split(|byte| *byte == b'+')
        .map(|part| url(part, false).unwrap_or_else(|| part.to_vec()))
        .collect();
    parts.join(&b'+')
}

/// `%HH`, `+`, and with `wide` also `%uHHHH`.
pub(crate) fn url(value: &[u8], wide: bool) -> Option<Vec<u8>> {
    if !value.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return None;
    }
    let mut out = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((first, after)) = rest.split_first() {
        let decoded = match first {
            b'+' => Some((b' ', after)),
            b'%' if wide && matches!(after.first(), Some(b'u' | b'U')) => {
                four(after.get(1..).unwrap_or_default())
                    .map(|byte| (byte, after.get(5..).unwrap_or_default()))
            }
            b'%' => two(after).map(|byte| (byte, after.get(2..).unwrap_or_default())),
            _ => None,
        };
        let (byte, left) = decoded.unwrap_or((*first, after));
        out.push(byte);
        rest = left;
    }
    (out != value).then_some(out)
}

/// `&#xHH;`, `&#DD;`, and the names quot, amp, lt, gt and nbsp; the semicolon may be absent.
pub(crate) fn html(value: &[u8]) -> Option<Vec<u8>> {
    if !value.contains(&b'&') {
        return None;
    }
    let mut out = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((first, after)) = rest.split_first() {
        let entity = if *first == b'&' { entity(after) } else { None };
        let Some((byte, length)) = entity else {
            out.push(*first);
            rest = after;
            continue;
        };
        out.push(byte);
        rest = after.get(length..).unwrap_or_default();
        rest = rest.strip_prefix(b";").unwrap_or(rest);
    }
    (out != value).then_some(out)
}

/// The byte of an entity behind its `&`, and how long its name is.
fn entity(text: &[u8]) -> Option<(u8, usize)> {
    if let Some(number) = text.strip_prefix(b"#") {
        let is_hex = matches!(number.first(), Some(b'x' | b'X'));
        let (digits, radix, before) = if is_hex { (number.get(1..)?, 16, 2) } else { (number, 10, 1) };
        let count = digits.iter().take_while(|byte| char::from(**byte).is_digit(radix)).count();
        if count == 0 {
            return None;
        }
        let mut code = 0u32;
        for byte in digits.get(..count)? {
            code = code.wrapping_mul(radix).wrapping_add(char::from(*byte).to_digit(radix)?);
        }
        return Some((low_byte(code), before + count));
    }
    let length = text.iter().take_while(|byte| byte.is_ascii_alphanumeric()).count();
    let byte = match text.get(..length)?.to_ascii_lowercase().as_slice() {
        b"quot" => b'"',
        b"amp" => b'&',
        b"lt" => b'<',
        b"gt" => b'>',
        b"nbsp" => 0xa0,
        _ => return None,
    };
    Some((byte, length))
}

fn low_byte(code: u32) -> u8 {
    let [.., low] = code.to_be_bytes();
    low
}

/// Escapes of JavaScript strings.
pub(crate) fn javascript(value: &[u8]) -> Option<Vec<u8>> {
    if !value.contains(&b'\\') {
        return None;
    }
    let mut out = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((first, after)) = rest.split_first() {
        let (byte, left) = match (first, after.split_first()) {
            (b'\\', Some((kind, more))) => javascript_escape(*kind, more),
            _ => (*first, after),
        };
        out.push(byte);
        rest = left;
    }
    (out != value).then_some(out)
}

fn javascript_escape(kind: u8, more: &[u8]) -> (u8, &[u8]) {
    let after = |bytes: usize| more.get(bytes..).unwrap_or_default();
    let wide = |byte: u8| (byte, after(4));
    let narrow = |byte: u8| (byte, after(2));
    match kind {
        b'u' => four(more).map_or((kind, more), wide),
        b'x' => two(more).map_or((kind, more), narrow),
        b'0'..=b'7' => {
            let octal = |byte: &&u8| matches!(**byte, b'0'..=b'7');
            // Three digits make a byte if the first is at most 3.
            let most = if kind <= b'3' { 2 } else { 1 };
            let count = more.iter().take(most).take_while(octal).count();
            let digits = std::iter::once(&kind).chain(more.iter().take(count));
            (digits.fold(0, |sum: u8, digit| sum.wrapping_mul(8).wrapping_add(digit - b'0')), after(count))
        }
        b'a' => (7, more),
        b'b' => (8, more),
        b'f' => (12, more),
        b'n' => (b'\n', more),
        b'r' => (b'\r', more),
        b't' => (b'\t', more),
        b'v' => (11, more),
        other => (other, more),
    }
}

/// Escapes of CSS: one to six hexadecimal digits, of which the last two count, and a blank that ends them.
pub(crate) fn css(value: &[u8]) -> Option<Vec<u8>> {
    if !value.contains(&b'\\') {
        return None;
    }
    let mut out = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'\\' {
            out.push(*first);
            continue;
        }
        let count = rest.iter().take(6).take_while(|byte| byte.is_ascii_hexdigit()).count();
        let (digits, left) = rest.split_at(count);
        if count > 0 {
            let mut code = 0u32;
            for byte in digits {
                code = code << 4 | u32::from(digit(Some(byte)).unwrap_or_default());
            }
            out.push(narrowed(count >= 4 && code >> 8 == 0xff, low_byte(code)));
            rest = match left.split_first() {
                Some((blank, left)) if blank.is_ascii_whitespace() => left,
                _ => left,
            };
        } else if let Some((byte, left)) = rest.split_first() {
            if *byte != b'\n' {
                out.push(*byte);
            }
            rest = left;
        }
    }
    (out != value).then_some(out)
}

/// Base64 up to the first byte that is none; with `lenient` such bytes are left out instead.
pub(crate) fn base64(value: &[u8], lenient: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len());
    let (mut bits, mut held) = (0u32, 0u32);
    for byte in value {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ if lenient => continue,
            _ => break,
        };
        bits = (bits << 6 | u32::from(six)) & 0xff_ffff;
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push(low_byte(bits >> held));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_bytes_come_out_and_malformed_ones_stay() {
        type Decoding = fn(&[u8]) -> Option<Vec<u8>>;
        let check = |decoding: Decoding, before: &str, after: &[u8]| {
            let made = decoding(before.as_bytes()).unwrap_or_else(|| before.as_bytes().to_vec());
            assert_eq!(String::from_utf8_lossy(&made), String::from_utf8_lossy(after), "{before}");
        };
        let plain: Decoding = |value| url(value, false);
        let wide: Decoding = |value| url(value, true);
        check(plain, "a%3Cb+c%zz%2", b"a<b c%zz%2");
        check(plain, "%u003c", b"%u003c");
        check(wide, "%u003cx%uff1c%u12", b"<x<%u12");
        check(|value| Some(percent(value)), "/a%3Cb+c%zz", b"/a<b+c%zz");
        check(html, "&lt;&#x3C;&#60&GT;&amp;&colon;&", b"<<<>&&colon;&");
        check(html, "&#x;&#;&#99999999999;x", b"&#x;&#;\xffx");
        check(javascript, r"\x3c\u003c\uff1c\74\n\q\", b"<<<<\nq\\");
        check(javascript, r"\xzz\u12", b"xzzu12");
        check(css, r"\3c x\00003cy\ff1c\q\", b"<x<y<q");
        check(|value| Some(base64(value, false)), "PHNjcmlwdD4=", b"<script>");
        check(|value| Some(base64(value, false)), "PHNj!cmlwdD4=", b"<sc");
        check(|value| Some(base64(value, true)), "PHNj!cmlwdD4=", b"<script>");
    }
}
