//! Around every request of the dashboard: whose host is named, whether a change comes from a page of ours, and the headers that
//! keep a browser from running, framing, keeping or passing on what it gets.

use std::panic::AssertUnwindSafe;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use futures_util::FutureExt;
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, StatusCode};

use super::layout;
use super::visit::{Dashboard, PROGRAMS_PATH, Visit};
use crate::listen::Peer;
use crate::people::origin::Site;

/// No script, no plug-in, no frame; styles and forms of this site only.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
);
/// `same-origin`, not `no-referrer`: with that, browsers send `Origin: null` along with our own forms.
const REFERRER: HeaderValue = HeaderValue::from_static("same-origin");
/// Longest `User-Agent` looked at, in bytes.
const USER_AGENT_BYTES_MAX: usize = 1_024;

/// Lets requests in that name our host and, where they change something, come from our pages.
pub(super) async fn frame(State(dashboard): State<Dashboard>, mut request: Request, next: Next) -> Response {
    let source = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
    let method = request.method().clone();
    // The route, not the path: a path may hold a token.
    let settings = &dashboard.app.settings;
    let site = Site::of(request.headers(), &settings.api_base, settings.api_base_given);
    let response = match site {
        None => layout::refusal(
            StatusCode::MISDIRECTED_REQUEST,
            "This is not the address of the dashboard. Use the address of the listener, or have the operator start control with --api-url.",
        ),
        Some(site)
            if is_change(&method)
                && !site.is_same_origin(request.headers())
                && !is_called_by_programs(&request) =>
        {
            layout::refusal(StatusCode::FORBIDDEN, "This was not sent by a page of the dashboard.")
        }
        Some(site) => {
            let agent = request.headers().get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
            let user_agent = agent.filter(|agent| agent.len() <= USER_AGENT_BYTES_MAX);
            let user_agent = user_agent.unwrap_or_default().to_owned();
            request.extensions_mut().insert(Visit { site, source, user_agent });
            next.run(request).await
        }
    };
    guarded(response)
}

/// What `ebbgate login` sends has no cookie and is no browser's.
fn is_called_by_programs(request: &Request) -> bool {
    request.uri().path() == PROGRAMS_PATH
}

fn is_change(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD)
}

fn guarded(mut response: Response) -> Response {
    let headers = response.headers_mut();
    let mut set = |name: HeaderName, value: HeaderValue| {
        if !headers.contains_key(&name) {
            headers.insert(name, value);
        }
    };
    set(header::CONTENT_SECURITY_POLICY, POLICY);
    set(header::REFERRER_POLICY, REFERRER);
    set(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    set(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    set(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    set(HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin"));
    response
}

/// A panic is a bug; the next request is served all the same.
pub(super) async fn survive(request: Request, next: Next) -> Response {
    AssertUnwindSafe(next.run(request)).catch_unwind().await.unwrap_or_else(|_| {
        tracing::error!("a handler of the dashboard panicked");
        let message = "The server could not complete this. Its log says why.";
        guarded(layout::refusal(StatusCode::INTERNAL_SERVER_ERROR, message))
    })
}
