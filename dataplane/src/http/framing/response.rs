//! The response of an upstream to one request: held to the same grammar as a visitor's bytes, because a response that
//! can be read in two ways splits the stream towards the visitor.
//!
//! Interim responses are passed on, a bounded number of them; 101 only where it was asked for.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::body::{BodyFramer, BodyStep};
use super::grammar::{Fields, LineScanner, field, lines};
use super::{BodyFraming, CHUNK_LINE_BYTES_MAX, HEAD_BYTES_MAX, INTERIM_MAX, Refusal, Step};

/// Bytes looked at before a head is handed on: one whole chunk-size line and what follows an empty body.
const FIRST_CHUNK_BYTES_MAX: usize = CHUNK_LINE_BYTES_MAX + 2;

/// What the framer learnt from a response's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseHead {
    /// Status code, 101 or 200-599.
    pub status: u16,
    /// How its body is delimited.
    pub framing: BodyFraming,
}

/// What the request was, as far as it decides how its response is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Asked {
    head: bool,
    upgrade: bool,
}

#[derive(Debug, Clone)]
enum State {
    Idle,
    Head { scanner: LineScanner, interim: usize },
    Body(BodyFramer),
    Switched,
    Failed(Refusal),
}

/// Follows the responses of one upstream connection, one request at a time.
#[derive(Debug, Clone)]
pub struct ResponseFramer {
    state: State,
    asked: Asked,
}

impl Default for ResponseFramer {
    fn default() -> Self {
        Self { state: State::Idle, asked: Asked { head: false, upgrade: false } }
    }
}

impl ResponseFramer {
    /// A request goes out: its response is expected now.
    pub fn expect(&mut self, head: bool, upgrade: bool) {
        self.asked = Asked { head, upgrade };
        self.state = State::Head { scanner: LineScanner::default(), interim: 0 };
    }

    /// Looks at the front of `input` and takes whole heads and framing text from it, never data. After a refusal it
    /// refuses for ever; after an upgrade everything is [`Step::UntilClose`].
    pub fn step(&mut self, input: &mut BytesMut) -> Result<Step<ResponseHead>, Refusal> {
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

    /// Whether no response is under way.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    /// Judges the first chunk of the body, as far as `input` holds it, before its head is handed on: what is refused here
    /// can still be answered by somebody else.
    pub fn check_first_chunk(&self, input: &[u8]) -> Result<(), Refusal> {
        let State::Body(body) = &self.state else { return Ok(()) };
        let mut body = body.clone();
        let mut ahead = BytesMut::from(input.get(..FIRST_CHUNK_BYTES_MAX).unwrap_or(input));
        while let BodyStep::Text(_) = body.step(&mut ahead)? {}
        Ok(())
    }

    fn advance(&mut self, input: &mut BytesMut) -> Result<Step<ResponseHead>, Refusal> {
        match &mut self.state {
            State::Failed(refusal) => Err(*refusal),
            State::Idle => Ok(Step::End),
            State::Switched => Ok(Step::UntilClose),
            State::Body(body) => Ok(match body.step(input)? {
                BodyStep::More => Step::More,
                BodyStep::Text(text) => Step::Text(text),
                BodyStep::Data(n) => Step::Data(n),
                BodyStep::UntilClose => Step::UntilClose,
                BodyStep::End => {
                    self.state = State::Idle;
                    Step::End
                }
            }),
            State::Head { scanner, interim } => {
                let Some(end) = scanner.block(input, HEAD_BYTES_MAX)? else { return Ok(Step::More) };
                *scanner = LineScanner::default();
                let block = input.split_to(end).freeze();
                let head = read_head(&block, self.asked)?;
                if head.status < 200 && head.status != 101 {
                    *interim += 1;
                    if *interim > INTERIM_MAX {
                        return Err(Refusal::Interim);
                    }
                    let status = StatusCode::from_u16(head.status).map_err(|_| Refusal::StatusLine)?;
                    return Ok(Step::Interim(status, headers(&block)?));
                }
                self.state = match head.status {
                    101 => State::Switched,
                    _ => State::Body(BodyFramer::new(head.framing)),
                };
                Ok(Step::Head(head, block))
            }
        }
    }
}

/// The fields of an interim response.
fn headers(block: &[u8]) -> Result<HeaderMap, Refusal> {
    let mut headers = HeaderMap::new();
    for line in lines(block).skip(1) {
        let (name, value) = field(line)?;
        let name = HeaderName::from_bytes(name).map_err(|_| Refusal::FieldName)?;
        headers.append(name, HeaderValue::from_bytes(value).map_err(|_| Refusal::ControlByte)?);
    }
    Ok(headers)
}

fn read_head(block: &Bytes, asked: Asked) -> Result<ResponseHead, Refusal> {
    let mut lines = lines(block);
    let (status, version_1_0) = status_line(lines.next().unwrap_or_default())?;
    let fields = Fields::read(lines)?;
    let declared = fields.framing();
    let chunked = declared == Some(BodyFraming::Chunked);
    if status == 101 && !asked.upgrade {
        return Err(Refusal::Interim);
    }
    if chunked && (version_1_0 || status < 200 || status == 204) {
        return Err(Refusal::FramingNotAllowed);
    }
    // RFC 9112 section 6.3, first and second rule.
    let bodiless = asked.head || status < 200 || status == 204 || status == 304;
    if !asked.head && status == 204 && matches!(declared, Some(BodyFraming::Length(_))) {
        return Err(Refusal::FramingNotAllowed);
    }
    let framing = if bodiless { BodyFraming::None } else { declared.unwrap_or(BodyFraming::UntilClose) };
    Ok(ResponseHead { status, framing })
}

/// `HTTP/1.x SP 3DIGIT [ SP reason ]`. HTTP/1.0 is taken: many small servers still say it.
fn status_line(line: &[u8]) -> Result<(u16, bool), Refusal> {
    let (version, rest) = line.split_at_checked(9).ok_or(Refusal::StatusLine)?;
    let version_1_0 = match version {
        b"HTTP/1.1 " => false,
        b"HTTP/1.0 " => true,
        _ => return Err(Refusal::StatusLine),
    };
    let (digits, reason) = rest.split_at_checked(3).ok_or(Refusal::StatusLine)?;
    if !digits.iter().all(u8::is_ascii_digit) || !(reason.is_empty() || reason.starts_with(b" ")) {
        return Err(Refusal::StatusLine);
    }
    let status = digits.iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0'));
    if (100..600).contains(&status) { Ok((status, version_1_0)) } else { Err(Refusal::StatusLine) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str, is_head: bool, upgrade: bool) -> Result<(u16, BodyFraming), Refusal> {
        let mut framer = ResponseFramer::default();
        framer.expect(is_head, upgrade);
        let mut input = BytesMut::from(text);
        loop {
            match framer.step(&mut input)? {
                Step::Interim(..) => {}
                Step::Head(head, _) => return Ok((head.status, head.framing)),
                step => panic!("{step:?}"),
            }
        }
    }

    #[test]
    fn interim_answers_are_passed_on_before_the_final_one() {
        let mut framer = ResponseFramer::default();
        framer.expect(false, false);
        let mut input = BytesMut::from(
            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nLink: </b>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\n",
        );
        let Step::Interim(status, headers) = framer.step(&mut input).unwrap() else { panic!("no interim") };
        assert_eq!((status.as_u16(), headers.get_all("link").iter().count()), (103, 2));
        assert_eq!(framer.step(&mut input), Ok(Step::Interim(StatusCode::CONTINUE, HeaderMap::new())));
        assert!(matches!(framer.step(&mut input), Ok(Step::Head(ResponseHead { status: 204, .. }, _))));
    }

    #[test]
    fn heads() {
        let check = |text: &str, expect: Result<(u16, BodyFraming), Refusal>| {
            assert_eq!(head(&text.replace('|', "\r\n"), false, false), expect, "{text:?}");
        };
        check("HTTP/1.1 200 OK|Content-Length: 5||", Ok((200, BodyFraming::Length(5))));
        check("HTTP/1.1 200|Content-Length: 0||", Ok((200, BodyFraming::None)));
        check("HTTP/1.1 200 OK|Transfer-Encoding: chunked||", Ok((200, BodyFraming::Chunked)));
        check("HTTP/1.0 200 OK||", Ok((200, BodyFraming::UntilClose)));
        check("HTTP/1.1 204 No|Content-Length: 0||", Ok((204, BodyFraming::None)));
        check("HTTP/1.1 304 No|Content-Length: 7||", Ok((304, BodyFraming::None)));
        check(
            "HTTP/1.1 103 Early|Link: x||HTTP/1.1 200 OK|Content-Length: 1||",
            Ok((200, BodyFraming::Length(1))),
        );
        check("HTTP/1.1 204 No|Content-Length: 5||", Err(Refusal::FramingNotAllowed));
        check("HTTP/1.1 204 No|Transfer-Encoding: chunked||", Err(Refusal::FramingNotAllowed));
        check("HTTP/1.0 200 OK|Transfer-Encoding: chunked||", Err(Refusal::FramingNotAllowed));
        check("HTTP/1.1 101 Go|Upgrade: x||", Err(Refusal::Interim));
        check("HTTP/1.1 200 OK|Content-Length: 5|Content-Length: 5||", Err(Refusal::LengthCount));
        check("HTTP/1.1 200 OK|Content-Length: 5|Transfer-Encoding: chunked||", Err(Refusal::BothFramings));
        check("HTTP/1.1 200 OK|Transfer-Encoding: gzip||", Err(Refusal::Coding));
        check("HTTP/1.1 200 OK|A: b| c||", Err(Refusal::Folded));
        check("HTTP/1.1 200 OK|A : b||", Err(Refusal::FieldName));
        check("HTTP/1.1 200 OK\nA: b||", Err(Refusal::BareLineFeed));
        for line in [
            "HTTP/2 200 OK",
            "HTTP/1.1 20 OK",
            "HTTP/1.1 2000",
            "HTTP/1.1  200",
            "http/1.1 200 OK",
            "SSH-2.0-x",
        ] {
            check(&format!("{line}||"), Err(Refusal::StatusLine));
        }
        check("HTTP/1.1 099 No||", Err(Refusal::StatusLine));
        check("HTTP/1.1 600 No||", Err(Refusal::StatusLine));
        check(&"HTTP/1.1 100 Continue||".repeat(INTERIM_MAX + 1), Err(Refusal::Interim));
    }

    #[test]
    fn a_bad_first_chunk_is_seen_with_the_head() {
        let first = |after: &str| {
            let mut framer = ResponseFramer::default();
            framer.expect(false, false);
            let mut input = BytesMut::from(
                format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{after}").as_str(),
            );
            assert!(matches!(framer.step(&mut input), Ok(Step::Head(..))));
            framer.check_first_chunk(&input)
        };
        for good in
            ["", "5", "5\r\n", "5\r\nhello", "5\r\nhellooops", "0\r\n\r\n", "0\r\n\r\nmore", "0\r\nX-Sum: 1"]
        {
            assert_eq!(first(good), Ok(()), "{good:?}");
        }
        assert_eq!(first("zz\r\nhello"), Err(Refusal::ChunkSize));
        assert_eq!(first("5\nhello"), Err(Refusal::BareLineFeed));
        assert_eq!(first(&"1".repeat(300)), Err(Refusal::ChunkSize));
        assert_eq!(first("0\r\nContent-Length: 1\r\n\r\n"), Err(Refusal::Trailer));
    }

    #[test]
    fn the_request_decides() {
        assert_eq!(
            head("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", true, false),
            Ok((200, BodyFraming::None))
        );
        assert_eq!(head("HTTP/1.1 101 Go\r\nUpgrade: x\r\n\r\n", false, true), Ok((101, BodyFraming::None)));
    }
}
