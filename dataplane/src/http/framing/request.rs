//! Heads of requests, one after the other on a connection.

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::HOST;
use http::request::Parts;
use http::{Method, Request, Uri, Version};

use super::fields::Fields;
use super::grammar::{LineScanner, encoded, is_path_and_query, is_token, lines};
use super::{
    Authority, BodyFraming, EMPTY_LINES_MAX, HEAD_BYTES_MAX, METHOD_BYTES_MAX, Refusal, TARGET_BYTES_MAX,
};

/// A request up to its body.
#[derive(Debug)]
pub struct RequestHead {
    /// Method, target in origin form (or `*`), version and fields, but for Expect: that one is an upstream's to answer.
    pub parts: Parts,
    /// The Host field, with which an absolute target agrees.
    pub authority: Authority,
    /// How the body is delimited.
    pub framing: BodyFraming,
    /// Whether it asks to leave HTTP: Upgrade, nominated by Connection, and no body (with one the request is served as
    /// if it had not asked, RFC 9110 section 7.8). Bytes after it have no meaning until it is answered.
    pub upgrade: bool,
    /// Whether its sender may wait for a 100 before it sends the body (RFC 9110 section 10.1.1).
    pub expects: bool,
    /// Whether its sender keeps the connection for another request (RFC 9112 section 9.3).
    pub keep_alive: bool,
    /// How its sender wrote the target, where `parts` has another spelling.
    pub spelling: Option<Spelling>,
}

impl RequestHead {
    /// Whether it is of HTTP/1.0: no chunks and no interim answers for its sender.
    pub fn is_version_1_0(&self) -> bool {
        self.parts.version == Version::HTTP_10
    }
}

/// Two spellings of one path and query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spelling {
    /// As it was written.
    pub written: Bytes,
    /// As it is handed on: what a URI cannot hold is percent-encoded.
    pub encoded: String,
}

/// Reads the heads of one connection's requests. Between two heads the caller takes the body from the same input.
#[derive(Debug, Clone, Default)]
pub struct RequestDecoder {
    scanner: LineScanner,
    empty_lines: usize,
    failed: Option<Refusal>,
}

impl RequestDecoder {
    /// Takes the next head from the front of `input`; none: it has not all arrived. After a refusal it refuses for ever.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<RequestHead>, Refusal> {
        if let Some(refusal) = self.failed {
            return Err(refusal);
        }
        let head = self.advance(input);
        self.failed = head.as_ref().err().copied();
        head
    }

    fn advance(&mut self, input: &mut BytesMut) -> Result<Option<RequestHead>, Refusal> {
        loop {
            let Some(end) = self.scanner.block(input, HEAD_BYTES_MAX)? else { return Ok(None) };
            let (block, scanner) = (input.split_to(end).freeze(), std::mem::take(&mut self.scanner));
            if scanner.lines() > 0 {
                self.empty_lines = 0;
                return read_head(&block, scanner.lines()).map(Some);
            }
            // RFC 9112 section 2.2: at least one empty line before a request line is ignored.
            self.empty_lines += 1;
            if self.empty_lines > EMPTY_LINES_MAX {
                return Err(Refusal::EmptyLines);
            }
        }
    }
}

fn read_head(block: &Bytes, count: usize) -> Result<RequestHead, Refusal> {
    let mut lines = lines(block);
    let line = request_line(lines.next().unwrap_or_default())?;
    let fields = Fields::read(block, lines, count)?;
    let host = fields.headers.get(HOST).ok_or(Refusal::HostCount)?;
    let authority = Authority::parse(host.as_bytes()).map_err(|_| Refusal::Host)?;
    if let Some((default_port, named)) = &line.named
        && !authority.agrees(named, *default_port)
    {
        return Err(Refusal::HostDisagrees);
    }
    let framing = fields.framing().unwrap_or(BodyFraming::None);
    if line.version_1_0 && framing == BodyFraming::Chunked {
        return Err(Refusal::FramingNotAllowed);
    }
    let (uri, spelling) = line.target(block)?;
    let mut parts = Request::new(()).into_parts().0;
    parts.method = Method::from_bytes(line.method).map_err(|_| Refusal::Method)?;
    parts.uri = uri;
    parts.version = if line.version_1_0 { Version::HTTP_10 } else { Version::HTTP_11 };
    let has_body = framing != BodyFraming::None;
    // HTTP/1.0 has neither upgrades nor expectations (RFC 9110 sections 7.8 and 10.1.1).
    let upgrade = fields.upgrade && fields.connection.upgrade && !has_body && !line.version_1_0;
    let expects = fields.expects && has_body && !line.version_1_0;
    let keep_alive = fields.keeps_alive(line.version_1_0);
    parts.headers = fields.headers;
    Ok(RequestHead { parts, authority, framing, upgrade, expects, keep_alive, spelling })
}

/// What a request line says.
struct Line<'a> {
    method: &'a [u8],
    /// An absolute target's authority, with its scheme's port.
    named: Option<(u16, Authority)>,
    /// Path and query.
    path: &'a [u8],
    version_1_0: bool,
}

impl Line<'_> {
    /// The target in origin form, and as it was written where a URI cannot hold it. `block` is what the line was read from.
    fn target(&self, block: &Bytes) -> Result<(Uri, Option<Spelling>), Refusal> {
        // RFC 9112 section 3.2.1: an absolute target without a path asks for `/`.
        let written = if matches!(self.path.first(), Some(b'/' | b'*')) {
            block.slice_ref(self.path)
        } else {
            let mut path = BytesMut::with_capacity(self.path.len() + 1);
            path.put_u8(b'/');
            path.put_slice(self.path);
            path.freeze()
        };
        let uri = |text: Bytes| Uri::from_maybe_shared(text).map_err(|_| Refusal::Target);
        match encoded(&written) {
            None => Ok((uri(written)?, None)),
            Some(encoded) if encoded.len() > TARGET_BYTES_MAX => Err(Refusal::TargetTooLong),
            Some(encoded) => Ok((uri(encoded.clone().into())?, Some(Spelling { written, encoded }))),
        }
    }
}

fn request_line(line: &[u8]) -> Result<Line<'_>, Refusal> {
    let mut parts = line.split(|b| *b == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Refusal::RequestLine);
    };
    if !is_token(method) || method.len() > METHOD_BYTES_MAX {
        return Err(Refusal::Method);
    }
    let version_1_0 = is_version_1_0(version)?;
    if method == b"CONNECT" {
        return Err(Refusal::Connect);
    }
    if target.len() > TARGET_BYTES_MAX {
        return Err(Refusal::TargetTooLong);
    }
    let (named, path) = match target.first() {
        Some(b'/') if is_path_and_query(target) => (None, target),
        Some(b'*') if target == b"*" && method == b"OPTIONS" => (None, target),
        Some(b'h' | b'H') => absolute(target).map(|(named, path)| (Some(named), path))?,
        _ => return Err(Refusal::Target),
    };
    Ok(Line { method, named, path, version_1_0 })
}

fn is_version_1_0(version: &[u8]) -> Result<bool, Refusal> {
    match version {
        b"HTTP/1.1" => Ok(false),
        b"HTTP/1.0" => Ok(true),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Err(Refusal::Version)
        }
        _ => Err(Refusal::RequestLine),
    }
}

/// The authority with its scheme's port, and the path.
fn absolute(target: &[u8]) -> Result<((u16, Authority), &[u8]), Refusal> {
    let end_of_scheme = target.windows(3).position(|w| w == b"://").ok_or(Refusal::Target)?;
    let (scheme, rest) = target.split_at_checked(end_of_scheme).ok_or(Refusal::Target)?;
    let port = match scheme {
        _ if scheme.eq_ignore_ascii_case(b"http") => 80,
        _ if scheme.eq_ignore_ascii_case(b"https") => 443,
        _ => return Err(Refusal::Target),
    };
    let rest = rest.get(3..).unwrap_or_default();
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(end).ok_or(Refusal::Target)?;
    if !is_path_and_query(path) {
        return Err(Refusal::Target);
    }
    Ok(((port, Authority::parse(authority).map_err(|_| Refusal::Target)?), path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::framing::FIELDS_MAX;

    fn head(text: &[u8]) -> Result<RequestHead, Refusal> {
        Ok(RequestDecoder::default().decode(&mut BytesMut::from(text))?.expect("a whole head"))
    }

    fn line(line: &str) -> Result<(), Refusal> {
        head(format!("{line}\r\nHost: a.example\r\n\r\n").as_bytes()).map(drop)
    }

    #[test]
    fn request_lines() {
        for good in [
            "GET / HTTP/1.1",
            "get / HTTP/1.1",
            "OPTIONS * HTTP/1.1",
            "GET /a%20b?x={y}|[z] HTTP/1.1",
            "GET http://a.example/ HTTP/1.1",
            "GET HTTPS://A.example:443?x HTTP/1.1",
            "M-SEARCH / HTTP/1.1",
            "GET / HTTP/1.0",
            "GET /q?path=C:\\x&f=`id`&g={\"a\":\"<b>\"} HTTP/1.1",
        ] {
            assert_eq!(line(good), Ok(()), "{good:?}");
        }
        let check = |text: &str, expect: Refusal| assert_eq!(line(text), Err(expect), "{text:?}");
        check("GET  / HTTP/1.1", Refusal::RequestLine);
        check("GET / HTTP/1.1 ", Refusal::RequestLine);
        check(" GET / HTTP/1.1", Refusal::RequestLine);
        check("GET /", Refusal::RequestLine);
        check("GET\t/\tHTTP/1.1", Refusal::RequestLine);
        check("GET / HTTP/1.10", Refusal::RequestLine);
        check("GET / http/1.1", Refusal::RequestLine);
        check("GET / HTTP/0.9", Refusal::Version);
        check("GET / HTTP/2.0", Refusal::Version);
        check("PRI * HTTP/2.0", Refusal::Version);
        check("G(T / HTTP/1.1", Refusal::Method);
        check("GET: / HTTP/1.1", Refusal::Method);
        check(&format!("{} / HTTP/1.1", "G".repeat(METHOD_BYTES_MAX + 1)), Refusal::Method);
        check("CONNECT a.example:443 HTTP/1.1", Refusal::Connect);
        check("GET * HTTP/1.1", Refusal::Target);
        check("GET a HTTP/1.1", Refusal::Target);
        check("GET /a#b HTTP/1.1", Refusal::Target);
        check("GET /\\a HTTP/1.1", Refusal::Target);
        check("GET /\u{e9} HTTP/1.1", Refusal::Target);
        check("GET ftp://a.example/ HTTP/1.1", Refusal::Target);
        check("GET http:/a.example/ HTTP/1.1", Refusal::Target);
        check("GET http://u@a.example/ HTTP/1.1", Refusal::Target);
        check("GET http://b.example/ HTTP/1.1", Refusal::HostDisagrees);
        check("GET http://a.example:81/ HTTP/1.1", Refusal::HostDisagrees);
        check(&format!("GET /{} HTTP/1.1", "a".repeat(TARGET_BYTES_MAX)), Refusal::TargetTooLong);
    }

    #[test]
    fn header_blocks() {
        let check = |fields: &str, expect: Result<BodyFraming, Refusal>| {
            let found = head(format!("POST / HTTP/1.1\r\n{fields}\r\n\r\n").as_bytes()).map(|h| h.framing);
            assert_eq!(found, expect, "{fields:?}");
        };
        check("Host: a", Ok(BodyFraming::None));
        check("Host: a\r\nContent-Length: 0", Ok(BodyFraming::None));
        check("Host: a\r\nContent-Length:\t5 ", Ok(BodyFraming::Length(5)));
        check("Host: a\r\nTransfer-Encoding: Chunked", Ok(BodyFraming::Chunked));
        check("X: y", Err(Refusal::HostCount));
        check("Host: a\r\nHost: a", Err(Refusal::HostCount));
        check("Host:", Err(Refusal::Host));
        check("Host: a, b", Err(Refusal::Host));
        check("Host: a/b", Err(Refusal::Host));
        check("Host : a", Err(Refusal::FieldName));
        check(" Host: a", Err(Refusal::Folded));
        check("Host: a\r\n b", Err(Refusal::Folded));
        check("Host: a\nX: y", Err(Refusal::BareLineFeed));
        check("Host: a\rX: y", Err(Refusal::BareCarriageReturn));
        check("Host: a\0", Err(Refusal::ControlByte));
        check("Host: a\r\nContent-Length: 5\r\nContent-Length: 5", Err(Refusal::LengthCount));
        check("Host: a\r\nContent-Length: 5, 5", Err(Refusal::Length));
        check("Host: a\r\nContent-Length: +5", Err(Refusal::Length));
        check("Host: a\r\nContent-Length: ", Err(Refusal::Length));
        check("Host: a\r\nTransfer-Encoding: gzip, chunked", Err(Refusal::Coding));
        check("Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked", Err(Refusal::Coding));
        check("Host: a\r\nTransfer-Encoding: xchunked", Err(Refusal::Coding));
        check("Host: a\r\nTransfer-Encoding:", Err(Refusal::Coding));
        check("Host: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5", Err(Refusal::BothFramings));
        check("Host: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked", Err(Refusal::BothFramings));
        check("Host: a\r\nContent_Length: 5", Err(Refusal::FieldNameImitation));
        check("Host: a\r\nExpect: 200-ok", Err(Refusal::Expectation));
        check(&format!("Host: a\r\n{}", "X: y\r\n".repeat(FIELDS_MAX - 1)), Ok(BodyFraming::None));
        check(&"X: y\r\n".repeat(FIELDS_MAX + 1), Err(Refusal::HeadTooLarge));
    }

    #[test]
    fn a_head_has_a_limit_and_is_refused_before_it_ends() {
        let mut decoder = RequestDecoder::default();
        let mut input = BytesMut::from(&b"GET / HTTP/1.1\r\nX: "[..]);
        input.resize(HEAD_BYTES_MAX, b'a');
        assert!(decoder.decode(&mut input).unwrap().is_none());
        input.extend_from_slice(b"a");
        assert_eq!(decoder.decode(&mut input).unwrap_err(), Refusal::HeadTooLarge);
        assert_eq!(decoder.decode(&mut BytesMut::new()).unwrap_err(), Refusal::HeadTooLarge);
    }

    #[test]
    fn one_empty_line_before_a_request_is_swallowed() {
        let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        assert!(head(format!("\r\n{request}").as_bytes()).is_ok());
        assert_eq!(head(format!("\r\n\r\n{request}").as_bytes()).unwrap_err(), Refusal::EmptyLines);
        assert_eq!(head(format!("\n{request}").as_bytes()).unwrap_err(), Refusal::BareLineFeed);
    }

    #[test]
    fn a_head_becomes_its_parts_in_order_and_the_next_one_waits() {
        let mut input = BytesMut::from(
            "POST /a?b HTTP/1.1\r\nHost: A.example:80\r\nX: 1\r\nx:  2 \r\nEmpty:\r\nContent-Length: 3\r\n\r\nabcGET ",
        );
        let mut decoder = RequestDecoder::default();
        let head = decoder.decode(&mut input).unwrap().unwrap();
        assert_eq!((head.parts.method, head.parts.uri.to_string()), (Method::POST, "/a?b".to_owned()));
        assert_eq!((head.authority.host.as_str(), head.authority.port), ("a.example", Some(80)));
        let fields: Vec<_> =
            head.parts.headers.iter().map(|(n, v)| format!("{n}={}", v.to_str().unwrap())).collect();
        assert_eq!(fields.join("|"), "host=A.example:80|x=1|x=2|empty=|content-length=3");
        assert_eq!((head.framing, input.as_ref()), (BodyFraming::Length(3), &b"abcGET "[..]));
        let _ = input.split_to(3);
        assert!(decoder.decode(&mut input).unwrap().is_none());
    }

    #[test]
    fn an_expectation_is_told_and_is_no_field() {
        let told = |text: &str| {
            let head = head(text.as_bytes()).unwrap();
            assert!(!head.parts.headers.contains_key("expect"));
            head.expects
        };
        assert!(told("PUT / HTTP/1.1\r\nExpect: 100-Continue\r\nHost: a\r\nContent-Length: 1\r\n\r\n"));
        assert!(!told("GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n"), "no body");
        assert!(!told("PUT / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n"));
    }

    #[test]
    fn a_target_that_no_uri_can_hold_has_another_spelling() {
        let parsed = |target: &str| {
            let head = head(format!("GET {target} HTTP/1.1\r\nHost: a\r\nX: \"\r\n\r\n").as_bytes()).unwrap();
            (head.parts.uri.to_string(), head.spelling)
        };
        for (target, written) in
            [("/q?a=\"<>\"", "/q?a=\"<>\""), ("http://a/q?<", "/q?<"), ("http://a?\"", "/?\"")]
        {
            let (uri, spelling) = parsed(target);
            let Spelling { written: found, encoded } = spelling.unwrap();
            assert_eq!(found, written);
            assert_eq!(encoded, written.replace('"', "%22").replace('<', "%3C").replace('>', "%3E"));
            assert_eq!(uri, encoded);
        }
        for (target, uri) in
            [("/q?`\\", "/q?`\\"), ("http://a", "/"), ("http://a/b?c", "/b?c"), ("http://a?b", "/?b")]
        {
            assert_eq!(parsed(target), (uri.to_owned(), None));
        }
        let long = format!("GET /?{} HTTP/1.1\r\nHost: a\r\n\r\n", "<".repeat(TARGET_BYTES_MAX / 2));
        assert_eq!(head(long.as_bytes()).unwrap_err(), Refusal::TargetTooLong);
    }

    #[test]
    fn connections_are_kept_as_the_version_and_connection_say() {
        let keeps = |version: &str, fields: &str| {
            head(format!("GET / {version}\r\nHost: a\r\n{fields}\r\n\r\n").as_bytes()).unwrap().keep_alive
        };
        assert!(keeps("HTTP/1.1", "X: y") && keeps("HTTP/1.1", "Connection: x-close"));
        assert!(!keeps("HTTP/1.1", "Connection: x, Close") && !keeps("HTTP/1.0", "X: y"));
        assert!(keeps("HTTP/1.0", "Connection: Keep-Alive"));
        assert!(!keeps("HTTP/1.0", "Connection: keep-alive, close"));
    }

    #[test]
    fn http_1_0_has_no_chunks_and_no_upgrade() {
        let old = |fields: &str| head(format!("POST / HTTP/1.0\r\nHost: a\r\n{fields}\r\n\r\n").as_bytes());
        assert_eq!(old("Transfer-Encoding: chunked").unwrap_err(), Refusal::FramingNotAllowed);
        assert_eq!(old("Content-Length: 5").unwrap().framing, BodyFraming::Length(5));
        assert!(!old("Connection: upgrade\r\nUpgrade: websocket").unwrap().upgrade);
        assert_eq!(head(b"GET / HTTP/1.0\r\n\r\n").unwrap_err(), Refusal::HostCount);
    }

    #[test]
    fn an_upgrade_needs_both_headers() {
        let upgrade = |fields: &str| {
            head(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n").as_bytes()).unwrap().upgrade
        };
        assert!(upgrade("Connection: keep-alive, Upgrade\r\nUpgrade: websocket"));
        assert!(!upgrade("Upgrade: websocket"));
        assert!(!upgrade("Connection: upgrade"));
    }
}
