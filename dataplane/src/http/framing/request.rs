//! Requests of a visitor, one after the other on a connection.

use bytes::{Bytes, BytesMut};

use super::body::{BodyFramer, BodyStep};
use super::grammar::{Authority, Fields, LineScanner, encoded, is_path_and_query, is_token, lines};
use super::{
    BodyFraming, EMPTY_LINES_MAX, HEAD_BYTES_MAX, METHOD_BYTES_MAX, Refusal, Step, TARGET_BYTES_MAX,
};

/// What the framer learnt from a request's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHead {
    /// How its body is delimited.
    pub framing: BodyFraming,
    /// Whether it asks to leave HTTP: Upgrade, nominated by Connection, and no body (with one the request is served as
    /// if it had not asked, RFC 9110 section 7.8). Bytes after it have no meaning until it is answered.
    pub upgrade: bool,
    /// The Host header.
    pub authority: Authority,
    /// Header fields it has.
    pub fields: usize,
    /// Whether it is of HTTP/1.0: no chunks and no interim answers for its visitor.
    pub version_1_0: bool,
    /// Whether the visitor may wait for a 100 before it sends the body (RFC 9110 section 10.1.1). The field itself is not
    /// handed on: nobody but the upstream answers it.
    pub expects: bool,
    /// How the visitor wrote the target, where it is handed on in another spelling.
    pub spelling: Option<Spelling>,
}

/// Two spellings of one path and query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spelling {
    /// As it was written.
    pub written: Bytes,
    /// As it is handed on: what a URI cannot hold is percent-encoded.
    pub encoded: String,
}

#[derive(Debug, Clone)]
enum State {
    Head { scanner: LineScanner, empty_lines: usize },
    Body(BodyFramer),
    Failed(Refusal),
}

/// Follows the requests of one connection. Feed it until it says [`Step::End`]; then it waits for the next head.
#[derive(Debug, Clone)]
pub struct RequestFramer {
    state: State,
}

impl Default for RequestFramer {
    fn default() -> Self {
        Self { state: State::Head { scanner: LineScanner::default(), empty_lines: 0 } }
    }
}

impl RequestFramer {
    /// Looks at the front of `input` and takes whole heads and framing text from it, never data. After a refusal it
    /// refuses for ever.
    pub fn step(&mut self, input: &mut BytesMut) -> Result<Step<RequestHead>, Refusal> {
        let step = self.advance(input);
        if let Err(refusal) = step {
            self.state = State::Failed(refusal);
        }
        step
    }

    /// Notes that `n` bytes of data went by.
    pub fn passed(&mut self, n: u64) {
        if let State::Body(body) = &mut self.state {
            body.passed(n);
        }
    }

    /// Whether it stands between two requests with nothing of the next one seen (`input` being what was not taken).
    pub fn is_between(&self, input: &[u8]) -> bool {
        matches!(self.state, State::Head { .. }) && input.is_empty()
    }

    /// Whether it is inside a body.
    pub fn is_in_body(&self) -> bool {
        matches!(self.state, State::Body(_))
    }

    fn advance(&mut self, input: &mut BytesMut) -> Result<Step<RequestHead>, Refusal> {
        match &mut self.state {
            State::Failed(refusal) => Err(*refusal),
            State::Head { scanner, empty_lines } => {
                let Some(end) = scanner.block(input, HEAD_BYTES_MAX)? else { return Ok(Step::More) };
                let block = input.split_to(end).freeze();
                if block.len() == 2 {
                    *empty_lines += 1;
                    *scanner = LineScanner::default();
                    return if *empty_lines > EMPTY_LINES_MAX {
                        Err(Refusal::EmptyLines)
                    } else {
                        self.advance(input)
                    };
                }
                let (head, text) = read_head(&block)?;
                self.state = State::Body(BodyFramer::new(head.framing));
                Ok(Step::Head(head, text))
            }
            State::Body(body) => Ok(match body.step(input)? {
                BodyStep::More => Step::More,
                BodyStep::Text(text) => Step::Text(text),
                BodyStep::Data(n) => Step::Data(n),
                BodyStep::UntilClose | BodyStep::End => {
                    self.state = Self::default().state;
                    Step::End
                }
            }),
        }
    }
}

fn read_head(block: &Bytes) -> Result<(RequestHead, Bytes), Refusal> {
    let mut lines = lines(block);
    let line = request_line(lines.next().unwrap_or_default())?;
    let fields = Fields::read(lines)?;
    let host = fields.host.ok_or(Refusal::HostCount)?;
    let authority = Authority::parse(host).map_err(|_| Refusal::Host)?;
    if let Some((default_port, named)) = &line.named
        && !authority.agrees(named, *default_port)
    {
        return Err(Refusal::HostDisagrees);
    }
    let framing = fields.framing().unwrap_or(BodyFraming::None);
    if line.version_1_0 && framing == BodyFraming::Chunked {
        return Err(Refusal::FramingNotAllowed);
    }
    // HTTP/1.0 has neither upgrades nor expectations (RFC 9110 sections 7.8 and 10.1.1).
    let head = RequestHead {
        framing,
        upgrade: fields.upgrade
            && fields.connection_upgrade
            && framing == BodyFraming::None
            && !line.version_1_0,
        authority,
        fields: fields.count,
        version_1_0: line.version_1_0,
        expects: fields.expectation.is_some() && framing != BodyFraming::None && !line.version_1_0,
        spelling: line.spelling(block)?,
    };
    let text = if fields.expectation.is_some() || head.spelling.is_some() {
        rewritten(block, &head)
    } else {
        block.clone()
    };
    Ok((head, text))
}

/// The head with the other spelling of its target and without its Expect.
fn rewritten(block: &[u8], head: &RequestHead) -> Bytes {
    let mut text = BytesMut::with_capacity(block.len() + 64);
    for (n, line) in lines(block).enumerate() {
        let is_expect = line.get(..7).is_some_and(|name| name.eq_ignore_ascii_case(b"expect:"));
        match &head.spelling {
            _ if n > 0 && is_expect => continue,
            Some(Spelling { written, encoded }) if n == 0 => {
                let at = line.len().saturating_sub(VERSION_BYTES + written.len());
                text.extend_from_slice(line.get(..at).unwrap_or_default());
                text.extend_from_slice(encoded.as_bytes());
                text.extend_from_slice(
                    line.get(line.len().saturating_sub(VERSION_BYTES)..).unwrap_or_default(),
                );
            }
            _ => text.extend_from_slice(line),
        }
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"\r\n");
    text.freeze()
}

/// Bytes of ` HTTP/1.1`.
const VERSION_BYTES: usize = 9;

/// What a request line says.
struct Line<'a> {
    /// An absolute target's authority, with its scheme's port.
    named: Option<(u16, Authority)>,
    /// Path and query.
    path: &'a [u8],
    version_1_0: bool,
}

impl Line<'_> {
    /// `block` is what the line was read from.
    fn spelling(&self, block: &Bytes) -> Result<Option<Spelling>, Refusal> {
        let Some(encoded) = encoded(self.path) else { return Ok(None) };
        if encoded.len() > TARGET_BYTES_MAX {
            return Err(Refusal::TargetTooLong);
        }
        Ok(Some(Spelling { written: block.slice_ref(self.path), encoded }))
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
    Ok(Line { named, path, version_1_0 })
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
        match RequestFramer::default().step(&mut BytesMut::from(text))? {
            Step::Head(head, _) => Ok(head),
            step => panic!("{step:?}"),
        }
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
        let mut framer = RequestFramer::default();
        let mut input = BytesMut::from(&b"GET / HTTP/1.1\r\nX: "[..]);
        input.resize(HEAD_BYTES_MAX, b'a');
        assert_eq!(framer.step(&mut input), Ok(Step::More));
        input.extend_from_slice(b"a");
        assert_eq!(framer.step(&mut input), Err(Refusal::HeadTooLarge));
        assert_eq!(framer.step(&mut BytesMut::new()), Err(Refusal::HeadTooLarge));
    }

    #[test]
    fn one_empty_line_before_a_request_is_swallowed() {
        let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        assert!(head(format!("\r\n{request}").as_bytes()).is_ok());
        assert_eq!(head(format!("\r\n\r\n{request}").as_bytes()), Err(Refusal::EmptyLines));
        assert_eq!(head(format!("\n{request}").as_bytes()), Err(Refusal::BareLineFeed));
    }

    /// The head and what is handed on for it.
    fn handed_on(text: &str) -> (RequestHead, String) {
        match RequestFramer::default().step(&mut BytesMut::from(text)).unwrap() {
            Step::Head(head, bytes) => (head, String::from_utf8(bytes.to_vec()).unwrap()),
            step => panic!("{step:?}"),
        }
    }

    #[test]
    fn an_expectation_is_told_and_not_handed_on() {
        let (head, text) =
            handed_on("PUT / HTTP/1.1\r\nExpect: 100-Continue\r\nHost: a\r\nContent-Length: 1\r\n\r\n");
        assert!(head.expects);
        assert_eq!(text, "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n");
        assert!(!handed_on("GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n").0.expects, "no body");
        let old =
            handed_on("PUT / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n").0;
        assert!(old.version_1_0 && !old.expects);
    }

    #[test]
    fn a_target_that_no_uri_can_hold_is_handed_on_in_another_spelling() {
        for (before, path) in [("GET ", "/q?a=\"<>\""), ("GET http://a", "/q?<"), ("GET http://a", "?\"")] {
            let (head, text) = handed_on(&format!("{before}{path} HTTP/1.1\r\nHost: a\r\nX: \"\r\n\r\n"));
            let Spelling { written, encoded } = head.spelling.unwrap();
            assert_eq!(written, path);
            assert_eq!(encoded, path.replace('"', "%22").replace('<', "%3C").replace('>', "%3E"));
            assert_eq!(text, format!("{before}{encoded} HTTP/1.1\r\nHost: a\r\nX: \"\r\n\r\n"));
        }
        assert_eq!(handed_on("GET /q?`\\ HTTP/1.1\r\nHost: a\r\n\r\n").0.spelling, None);
        let long = format!("GET /?{} HTTP/1.1\r\nHost: a\r\n\r\n", "<".repeat(TARGET_BYTES_MAX / 2));
        assert_eq!(head(long.as_bytes()), Err(Refusal::TargetTooLong));
    }

    #[test]
    fn http_1_0_has_no_chunks_and_no_upgrade() {
        let old = |fields: &str| head(format!("POST / HTTP/1.0\r\nHost: a\r\n{fields}\r\n\r\n").as_bytes());
        assert_eq!(old("Transfer-Encoding: chunked"), Err(Refusal::FramingNotAllowed));
        assert_eq!(old("Content-Length: 5").unwrap().framing, BodyFraming::Length(5));
        assert!(!old("Connection: upgrade\r\nUpgrade: websocket").unwrap().upgrade);
        assert_eq!(head(b"GET / HTTP/1.0\r\n\r\n"), Err(Refusal::HostCount));
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
