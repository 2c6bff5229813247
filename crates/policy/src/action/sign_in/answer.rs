//! Answers of a sign-in that hold nothing of it, and what is asked of a request alone.

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_REQUEST_METHOD, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, ORIGIN,
    REFERRER_POLICY, RETRY_AFTER, SET_COOKIE,
};
use http::request::Parts;
use http::{Method, StatusCode};

use crate::action::Flow;
use crate::verdict::{Reply, Verdict};

/// Seconds after which a visitor whose tokens cannot be refreshed may try again.
const RETRY_SECS: &str = "15";

pub(super) fn respond(reply: Reply) -> Flow {
    Flow::End(Verdict::Respond(reply))
}

/// A short answer with `no-store` and `no-referrer`.
pub(super) fn told(status: StatusCode, text: &str) -> Reply {
    let mut reply = Reply::empty(status, None);
    reply.headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply.headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    if !text.is_empty() {
        reply.headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        reply.body = Bytes::from(format!("{text}\n"));
    }
    reply
}

pub(super) fn later() -> Reply {
    let mut reply =
        told(StatusCode::SERVICE_UNAVAILABLE, "Your identity provider does not answer. Try again soon.");
    reply.headers.insert(RETRY_AFTER, HeaderValue::from_static(RETRY_SECS));
    reply
}

pub(super) fn add_cookie(reply: &mut Reply, cookie: HeaderValue) {
    reply.headers.append(SET_COOKIE, cookie);
}

/// The question that a browser asks before a request to another origin (Fetch standard, CORS-preflight fetch).
pub(super) fn is_preflight(request: &Parts) -> bool {
    let has = |name: &HeaderName| request.headers.contains_key(name);
    request.method == Method::OPTIONS && has(&ORIGIN) && has(&ACCESS_CONTROL_REQUEST_METHOD)
}

/// Whether a host is a domain, or below it.
pub(super) fn is_below(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

pub(super) fn same(one: &str, other: &str) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(one.as_bytes(), other.as_bytes()).is_ok()
}
