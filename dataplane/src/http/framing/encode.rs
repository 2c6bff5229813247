//! Messages as text: heads, interim answers, chunk sizes and trailers, each written once into the bytes that go out.
//!
//! The framing fields are written here and nowhere else: whatever a head says of its body, only `framing` counts.

use bytes::{BufMut as _, BytesMut};
use http::header::{CONTENT_LENGTH, DATE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, request, response};

use super::BodyFraming;

/// What a response says of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Connection {
    /// Nothing: the version says it.
    Unsaid,
    /// It ends with this response.
    Close,
    /// It stays open, towards HTTP/1.0.
    KeepAlive,
}

/// The head of a request with this target.
pub(in crate::http) fn request_head(
    out: &mut BytesMut,
    head: &request::Parts,
    target: &[u8],
    framing: BodyFraming,
) {
    put(out, &[head.method.as_str().as_bytes(), b" ", target, b" HTTP/1.1\r\n"]);
    for (name, value) in &head.headers {
        if *name != CONTENT_LENGTH && *name != TRANSFER_ENCODING {
            put_field(out, name, value);
        }
    }
    // The zero tells a POST without body from one that lost its body (RFC 9110 section 8.6).
    let says_zero = matches!(head.method, Method::POST | Method::PUT | Method::PATCH);
    put_framing(out, framing, says_zero);
    out.put_slice(b"\r\n");
}

/// The head of a final response or of 101. `bodiless`: it answers HEAD, or is a 304, so its Content-Length is that of
/// another body (RFC 9110 section 8.6). `date` stands in for a Date that is missing (RFC 9110 section 6.6.1).
pub(in crate::http) fn response_head(
    out: &mut BytesMut,
    head: &response::Parts,
    version_1_0: bool,
    (framing, bodiless): (BodyFraming, bool),
    connection: Connection,
    date: &[u8],
) {
    put_status(out, version_1_0, head.status);
    for (name, value) in &head.headers {
        if *name != TRANSFER_ENCODING && (bodiless || *name != CONTENT_LENGTH) {
            put_field(out, name, value);
        }
    }
    let says_zero = !bodiless && !head.status.is_informational() && head.status != StatusCode::NO_CONTENT;
    put_framing(out, framing, says_zero);
    match connection {
        Connection::Unsaid => {}
        Connection::Close => out.put_slice(b"connection: close\r\n"),
        Connection::KeepAlive => out.put_slice(b"connection: keep-alive\r\n"),
    }
    if !head.headers.contains_key(DATE) {
        put(out, &[b"date: ", date, b"\r\n"]);
    }
    out.put_slice(b"\r\n");
}

/// An answer before the answer (RFC 9110 section 15.2).
pub(in crate::http) fn interim_head(out: &mut BytesMut, status: StatusCode, headers: &HeaderMap) {
    put_status(out, false, status);
    for (name, value) in headers {
        put_field(out, name, value);
    }
    out.put_slice(b"\r\n");
}

/// The line before `size` bytes of a chunk (RFC 9112 section 7.1).
pub(in crate::http) fn chunk_size(out: &mut BytesMut, size: usize) {
    let digits = (usize::BITS - size.leading_zeros()).div_ceil(4).max(1);
    for digit in (0..digits).rev() {
        let digit = u32::try_from(size >> (digit * 4) & 0xf).unwrap_or_default();
        let digit = char::from_digit(digit, 16).and_then(|digit| u8::try_from(digit).ok());
        out.put_u8(digit.unwrap_or(b'0'));
    }
    out.put_slice(b"\r\n");
}

/// The last chunk, before the trailer section.
pub(in crate::http) fn last_chunk(out: &mut BytesMut) {
    out.put_slice(b"0\r\n");
}

/// The trailer section and its end.
pub(in crate::http) fn trailer_section(out: &mut BytesMut, trailers: &HeaderMap) {
    for (name, value) in trailers {
        put_field(out, name, value);
    }
    out.put_slice(b"\r\n");
}

fn put_status(out: &mut BytesMut, version_1_0: bool, status: StatusCode) {
    let version: &[u8] = if version_1_0 { b"HTTP/1.0 " } else { b"HTTP/1.1 " };
    let reason = status.canonical_reason().unwrap_or_default();
    put(out, &[version, status.as_str().as_bytes(), b" ", reason.as_bytes(), b"\r\n"]);
}

fn put_framing(out: &mut BytesMut, framing: BodyFraming, says_zero: bool) {
    match framing {
        BodyFraming::None if says_zero => out.put_slice(b"content-length: 0\r\n"),
        BodyFraming::None | BodyFraming::UntilClose => {}
        BodyFraming::Length(length) => put_field(out, &CONTENT_LENGTH, &HeaderValue::from(length)),
        BodyFraming::Chunked => out.put_slice(b"transfer-encoding: chunked\r\n"),
    }
}

fn put_field(out: &mut BytesMut, name: &HeaderName, value: &HeaderValue) {
    put(out, &[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
}

fn put(out: &mut BytesMut, parts: &[&[u8]]) {
    out.reserve(parts.iter().map(|part| part.len()).sum());
    for part in parts {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Request, Response};

    fn text(write: impl FnOnce(&mut BytesMut)) -> String {
        let mut out = BytesMut::new();
        write(&mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn chunk_sizes() {
        for size in [0, 1, 9, 10, 15, 16, 255, 256, 4_096, 65_535, 1 << 40, usize::MAX] {
            assert_eq!(text(|out| chunk_size(out, size)), format!("{size:x}\r\n"));
        }
    }

    #[test]
    fn requests_say_their_framing_once() {
        let check = |method: Method, framing, expect: &str| {
            let request = Request::builder().method(&method).header("content-length", "7").header("te", "x");
            let (mut head, ()) = request.body(()).unwrap().into_parts();
            head.headers.insert("transfer-encoding", HeaderValue::from_static("gzip"));
            let found = text(|out| request_head(out, &head, b"/a?<b>", framing));
            assert_eq!(found, format!("{method} /a?<b> HTTP/1.1\r\nte: x\r\n{expect}\r\n"));
        };
        check(Method::GET, BodyFraming::None, "");
        check(Method::POST, BodyFraming::None, "content-length: 0\r\n");
        check(Method::GET, BodyFraming::Length(5), "content-length: 5\r\n");
        check(Method::PUT, BodyFraming::Chunked, "transfer-encoding: chunked\r\n");
    }

    #[test]
    fn responses_say_their_framing_once() {
        let check = |status: u16, bodiless, framing, expect: &str| {
            let response = Response::builder().status(status).header("content-length", "7");
            let (head, ()) = response.header("a", "b").body(()).unwrap().into_parts();
            let found = text(|out| {
                response_head(out, &head, false, (framing, bodiless), Connection::Unsaid, b"now");
            });
            let (line, fields) = found.split_once("\r\n").unwrap();
            assert!(line.starts_with(&format!("HTTP/1.1 {status} ")), "{line}");
            let mut fields: Vec<_> = fields.trim_end().split("\r\n").collect();
            fields.sort_unstable();
            assert_eq!(fields.join("|"), expect);
        };
        check(200, false, BodyFraming::None, "a: b|content-length: 0|date: now");
        check(200, false, BodyFraming::Length(5), "a: b|content-length: 5|date: now");
        check(200, false, BodyFraming::Chunked, "a: b|date: now|transfer-encoding: chunked");
        check(200, false, BodyFraming::UntilClose, "a: b|date: now");
        check(200, true, BodyFraming::None, "a: b|content-length: 7|date: now");
        check(204, false, BodyFraming::None, "a: b|date: now");
        check(101, false, BodyFraming::None, "a: b|date: now");
        let (head, ()) = Response::builder().header("date", "then").body(()).unwrap().into_parts();
        let found = text(|out| {
            response_head(out, &head, true, (BodyFraming::None, false), Connection::KeepAlive, b"now");
        });
        assert_eq!(
            found,
            "HTTP/1.0 200 OK\r\ndate: then\r\ncontent-length: 0\r\nconnection: keep-alive\r\n\r\n"
        );
    }

    #[test]
    fn interim_answers_and_trailers() {
        let fields = [("a", "1"), ("b", "2")];
        let map = fields.iter().map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap())).collect();
        let hint = text(|out| interim_head(out, StatusCode::EARLY_HINTS, &map));
        assert_eq!(hint, "HTTP/1.1 103 Early Hints\r\na: 1\r\nb: 2\r\n\r\n");
        let end = text(|out| {
            last_chunk(out);
            trailer_section(out, &map);
        });
        assert_eq!(end, "0\r\na: 1\r\nb: 2\r\n\r\n");
    }
}
