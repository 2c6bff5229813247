//! Bodies: content by its declared length, out of its chunks or until the connection closes (RFC 9112 sections 6 and 7).
//! Content is not copied: it shares the bytes that were read.

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::grammar::{LineScanner, field, is_token, is_token_byte, lines};
use super::{CHUNK_EXTENSION_BYTES_MAX, CHUNK_LINE_BYTES_MAX, Refusal, TRAILER_BYTES_MAX, TRAILERS_MAX};

/// How a body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFraming {
    /// There is none.
    None,
    /// This many bytes, at least one.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// Until the connection closes (responses only).
    UntilClose,
}

/// Digits of a chunk size: 60 bits, so that no sum of sizes in memory can overflow.
const CHUNK_SIZE_DIGITS_MAX: usize = 15;

/// What follows the content of the last chunk when there are no trailers.
const END_OF_CHUNKS: &[u8] = b"\r\n0\r\n\r\n";

/// Trailer fields that would change framing, routing or trust if a recipient merged them into the head
/// (RFC 9110 section 6.5.1).
const TRAILERS_FORBIDDEN: [&str; 14] = [
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "expect",
    "host",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What comes next in a body.
#[derive(Debug, PartialEq, Eq)]
pub enum BodyPart {
    /// Nothing can be said without more bytes.
    More,
    /// Content, at least one byte of it.
    Data(Bytes),
    /// The trailer section of a chunked body, which is over with it.
    Trailers(HeaderMap),
    /// The body is over.
    End,
}

#[derive(Debug, Clone)]
enum State {
    Done,
    Length(u64),
    UntilClose,
    ChunkLine(LineScanner),
    ChunkData(u64),
    Trailers(LineScanner),
    Failed(Refusal),
}

/// Takes one body apart.
#[derive(Debug, Clone)]
pub struct BodyDecoder {
    state: State,
    extension_bytes: usize,
}

impl BodyDecoder {
    /// A body that is delimited so.
    pub fn new(framing: BodyFraming) -> Self {
        let state = match framing {
            BodyFraming::None => State::Done,
            BodyFraming::Length(left) => State::Length(left),
            BodyFraming::Chunked => State::ChunkLine(LineScanner::default()),
            BodyFraming::UntilClose => State::UntilClose,
        };
        Self { state, extension_bytes: 0 }
    }

    /// Takes the next part from the front of `input`. After a refusal it refuses for ever.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<BodyPart, Refusal> {
        let part = self.advance(input);
        if let Err(refusal) = part {
            self.state = State::Failed(refusal);
        }
        part
    }

    /// Whether nothing is missing. Takes the end of a chunked body from `input` if it stands at the front, so that the
    /// last bytes of content are known to be the last.
    pub fn is_over(&mut self, input: &mut BytesMut) -> bool {
        if matches!(self.state, State::ChunkData(0)) && input.starts_with(END_OF_CHUNKS) {
            input.advance(END_OF_CHUNKS.len());
            self.state = State::Done;
        }
        matches!(self.state, State::Done | State::Length(0))
    }

    /// The connection ended: an error if the body was not whole (RFC 9112 section 8).
    pub fn close(&self) -> Result<(), Refusal> {
        match self.state {
            State::Done | State::Length(0) | State::UntilClose => Ok(()),
            State::Failed(refusal) => Err(refusal),
            _ => Err(Refusal::Truncated),
        }
    }

    fn advance(&mut self, input: &mut BytesMut) -> Result<BodyPart, Refusal> {
        loop {
            match &mut self.state {
                State::Failed(refusal) => return Err(*refusal),
                State::Done | State::Length(0) => return Ok(BodyPart::End),
                State::ChunkData(0) => match (input.first(), input.get(1)) {
                    (None, _) | (Some(b'\r'), None) => return Ok(BodyPart::More),
                    (Some(b'\r'), Some(b'\n')) => {
                        input.advance(2);
                        self.state = State::ChunkLine(LineScanner::default());
                    }
                    _ => return Err(Refusal::ChunkEnd),
                },
                _ if input.is_empty() => return Ok(BodyPart::More),
                State::Length(left) | State::ChunkData(left) => {
                    let n = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                    *left = left.saturating_sub(u64::try_from(n).unwrap_or(u64::MAX));
                    return Ok(BodyPart::Data(input.split_to(n).freeze()));
                }
                State::UntilClose => return Ok(BodyPart::Data(input.split().freeze())),
                State::ChunkLine(scanner) => {
                    let end = scanner.line(input, CHUNK_LINE_BYTES_MAX).map_err(in_chunk_line)?;
                    let Some(end) = end else { return Ok(BodyPart::More) };
                    let line = input.split_to(end);
                    self.chunk_line(&line)?;
                }
                State::Trailers(scanner) => {
                    let Some(end) = scanner.block(input, TRAILER_BYTES_MAX)? else {
                        return Ok(BodyPart::More);
                    };
                    let block = input.split_to(end).freeze();
                    self.state = State::Done;
                    return trailers(&block);
                }
            }
        }
    }

    fn chunk_line(&mut self, line: &[u8]) -> Result<(), Refusal> {
        let line = line.strip_suffix(b"\r\n").unwrap_or(line);
        let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        let (size, extensions) = line.split_at_checked(digits).ok_or(Refusal::ChunkSize)?;
        if size.is_empty() || size.len() > CHUNK_SIZE_DIGITS_MAX {
            return Err(Refusal::ChunkSize);
        }
        check_extensions(extensions)?;
        self.extension_bytes += extensions.len();
        if self.extension_bytes > CHUNK_EXTENSION_BYTES_MAX {
            return Err(Refusal::ChunkExtensions);
        }
        let size = std::str::from_utf8(size).map_err(|_| Refusal::ChunkSize)?;
        let size = u64::from_str_radix(size, 16).map_err(|_| Refusal::ChunkSize)?;
        self.state = if size == 0 { State::Trailers(LineScanner::default()) } else { State::ChunkData(size) };
        Ok(())
    }
}

fn in_chunk_line(refusal: Refusal) -> Refusal {
    if refusal == Refusal::HeadTooLarge { Refusal::ChunkSize } else { refusal }
}

/// `*( ";" name [ "=" ( token / quoted-string ) ] )`, without the white space RFC 9112 calls bad.
fn check_extensions(mut rest: &[u8]) -> Result<(), Refusal> {
    while let Some((b';', after)) = rest.split_first() {
        let name = after.iter().take_while(|b| is_token_byte(**b)).count();
        let (name, after) = after.split_at_checked(name).ok_or(Refusal::ChunkSize)?;
        if !is_token(name) {
            return Err(Refusal::ChunkSize);
        }
        rest = match after.split_first() {
            Some((b'=', value)) => after_value(value)?,
            _ => after,
        };
    }
    if rest.is_empty() { Ok(()) } else { Err(Refusal::ChunkSize) }
}

/// What follows a token or quoted string.
fn after_value(value: &[u8]) -> Result<&[u8], Refusal> {
    let Some((b'"', quoted)) = value.split_first() else {
        let token = value.iter().take_while(|b| is_token_byte(**b)).count();
        return value.get(token..).filter(|_| token > 0).ok_or(Refusal::ChunkSize);
    };
    let mut escaped = false;
    for (n, b) in quoted.iter().enumerate() {
        match b {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return quoted.get(n + 1..).ok_or(Refusal::ChunkSize),
            _ => {}
        }
    }
    Err(Refusal::ChunkSize)
}

fn trailers(block: &Bytes) -> Result<BodyPart, Refusal> {
    if block.as_ref() == b"\r\n" {
        return Ok(BodyPart::End);
    }
    let mut trailers = HeaderMap::new();
    for (n, line) in lines(block).enumerate() {
        let (name, value) = field(line)?;
        if n >= TRAILERS_MAX {
            return Err(Refusal::HeadTooLarge);
        }
        if TRAILERS_FORBIDDEN.iter().any(|f| name.eq_ignore_ascii_case(f.as_bytes()))
            || starts_with_forwarded(name)
        {
            return Err(Refusal::Trailer);
        }
        let name = HeaderName::from_bytes(name).map_err(|_| Refusal::FieldName)?;
        let value = HeaderValue::from_maybe_shared(block.slice_ref(value));
        trailers.append(name, value.map_err(|_| Refusal::ControlByte)?);
    }
    Ok(BodyPart::Trailers(trailers))
}

/// `X-Forwarded-*` and its like speak for the edge.
fn starts_with_forwarded(name: &[u8]) -> bool {
    name.get(..12).unwrap_or(name).eq_ignore_ascii_case(b"x-forwarded-")
        || name.eq_ignore_ascii_case(b"forwarded")
        || name.eq_ignore_ascii_case(b"x-real-ip")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes a chunked body: its content, its trailers and what was left over.
    fn run(text: &str) -> Result<(String, HeaderMap, String), Refusal> {
        let mut decoder = BodyDecoder::new(BodyFraming::Chunked);
        let (mut input, mut content, mut trailers) = (BytesMut::from(text), Vec::new(), HeaderMap::new());
        loop {
            match decoder.decode(&mut input)? {
                BodyPart::More => return Err(decoder.close().unwrap_err()),
                BodyPart::Data(data) => content.extend_from_slice(&data),
                BodyPart::Trailers(fields) => trailers = fields,
                BodyPart::End => break,
            }
        }
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Ok((text(&content), trailers, text(&input)))
    }

    #[test]
    fn chunked_bodies_are_taken_apart() {
        let check = |text: &str, content: &str| {
            assert_eq!(run(text), Ok((content.into(), HeaderMap::new(), "GET".into())), "{text:?}");
        };
        check("3\r\nabc\r\n0\r\n\r\nGET", "abc");
        check("003\r\nabc\r\n000\r\n\r\nGET", "abc");
        check("A\r\n0123456789\r\n0;last\r\n\r\nGET", "0123456789");
        check("1;a=b;c=\"d;\\\"\"\r\nx\r\n2\r\nyz\r\n0\r\n\r\nGET", "xyz");
        let (content, trailers, left) = run("0\r\nX-Sum: 1\r\nX-Sum:\r\n\r\nGET").unwrap();
        let sums: Vec<_> = trailers.get_all("x-sum").iter().map(HeaderValue::as_bytes).collect();
        assert_eq!((content.as_str(), sums, left.as_str()), ("", vec![&b"1"[..], b""], "GET"));
    }

    #[test]
    fn the_end_is_seen_behind_the_last_content() {
        for (text, over) in [
            ("3\r\nabc\r\n0\r\n\r\nGET", true),
            ("3\r\nabc\r\n0\r\n\r", false),
            ("3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n", false),
        ] {
            let (mut decoder, mut input) = (BodyDecoder::new(BodyFraming::Chunked), BytesMut::from(text));
            assert!(!decoder.is_over(&mut input));
            assert_eq!(decoder.decode(&mut input), Ok(BodyPart::Data(Bytes::from("abc"))));
            assert_eq!(decoder.is_over(&mut input), over, "{text:?}");
        }
        let (mut decoder, mut input) = (BodyDecoder::new(BodyFraming::Length(3)), BytesMut::from("abcd"));
        assert!(decoder.close().is_err());
        assert_eq!(decoder.decode(&mut input), Ok(BodyPart::Data(Bytes::from("abc"))));
        assert!(decoder.is_over(&mut input) && decoder.close().is_ok());
    }

    #[test]
    fn chunked_bodies_with_two_readings_are_refused() {
        let check = |text: &str, expect: Refusal| assert_eq!(run(text), Err(expect), "{text:?}");
        for line in
            ["", " 3", "3 ", "0x3", "+3", "-3", "3;", "3;a b", "3;=b", "3;a=", "3;a=\"b", "3 ;a", "g", "3,"]
        {
            check(&format!("{line}\r\nabc\r\n0\r\n\r\n"), Refusal::ChunkSize);
        }
        check(&format!("{}\r\n", "0".repeat(16)), Refusal::ChunkSize);
        check("fffffffffffffffff\r\n", Refusal::ChunkSize);
        check(&format!("1;{}\r\n", "a".repeat(CHUNK_LINE_BYTES_MAX)), Refusal::ChunkSize);
        check("3\nabc\r\n0\r\n\r\n", Refusal::BareLineFeed);
        check("3\rabc\r\n0\r\n\r\n", Refusal::BareCarriageReturn);
        check("3\r\nabcd\r\n0\r\n\r\n", Refusal::ChunkEnd);
        check("3\r\nabc\n0\r\n\r\n", Refusal::ChunkEnd);
        check("3\r\nabc0\r\n\r\n", Refusal::ChunkEnd);
        check("3;a=\0\r\n", Refusal::ControlByte);
        check("0\r\nContent-Length: 1\r\n\r\n", Refusal::Trailer);
        check("0\r\nhost: a\r\n\r\n", Refusal::Trailer);
        check("0\r\nX-Forwarded-For: a\r\n\r\n", Refusal::Trailer);
        check("0\r\n folded\r\n\r\n", Refusal::Folded);
        check("0\r\na : b\r\n\r\n", Refusal::FieldName);
        check("0\r\na: b\n\r\n", Refusal::BareLineFeed);
        check("3\r\nab", Refusal::Truncated);
    }

    #[test]
    fn extensions_and_trailers_have_limits() {
        let chunk = format!("1;{}\r\nx\r\n", "a".repeat(200));
        assert_eq!(run(&chunk.repeat(CHUNK_EXTENSION_BYTES_MAX / 200 + 1)), Err(Refusal::ChunkExtensions));
        let trailers = "a: b\r\n".repeat(TRAILERS_MAX + 1);
        assert_eq!(run(&format!("0\r\n{trailers}\r\n")), Err(Refusal::HeadTooLarge));
        let trailer = format!("a: {}\r\n", "b".repeat(TRAILER_BYTES_MAX));
        assert_eq!(run(&format!("0\r\n{trailer}\r\n")), Err(Refusal::HeadTooLarge));
    }
}
