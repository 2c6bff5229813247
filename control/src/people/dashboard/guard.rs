//! The door of the pages for people who are signed in: the session, the address it comes from, the role, and with a form its
//! token. Each is asked at every request, so that what ends a session or a role holds for the next one.

use std::time::Instant;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use ebbgate_model::{IpRestrictionKind, canonical_ip};
use http::header::{CONTENT_TYPE, SET_COOKIE};
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Limited};

use super::layout;
use super::visit::{Dashboard, Signed, Visit};
use crate::access;
use crate::api::ApiError;
use crate::people::cookie::Cookie;
use crate::people::session;
use crate::secret;

/// Bytes of a form.
const FORM_BYTES_MAX: usize = 32 * 1024;
/// Fields of a form.
const FIELDS_MAX: usize = 32;

/// What a form brought, in order.
#[derive(Debug, Clone, Default)]
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    /// A field's value; "" where it is missing or stands twice.
    pub(super) fn get(&self, name: &str) -> &str {
        let mut values = self.0.iter().filter(|(found, _)| found == name).map(|(_, value)| value.as_str());
        let first = values.next().unwrap_or_default();
        if values.next().is_some() { "" } else { first }
    }

    /// Reads a query or a form's body.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let pairs = form_urlencoded::parse(bytes).take(FIELDS_MAX);
        Self(pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
    }
}

/// What a session's forms must bring along: derived from the cookie, which no page can read, and useless without it.
pub(super) fn csrf_token(cookie: &str) -> String {
    secret::hash_hex(format!("ebbgate csrf {cookie}").as_bytes())
}

/// Reads the body of a form.
pub(super) async fn read_form(request: Request) -> Result<(http::request::Parts, Fields), Response> {
    let (parts, body) = request.into_parts();
    let kind = parts.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let is_form = kind
        .split(';')
        .next()
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded"));
    if !is_form {
        return Err(layout::refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, "A form is expected."));
    }
    match Limited::new(body, FORM_BYTES_MAX).collect().await {
        Ok(body) => Ok((parts, Fields::parse(&body.to_bytes()))),
        Err(_) => Err(layout::refusal(StatusCode::PAYLOAD_TOO_LARGE, "The form could not be read.")),
    }
}

/// Lets people in who are signed in, may come from where they come, and have the role.
pub(super) async fn guard(
    State(dashboard): State<Dashboard>,
    route: MatchedPath,
    request: Request,
    next: Next,
) -> Response {
    match admit(&dashboard, route.as_str(), request).await {
        Ok(request) => next.run(request).await,
        Err(refusal) => refusal,
    }
}

async fn admit(dashboard: &Dashboard, route: &str, request: Request) -> Result<Request, Response> {
    let visit = request.extensions().get::<Visit>().cloned();
    let visit =
        visit.ok_or_else(|| ApiError::internal(&"a route stands outside the frame").into_response())?;
    let cookie = Cookie::Session.read(request.headers(), visit.site.secure);
    let found = match &cookie {
        Some(cookie) => {
            session::find(&dashboard.app, cookie).await.map_err(|error| layout::failed(&error))?
        }
        None => None,
    };
    let (Some(cookie), Some(who)) = (cookie, found) else { return Err(sign_in_first(&request, &visit)) };
    let signed = Signed { who, visit, csrf: csrf_token(&cookie) };
    check_source(dashboard, &signed, route).await?;
    let refused = count(dashboard, &signed).or_else(|| check_role(&signed, request.method(), route));
    if let Some(refusal) = refused {
        return Err(refusal);
    }
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut request = request;
        request.extensions_mut().insert(signed);
        return Ok(request);
    }
    let (mut parts, fields) = read_form(request).await?;
    if !secret::same(fields.get("csrf").as_bytes(), signed.csrf.as_bytes()) {
        let message = "This form is not of your session. Go back, load the page again and repeat.";
        return Err(layout::refusal(StatusCode::FORBIDDEN, message));
    }
    parts.extensions.insert(signed);
    parts.extensions.insert(fields);
    Ok(Request::from_parts(parts, Body::empty()))
}

/// Reading leads to the sign-in and back here; a change is not repeated by itself.
fn sign_in_first(request: &Request, visit: &Visit) -> Response {
    let mut response = if *request.method() == Method::GET {
        let here = request.uri().path_and_query().map_or("/dashboard", |path| path.as_str());
        let query: String =
            form_urlencoded::Serializer::new(String::new()).append_pair("return_to", here).finish();
        Redirect::to(&format!("/dashboard/sign-in?{query}")).into_response()
    } else {
        layout::refusal(StatusCode::FORBIDDEN, "You are not signed in any more. Sign in and repeat.")
    };
    response.headers_mut().append(SET_COOKIE, Cookie::Session.clear(visit.site.secure));
    response
}

/// The account's IP restriction of type `dashboard`. Who may not see the account may still leave it.
async fn check_source(dashboard: &Dashboard, signed: &Signed, route: &str) -> Result<(), Response> {
    if matches!(route, "/dashboard/sign-out" | "/dashboard/account") {
        return Ok(());
    }
    let (app, source) = (&dashboard.app, signed.visit.source);
    let kind = IpRestrictionKind::Dashboard;
    let admitted = app.restrictions.admits(&*app.store, signed.who.account, kind, source).await;
    if admitted.map_err(|error| layout::failed(&error))? {
        return Ok(());
    }
    let source = source.map_or_else(|| "an unknown address".to_owned(), |ip| canonical_ip(ip).to_string());
    let message = format!("This account admits nobody to the dashboard from {source}.");
    Err(layout::restricted(signed, &message))
}

/// The refusal of one request too many, if it is.
fn count(dashboard: &Dashboard, signed: &Signed) -> Option<Response> {
    let wait = dashboard.app.people.requests.admit(signed.who.user, Instant::now()).err()?;
    let message = format!("Too many requests. Wait {} seconds.", wait.as_secs() + 1);
    Some(layout::refusal(StatusCode::TOO_MANY_REQUESTS, &message))
}

/// The refusal of a route that takes a higher role, if it does.
fn check_role(signed: &Signed, method: &Method, route: &str) -> Option<Response> {
    if access::least(method, route).admits(signed.who.role) {
        return None;
    }
    let message = format!("You are {} in this account, and this takes more.", signed.who.role);
    Some(layout::refusal(StatusCode::FORBIDDEN, &message))
}
