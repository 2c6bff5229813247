//! `/.well-known/acme-challenge/TOKEN` in clear (RFC 8555 section 8.3): answered before any policy, restriction or redirect,
//! for names that are being proved and for their tokens alone. Everything else goes to the endpoint.

use ebbgate_model::Scheme;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{Method, Response};

use super::body::Body;
use super::framing::Authority;
use crate::dispatch::gateway::Gateway;

const PATH: &str = "/.well-known/acme-challenge/";

/// The answer, if it is a certificate authority's question and the name is being proved.
pub(super) fn answer<G: Gateway>(
    gateway: &G,
    scheme: Scheme,
    authority: &Authority,
    head: &Parts,
) -> Option<Response<Body>> {
    let asks = scheme == Scheme::Http && matches!(head.method, Method::GET | Method::HEAD);
    let token = head.uri.path().strip_prefix(PATH).filter(|_| asks)?;
    let proof = gateway.http_challenge(&authority.host, token)?;
    let mut response = Response::new(Body::full(proof.into()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Some(response)
}
