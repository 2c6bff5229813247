//! How an answer becomes one the edge may send: an upstream's, a policy's, or the 101 before a tunnel.
//!
//! Hop-by-hop headers and the edge's reserved header are never an upstream's to set; framing follows status and method.

use ebbgate_policy::Reply;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, LOCATION, UPGRADE};
use http::response::Parts;
use http::uri::PathAndQuery;
use http::{Method, Response, StatusCode, Uri, Version};

use super::answer::{Form, insert_code};
use super::body::Body;
use super::fields;
use super::framing::Authority;

/// Marks a head the edge made: its error code stays.
#[derive(Clone)]
struct Ours;

/// Takes from a head what an upstream may not say, its version included: the edge speaks its own.
pub(super) fn clean(head: &mut Parts) {
    head.version = Version::HTTP_11;
    let code =
        head.headers.get(fields::ERROR_CODE).cloned().filter(|_| head.extensions.get::<Ours>().is_some());
    fields::clean_response(&mut head.headers);
    if let Some(code) = code {
        head.headers.insert(fields::ERROR_CODE, code);
    }
}

/// HTTP/2 is not reached by Upgrade: the edge chose the version of its own connections.
pub(super) fn may_switch_to(protocol: &HeaderValue) -> bool {
    let is_http = |item: &[u8]| {
        let item = item.trim_ascii().to_ascii_lowercase();
        item.is_empty() || item.starts_with(b"h2") || item.starts_with(b"http") || item.starts_with(b"tls")
    };
    !protocol.as_bytes().split(|b| *b == b',').any(is_http)
}

/// A policy's answer. A refusal without a body gets a short one; a custom answer stays as it was written.
pub(super) fn from_reply(mut reply: Reply, form: Form) -> Response<Body> {
    let refuses = reply.status.is_client_error() || reply.status.is_server_error();
    if refuses && reply.body.is_empty() && !reply.response_phase && !reply.headers.contains_key(CONTENT_TYPE)
    {
        let message = sentence(reply.status);
        reply.body = form.text(reply.status, reply.code, message, None).into();
        reply.headers.insert(CONTENT_TYPE, HeaderValue::from_static(form.content_type()));
    }
    let mut response = Response::new(Body::full(reply.body));
    *response.status_mut() = reply.status;
    *response.headers_mut() = reply.headers;
    fields::clean_response(response.headers_mut());
    response.headers_mut().remove(CONTENT_LENGTH);
    if let Some(code) = reply.code {
        insert_code(response.headers_mut(), code);
        response.extensions_mut().insert(Ours);
    }
    response
}

/// What a refusal says in a sentence.
fn sentence(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => {
            "This endpoint asks for credentials, and none that it takes came with the request."
        }
        StatusCode::FORBIDDEN => "This endpoint does not serve this request.",
        StatusCode::TOO_MANY_REQUESTS => "This endpoint has had too many requests; try again later.",
        status if status.is_server_error() => "This endpoint could not serve this request.",
        _ => "This endpoint refused this request.",
    }
}

/// Sends a visitor of `http://` to the same place behind TLS, method and body kept (RFC 9110 section 15.4.9).
pub(super) fn secure(authority: &Authority, uri: &Uri, form: Form) -> Response<Body> {
    let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let path = if path.starts_with('/') { path } else { "/" };
    let location = format!("https://{}{path}", authority.host);
    let status = StatusCode::PERMANENT_REDIRECT;
    let message = format!("This endpoint is served at {location}.");
    let mut response = Response::new(Body::full(form.text(status, None, &message, None).into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(form.content_type()));
    if let Ok(location) = HeaderValue::from_str(&location) {
        headers.insert(LOCATION, location);
    }
    response
}

/// The 101 before a tunnel.
pub(super) fn switched(mut response: Response<Body>, protocol: Option<HeaderValue>) -> Response<Body> {
    let headers = response.headers_mut();
    headers.remove(CONTENT_LENGTH);
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(protocol) = protocol {
        headers.insert(UPGRADE, protocol);
    }
    response
}

/// The response with its one framing, as its status and the method allow it (RFC 9110 sections 8.6 and 15).
pub(super) fn framed(mut response: Response<Body>, method: &Method) -> Response<Body> {
    let own = [fields::ERROR_CODE, fields::OPERATION];
    let own = own.map(|name| response.headers_mut().remove(&name).map(|value| (name, value)));
    fields::clean_response(response.headers_mut());
    response.headers_mut().extend(own.into_iter().flatten());
    let length = response.body().length();
    let bodiless = *method == Method::HEAD || response.status() == StatusCode::NOT_MODIFIED;
    let without_length = matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT);
    let headers = response.headers_mut();
    if bodiless && length == Some(0) {
        // The length of the body a GET would bring, as the upstream said it.
    } else if without_length || length.is_none_or(|length| length == 0) {
        // HTTP/1.1 says `0` by itself where it must; a response that is all header needs no length.
        headers.remove(CONTENT_LENGTH);
    } else if let Some(length) = length {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    if bodiless || without_length {
        *response.body_mut() = Body::Empty;
    }
    response
}
