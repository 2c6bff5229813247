//! Cross-origin rules (surface.md section 1.1): any origin may call, since a call needs a key that only its holder can
//! add; the API sets no cookies and never asks a browser for a password.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request};

/// Seconds a browser may keep a preflight's answer.
const PREFLIGHT_SECS: HeaderValue = HeaderValue::from_static("600");
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, PATCH, DELETE, OPTIONS");
const EXPOSED: HeaderValue = HeaderValue::from_static("ngrok-operation-id, ebbgate-warning, etag");

/// What of a request decides its cross-origin headers.
#[derive(Debug, Clone)]
pub(super) struct Cors {
    origin: Option<HeaderValue>,
    requested_headers: Option<HeaderValue>,
    preflight: bool,
}

impl Cors {
    /// Reads a request.
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        let take = |name: HeaderName| request.headers().get(name).cloned();
        let origin = take(header::ORIGIN);
        let asked = request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        Self {
            preflight: request.method() == Method::OPTIONS && origin.is_some() && asked,
            requested_headers: take(header::ACCESS_CONTROL_REQUEST_HEADERS),
            origin,
        }
    }

    /// Whether the request only asks for permission.
    pub(super) fn is_preflight(&self) -> bool {
        self.preflight
    }

    /// Adds the headers of the answer.
    pub(super) fn apply(self, headers: &mut HeaderMap) {
        let Some(origin) = self.origin else { return };
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        if self.preflight {
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_SECS);
            if let Some(names) = self.requested_headers {
                headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names);
            }
        }
    }
}
