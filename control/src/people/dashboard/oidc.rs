//! The way in by OIDC: away to the provider, and back with a code.

use axum::Extension;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use http::{HeaderMap, StatusCode, Uri};

use super::enter::{Way, enter, set_cookie};
use super::guard::Fields;
use super::layout::{self, refusal};
use super::sign_in::{accept_with, read_invitation};
use super::visit::{Dashboard, Visit};
use crate::error_chain::ErrorChain;
use crate::people::cookie::Cookie;
use crate::people::members::{self, Proof};
use crate::people::oidc::flow::{FLOW_SECS_MAX, Pending, Person, redeem};
use crate::people::oidc::settings::{self, Oidc};
use crate::people::origin;
use crate::record::people::User;
use crate::record::{RecordError, Stored};
use crate::store::{Outcome, Txn};

const NOT_PROVEN: &str = "The provider did not prove who you are. Try again; if it stays so, the operator finds the reason in the log.";

/// Sends a browser to the provider.
pub(super) async fn start(
    State(dashboard): State<Dashboard>,
    Extension(visit): Extension<Visit>,
    uri: Uri,
) -> Response {
    let query = Fields::parse(uri.query().unwrap_or_default().as_bytes());
    begin(&dashboard, &visit, origin::return_to(Some(query.get("return_to"))), None).await
}

/// Sends a browser to the provider, to come back with an invitation accepted.
pub(super) async fn start_invited(
    State(dashboard): State<Dashboard>,
    Extension(visit): Extension<Visit>,
    Path(token): Path<String>,
) -> Response {
    begin(&dashboard, &visit, "/dashboard".to_owned(), Some(token)).await
}

async fn begin(
    dashboard: &Dashboard,
    visit: &Visit,
    return_to: String,
    invitation: Option<String>,
) -> Response {
    let app = &dashboard.app;
    let oidc = match settings::read(&*app.store).await {
        Ok(Some(oidc)) => oidc,
        Ok(None) => return refusal(StatusCode::NOT_FOUND, "No provider is configured here."),
        Err(error) => return layout::failed(&error),
    };
    let document = match app.people.provider.document(&oidc.issuer).await {
        Ok(document) => document,
        Err(error) => {
            tracing::error!(error = %ErrorChain(&error), "the OIDC provider cannot be used");
            return refusal(StatusCode::BAD_GATEWAY, "The provider cannot be used now. The log says why.");
        }
    };
    let pending = Pending::new(&*app.entropy, app.now(), return_to, invitation);
    let to = pending.authorization_url(&document.authorization_endpoint, &oidc, &redirect_uri(visit));
    let mut response = Redirect::to(&to).into_response();
    set_cookie(&mut response, Cookie::Oidc.set(&pending.seal(&app.vault), FLOW_SECS_MAX, visit.site.secure));
    response
}

fn redirect_uri(visit: &Visit) -> String {
    format!("{}/dashboard/oidc/callback", visit.site.base)
}

/// Takes what the provider sent back. Its cookie is used up whatever comes of it.
pub(super) async fn callback(
    State(dashboard): State<Dashboard>,
    Extension(visit): Extension<Visit>,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    let mut response = come_back(&dashboard, &visit, &headers, &uri).await;
    set_cookie(&mut response, Cookie::Oidc.clear(visit.site.secure));
    response
}

async fn come_back(dashboard: &Dashboard, visit: &Visit, headers: &HeaderMap, uri: &Uri) -> Response {
    let app = &dashboard.app;
    let query = Fields::parse(uri.query().unwrap_or_default().as_bytes());
    let cookie = Cookie::Oidc.read(headers, visit.site.secure);
    let pending = cookie.and_then(|cookie| Pending::open(&app.vault, &cookie, app.now()));
    let Some(pending) = pending.filter(|pending| pending.has_state(query.get("state"))) else {
        let message = "This sign-in was not begun in this browser, or took too long. Begin again.";
        return refusal(StatusCode::FORBIDDEN, message);
    };
    let oidc = match settings::read(&*app.store).await {
        Ok(Some(oidc)) => oidc,
        Ok(None) => return refusal(StatusCode::NOT_FOUND, "No provider is configured here."),
        Err(error) => return layout::failed(&error),
    };
    // RFC 9207: an answer that says whose it is must be this provider's.
    let said = query.get("iss");
    if query.get("code").is_empty() || !(said.is_empty() || said == oidc.issuer) {
        let error: String = query.get("error").chars().filter(char::is_ascii_graphic).take(100).collect();
        tracing::info!(error, "the OIDC provider gave no code");
        return refusal(StatusCode::FORBIDDEN, NOT_PROVEN);
    }
    match prove(dashboard, visit, &oidc, &pending, query.get("code")).await {
        Some(person) => match let_in(dashboard, visit, headers, &pending, person).await {
            Ok(response) => response,
            Err(error) => layout::failed(&error),
        },
        None => refusal(StatusCode::FORBIDDEN, NOT_PROVEN),
    }
}

async fn prove(
    dashboard: &Dashboard,
    visit: &Visit,
    oidc: &Oidc,
    pending: &Pending,
    code: &str,
) -> Option<Person> {
    let app = &dashboard.app;
    let secret = match oidc.secret(&app.vault) {
        Ok(secret) => secret,
        Err(error) => {
            tracing::error!(%error, "the client secret of the OIDC provider cannot be read");
            return None;
        }
    };
    let uri = redirect_uri(visit);
    let sent = (code, uri.as_str());
    let redeemed = redeem(&app.people.provider, oidc, secret.as_deref(), pending, sent, app.now()).await;
    match redeemed {
        Ok(person) => Some(person),
        Err(error) => {
            tracing::warn!(error = %ErrorChain(&error), "a sign-in by OIDC proved nothing");
            None
        }
    }
}

async fn let_in(
    dashboard: &Dashboard,
    visit: &Visit,
    headers: &HeaderMap,
    pending: &Pending,
    person: Person,
) -> Result<Response, RecordError> {
    let known = members::user_by_email(&*dashboard.app.store, &person.email).await?;
    if let Some(other) = known.as_ref().and_then(|user| user.record.identity.as_ref())
        && other.issuer == person.identity.issuer
        && other.subject != person.identity.subject
    {
        tracing::warn!(issuer = other.issuer, "an address came with another subject than before");
        let message =
            "This address was somebody else's at the provider. Ask the operator: ebbgate-control user reset.";
        return Ok(refusal(StatusCode::FORBIDDEN, message));
    }
    if let Some(token) = &pending.invitation {
        let Some((invitation, known)) = read_invitation(dashboard, token).await? else {
            return Ok(refusal(
                StatusCode::NOT_FOUND,
                "This invitation was used or withdrawn, or is too old.",
            ));
        };
        if invitation.record.email != person.email {
            let message = "This invitation is for another address than the provider says you have.";
            return Ok(refusal(StatusCode::FORBIDDEN, message));
        }
        let account = Some(invitation.record.account);
        let way = Way { visit, headers, method: "oidc", account, return_to: "/dashboard" };
        let proof = Proof::Identity(person.identity);
        return Ok(accept_with(dashboard, &invitation, known.as_ref(), proof, way).await);
    }
    let Some(user) = known else {
        let message = "Nobody with this address belongs here. Ask an owner of the account to invite you.";
        return Ok(refusal(StatusCode::FORBIDDEN, message));
    };
    let Some(user) = bind(dashboard, user, person).await? else {
        return Ok(refusal(StatusCode::CONFLICT, "Somebody changed your account at the same time. Repeat."));
    };
    let way = Way { visit, headers, method: "oidc", account: None, return_to: &pending.return_to };
    Ok(enter(dashboard, &user, way).await)
}

/// Remembers which person of the provider this is. None: the user changed meanwhile.
async fn bind(
    dashboard: &Dashboard,
    user: Stored<User>,
    person: Person,
) -> Result<Option<Stored<User>>, RecordError> {
    if user.record.identity.as_ref() == Some(&person.identity) {
        return Ok(Some(user));
    }
    let record = User { identity: Some(person.identity), ..user.record.clone() };
    match dashboard.app.store.commit(members::replace_user(Txn::new(), &record, &user)).await? {
        Outcome::Committed(modified) => Ok(Some(Stored { record, modified })),
        Outcome::Conflict(_) => Ok(None),
    }
}
