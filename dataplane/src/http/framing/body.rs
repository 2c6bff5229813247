//! Bodies: counts bytes of a declared length, takes chunked coding apart and writes its framing anew (RFC 9112
//! sections 6 and 7). Data itself is never copied: the caller passes it and reports how much.

use bytes::{Bytes, BytesMut};

use super::grammar::{LineScanner, field, is_token, is_token_byte, lines};
use super::{
    BodyFraming, CHUNK_EXTENSION_BYTES_MAX, CHUNK_LINE_BYTES_MAX, Refusal, TRAILER_BYTES_MAX, TRAILERS_MAX,
};

/// Digits of a chunk size: 60 bits, so that no sum of sizes in memory can overflow.
const CHUNK_SIZE_DIGITS_MAX: usize = 15;

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
pub(super) enum BodyStep {
    More,
    Text(Bytes),
    Data(u64),
    UntilClose,
    End,
}

#[derive(Debug, Clone)]
enum State {
    Done,
    Length(u64),
    UntilClose,
    ChunkLine(LineScanner),
    ChunkData(u64),
    ChunkEnd,
    Trailers(LineScanner),
}

/// Follows one body.
#[derive(Debug, Clone)]
pub(super) struct BodyFramer {
    state: State,
    extension_bytes: usize,
}

impl BodyFramer {
    pub(super) fn new(framing: BodyFraming) -> Self {
        let state = match framing {
            BodyFraming::None => State::Done,
            BodyFraming::Length(left) => State::Length(left),
            BodyFraming::Chunked => State::ChunkLine(LineScanner::default()),
            BodyFraming::UntilClose => State::UntilClose,
        };
        Self { state, extension_bytes: 0 }
    }

    /// Takes framing text from the front of `input`, never data.
    pub(super) fn step(&mut self, input: &mut BytesMut) -> Result<BodyStep, Refusal> {
        match &mut self.state {
            State::Done | State::Length(0) => Ok(BodyStep::End),
            State::Length(left) | State::ChunkData(left) if *left > 0 => Ok(BodyStep::Data(*left)),
            State::UntilClose => Ok(BodyStep::UntilClose),
            State::ChunkLine(scanner) => {
                let end = scanner.line(input, CHUNK_LINE_BYTES_MAX).map_err(in_chunk_line)?;
                end.map_or(Ok(BodyStep::More), |end| self.chunk_line(&input.split_to(end)))
            }
            State::Length(_) | State::ChunkData(_) | State::ChunkEnd => self.chunk_end(input),
            State::Trailers(scanner) => match scanner.block(input, TRAILER_BYTES_MAX)? {
                None => Ok(BodyStep::More),
                Some(end) => {
                    let block = input.split_to(end).freeze();
                    check_trailers(&block)?;
                    self.state = State::Done;
                    Ok(BodyStep::Text(block))
                }
            },
        }
    }

    /// Notes that `n` bytes of data went by.
    pub(super) fn passed(&mut self, n: u64) {
        match &mut self.state {
            State::Length(left) => *left = left.saturating_sub(n),
            State::ChunkData(left) => {
                *left = left.saturating_sub(n);
                if *left == 0 {
                    self.state = State::ChunkEnd;
                }
            }
            _ => {}
        }
    }

    fn chunk_line(&mut self, line: &[u8]) -> Result<BodyStep, Refusal> {
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
        Ok(BodyStep::Text(format!("{size:x}\r\n").into()))
    }

    fn chunk_end(&mut self, input: &mut BytesMut) -> Result<BodyStep, Refusal> {
        match (input.first(), input.get(1)) {
            (None, _) | (Some(b'\r'), None) => Ok(BodyStep::More),
            (Some(b'\r'), Some(b'\n')) => {
                self.state = State::ChunkLine(LineScanner::default());
                Ok(BodyStep::Text(input.split_to(2).freeze()))
            }
            _ => Err(Refusal::ChunkEnd),
        }
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

fn check_trailers(block: &[u8]) -> Result<(), Refusal> {
    if block == b"\r\n" {
        return Ok(());
    }
    for (n, line) in lines(block).enumerate() {
        let (name, _) = field(line)?;
        if n >= TRAILERS_MAX {
            return Err(Refusal::HeadTooLarge);
        }
        if TRAILERS_FORBIDDEN.iter().any(|f| name.eq_ignore_ascii_case(f.as_bytes()))
            || starts_with_forwarded(name)
        {
            return Err(Refusal::Trailer);
        }
    }
    Ok(())
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

    /// Runs a chunked body through and returns the framing it was given and what was left over.
    fn run(text: &str) -> Result<(String, String), Refusal> {
        let mut framer = BodyFramer::new(BodyFraming::Chunked);
        let mut input = BytesMut::from(text);
        let mut output = Vec::new();
        loop {
            match framer.step(&mut input)? {
                BodyStep::Text(text) => output.extend_from_slice(&text),
                BodyStep::Data(n) => {
                    let n = usize::try_from(n).unwrap().min(input.len());
                    if n == 0 {
                        return Err(Refusal::Truncated);
                    }
                    output.extend_from_slice(&input.split_to(n));
                    framer.passed(n as u64);
                }
                BodyStep::More | BodyStep::UntilClose => return Err(Refusal::Truncated),
                BodyStep::End => break,
            }
        }
        Ok((String::from_utf8(output).unwrap(), String::from_utf8(input.to_vec()).unwrap()))
    }

    #[test]
    fn chunked_bodies_are_framed_anew() {
        let check =
            |text: &str, expect: &str| assert_eq!(run(text), Ok((expect.into(), "GET".into())), "{text:?}");
        check("3\r\nabc\r\n0\r\n\r\nGET", "3\r\nabc\r\n0\r\n\r\n");
        check("003\r\nabc\r\n000\r\n\r\nGET", "3\r\nabc\r\n0\r\n\r\n");
        check("A\r\n0123456789\r\n0;last\r\n\r\nGET", "a\r\n0123456789\r\n0\r\n\r\n");
        check("1;a=b;c=\"d;\\\"\"\r\nx\r\n0\r\n\r\nGET", "1\r\nx\r\n0\r\n\r\n");
        check("0\r\nX-Sum: 1\r\n\r\nGET", "0\r\nX-Sum: 1\r\n\r\n");
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
