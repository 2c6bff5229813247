//! The response of an upstream to one request: held to the same grammar as a request, because a response with two readings
//! splits the stream towards the client.
//!
//! Interim responses are told, a bounded number of them; 101 is taken only where it was asked for.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use http::response::Parts;
use http::{HeaderMap, Response, StatusCode, Version};

use super::fields::Fields;
use super::grammar::{LineScanner, lines};
use super::{BodyFraming, HEAD_BYTES_MAX, INTERIM_MAX, Refusal};

/// Statuses of HTTP (RFC 9110 section 15).
pub const STATUSES: Range<u16> = 100..600;

/// The final response up to its body.
#[derive(Debug)]
pub struct ResponseHead {
    /// Status (101 or 200 to 599), version and fields.
    pub parts: Parts,
    /// How the body is delimited.
    pub framing: BodyFraming,
    /// Whether the connection may carry another exchange (RFC 9112 section 9.3).
    pub keep_alive: bool,
}

/// What an upstream said next.
#[derive(Debug)]
pub enum ResponseStep {
    /// An answer before the answer (RFC 9110 section 15.2).
    Interim(StatusCode, HeaderMap),
    /// The answer.
    Final(ResponseHead),
}

/// What the request was, as far as it decides how its response is framed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asked {
    /// The method is HEAD.
    pub head: bool,
    /// It asked to leave HTTP.
    pub upgrade: bool,
}

/// Reads the heads of the response to one request.
#[derive(Debug, Clone)]
pub struct ResponseDecoder {
    asked: Asked,
    scanner: LineScanner,
    interim: usize,
    failed: Option<Refusal>,
}

impl ResponseDecoder {
    /// The response to this request is expected.
    pub fn new(asked: Asked) -> Self {
        Self { asked, scanner: LineScanner::default(), interim: 0, failed: None }
    }

    /// Takes the next head from the front of `input`; none: it has not all arrived. After a refusal it refuses for ever.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<ResponseStep>, Refusal> {
        if let Some(refusal) = self.failed {
            return Err(refusal);
        }
        let step = self.advance(input);
        self.failed = step.as_ref().err().copied();
        step
    }

    fn advance(&mut self, input: &mut BytesMut) -> Result<Option<ResponseStep>, Refusal> {
        let Some(end) = self.scanner.block(input, HEAD_BYTES_MAX)? else { return Ok(None) };
        let (block, scanner) = (input.split_to(end).freeze(), std::mem::take(&mut self.scanner));
        let head = read_head(&block, scanner.lines(), self.asked)?;
        if !head.parts.status.is_informational() || head.parts.status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Some(ResponseStep::Final(head)));
        }
        self.interim += 1;
        if self.interim > INTERIM_MAX {
            return Err(Refusal::Interim);
        }
        Ok(Some(ResponseStep::Interim(head.parts.status, head.parts.headers)))
    }
}

fn read_head(block: &Bytes, count: usize, asked: Asked) -> Result<ResponseHead, Refusal> {
    let mut lines = lines(block);
    let (status, version_1_0) = status_line(lines.next().unwrap_or_default())?;
    let fields = Fields::read(block, lines, count)?;
    let declared = fields.framing();
    let chunked = declared == Some(BodyFraming::Chunked);
    if status == 101 && !asked.upgrade {
        return Err(Refusal::Interim);
    }
    // RFC 9112 section 6.1.
    if chunked && (version_1_0 || status < 200 || status == 204) {
        return Err(Refusal::FramingNotAllowed);
    }
    // RFC 9112 section 6.3, first and second rule.
    let bodiless = asked.head || status < 200 || status == 204 || status == 304;
    if !asked.head && status == 204 && matches!(declared, Some(BodyFraming::Length(_))) {
        return Err(Refusal::FramingNotAllowed);
    }
    let framing = if bodiless { BodyFraming::None } else { declared.unwrap_or(BodyFraming::UntilClose) };
    let keep_alive = fields.keeps_alive(version_1_0) && framing != BodyFraming::UntilClose && status != 101;
    let mut parts = Response::new(()).into_parts().0;
    parts.status = StatusCode::from_u16(status).map_err(|_| Refusal::StatusLine)?;
    parts.version = if version_1_0 { Version::HTTP_10 } else { Version::HTTP_11 };
    parts.headers = fields.headers;
    Ok(ResponseHead { parts, framing, keep_alive })
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
    if STATUSES.contains(&status) { Ok((status, version_1_0)) } else { Err(Refusal::Status(status)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str, head: bool, upgrade: bool) -> Result<(u16, BodyFraming), Refusal> {
        let mut decoder = ResponseDecoder::new(Asked { head, upgrade });
        let mut input = BytesMut::from(text);
        loop {
            match decoder.decode(&mut input)? {
                Some(ResponseStep::Interim(..)) => {}
                Some(ResponseStep::Final(head)) => return Ok((head.parts.status.as_u16(), head.framing)),
                None => panic!("no final answer in {text:?}"),
            }
        }
    }

    #[test]
    fn interim_answers_are_told_before_the_final_one() {
        let mut decoder = ResponseDecoder::new(Asked::default());
        let mut input = BytesMut::from(
            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nLink: </b>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\n",
        );
        let mut next = || decoder.decode(&mut input).unwrap().unwrap();
        let ResponseStep::Interim(status, headers) = next() else { panic!("no interim") };
        assert_eq!((status.as_u16(), headers.get_all("link").iter().count()), (103, 2));
        assert!(matches!(next(), ResponseStep::Interim(StatusCode::CONTINUE, headers) if headers.is_empty()));
        assert!(matches!(next(), ResponseStep::Final(head) if head.parts.status == 204));
    }

    #[test]
    fn connections_are_kept_as_the_version_and_connection_say() {
        let keeps = |text: &str| {
            let mut input = BytesMut::from(text.replace('|', "\r\n").as_str());
            let step = ResponseDecoder::new(Asked::default()).decode(&mut input).unwrap();
            matches!(step, Some(ResponseStep::Final(head)) if head.keep_alive)
        };
        assert!(keeps("HTTP/1.1 200 OK|Content-Length: 1||"));
        assert!(keeps("HTTP/1.0 200 OK|Content-Length: 1|Connection: keep-alive||"));
        assert!(!keeps("HTTP/1.0 200 OK|Content-Length: 1||"));
        assert!(!keeps("HTTP/1.1 200 OK|Content-Length: 1|Connection: close||"));
        assert!(!keeps("HTTP/1.1 200 OK||"), "until it closes");
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
        check("HTTP/1.1 000 No||", Err(Refusal::Status(0)));
        check("HTTP/1.1 099 No||", Err(Refusal::Status(99)));
        check("HTTP/1.1 600 No||", Err(Refusal::Status(600)));
        check(&"HTTP/1.1 100 Continue||".repeat(INTERIM_MAX + 1), Err(Refusal::Interim));
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
