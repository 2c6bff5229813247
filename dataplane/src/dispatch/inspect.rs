//! `Asked`: what the Core Rule Set is asked about a message, made of its head. Pure.

use ebbgate_body::{CODINGS_MAX, Coding, Edits, codings_of};
use ebbgate_model::AccountId;
use ebbgate_policy::{Context, Inspection, Phase, is_event_stream};
use ebbgate_waf::protocol::{Question, ResponseHead};
use http::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, TRANSFER_ENCODING,
};
use http::{Extensions, Version, request};

/// A question, and how the start of the body is found.
#[derive(Debug)]
pub struct Asked {
    /// Owner of the endpoint.
    pub account: AccountId,
    /// All but the body.
    pub question: Question,
    /// The codings of the body, in the order they were put on. None: the body is not judged.
    pub codings: Option<Vec<Coding>>,
}

impl Asked {
    /// What is asked about the message of a phase.
    pub(super) fn about(
        cx: &Context,
        account: AccountId,
        phase: Phase,
        inspection: &Inspection,
    ) -> Result<Self, String> {
        let request = cx.request.as_ref().ok_or("there is no request")?;
        let response = cx.response.as_ref().filter(|_| phase == Phase::HttpResponse);
        let (headers, extensions) = response.map_or((&request.headers, &request.extensions), |response| {
            (&response.headers, &response.extensions)
        });
        // Events come when they come: nothing waits for the first of them.
        let judges_body = inspection.process_body && !(response.is_some() && is_event_stream(headers));
        let codings = judges_body.then(|| codings(headers, extensions)).transpose()?;
        let response = response.map(|response| ResponseHead {
            status: response.status.as_u16(),
            headers: texts(&response.headers),
        });
        let question = Question {
            method: request.method.to_string(),
            target: request.uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
            version: format!("{:?}", request.version),
            headers: request_headers(request),
            client: cx.conn.client,
            server: cx.conn.server,
            exclude: inspection.exclude_rule_ids.to_vec(),
            response,
        };
        Ok(Self { account, question, codings })
    }
}

/// The codings of the body as it comes: what the head says, unless an action has changed the head.
fn codings(headers: &HeaderMap, extensions: &Extensions) -> Result<Vec<Coding>, String> {
    if let Some(edits) = extensions.get::<Edits>() {
        return Ok(edits.comes_in().to_vec());
    }
    let values = headers.get_all(CONTENT_ENCODING).iter().map(HeaderValue::as_bytes);
    let codings = codings_of(values).map_err(|unknown| format!("the body cannot be read: {unknown}"))?;
    if codings.len() > CODINGS_MAX {
        return Err(format!("the body cannot be read: it has more than {CODINGS_MAX} content codings"));
    }
    Ok(codings)
}

/// The header as the visitor sent it, as far as it is known: the edge has taken the framing apart.
fn request_headers(request: &request::Parts) -> Vec<(String, String)> {
    let mut headers = texts(&request.headers);
    let has_body =
        request.headers.contains_key(CONTENT_TYPE) && !request.headers.contains_key(CONTENT_LENGTH);
    if has_body && request.version == Version::HTTP_11 {
        headers.push((TRANSFER_ENCODING.to_string(), "chunked".to_owned()));
    }
    headers
}

fn texts(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}
