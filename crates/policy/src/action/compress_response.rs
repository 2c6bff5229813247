//! `compress-response`: a content coding that the client takes, put on as the body passes.

use std::sync::Arc;

use ebbgate_body::{Coding, negotiate};
use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, ETAG, HeaderMap, HeaderValue, VARY};
use serde_json::json;

use super::{About, Action, Compiled, Config, Field, Flow, Gathered, body};
use crate::code;
use crate::diagnostic::nearest;
use crate::facts::Context;

/// Most entries of `algorithms`.
const ALGORITHMS_MAX: usize = 10;
/// What is offered when the policy does not say. zstd is ours, and has to be asked for.
const DEFAULT: [Coding; 3] = [Coding::Gzip, Coding::Deflate, Coding::Brotli];
/// Published, and produced by nothing here: clients that take it take gzip too.
const COMPRESS: &str = "compress";

#[derive(Debug)]
struct CompressResponse {
    /// In the order of preference among those that the client likes alike.
    algorithms: Vec<Coding>,
}

pub(super) const ABOUT: About = About {
    file: file!(),
    what: "A content coding that the client takes is put on as the body passes ([bodies.md](bodies.md)).",
    fields: &[Field::list("algorithms", "text", ALGORITHMS_MAX)
        .note("`gzip`, `deflate`, `br`, and ours: `zstd`; absent: gzip, deflate, br")],
    codes: &[3904],
    example: "on_http_response:
  - actions: [{type: compress-response, config: {algorithms: [br, gzip]}}]
",
    given: "{headers: {accept-encoding: gzip}, response: {headers: {content-type: text/html, content-length: '4096'}}}",
    all: "",
};

pub(super) fn compile(config: &mut Config) -> Compiled {
    let before = config.errors();
    let mut algorithms = Vec::new();
    let is_given = config.raw("algorithms").is_some();
    let names = if is_given { config.required_texts("algorithms", ALGORITHMS_MAX) } else { Vec::new() };
    for (path, name) in names {
        let known = Coding::ALL.into_iter().find(|coding| coding.name() == name);
        match known {
            Some(coding) if algorithms.contains(&coding) => {
                config.error(code::ENTRIES_DUPLICATE, path, format!("`{name}` is listed twice"));
            }
            Some(coding) => algorithms.push(coding),
            None if name == COMPRESS => {
                let message = "no edge produces the coding `compress`: no browser takes it";
                config.error(code::VALUE_BAD, path, message).hint =
                    Some("remove it; clients that take it take gzip too".into());
            }
            None => {
                let names = || Coding::ALL.into_iter().map(Coding::name);
                let hint = match nearest(&name, names()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("the algorithms are {}", names().collect::<Vec<_>>().join(", ")),
                };
                config.error(code::VALUE_BAD, path, format!("there is no algorithm `{name}`")).hint =
                    Some(hint);
            }
        }
    }
    if !is_given {
        algorithms = DEFAULT.to_vec();
    }
    config.finish();
    (config.errors() == before).then(|| Arc::new(CompressResponse { algorithms }) as Arc<dyn Action>)
}

impl Action for CompressResponse {
    fn run(&self, cx: &mut Context, _: &mut Gathered) -> Flow {
        let (mut already, mut chosen) = (false, None);
        let accepted: Vec<HeaderValue> = cx
            .request
            .as_ref()
            .map(|request| request.headers.get_all(ACCEPT_ENCODING).iter().cloned().collect())
            .unwrap_or_default();
        let is_whole = cx.response.as_ref().is_some_and(|response| body::is_whole(cx, response));
        if let Some(response) = &mut cx.response {
            already = is_coded(&response.headers);
            if is_whole && !already && !forbids_transforming(&response.headers) {
                vary(&mut response.headers);
                let accepted = accepted.iter().map(HeaderValue::as_bytes);
                chosen = negotiate(accepted, self.algorithms.iter().copied());
                if let Some(coding) = chosen {
                    match body::edits(&response.headers, &mut response.extensions) {
                        Ok(edits) => edits.encode(coding),
                        Err((code, message)) => {
                            return Flow::failed(code, format!("compress-response: {message}"));
                        }
                    }
                    body::forget_bytes(&mut response.headers);
                    weaken(&mut response.headers);
                    response.headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
                }
            }
        }
        let negotiated = chosen.map_or("", Coding::name);
        cx.set_result(
            "compress",
            json!({ "already_compressed": already, "negotiated_algorithm": negotiated }),
        );
        Flow::Next
    }
}

/// Whether any coding but `identity` is on the body, known or not.
fn is_coded(headers: &HeaderMap) -> bool {
    let mut items =
        headers.get_all(CONTENT_ENCODING).iter().flat_map(|value| value.as_bytes().split(|b| *b == b','));
    items.any(|item| !item.trim_ascii().is_empty() && !item.trim_ascii().eq_ignore_ascii_case(b"identity"))
}

/// RFC 9110 section 7.7.
fn forbids_transforming(headers: &HeaderMap) -> bool {
    let mut items =
        headers.get_all(CACHE_CONTROL).iter().flat_map(|value| value.as_bytes().split(|b| *b == b','));
    items.any(|item| item.trim_ascii().eq_ignore_ascii_case(b"no-transform"))
}

/// Says that another client may get other bytes (RFC 9110 section 12.5.5).
fn vary(headers: &mut HeaderMap) {
    let mut items = headers.get_all(VARY).iter().flat_map(|value| value.as_bytes().split(|b| *b == b','));
    let says = |item: &[u8]| item == b"*" || item.eq_ignore_ascii_case(b"accept-encoding");
    if !items.any(|item| says(item.trim_ascii())) {
        headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
}

/// A strong validator is one of the very bytes (RFC 9110 section 8.8.1).
fn weaken(headers: &mut HeaderMap) {
    let Some(tag) = headers.get(ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/")) else { return };
    match HeaderValue::from_bytes(&[b"W/".as_slice(), tag.as_bytes()].concat()) {
        Ok(weak) => drop(headers.insert(ETAG, weak)),
        Err(_) => drop(headers.remove(ETAG)),
    }
}
