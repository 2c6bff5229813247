//! The front door: what happens to every request before a handler sees it and to every response before it leaves.
//!
//! Outermost `frame` gives each request its operation id, answers preflights, turns every error into the one error body
//! and survives panics; `guard` inside it authenticates, counts and checks the version. Routes know neither.

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use ebbgate_model::{AccountId, ErrorCode, IpRestrictionKind, OperationId, Token, canonical_ip};
use futures_util::FutureExt;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use tokio::time::timeout;
use tracing::{Instrument, Span};

use super::call::{self, Call};
use super::cors::Cors;
use super::failure::ApiError;
use super::reply::{WARNING, json, warning_value};
use crate::access::{self, Least};
use crate::app::App;
use crate::audit;
use crate::auth::{self, AuthError, Caller};
use crate::listen::Peer;

/// Header that names the operation, as in `details.operation_id`.
const OPERATION: HeaderName = HeaderName::from_static("ngrok-operation-id");
/// Header with the version of the API a client speaks.
const VERSION: HeaderName = HeaderName::from_static("ngrok-version");
/// Seconds for a request to be read and answered; a little less than the listener's own limit, which answers without a body.
const CALL_SECS_MAX: u64 = 25;
/// The one version there is.
const VERSION_SPOKEN: &str = "2";
/// The Node client reads every answer as JSON, also the empty ones of deletions and actions.
const JSON_ONLY_AGENT: &str = "ngrok-api-typescript/";

/// The id of the call that a request is.
#[derive(Clone)]
struct Operation(String);

/// Wraps every request, also those no route takes.
pub(super) async fn frame(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let operation = OperationId::new(app.ksuid()).to_string();
    request.extensions_mut().insert(Operation(operation.clone()));
    let source = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let cors = Cors::of(&request);
    let wants_object = reads_only_json(request.headers());
    let span = tracing::info_span!("api", operation);
    let mut response = if cors.is_preflight() {
        StatusCode::NO_CONTENT.into_response()
    } else {
        let answer = AssertUnwindSafe(next.run(request)).catch_unwind().instrument(span.clone());
        match timeout(Duration::from_secs(CALL_SECS_MAX), answer).await {
            Ok(answer) => span.in_scope(|| {
                answer.unwrap_or_else(|_| ApiError::internal(&"a handler panicked").into_response())
            }),
            Err(_) => too_slow(),
        }
    };
    response = render(response, &operation, &method, &path);
    if wants_object && response.status() == StatusCode::NO_CONTENT && !cors.is_preflight() {
        response = json(StatusCode::OK, &serde_json::Map::new());
    }
    log_call(&span, &method, &path, source, &response);
    cors.apply(response.headers_mut());
    if let Ok(value) = HeaderValue::try_from(operation) {
        response.headers_mut().insert(OPERATION, value);
    }
    response
}

/// The caller, for the call's line in the log. The guard attaches it to the answer, the frame reads it.
#[derive(Debug, Clone)]
struct Actor {
    account: AccountId,
    principal: String,
    key: String,
}

/// One line a call: the operation, the caller, the source address, the outcome. Never what was presented.
fn log_call(span: &Span, method: &Method, path: &str, source: Option<IpAddr>, response: &Response) {
    let actor = response.extensions().get::<Actor>();
    let code = response.extensions().get::<ErrorCode>();
    tracing::info!(
        parent: span,
        account = actor.map(|actor| display(actor.account)),
        actor = actor.map(|actor| actor.principal.as_str()),
        key = actor.map(|actor| actor.key.as_str()),
        source = source.map(|ip| display(canonical_ip(ip))),
        %method,
        path = without_tokens(path),
        status = response.status().as_u16(),
        code = code.map(display),
        "api call"
    );
}

/// A path without the segments that are tokens: callers sometimes paste a key in place of its id.
fn without_tokens(path: &str) -> String {
    let shown = |segment: &str| {
        if segment.parse::<Token>().is_ok() { "(a token)".to_owned() } else { segment.to_owned() }
    };
    path.split('/').map(shown).collect::<Vec<_>>().join("/")
}

fn reads_only_json(headers: &HeaderMap) -> bool {
    let agent = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok());
    agent.is_some_and(|agent| agent.starts_with(JSON_ONLY_AGENT))
}

/// Writes the body of an error. An error status without an [`ApiError`] comes from axum itself.
fn render(mut response: Response, operation: &str, method: &Method, path: &str) -> Response {
    let status = response.status();
    let error = match response.extensions_mut().remove::<ApiError>() {
        Some(error) => error,
        None if status.is_success() || status == StatusCode::NOT_MODIFIED => return response,
        None => by_status(status, method, path),
    };
    let mut rendered = json(error.status(), &error.body(operation));
    if let Some(actor) = response.extensions_mut().remove::<Actor>() {
        rendered.extensions_mut().insert(actor);
    }
    if let Some(code) = error.code() {
        rendered.extensions_mut().insert(code);
    }
    for name in [header::ALLOW, header::CONNECTION, header::RETRY_AFTER, header::WWW_AUTHENTICATE, WARNING] {
        for value in response.headers().get_all(&name) {
            rendered.headers_mut().append(name.clone(), value.clone());
        }
    }
    rendered
}

fn by_status(status: StatusCode, method: &Method, path: &str) -> ApiError {
    match status {
        StatusCode::NOT_FOUND => ApiError::not_found(format_args!("there is no `{path}` in this API")),
        StatusCode::METHOD_NOT_ALLOWED => ApiError::plain(
            status,
            format!("{method} is not a method of `{path}`; the Allow header has those it takes"),
        ),
        _ => ApiError::plain(status, format!("{method} `{path}` cannot be served: {status}")),
    }
}

/// Lets authenticated requests of the right version through, with a [`Call`] for the handler.
pub(super) async fn guard(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let caller = match auth::authenticate(&*app.store, request.headers()).await {
        Ok(caller) => caller,
        Err(error) => return unauthorized(&error),
    };
    let actor = Actor { account: caller.account, principal: caller.principal(), key: caller.means_id() };
    let acting = acting_in(&request, &caller);
    let mut response = match admit(&app, caller, &mut request).await {
        Ok(warning) => {
            let mut response = audit::acting(acting, next.run(request)).await;
            if let Some(warning) = warning {
                response.headers_mut().append(WARNING, warning_value(warning));
            }
            response
        }
        Err(refusal) => refusal,
    };
    response.extensions_mut().insert(actor);
    response
}

/// On whose behalf the call changes what it changes.
fn acting_in(request: &Request, caller: &Caller) -> audit::Actor {
    let operation = request.extensions().get::<Operation>().map(|operation| operation.0.clone());
    let source = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
    audit::Actor::caller(&caller.principal(), caller.key_id()).at(source).operation(operation)
}

async fn admit(app: &App, caller: Caller, request: &mut Request) -> Result<Option<&'static str>, Response> {
    let source = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
    check_source(app, caller.account, source).await?;
    let allowed = app.limiter.requests_max().unwrap_or_default();
    app.limiter
        .admit(caller.account, Instant::now())
        .map_err(|wait| too_many("an account", allowed, wait))?;
    let warning =
        check_version(request.headers(), app.settings.strict).map_err(IntoResponse::into_response)?;
    let principal = caller.principal();
    let (mut parts, body) = std::mem::take(request).into_parts();
    let base = call::base(&parts, &app.settings.api_base, app.settings.api_base_given);
    parts.extensions.insert(Call {
        app: app.clone(),
        account: caller.account,
        account_modified: caller.account_modified,
        limits: caller.limits.clone(),
        caller,
        principal,
        source,
        base,
    });
    *request = Request::from_parts(parts, body);
    Ok(warning)
}

/// Whether the caller's role is enough for the route. Inside the guard, around every route there is.
pub(super) async fn authorize(route: MatchedPath, call: Call, request: Request, next: Next) -> Response {
    let (method, path) = (request.method(), route.as_str());
    let Least::Role(least) = access::least(method, path) else { return next.run(request).await };
    if call.role() >= least {
        return next.run(request).await;
    }
    let message = format!(
        "{method} {path} takes the role `{least}`, and {} is `{}` in this account: have an owner of the account do it or change the role",
        call.principal,
        call.role()
    );
    // The published code of the one case that has one.
    let service_users = path.starts_with("/service_users") || path.starts_with("/bot_users");
    let refused = if service_users {
        ApiError::new(StatusCode::FORBIDDEN, 4111, message)
    } else {
        ApiError::plain(StatusCode::FORBIDDEN, message)
    };
    refused.detail("role", least.name()).into_response()
}

/// The account's IP restriction of type `api`. Before calls are counted: a stolen key must not use up the account's calls.
///
/// Those it refuses are counted by where they come from.
async fn check_source(app: &App, account: AccountId, source: Option<IpAddr>) -> Result<(), Response> {
    let admitted = app.restrictions.admits(&*app.store, account, IpRestrictionKind::Api, source).await;
    if admitted.map_err(|error| ApiError::from(error).into_response())? {
        return Ok(());
    }
    let counted = app.restrictions.refused(source, Instant::now());
    counted.map_err(|wait| too_many("an address that is refused", auth::REQUESTS_MAX, wait))?;
    let source = source.map_or_else(|| "an unknown address".to_owned(), |ip| canonical_ip(ip).to_string());
    let message = format!(
        "the account admits no API call from {source}: call from an address that its IP restriction of type `api` allows, or have the operator run `ebbgate-control account open-api {account}`"
    );
    Err(ApiError::new(StatusCode::FORBIDDEN, ErrorCode::API_RESTRICTED.number(), message).into_response())
}

/// The connection ends with it: where the next request begins is unknown.
fn too_slow() -> Response {
    let message =
        format!("the request was not read and answered within {CALL_SECS_MAX} seconds; send it again");
    let mut response = ApiError::plain(StatusCode::REQUEST_TIMEOUT, message).into_response();
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

fn unauthorized(error: &AuthError) -> Response {
    let Some(code) = error.code() else { return ApiError::internal(error).into_response() };
    if matches!(error, AuthError::Suspended(_)) {
        return ApiError::new(StatusCode::FORBIDDEN, code.number(), error.to_string()).into_response();
    }
    let mut response =
        ApiError::new(StatusCode::UNAUTHORIZED, code.number(), error.to_string()).into_response();
    // Not `Basic`: a browser would ask for a password and then send it along with every page's requests.
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

fn too_many(who: &str, allowed: u32, wait: Duration) -> Response {
    let wait_secs = wait.as_secs() + 1;
    let message =
        format!("{who} may make {allowed} requests in {} seconds; wait {wait_secs} s", auth::WINDOW_SECS);
    let mut response = ApiError::new(StatusCode::TOO_MANY_REQUESTS, 226, message).into_response();
    response.headers_mut().insert(header::RETRY_AFTER, wait_secs.into());
    response
}

/// Absent means 2, with a warning, because the guides' own snippets forget it; strict installations refuse (218).
fn check_version(headers: &HeaderMap, strict: bool) -> Result<Option<&'static str>, ApiError> {
    let mut values = headers.get_all(VERSION).iter();
    match (values.next(), values.next()) {
        (None, _) if strict => {
            Err(ApiError::bad(218, "the request names no API version; add the header `Ngrok-Version: 2`"))
        }
        (None, _) => Ok(Some("the request has no Ngrok-Version header; version 2 is assumed")),
        (Some(value), None) if value.as_bytes().trim_ascii() == VERSION_SPOKEN.as_bytes() => Ok(None),
        (Some(value), None) => {
            let given = String::from_utf8_lossy(value.as_bytes());
            Err(ApiError::bad(
                217,
                format!("the API version `{given}` is not supported; use `Ngrok-Version: 2`"),
            ))
        }
        (Some(_), Some(_)) => Err(ApiError::bad(217, "the header Ngrok-Version is given more than once")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::router;
    use super::*;
    use crate::app::testing::Lab;
    use ebbgate_telemetry::Logfmt;
    use std::io;
    use std::sync::{Arc, Mutex};
    use tower::ServiceExt;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn every_call_has_a_line_with_actor_account_source_and_operation() {
        let lab = Lab::new().await;
        let lines = Lines::default();
        let writer = lines.clone();
        let log = tracing_subscriber::fmt().event_format(Logfmt).fmt_fields(Logfmt);
        let _guard = tracing::subscriber::set_default(log.with_writer(move || writer.clone()).finish());
        let call = async |path: &str, key: &str| {
            let request = Request::builder().uri(path).header(VERSION, "2");
            let request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
            let mut request = request.body(axum::body::Body::empty()).unwrap();
            request.extensions_mut().insert(Peer("192.0.2.7:1234".parse().unwrap()));
            let response = router(lab.app.clone()).oneshot(request).await.unwrap();
            let line = String::from_utf8(std::mem::take(&mut *lines.0.lock().unwrap())).unwrap();
            (response.headers()[&OPERATION].to_str().unwrap().to_owned(), line)
        };
        let (operation, line) = call("/endpoints", &lab.api_key).await;
        let key = format!("ak_{}", lab.api_key.split_once('_').unwrap().0);
        for expect in [
            format!(" operation={operation}"),
            format!(" account={} ", lab.account),
            format!(" actor={key} key={key} "),
            " source=192.0.2.7 method=GET path=/endpoints status=200".to_owned(),
        ] {
            assert!(line.contains(&expect), "{expect} in {line}");
        }
        let (operation, line) = call(&format!("/api_keys/{}", lab.api_key), "nonsense").await;
        assert!(line.contains(&format!(" operation={operation}")), "{line}");
        assert!(line.contains("status=401 code=ERR_NGROK_202") && !line.contains(" account="), "{line}");
        assert!(!line.contains(&lab.api_key) && line.contains("source=192.0.2.7"), "{line}");
        let (_, line) = call("/endpoints/ep_x", &lab.api_key).await;
        assert!(line.contains("status=400 code=ERR_NGROK_227") && line.contains(" account="), "{line}");
    }

    #[test]
    fn versions() {
        let check = |values: &[&'static str], strict: bool, expect: Result<bool, u32>| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(VERSION, HeaderValue::from_static(value));
            }
            let found = check_version(&headers, strict);
            let found = found.map(|w| w.is_some()).map_err(|e| e.code().map_or(0, ErrorCode::number));
            assert_eq!(found, expect, "{values:?} {strict}");
        };
        check(&["2"], false, Ok(false));
        check(&[" 2 "], true, Ok(false));
        check(&[], false, Ok(true));
        check(&[], true, Err(218));
        check(&["1"], false, Err(217));
        check(&["2.0"], false, Err(217));
        check(&["2", "2"], false, Err(217));
        check(&[""], false, Err(217));
    }
}
