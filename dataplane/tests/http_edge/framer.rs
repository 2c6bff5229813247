//! Laws of the framers: how bytes are cut changes nothing, what passes can be read again with the same result, and no
//! input makes them panic.

use bytes::BytesMut;
use ebbgate_edge::http::framing::{Refusal, RequestFramer, ResponseFramer, Step};
use proptest::collection::vec;
use proptest::prelude::*;

/// What came out: the bytes passed on, messages begun and ended, and the refusal.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    passed: Vec<u8>,
    heads: usize,
    ends: usize,
    refusal: Option<Refusal>,
}

/// The two framers under one name.
enum Framer {
    Request(RequestFramer),
    Response(ResponseFramer),
}

impl Framer {
    fn response() -> Self {
        let mut framer = ResponseFramer::default();
        framer.expect(false, false);
        Self::Response(framer)
    }

    /// One step: text passed on, data let by, or why it stops here.
    fn step(&mut self, input: &mut BytesMut, out: &mut Outcome) -> Result<bool, Refusal> {
        let (text, data) = match self {
            Self::Request(framer) => match framer.step(input)? {
                Step::Head(_, text) => {
                    out.heads += 1;
                    (text, 0)
                }
                Step::Text(text) => (text, 0),
                Step::Data(n) => (bytes::Bytes::new(), n),
                Step::More => return Ok(false),
                Step::Interim(..) => unreachable!("a request has no interim answer"),
                Step::UntilClose => (bytes::Bytes::new(), u64::MAX),
                Step::End => {
                    out.ends += 1;
                    return Ok(true);
                }
            },
            Self::Response(framer) => match framer.step(input)? {
                Step::Head(_, text) => {
                    out.heads += 1;
                    (text, 0)
                }
                Step::Text(text) => (text, 0),
                Step::Data(n) => (bytes::Bytes::new(), n),
                Step::More => return Ok(false),
                Step::Interim(..) => return Ok(true),
                Step::UntilClose => (bytes::Bytes::new(), u64::MAX),
                Step::End => {
                    out.ends += usize::from(out.ends == 0);
                    return Ok(false);
                }
            },
        };
        out.passed.extend_from_slice(&text);
        if data == 0 {
            return Ok(true);
        }
        let n = input.len().min(usize::try_from(data).unwrap_or(usize::MAX));
        out.passed.extend_from_slice(&input.split_to(n));
        match self {
            Self::Request(framer) => framer.passed(n as u64),
            Self::Response(framer) => framer.passed(n as u64),
        }
        Ok(n > 0)
    }
}

fn run(mut framer: Framer, pieces: &[&[u8]]) -> Outcome {
    let mut out = Outcome { passed: Vec::new(), heads: 0, ends: 0, refusal: None };
    let mut input = BytesMut::new();
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match framer.step(&mut input, &mut out) {
                Ok(true) => {}
                Ok(false) => break,
                Err(refusal) => {
                    out.refusal = Some(refusal);
                    return out;
                }
            }
        }
    }
    out
}

fn requests(pieces: &[&[u8]]) -> Outcome {
    run(Framer::Request(RequestFramer::default()), pieces)
}

/// Cuts bytes at these places.
fn cut<'a>(bytes: &'a [u8], at: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = at.iter().map(|index| index.index(bytes.len() + 1)).collect();
    at.extend([0, bytes.len()]);
    at.sort_unstable();
    at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

/// Text that is HTTP more often than not, and then spoilt.
fn messages(start_lines: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let field = prop_oneof![
        4 => Just("Host: a.example.com\r\n".to_owned()),
        2 => Just("Content-Length: 5\r\n".to_owned()),
        2 => Just("Transfer-Encoding: chunked\r\n".to_owned()),
        1 => "[A-Za-z-]{1,8}:[ \t]{0,2}[ -~]{0,8}\r\n",
        1 => "[ -~\r\n\t\\x00]{0,6}\r\n",
    ];
    let body = prop_oneof![
        Just("hello".to_owned()),
        Just("5\r\nhello\r\n0\r\n\r\n".to_owned()),
        Just("5;a=b\r\nhello\r\n1\r\nx\r\n0\r\nX-Sum: 1\r\n\r\n".to_owned()),
        "[0-9a-f]{1,2}(;[a-z=]{0,4})?\r\n[a-z\r\n]{0,6}\r\n0\r\n\r\n",
        Just(String::new()),
    ];
    let message = (prop::sample::select(start_lines), vec(field, 0..4), body)
        .prop_map(|(line, fields, body)| format!("{line}\r\n{}\r\n{body}", fields.concat()).into_bytes());
    let spoil = vec((any::<prop::sample::Index>(), any::<u8>()), 0..2);
    (vec(message, 1..4), spoil).prop_map(|(messages, spoil)| {
        let mut bytes = messages.concat();
        for (at, byte) in spoil {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    })
}

const REQUEST_LINES: &[&str] =
    &["GET / HTTP/1.1", "POST /x HTTP/1.1", "GET http://a.example.com/ HTTP/1.1", "GET / HTTP/1.0"];
const STATUS_LINES: &[&str] = &[
    "HTTP/1.1 200 OK",
    "HTTP/1.0 200 OK",
    "HTTP/1.1 204 No",
    "HTTP/1.1 100 Go",
    "HTTP/1.1 304",
    "HTTP/2 200",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn cutting_requests_changes_nothing(bytes in messages(REQUEST_LINES), at in vec(any::<prop::sample::Index>(), 0..8)) {
        let whole = requests(&[&bytes]);
        prop_assert_eq!(&requests(&cut(&bytes, &at)), &whole);
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        prop_assert_eq!(&requests(&single), &whole);
    }

    #[test]
    fn what_passes_reads_the_same_again(bytes in messages(REQUEST_LINES)) {
        let first = requests(&[&bytes]);
        let again = requests(&[&first.passed]);
        prop_assert_eq!(again.refusal, None);
        prop_assert_eq!((again.heads, again.ends), (first.heads, first.ends));
        prop_assert_eq!(again.passed, first.passed);
    }

    #[test]
    fn cutting_responses_changes_nothing(bytes in messages(STATUS_LINES), at in vec(any::<prop::sample::Index>(), 0..8)) {
        let whole = run(Framer::response(), &[&bytes]);
        prop_assert_eq!(&run(Framer::response(), &cut(&bytes, &at)), &whole);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        let _ = requests(&[&bytes]);
        let _ = run(Framer::response(), &[&bytes]);
    }
}
