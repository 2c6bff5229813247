//! Requests of a visitor, one after the other on a connection.

use bytes::{Bytes, BytesMut};

use super::body::{BodyFramer, BodyStep};
use super::grammar::{Authority, Fields, LineScanner, is_path_and_query, is_token, lines};
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
                let head = read_head(&block)?;
                self.state = State::Body(BodyFramer::new(head.framing));
                Ok(Step::Head(head, block))
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

fn read_head(block: &Bytes) -> Result<RequestHead, Refusal> {
    let mut lines = lines(block);
    let target = request_line(lines.next().unwrap_or_default())?;
    let fields = Fields::read(lines)?;
    let host = fields.host.ok_or(Refusal::HostCount)?;
    let authority = Authority::parse(host).map_err(|_| Refusal::Host)?;
    if let Some((default_port, named)) = target
        && !authority.agrees(&named, default_port)
    {
        return Err(Refusal::HostDisagrees);
    }
    let framing = fields.framing().unwrap_or(BodyFraming::None);
    Ok(RequestHead {
        framing,
        upgrade: fields.upgrade && fields.connection_upgrade && framing == BodyFraming::None,
        authority,
        fields: fields.count,
    })
}

/// Checks the line; an absolute target's authority comes back with its scheme's port.
fn request_line(line: &[u8]) -> Result<Option<(u16, Authority)>, Refusal> {
    let mut parts = line.split(|b| *b == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Refusal::RequestLine);
    };
    if !is_token(method) || method.len() > METHOD_BYTES_MAX {
        return Err(Refusal::Method);
    }
    check_version(version)?;
    if method == b"CONNECT" {
        return Err(Refusal::Connect);
    }
    if target.len() > TARGET_BYTES_MAX {
        return Err(Refusal::TargetTooLong);
    }
    match target.first() {
        Some(b'/') if is_path_and_query(target) => Ok(None),
        Some(b'*') if target == b"*" && method == b"OPTIONS" => Ok(None),
        Some(b'h' | b'H') => absolute(target).map(Some),
        _ => Err(Refusal::Target),
    }
}

fn check_version(version: &[u8]) -> Result<(), Refusal> {
    match version {
        b"HTTP/1.1" => Ok(()),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Err(Refusal::Version)
        }
        _ => Err(Refusal::RequestLine),
    }
}

fn absolute(target: &[u8]) -> Result<(u16, Authority), Refusal> {
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
    Ok((port, Authority::parse(authority).map_err(|_| Refusal::Target)?))
}

#[cfg(test)]
mod tests {
    use super::*;

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
        check("GET / HTTP/1.0", Refusal::Version);
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
        check(&"X: y\r\n".repeat(300), Err(Refusal::HeadTooLarge));
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
