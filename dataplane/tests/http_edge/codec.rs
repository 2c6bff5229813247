//! Laws of the codec: how bytes are cut changes nothing, what was sent is what is read, and no input makes it panic.

use bytes::{Bytes, BytesMut};
use ebbgate_edge::http::framing::{
    Asked, BodyDecoder, BodyPart, Refusal, RequestDecoder, ResponseDecoder, ResponseStep,
};
use http::HeaderMap;
use proptest::collection::vec;
use proptest::prelude::*;

/// What came out: heads, content and trailers of each message, and the refusal.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    messages: Vec<Message>,
    refusal: Option<Refusal>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Message {
    head: String,
    content: Vec<u8>,
    trailers: HeaderMap,
    whole: bool,
}

enum Heads {
    Requests(RequestDecoder),
    Response(ResponseDecoder),
}

impl Heads {
    fn response() -> Self {
        Self::Response(ResponseDecoder::new(Asked::default()))
    }

    /// The next head as text and the decoder of its body; none: more bytes are needed.
    fn next(&mut self, input: &mut BytesMut) -> Result<Option<(String, Option<BodyDecoder>)>, Refusal> {
        Ok(match self {
            Self::Requests(decoder) => {
                decoder.decode(input)?.map(|head| (format!("{head:?}"), Some(BodyDecoder::new(head.framing))))
            }
            Self::Response(decoder) => decoder.decode(input)?.map(|step| match &step {
                ResponseStep::Interim(..) => (format!("{step:?}"), None),
                ResponseStep::Final(head) => (format!("{step:?}"), Some(BodyDecoder::new(head.framing))),
            }),
        })
    }
}

fn run(mut heads: Heads, pieces: &[&[u8]]) -> Outcome {
    let mut outcome = Outcome::default();
    let (mut input, mut body) = (BytesMut::new(), None);
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match step(&mut heads, &mut body, &mut input, &mut outcome.messages) {
                Ok(true) => {}
                Ok(false) => break,
                Err(refusal) => {
                    outcome.refusal = Some(refusal);
                    return outcome;
                }
            }
        }
    }
    outcome
}

/// One step; false: more bytes are needed.
fn step(
    heads: &mut Heads,
    body: &mut Option<BodyDecoder>,
    input: &mut BytesMut,
    messages: &mut Vec<Message>,
) -> Result<bool, Refusal> {
    let Some(decoder) = body else {
        if matches!(heads, Heads::Response(_)) && messages.last().is_some_and(|message| message.whole) {
            return Ok(false);
        }
        let Some((head, decoder)) = heads.next(input)? else { return Ok(false) };
        *body = decoder;
        messages.push(Message { head, ..Message::default() });
        return Ok(true);
    };
    let message = messages.last_mut().unwrap();
    match decoder.decode(input)? {
        BodyPart::More => return Ok(false),
        BodyPart::Data(data) => {
            message.content.extend_from_slice(&data);
            if !decoder.is_over(input) {
                return Ok(true);
            }
        }
        BodyPart::Trailers(trailers) => message.trailers = trailers,
        BodyPart::End => {}
    }
    message.whole = true;
    *body = None;
    Ok(true)
}

fn requests(pieces: &[&[u8]]) -> Outcome {
    run(Heads::Requests(RequestDecoder::default()), pieces)
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

/// A good request: its bytes, its content and whether it has a trailer.
fn good_request() -> impl Strategy<Value = (Vec<u8>, Vec<u8>, bool)> {
    let chunks = vec(vec(any::<u8>(), 1..40), 0..4);
    (chunks, any::<bool>(), any::<bool>()).prop_map(|(chunks, chunked, trailer)| {
        let content = chunks.concat();
        let mut bytes = b"POST /a HTTP/1.1\r\nHost: a.example.com\r\n".to_vec();
        if !chunked {
            bytes.extend(format!("Content-Length: {}\r\n\r\n", content.len()).bytes());
            bytes.extend(&content);
            return (bytes, content, false);
        }
        bytes.extend(b"Transfer-Encoding: chunked\r\n\r\n");
        for chunk in &chunks {
            bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
            bytes.extend(chunk);
            bytes.extend(b"\r\n");
        }
        bytes.extend(if trailer { &b"0\r\nX-Sum: 1\r\n\r\n"[..] } else { b"0\r\n\r\n" });
        (bytes, content, trailer)
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
    fn cutting_responses_changes_nothing(bytes in messages(STATUS_LINES), at in vec(any::<prop::sample::Index>(), 0..8)) {
        let whole = run(Heads::response(), &[&bytes]);
        prop_assert_eq!(&run(Heads::response(), &cut(&bytes, &at)), &whole);
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        prop_assert_eq!(&run(Heads::response(), &single), &whole);
    }

    #[test]
    fn merged_requests_are_read_one_by_one_wherever_they_are_cut(sent in vec(good_request(), 1..4)) {
        let bytes = sent.iter().map(|(bytes, ..)| bytes.as_slice()).collect::<Vec<_>>().concat();
        for at in 0..=bytes.len() {
            let read = requests(&[&bytes[..at], &bytes[at..]]);
            prop_assert_eq!(read.refusal, None);
            prop_assert_eq!(read.messages.len(), sent.len());
            for (message, (_, content, trailer)) in read.messages.iter().zip(&sent) {
                prop_assert!(message.whole);
                prop_assert_eq!((&message.content, message.trailers.contains_key("x-sum")), (content, *trailer));
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        let _ = requests(&[&bytes]);
        let _ = run(Heads::response(), &[&bytes]);
    }
}

#[test]
fn content_is_not_copied() {
    let mut input =
        BytesMut::from("POST / HTTP/1.1\r\nHost: a\r\nX: value\r\nContent-Length: 5\r\n\r\nhello");
    let read = input.as_ptr_range();
    let head = RequestDecoder::default().decode(&mut input).unwrap().unwrap();
    let Ok(BodyPart::Data(content)) = BodyDecoder::new(head.framing).decode(&mut input) else {
        panic!("no content")
    };
    assert!(read.contains(&content.as_ptr()) && read.contains(&head.parts.headers["x"].as_bytes().as_ptr()));
    assert_eq!(content, Bytes::from("hello"));
}
