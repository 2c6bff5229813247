//! What must hold of the HTTP/1 codec: the same messages however the bytes are split, and nothing that another parser
//! reads otherwise.

use bytes::BytesMut;
use ebbgate_edge::http::framing::{
    Asked, BodyDecoder, BodyFraming, BodyPart, FIELDS_MAX, Refusal, RequestDecoder, RequestHead,
    ResponseDecoder, ResponseHead, ResponseStep,
};

/// What a decoder made of its input.
#[derive(Debug, Default, PartialEq, Eq)]
struct Messages {
    heads: Vec<String>,
    content: Vec<u8>,
    ends: usize,
    refusal: Option<Refusal>,
}

/// The codec says the same, and passes the same content, however the input is split; httparse agrees with every head.
pub fn framing(data: &[u8]) {
    let whole = requests(data, data.len().max(1));
    assert_eq!(whole, requests(data, 1));
    assert_eq!(responses(data, data.len().max(1)), responses(data, 1));
    request_twice(data);
    response_twice(data);
}

fn requests(data: &[u8], piece: usize) -> Messages {
    let (mut decoder, mut body, mut input) = (RequestDecoder::default(), None, BytesMut::new());
    let mut messages = Messages::default();
    for bytes in data.chunks(piece) {
        input.extend_from_slice(bytes);
        loop {
            let step = match &mut body {
                None => decoder.decode(&mut input).map(|head| {
                    let head = head?;
                    body = Some(BodyDecoder::new(head.framing));
                    messages.heads.push(format!("{head:?}"));
                    Some(())
                }),
                Some(decoder) => content(decoder, &mut input, &mut messages).map(|step| {
                    if step == Some(true) {
                        body = None;
                    }
                    step.map(drop)
                }),
            };
            match step {
                Ok(Some(())) => {}
                Ok(None) => break,
                Err(refusal) => {
                    messages.refusal = Some(refusal);
                    return messages;
                }
            }
        }
    }
    messages
}

fn responses(data: &[u8], piece: usize) -> Messages {
    let (mut decoder, mut body, mut input) = (ResponseDecoder::new(Asked::default()), None, BytesMut::new());
    let mut messages = Messages::default();
    for bytes in data.chunks(piece) {
        input.extend_from_slice(bytes);
        loop {
            let step = match &mut body {
                None => decoder.decode(&mut input).map(|step| {
                    let step = step?;
                    if let ResponseStep::Final(head) = &step {
                        body = Some(BodyDecoder::new(head.framing));
                    }
                    messages.heads.push(format!("{step:?}"));
                    Some(())
                }),
                Some(_) if messages.ends > 0 => Ok(None),
                Some(decoder) => content(decoder, &mut input, &mut messages).map(|step| step.map(drop)),
            };
            match step {
                Ok(Some(())) => {}
                Ok(None) => break,
                Err(refusal) => {
                    messages.refusal = Some(refusal);
                    return messages;
                }
            }
        }
    }
    messages
}

/// One step of a body: none if it needs more, true at its end.
fn content(
    decoder: &mut BodyDecoder,
    input: &mut BytesMut,
    messages: &mut Messages,
) -> Result<Option<bool>, Refusal> {
    match decoder.decode(input)? {
        BodyPart::More => return Ok(None),
        BodyPart::Data(data) => {
            assert!(!data.is_empty(), "content without a byte");
            messages.content.extend_from_slice(&data);
            if !decoder.is_over(input) {
                return Ok(Some(false));
            }
        }
        BodyPart::Trailers(trailers) => messages.heads.push(format!("{trailers:?}")),
        BodyPart::End => {}
    }
    messages.ends += 1;
    Ok(Some(true))
}

/// A request that is taken is one to httparse too, with the same method, version and fields.
fn request_twice(data: &[u8]) {
    let Ok(Some(head)) = RequestDecoder::default().decode(&mut BytesMut::from(data)) else { return };
    let mut fields = vec![httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut other = httparse::Request::new(&mut fields);
    let parsed = other.parse(data);
    assert!(matches!(parsed, Ok(httparse::Status::Complete(_))), "{parsed:?}");
    assert_eq!(other.method, Some(head.parts.method.as_str()));
    assert_eq!(other.version, Some(u8::from(!head.is_version_1_0())));
    assert!(other.path.is_some_and(|path| path.ends_with(written(&head).trim_start_matches('/'))));
    // Expect is told apart and is no field.
    let others = other.headers.iter().filter(|field| !field.name.eq_ignore_ascii_case("expect"));
    same_fields(&head.parts.headers, others.map(|field| (field.name, field.value)));
}

fn written(head: &RequestHead) -> String {
    match &head.spelling {
        Some(spelling) => String::from_utf8_lossy(&spelling.written).into_owned(),
        None => head.parts.uri.to_string(),
    }
}

/// The same for a final response.
fn response_twice(data: &[u8]) {
    let decoded = ResponseDecoder::new(Asked::default()).decode(&mut BytesMut::from(data));
    let Ok(Some(ResponseStep::Final(head))) = decoded else { return };
    let mut fields = vec![httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut other = httparse::Response::new(&mut fields);
    let parsed = other.parse(data);
    let Ok(httparse::Status::Complete(end)) = parsed else { panic!("{parsed:?}") };
    assert_eq!(other.code, Some(head.parts.status.as_u16()));
    same_fields(&head.parts.headers, other.headers.iter().map(|field| (field.name, field.value)));
    chunk_twice(&head, data.get(end..).unwrap_or_default());
}

/// The first chunk has the same size.
fn chunk_twice(head: &ResponseHead, data: &[u8]) {
    if head.framing != BodyFraming::Chunked {
        return;
    }
    let mut input = BytesMut::from(data);
    let Ok(BodyPart::Data(first)) = BodyDecoder::new(head.framing).decode(&mut input) else { return };
    let parsed = httparse::parse_chunk_size(data);
    let Ok(httparse::Status::Complete((_, size))) = parsed else { panic!("{parsed:?}") };
    assert!(u64::try_from(first.len()).is_ok_and(|length| length <= size));
}

fn same_fields<'a>(fields: &http::HeaderMap, others: impl Iterator<Item = (&'a str, &'a [u8])>) {
    let mut ours: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let mut others: Vec<_> =
        others.map(|(name, value)| (name.to_ascii_lowercase(), value.trim_ascii().to_vec())).collect();
    ours.sort_unstable();
    others.sort_unstable();
    let others: Vec<_> = others.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
    assert_eq!(ours, others);
}
