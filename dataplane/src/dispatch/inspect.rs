//! `Asked`: what the Core Rule Set is asked about a message, made of its head. Pure.

use std::net::SocketAddr;
use std::sync::Arc;

use ebbgate_body::{CODINGS_MAX, Coding, Edits, codings_of};
use ebbgate_model::AccountId;
use ebbgate_policy::{Context, Inspection, Phase, is_event_stream};
use ebbgate_waf::protocol::{self, Question, ResponseHead};
use http::header::{CONTENT_ENCODING, HeaderMap, HeaderName, HeaderValue};
use http::{Extensions, request};

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
        let mut question = question(request, cx.conn.client, cx.conn.server);
        question.exclude = inspection.exclude_rule_ids.to_vec();
        question.response = response.map(|response| ResponseHead {
            status: response.status.as_u16(),
            headers: texts(response.headers.iter()),
        });
        Ok(Self { account, question, codings })
    }
}

/// What a request says of its connection, which nothing but the rules sees: an extension of the request.
#[derive(Debug, Clone)]
pub struct HopByHop(pub Arc<[(HeaderName, HeaderValue)]>);

/// What is asked about the head of a request.
pub fn question(request: &request::Parts, client: SocketAddr, server: SocketAddr) -> Question {
    let mut headers = texts(request.headers.iter());
    if let Some(HopByHop(fields)) = request.extensions.get() {
        headers.extend(texts(fields.iter().map(|(name, value)| (name, value))));
    }
    Question {
        method: request.method.to_string(),
        target: request.uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
        version: format!("{:?}", request.version),
        headers,
        client,
        server,
        exclude: Vec::new(),
        response: None,
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

fn texts<'a>(headers: impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)>) -> Vec<(String, String)> {
    headers.map(|(name, value)| (name.to_string(), protocol::text(value.as_bytes()))).collect()
}
