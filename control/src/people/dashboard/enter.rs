//! The end of every way in: an account is chosen, a new session begins, and the one before it ends.

use axum::response::{IntoResponse, Redirect, Response};
use ebbgate_model::{AccountId, IpRestrictionKind};
use http::header::{HeaderMap, SET_COOKIE};
use http::{HeaderValue, StatusCode};

use super::layout;
use super::visit::{Dashboard, Visit};
use crate::app::App;
use crate::people::cookie::Cookie;
use crate::people::members;
use crate::people::session::{self, Entrance, SESSION_SECS_MAX};
use crate::record::people::{Membership, User};
use crate::record::{self, Account, RecordError, Stored};

/// How somebody comes in.
pub(super) struct Way<'r> {
    /// The request.
    pub(super) visit: &'r Visit,
    /// Its headers, with the cookie of an earlier session.
    pub(super) headers: &'r HeaderMap,
    /// `password` or `oidc`.
    pub(super) method: &'static str,
    /// The account wanted; None: the first that lets the person in.
    pub(super) account: Option<AccountId>,
    /// Where to go then; a path of the dashboard.
    pub(super) return_to: &'r str,
}

/// Signs somebody in who has proven to be this user.
pub(super) async fn enter(dashboard: &Dashboard, user: &Stored<User>, way: Way<'_>) -> Response {
    match try_enter(dashboard, user, &way).await {
        Ok(response) => response,
        Err(error) => layout::failed(&error),
    }
}

async fn try_enter(
    dashboard: &Dashboard,
    user: &Stored<User>,
    way: &Way<'_>,
) -> Result<Response, RecordError> {
    let app = &dashboard.app;
    if user.record.suspended_at.is_some() {
        return Ok(layout::refusal(StatusCode::FORBIDDEN, "You are suspended. Ask the operator."));
    }
    let Some(membership) = choose(app, user, way).await? else {
        let message = "You belong to no account that lets you in. Ask an owner of the account to invite you.";
        return Ok(layout::refusal(StatusCode::FORBIDDEN, message));
    };
    let entrance = Entrance {
        method: way.method,
        source: way.visit.source.map(|ip| ebbgate_model::canonical_ip(ip).to_string()).unwrap_or_default(),
        user_agent: way.visit.user_agent.clone(),
    };
    let Some((id, token)) = session::begin(app, user, &membership, &entrance).await? else {
        return Ok(layout::refusal(
            StatusCode::CONFLICT,
            "Somebody changed your account at the same time. Repeat.",
        ));
    };
    tracing::info!(
        user = %user.record.id, account = %membership.record.account, session = %id, method = way.method,
        source = entrance.source, "signed in"
    );
    end_earlier(app, way).await?;
    let mut response = Redirect::to(way.return_to).into_response();
    set_cookie(&mut response, Cookie::Session.set(token.expose(), SESSION_SECS_MAX, way.visit.site.secure));
    Ok(response)
}

/// The session whose cookie came along is not the new one's: whoever knew it knows nothing of this one.
async fn end_earlier(app: &App, way: &Way<'_>) -> Result<(), RecordError> {
    let Some(cookie) = Cookie::Session.read(way.headers, way.visit.site.secure) else { return Ok(()) };
    match session::find(app, &cookie).await? {
        Some(earlier) => session::end(&*app.store, earlier.account, earlier.session).await,
        None => Ok(()),
    }
}

/// The membership to act by: in the account wanted, else in the first one that admits this address, else in the first.
async fn choose(
    app: &App,
    user: &Stored<User>,
    way: &Way<'_>,
) -> Result<Option<Stored<Membership>>, RecordError> {
    let mut first = None;
    for membership in members::memberships(&*app.store, user.record.id).await? {
        let account = membership.record.account;
        let stored = record::read::<Account>(&*app.store, &Account::key(account)).await?;
        let is_open = stored.is_some_and(|stored| stored.record.suspended_at.is_none());
        if !is_open || !membership.record.works() || way.account.is_some_and(|wanted| wanted != account) {
            continue;
        }
        let kind = IpRestrictionKind::Dashboard;
        if app.restrictions.admits(&*app.store, account, kind, way.visit.source).await? {
            return Ok(Some(membership));
        }
        first = first.or(Some(membership));
    }
    Ok(first)
}

/// Adds a cookie to an answer.
pub(super) fn set_cookie(response: &mut Response, cookie: HeaderValue) {
    response.headers_mut().append(SET_COOKIE, cookie);
}
