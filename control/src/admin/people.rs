//! The operator's calls about people: the first one, invitations, suspending and removing everywhere, sessions.
//!
//! Tokens are shown once, as links; only their hashes are stored.

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use ebbgate_model::UserSessionId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::call::{Admin, AdminError};
use crate::api::timestamp;
use crate::app::App;
use crate::people::{Email, Role, members, session};
use crate::record::people::{Membership, Setup, USERS_PREFIX, User, UserSession, email_key, membership_key};
use crate::record::{self, ACCOUNTS_PREFIX, Account, Holder, Record, Stored, index};
use crate::secret;
use crate::store::{Outcome, Range, Txn};

/// Routes below the admin port's root.
pub(super) fn routes() -> Router<Admin> {
    Router::new()
        .route("/users", get(list).post(create))
        .route("/users/suspend", post(suspend))
        .route("/users/resume", post(resume))
        .route("/users/reset", post(reset))
        .route("/users/remove", post(remove))
        .route("/accounts/{id}/invitations", post(invite))
        .route("/sessions", get(sessions))
        .route("/sessions/{id}", delete(end_session))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewUser {
    email: String,
    account: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Invited {
    email: String,
    role: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    /// Id or e-mail address.
    user: String,
    #[serde(default)]
    force: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    account: Option<String>,
}

/// The first person of the installation, owner of an account. Everybody after is invited.
async fn create(State(admin): State<Admin>, headers: HeaderMap, body: Bytes) -> Result<Response, AdminError> {
    admin.check(&headers)?;
    let NewUser { email, account } = serde_json::from_slice(&body)?;
    let email = parse_email(&email)?;
    let account = match account {
        Some(id) => admin.account(&id).await?,
        None => only_account(&admin).await?,
    };
    let users = admin.app.store.range(Range::all(USERS_PREFIX)).await?;
    if !users.items.is_empty() {
        return Err(AdminError::NotFirst);
    }
    let mut user = members::new_user(&admin.app, &email);
    let url = give_setup(&admin.app, &mut user);
    let txn = Txn::new()
        .if_none_newer(USERS_PREFIX, users.revision)
        .if_unchanged(Account::key(account.record.id), account.modified);
    let txn = members::create_user(txn, &user);
    let txn = members::join(txn, account.record.id, &user, Role::Owner, admin.app.now());
    commit(&admin, txn).await?;
    tracing::info!(user = %user.id, account = %account.record.id, "the operator made the first user");
    let made = json!({
        "user": user.id, "email": user.email, "account": account.record.id, "role": Role::Owner,
        "setup_url": url, "expires_at": setup_end(&user),
    });
    Ok((StatusCode::CREATED, Json(made)).into_response())
}

/// A new one-time way to a password. The link is shown once.
fn give_setup(app: &App, user: &mut User) -> String {
    let token = app.token(user.id.ksuid());
    let expires_at = app.now().saturating_add(members::SETUP_SECS_MAX);
    user.setup = Some(Setup { hash: secret::hash(token.expose()), expires_at });
    format!("{}/dashboard/setup/{}", app.settings.api_base, token.expose())
}

fn setup_end(user: &User) -> Option<String> {
    user.setup.as_ref().map(|setup| timestamp(setup.expires_at))
}

async fn only_account(admin: &Admin) -> Result<Stored<Account>, AdminError> {
    let items = admin.app.store.range(Range::all(ACCOUNTS_PREFIX)).await?.items;
    let mut own = items.iter().filter(|item| {
        let path = item.key.strip_prefix(ACCOUNTS_PREFIX);
        path.is_some_and(|path| path.ends_with("/account") && path.matches('/').count() == 1)
    });
    match (own.next(), own.next()) {
        (Some(one), None) => Ok(record::decode::<Account>(one)?),
        _ => Err(AdminError::WhichAccount),
    }
}

/// Everybody, with the accounts they belong to.
async fn list(State(admin): State<Admin>, headers: HeaderMap) -> Result<Response, AdminError> {
    admin.check(&headers)?;
    let store = &*admin.app.store;
    let mut shown = Vec::new();
    for item in store.range(Range::all(USERS_PREFIX)).await?.items {
        match record::decode::<User>(&item) {
            Ok(user) => shown.push(view(&user.record, &members::memberships(store, user.record.id).await?)),
            Err(error) => shown.push(json!({ "key": item.key, "error": error.to_string() })),
        }
    }
    Ok(Json(json!({ "users": shown })).into_response())
}

fn view(user: &User, memberships: &[Stored<Membership>]) -> Value {
    let of = |m: &Stored<Membership>| json!({ "account": m.record.account, "role": m.record.role, "suspended": !m.record.works() });
    json!({
        "id": user.id,
        "email": user.email,
        "state": if user.suspended_at.is_some() { "suspended" } else { "active" },
        "password": user.password.is_some(),
        "identity": user.identity.as_ref().map(|identity| &identity.issuer),
        "accounts": memberships.iter().map(of).collect::<Vec<_>>(),
        "created_at": timestamp(user.created_at),
    })
}

async fn invite(
    State(admin): State<Admin>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, AdminError> {
    admin.check(&headers)?;
    let Invited { email, role } = serde_json::from_slice(&body)?;
    let email = parse_email(&email)?;
    let role: Role = role.parse().map_err(|error| AdminError::Value(format!("`role`: {error}")))?;
    let account = admin.account(&id).await?;
    let (invitation, token) = members::invitation(&admin.app, account.record.id, &email, role, "operator");
    let txn = Txn::new().if_unchanged(Account::key(account.record.id), account.modified);
    let txn = record::create(members::take_invitation(txn, &invitation), &invitation);
    commit(&admin, txn).await?;
    let url = format!("{}/dashboard/invitations/{}", admin.app.settings.api_base, token.expose());
    let made = json!({
        "id": invitation.id, "account": account.record.id, "email": email, "role": role, "url": url,
        "expires_at": timestamp(invitation.expires_at),
    });
    Ok((StatusCode::CREATED, Json(made)).into_response())
}

async fn suspend(
    State(admin): State<Admin>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, AdminError> {
    let named = named(&admin, &headers, &body)?;
    set_suspended(&admin, &named, true).await
}

async fn resume(State(admin): State<Admin>, headers: HeaderMap, body: Bytes) -> Result<Response, AdminError> {
    let named = named(&admin, &headers, &body)?;
    set_suspended(&admin, &named, false).await
}

fn named(admin: &Admin, headers: &HeaderMap, body: &Bytes) -> Result<Named, AdminError> {
    admin.check(headers)?;
    Ok(serde_json::from_slice(body)?)
}

/// In all accounts at once: sessions, keys and authtokens of the person ask the membership. Sessions do not come back.
async fn set_suspended(admin: &Admin, named: &Named, suspended: bool) -> Result<Response, AdminError> {
    let (store, user) = (&*admin.app.store, find(admin, &named.user).await?);
    let mut changed = user.record.clone();
    changed.suspended_at = match (suspended, changed.suspended_at) {
        (true, since) => since.or_else(|| Some(admin.app.now())),
        (false, _) => None,
    };
    let mut txn = members::replace_user(Txn::new(), &changed, &user);
    let mut memberships = members::memberships(store, changed.id).await?;
    for stored in &mut memberships {
        let locked = Membership { locked: suspended, ..stored.record.clone() };
        txn = record::replace(txn, &locked, stored.modified);
        stored.record = locked;
    }
    commit(admin, txn).await?;
    if suspended {
        for stored in &memberships {
            let sessions =
                members::end_sessions(store, stored.record.account, changed.id, Txn::new()).await?;
            commit(admin, sessions).await?;
        }
    }
    tracing::info!(user = %changed.id, suspended, "the operator changed a user");
    Ok(Json(view(&changed, &memberships)).into_response())
}

/// A new one-time way to a password; the old password works until it is used. Sessions end, and the person of the OIDC provider
/// is forgotten: the next sign-in there binds anew.
async fn reset(State(admin): State<Admin>, headers: HeaderMap, body: Bytes) -> Result<Response, AdminError> {
    let user = find(&admin, &named(&admin, &headers, &body)?.user).await?;
    let mut changed = user.record.clone();
    let url = give_setup(&admin.app, &mut changed);
    changed.identity = None;
    commit(&admin, members::replace_user(Txn::new(), &changed, &user)).await?;
    for stored in members::memberships(&*admin.app.store, changed.id).await? {
        let account = stored.record.account;
        let ended = members::end_sessions(&*admin.app.store, account, changed.id, Txn::new()).await?;
        commit(&admin, ended).await?;
    }
    let made = json!({
        "user": changed.id, "email": changed.email, "setup_url": url, "expires_at": setup_end(&changed),
    });
    Ok(Json(made).into_response())
}

/// Removes a person from the installation. Refused for the last owner of an account, unless forced.
async fn remove(State(admin): State<Admin>, headers: HeaderMap, body: Bytes) -> Result<Response, AdminError> {
    let named = named(&admin, &headers, &body)?;
    let (store, user) = (&*admin.app.store, find(&admin, &named.user).await?);
    let (id, key) = (user.record.id, User::key(user.record.id));
    let mut txn = Txn::new().if_unchanged(&key, user.modified).delete(&key);
    txn = txn.delete(email_key(&user.record.email));
    let memberships = members::memberships(store, id).await?;
    for stored in &memberships {
        let account = stored.record.account;
        if stored.record.role == Role::Owner && !named.force {
            let kept = members::keep_an_owner(store, account, id, txn).await?;
            txn = kept.map_err(|_| AdminError::LastOwner(account))?;
        }
        txn = record::remove(txn, stored).delete(membership_key(id, account));
    }
    commit(&admin, txn).await?;
    tracing::info!(user = %id, "the operator removed a user");
    let accounts: Vec<_> = memberships.iter().map(|stored| stored.record.account).collect();
    Ok(Json(json!({ "id": id, "email": user.record.email, "removed": true, "accounts": accounts }))
        .into_response())
}

/// Sessions that are open, of one account or of all.
async fn sessions(
    State(admin): State<Admin>,
    Query(which): Query<Which>,
    headers: HeaderMap,
) -> Result<Response, AdminError> {
    admin.check(&headers)?;
    let store = &*admin.app.store;
    let wanted = match which.account {
        Some(id) => Some(admin.account(&id).await?.record.id),
        None => None,
    };
    let mut shown = Vec::new();
    for item in store.range(Range::all(index::USER_SESSIONS_PREFIX)).await?.items {
        let Ok(holder) = record::decode::<Holder>(&item) else { continue };
        let account = holder.record.account;
        let Ok(id) = holder.record.id.parse::<UserSessionId>() else { continue };
        if wanted.is_some_and(|wanted| wanted != account) {
            continue;
        }
        if let Ok(Some(stored)) = record::load::<UserSession>(store, account, id).await
            && !session::has_ended(&stored.record, admin.app.now())
        {
            shown.push(shown_session(&stored.record));
        }
    }
    Ok(Json(json!({ "sessions": shown })).into_response())
}

fn shown_session(session: &UserSession) -> Value {
    json!({
        "id": session.id(), "account": session.account, "user": session.user, "method": session.method,
        "source": session.source, "user_agent": session.user_agent,
        "created_at": timestamp(session.created_at), "seen_at": timestamp(session.seen_at),
        "expires_at": timestamp(session.expires_at),
    })
}

async fn end_session(
    State(admin): State<Admin>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, AdminError> {
    admin.check(&headers)?;
    let id: UserSessionId = id.parse().map_err(|_| AdminError::NoSession(id))?;
    let holder = record::read::<Holder>(&*admin.app.store, &index::user_session(id)).await?;
    let account = holder.ok_or_else(|| AdminError::NoSession(id.to_string()))?.record.account;
    session::end(&*admin.app.store, account, id).await?;
    tracing::info!(session = %id, %account, "the operator ended a session");
    Ok(Json(json!({ "id": id, "account": account, "ended": true })).into_response())
}

async fn find(admin: &Admin, named: &str) -> Result<Stored<User>, AdminError> {
    let store = &*admin.app.store;
    let found = if named.contains('@') {
        members::user_by_email(store, &parse_email(named)?).await?
    } else {
        match named.parse() {
            Ok(id) => members::user(store, id).await?,
            Err(_) => None,
        }
    };
    found.ok_or_else(|| AdminError::NoUser(named.to_owned()))
}

fn parse_email(text: &str) -> Result<Email, AdminError> {
    text.parse().map_err(|error| AdminError::Value(format!("`{text}`: {error}")))
}

async fn commit(admin: &Admin, txn: Txn) -> Result<(), AdminError> {
    match admin.app.store.commit(txn).await? {
        Outcome::Committed(_) => Ok(()),
        Outcome::Conflict(_) => Err(AdminError::Conflict),
    }
}

#[cfg(test)]
mod tests;
