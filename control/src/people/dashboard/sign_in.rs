//! Ways in and out: a password, a set-up link, an invitation; another account; the way out.

use std::time::Instant;

use axum::Extension;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Redirect, Response};
use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode, Uri};

use super::enter::{Way, enter, set_cookie};
use super::guard::{Fields, read_form};
use super::layout;
use super::layout::{button, field, hidden, notice, plain, refusal};
use super::visit::{Dashboard, Signed, Visit};
use crate::people::cookie::Cookie;
use crate::people::html::{Markup, el, link, text};
use crate::people::members::{self, MEMBERSHIPS_MAX, Proof};
use crate::people::oidc::settings;
use crate::people::{Email, origin, password, session};
use crate::record::people::{Invitation, User};
use crate::record::{self, Account, RecordError, Stored};
use crate::store::{Outcome, Txn};

/// Where the form of a sign-in is.
const SIGN_IN: &str = "/dashboard/sign-in";

/// The form of a sign-in.
pub(super) async fn page(State(dashboard): State<Dashboard>, uri: Uri) -> Response {
    let query = Fields::parse(uri.query().unwrap_or_default().as_bytes());
    let return_to = origin::return_to(Some(query.get("return_to")));
    sign_in_page(&dashboard, StatusCode::OK, &return_to, None).await
}

async fn sign_in_page(
    dashboard: &Dashboard,
    status: StatusCode,
    return_to: &str,
    message: Option<&str>,
) -> Response {
    let mut inside: Vec<_> = message.map(|message| notice(vec![text(message)])).into_iter().collect();
    let fields = vec![
        hidden("return_to", return_to),
        field("E-mail", "email", "email", "username"),
        field("Password", "password", "password", "current-password"),
        button("Sign in"),
    ];
    inside.push(open_form(SIGN_IN, fields));
    let query: String =
        form_urlencoded::Serializer::new(String::new()).append_pair("return_to", return_to).finish();
    inside.extend(provider_link(dashboard, &format!("/dashboard/oidc/start?{query}")).await);
    plain(status, "Sign in", inside)
}

/// The way to the provider, where there is one. A provider that cannot be read keeps nobody from a password.
async fn provider_link(dashboard: &Dashboard, to: &str) -> Option<Markup> {
    let oidc = settings::read(&*dashboard.app.store).await.ok().flatten()?;
    Some(el("p", &[], vec![link(to, &format!("Sign in with {}", oidc.issuer))]))
}

/// A form of somebody who has no session: that its page is ours, the frame has seen.
fn open_form(to: &str, inside: Vec<Markup>) -> Markup {
    el("form", &[("method", "post"), ("action", to)], inside)
}

/// Signs in by password. Whatever is wrong, the answer is the same and takes as long.
pub(super) async fn sign_in(
    State(dashboard): State<Dashboard>,
    Extension(visit): Extension<Visit>,
    request: Request,
) -> Response {
    let (parts, fields) = match read_form(request).await {
        Ok(read) => read,
        Err(refusal) => return refusal,
    };
    let return_to = origin::return_to(Some(fields.get("return_to")));
    match proven(&dashboard, &visit, fields.get("email"), fields.get("password")).await {
        Ok(Ok(user)) => {
            let way = Way {
                visit: &visit,
                headers: &parts.headers,
                method: "password",
                account: None,
                return_to: &return_to,
            };
            enter(&dashboard, &user, way).await
        }
        Ok(Err(Denied::Wrong)) => {
            let message = "No user has this address and this password.";
            sign_in_page(&dashboard, StatusCode::FORBIDDEN, &return_to, Some(message)).await
        }
        Ok(Err(Denied::Wait(secs))) => too_often(secs),
        Err(error) => layout::failed(&error),
    }
}

/// Why a password proves nothing.
enum Denied {
    Wrong,
    /// Seconds.
    Wait(u64),
}

fn too_often(secs: u64) -> Response {
    let message = format!("Too many wrong passwords. Wait {secs} seconds.");
    let mut response = refusal(StatusCode::TOO_MANY_REQUESTS, &message);
    response.headers_mut().insert(RETRY_AFTER, secs.into());
    response
}

/// The user whose address and password these are.
async fn proven(
    dashboard: &Dashboard,
    visit: &Visit,
    email: &str,
    password: &str,
) -> Result<Result<Stored<User>, Denied>, RecordError> {
    let people = &dashboard.app.people;
    let Ok(email) = email.parse::<Email>() else { return Ok(Err(Denied::Wrong)) };
    if let Err(wait) = people.guesses.admit(&email, visit.source, Instant::now()) {
        return Ok(Err(Denied::Wait(wait.as_secs() + 1)));
    }
    let user = members::user_by_email(&*dashboard.app.store, &email).await?;
    let stored = user.as_ref().and_then(|user| user.record.password.as_ref());
    let right = people.hashing.matches(password, stored).await;
    let Some(user) = user.filter(|_| right) else {
        tracing::info!(source = visit.source.map(tracing::field::display), "a wrong password");
        return Ok(Err(Denied::Wrong));
    };
    people.guesses.right(&email, visit.source);
    Ok(Ok(user))
}

fn new_password_fields() -> Vec<Markup> {
    vec![
        field("New password (15 characters or more)", "password", "password", "new-password"),
        field("Once more", "again", "password", "new-password"),
        button("Set password and sign in"),
    ]
}

/// A new password that was typed twice and is taken.
fn new_password<'f>(fields: &'f Fields, email: &Email) -> Result<&'f str, String> {
    let (first, again) = (fields.get("password"), fields.get("again"));
    if first != again {
        return Err("The two passwords differ.".to_owned());
    }
    password::check(first, email).map_err(|error| format!("{error}."))?;
    Ok(first)
}

const SETUP_GONE: &str =
    "This link was used, or is too old. Have the operator make a new one: ebbgate-control user reset.";

/// The form of a set-up link. Looking at it does not use it up.
pub(super) async fn setup_page(State(dashboard): State<Dashboard>, Path(token): Path<String>) -> Response {
    match members::user_by_setup(&dashboard.app, &token).await {
        Ok(Some(user)) => show_setup(StatusCode::OK, &token, &user.record, None),
        Ok(None) => refusal(StatusCode::NOT_FOUND, SETUP_GONE),
        Err(error) => layout::failed(&error),
    }
}

fn show_setup(status: StatusCode, token: &str, user: &User, message: Option<&str>) -> Response {
    let mut inside: Vec<_> = message.map(|message| notice(vec![text(message)])).into_iter().collect();
    inside.push(el("p", &[], vec![text(&format!("For {}.", user.email))]));
    inside.push(open_form(&format!("/dashboard/setup/{token}"), new_password_fields()));
    plain(status, "Set a password", inside)
}

/// Sets the password of a set-up link, which is used up by it, and signs in.
pub(super) async fn set_up(
    State(dashboard): State<Dashboard>,
    Extension(visit): Extension<Visit>,
    Path(token): Path<String>,
    request: Request,
) -> Response {
    let (parts, fields) = match read_form(request).await {
        Ok(read) => read,
        Err(refusal) => return refusal,
    };
    let app = &dashboard.app;
    let user = match members::user_by_setup(app, &token).await {
        Ok(Some(user)) => user,
        Ok(None) => return refusal(StatusCode::NOT_FOUND, SETUP_GONE),
        Err(error) => return layout::failed(&error),
    };
    let chosen = match new_password(&fields, &user.record.email) {
        Ok(chosen) => chosen,
        Err(message) => {
            return show_setup(StatusCode::UNPROCESSABLE_ENTITY, &token, &user.record, Some(&message));
        }
    };
    let hash = app.people.hashing.hash(chosen, &*app.entropy).await;
    let changed = User { password: Some(hash), setup: None, ..user.record.clone() };
    let txn = members::replace_user(Txn::new(), &changed, &user);
    let way = Way {
        visit: &visit,
        headers: &parts.headers,
        method: "password",
        account: None,
        return_to: "/dashboard",
    };
    store_and_enter(&dashboard, txn, changed, way).await
}

async fn store_and_enter(dashboard: &Dashboard, txn: Txn, user: User, way: Way<'_>) -> Response {
    match dashboard.app.store.commit(txn).await {
        Ok(Outcome::Committed(modified)) => enter(dashboard, &Stored { record: user, modified }, way).await,
        Ok(Outcome::Conflict(_)) => {
            refusal(StatusCode::CONFLICT, "This was used or changed at the same time. Load the page again.")
        }
        Err(error) => layout::failed(&error),
    }
}

const INVITATION_GONE: &str =
    "This invitation was used or withdrawn, or is too old. Ask whoever invited you for a new one.";

/// The form of an invitation. Looking at it does not use it up.
pub(super) async fn invitation_page(
    State(dashboard): State<Dashboard>,
    Path(token): Path<String>,
) -> Response {
    match read_invitation(&dashboard, &token).await {
        Ok(Some((invitation, known))) => {
            show_invitation(&dashboard, StatusCode::OK, &token, &invitation.record, known.as_ref(), None)
                .await
        }
        Ok(None) => refusal(StatusCode::NOT_FOUND, INVITATION_GONE),
        Err(error) => layout::failed(&error),
    }
}

/// An open invitation, and whom it invites if that one is known.
pub(super) type Invited = (Stored<Invitation>, Option<Stored<User>>);

pub(super) async fn read_invitation(
    dashboard: &Dashboard,
    token: &str,
) -> Result<Option<Invited>, RecordError> {
    let Some(invitation) = members::invitation_by_token(&dashboard.app, token).await? else {
        return Ok(None);
    };
    let known = members::user_by_email(&*dashboard.app.store, &invitation.record.email).await?;
    Ok(Some((invitation, known)))
}

async fn show_invitation(
    dashboard: &Dashboard,
    status: StatusCode,
    token: &str,
    invitation: &Invitation,
    known: Option<&Stored<User>>,
    message: Option<&str>,
) -> Response {
    let account = record::read::<Account>(&*dashboard.app.store, &Account::key(invitation.account)).await;
    let name = account.ok().flatten().map(|stored| stored.record.name).unwrap_or_default();
    let what = format!("{} is invited to be {} of the account {name}.", invitation.email, invitation.role);
    let mut inside: Vec<_> = message.map(|message| notice(vec![text(message)])).into_iter().collect();
    inside.push(el("p", &[], vec![text(&what)]));
    let fields = match known {
        Some(_) => vec![
            field("Your password here", "password", "password", "current-password"),
            button("Accept and sign in"),
        ],
        None => new_password_fields(),
    };
    inside.push(open_form(&format!("/dashboard/invitations/{token}"), fields));
    inside.extend(provider_link(dashboard, &format!("/dashboard/invitations/{token}/oidc")).await);
    plain(status, "Invitation", inside)
}

/// Accepts an invitation by password: somebody who is new sets one, somebody who is known must have it.
pub(super) async fn accept(
    State(dashboard): State<Dashboard>,
    Extension(visit): Extension<Visit>,
    Path(token): Path<String>,
    request: Request,
) -> Response {
    let (parts, fields) = match read_form(request).await {
        Ok(read) => read,
        Err(refusal) => return refusal,
    };
    let (invitation, known) = match read_invitation(&dashboard, &token).await {
        Ok(Some(invited)) => invited,
        Ok(None) => return refusal(StatusCode::NOT_FOUND, INVITATION_GONE),
        Err(error) => return layout::failed(&error),
    };
    let proof = match prove(&dashboard, &visit, &invitation.record.email, known.as_ref(), &fields).await {
        Ok(Ok(proof)) => proof,
        Ok(Err((status, message))) => {
            let known = known.as_ref();
            return show_invitation(&dashboard, status, &token, &invitation.record, known, Some(&message))
                .await;
        }
        Err(error) => return layout::failed(&error),
    };
    let account = Some(invitation.record.account);
    let way =
        Way { visit: &visit, headers: &parts.headers, method: "password", account, return_to: "/dashboard" };
    accept_with(&dashboard, &invitation, known.as_ref(), proof, way).await
}

/// Stores that an invitation is accepted, and signs in.
pub(super) async fn accept_with(
    dashboard: &Dashboard,
    invitation: &Stored<Invitation>,
    known: Option<&Stored<User>>,
    proof: Proof,
    way: Way<'_>,
) -> Response {
    if let Some(user) = known {
        if user.record.suspended_at.is_some() {
            return refusal(StatusCode::FORBIDDEN, "You are suspended. Ask the operator.");
        }
        match members::memberships(&*dashboard.app.store, user.record.id).await {
            Ok(own) if own.len() >= MEMBERSHIPS_MAX => {
                let message =
                    format!("You belong to {MEMBERSHIPS_MAX} accounts, and nobody may belong to more.");
                return refusal(StatusCode::CONFLICT, &message);
            }
            Ok(_) => {}
            Err(error) => return layout::failed(&error),
        }
    }
    let (user, txn) = members::accept(&dashboard.app, invitation, known, proof);
    store_and_enter(dashboard, txn, user, way).await
}

async fn prove(
    dashboard: &Dashboard,
    visit: &Visit,
    email: &Email,
    known: Option<&Stored<User>>,
    fields: &Fields,
) -> Result<Result<Proof, (StatusCode, String)>, RecordError> {
    let app = &dashboard.app;
    if known.is_some() {
        let proven = proven(dashboard, visit, email.as_str(), fields.get("password")).await?;
        return Ok(match proven {
            Ok(_) => Ok(Proof::Known),
            Err(Denied::Wrong) => Err((StatusCode::FORBIDDEN, "This is not your password here.".to_owned())),
            Err(Denied::Wait(secs)) => {
                let message = format!("Too many wrong passwords. Wait {secs} seconds.");
                Err((StatusCode::TOO_MANY_REQUESTS, message))
            }
        });
    }
    Ok(match new_password(fields, email) {
        Ok(chosen) => Ok(Proof::NewPassword(app.people.hashing.hash(chosen, &*app.entropy).await)),
        Err(message) => Err((StatusCode::UNPROCESSABLE_ENTITY, message)),
    })
}

/// Goes on in another account of the person, in a session of its own.
pub(super) async fn switch_account(
    State(dashboard): State<Dashboard>,
    Extension(visit): Extension<Visit>,
    Extension(signed): Extension<Signed>,
    Extension(fields): Extension<Fields>,
    headers: HeaderMap,
) -> Response {
    let Ok(account) = fields.get("account").parse() else {
        return refusal(StatusCode::BAD_REQUEST, "This is no account.");
    };
    match members::user(&*dashboard.app.store, signed.who.user).await {
        Ok(Some(user)) => {
            let way = Way {
                visit: &visit,
                headers: &headers,
                method: "password",
                account: Some(account),
                return_to: "/dashboard",
            };
            enter(&dashboard, &user, way).await
        }
        Ok(None) => refusal(StatusCode::FORBIDDEN, "You are not known any more."),
        Err(error) => layout::failed(&error),
    }
}

/// Ends the session.
pub(super) async fn sign_out(
    State(dashboard): State<Dashboard>,
    Extension(visit): Extension<Visit>,
    Extension(signed): Extension<Signed>,
) -> Response {
    if let Err(error) = session::end(&*dashboard.app.store, signed.who.account, signed.who.session).await {
        return layout::failed(&error);
    }
    let mut response = Redirect::to(SIGN_IN).into_response();
    set_cookie(&mut response, Cookie::Session.clear(visit.site.secure));
    response
}
