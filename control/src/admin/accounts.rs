//! The operator's calls about accounts: create, list, show, suspend, resume, delete.
//!
//! Suspending is one write: `plan` leaves out what a suspended account has, `auth` refuses its keys. Knows no edge.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use ebbgate_model::AccountId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::call::{Admin, AdminError, check_text};
use super::held;
use crate::account;
use crate::acme::ACME_PREFIX;
use crate::api::timestamp;
use crate::holdings::Owned;
use crate::record::{self, ACCOUNTS_PREFIX, Account, Stored};
use crate::store::{Outcome, Range, Store, Txn};
use crate::tenants::tenants;

/// Objects removed in one transaction of a deletion, each with its name.
const GROUPS_PER_STEP: usize = 50;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewAccount {
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Deletion {
    /// Suspends an active account first.
    #[serde(default)]
    force: bool,
}

pub(super) async fn create(
    State(admin): State<Admin>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, AdminError> {
    admin.check(&headers)?;
    let NewAccount { name } = serde_json::from_slice(&body)?;
    if name.is_empty() {
        return Err(AdminError::Name);
    }
    check_text(&name)?;
    let app = &admin.app;
    let (account, key, token) = account::create(&name, app.now(), &*app.entropy);
    match app.store.commit(account::add(Txn::new(), &account, &key)).await? {
        Outcome::Committed(_) => {
            Ok((StatusCode::CREATED, Json(json!({ "id": account.id, "api_key": token }))).into_response())
        }
        Outcome::Conflict(_) => Err(AdminError::Conflict),
    }
}

/// All accounts. An account with an unreadable record is listed with its fault, since it can still be deleted.
pub(super) async fn list(State(admin): State<Admin>, headers: HeaderMap) -> Result<Response, AdminError> {
    admin.check(&headers)?;
    let store = &*admin.app.store;
    let mut own = Vec::new();
    for id in tenants(store).await?.into_iter().rev() {
        let Some(item) = store.get(&format!("{ACCOUNTS_PREFIX}{id}/account")).await? else { continue };
        own.push(match record::decode::<Account>(&item) {
            Ok(stored) => view(&stored.record),
            Err(error) => json!({ "id": id, "error": error.to_string() }),
        });
    }
    Ok(Json(json!({ "accounts": own })).into_response())
}

/// One account, with how much it has stored and what it has online.
pub(super) async fn show(
    State(admin): State<Admin>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, AdminError> {
    admin.check(&headers)?;
    let account = admin.account(&id).await?.record;
    let prefix = record::account_prefix(account.id);
    let owned = match admin.app.room.holds(account.id) {
        Some(owned) => owned,
        None => counted(&*admin.app.store, &prefix).await?,
    };
    let mut shown = view(&account);
    if let Value::Object(fields) = &mut shown {
        let presence = &admin.app.presence;
        fields.insert("objects".into(), json!(owned.keys));
        fields.insert("bytes".into(), json!(owned.bytes));
        fields.insert("limits".into(), super::limits::shown(&account.limits));
        fields.insert("sessions_online".into(), json!(presence.sessions(account.id).len()));
        fields.insert("agent_endpoints_online".into(), json!(presence.endpoints(account.id).len()));
    }
    Ok(Json(shown).into_response())
}

/// What an account has, while the planner has not counted yet.
async fn counted(store: &dyn Store, prefix: &str) -> Result<Owned, AdminError> {
    let usage = store.usage(prefix.to_owned()).await?;
    let mut owned = Owned { bytes: usage.bytes, ..Owned::default() };
    for item in store.range(Range::all(prefix)).await?.items {
        if let Some((collection, _)) = item.key.strip_prefix(prefix).and_then(|path| path.split_once('/')) {
            *owned.keys.entry(collection.to_owned()).or_default() += 1;
        }
    }
    Ok(owned)
}

/// Stops an account: its keys are refused at once, its agents and endpoints as soon as edges have the next Program.
pub(super) async fn suspend(
    State(admin): State<Admin>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, AdminError> {
    admin.check(&headers)?;
    let stored = admin.account(&id).await?;
    let since = stored.record.suspended_at.unwrap_or_else(|| admin.app.now());
    set_suspended(&admin, stored, Some(since)).await
}

/// Undoes [`suspend`]. Nothing of the account was lost.
pub(super) async fn resume(
    State(admin): State<Admin>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, AdminError> {
    admin.check(&headers)?;
    let stored = admin.account(&id).await?;
    set_suspended(&admin, stored, None).await
}

async fn set_suspended(
    admin: &Admin,
    stored: Stored<Account>,
    suspended_at: Option<i64>,
) -> Result<Response, AdminError> {
    let changed = Account { suspended_at, ..stored.record.clone() };
    if changed != stored.record {
        admin.put_account(&stored, &changed).await?;
        tracing::info!(account = %changed.id, suspended = suspended_at.is_some(), "the operator changed an account");
    }
    Ok(Json(view(&changed)).into_response())
}

/// Removes an account with everything it has and every name it holds. A deletion that was cut short goes on when it is
/// asked for again: the account's own record goes last.
pub(super) async fn delete(
    State(admin): State<Admin>,
    Path(id): Path<String>,
    Query(Deletion { force }): Query<Deletion>,
    headers: HeaderMap,
) -> Result<Response, AdminError> {
    admin.check(&headers)?;
    let store = &*admin.app.store;
    let no_account = || AdminError::NoAccount(id.clone());
    let account: AccountId = id.parse().map_err(|_| no_account())?;
    match admin.account(&id).await {
        Ok(stored) if stored.record.suspended_at.is_some() => {}
        Ok(_) if !force => return Err(AdminError::Active(account)),
        Ok(stored) => {
            let changed = Account { suspended_at: Some(admin.app.now()), ..stored.record.clone() };
            admin.put_account(&stored, &changed).await?;
        }
        // A record that cannot be read lets nobody write for the account.
        Err(AdminError::Record(record::RecordError::Damaged { .. })) => {}
        Err(error) => return Err(error),
    }
    let removed = sweep(store, account).await?;
    let last = store.get(&Account::key(account)).await?.ok_or_else(no_account)?;
    let empty = store.range(Range::all(record::account_prefix(account))).await?;
    let txn = Txn::new().if_unchanged(&last.key, last.modified).delete(&last.key);
    let outcome = store.commit(txn.if_none_newer(record::account_prefix(account), empty.revision)).await?;
    if empty.items.len() > 1 || matches!(outcome, Outcome::Conflict(_)) {
        return Err(AdminError::Conflict);
    }
    tracing::info!(%account, keys = removed, "the operator deleted an account");
    Ok(Json(json!({ "id": account, "deleted": true, "objects_removed": removed })).into_response())
}

/// Removes everything of an account but its own record, each object with the names it held. Gives how many objects.
async fn sweep(store: &dyn Store, account: AccountId) -> Result<usize, AdminError> {
    let own = Account::key(account);
    let objects = store.range(Range::all(record::account_prefix(account))).await?.items;
    let objects: Vec<_> = objects.into_iter().filter(|item| item.key != own).collect();
    let orders = store.range(Range::all(format!("{ACME_PREFIX}{account}/"))).await?.items;
    let orders = orders.into_iter().map(|item| vec![item.key]);
    let groups: Vec<_> = orders.chain(held::with_names(store, account, &objects).await?).collect();
    for groups in groups.chunks(GROUPS_PER_STEP) {
        let txn = groups.iter().flatten().fold(Txn::new(), Txn::delete);
        if let Outcome::Conflict(_) = store.commit(txn).await? {
            return Err(AdminError::Conflict);
        }
    }
    Ok(objects.len())
}

fn view(account: &Account) -> Value {
    json!({
        "id": account.id,
        "name": account.name,
        "created_at": timestamp(account.created_at),
        "state": if account.suspended_at.is_some() { "suspended" } else { "active" },
        "suspended_at": account.suspended_at.map(timestamp),
        "passthrough_links": account.passthrough_links,
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{call, text};
    use super::*;
    use crate::app::testing::Lab;
    use crate::auth::{AuthError, authenticate};
    use crate::plan::live::Live;
    use crate::plan::planner::Planner;
    use crate::record::{Credential, Record, ReservedDomain, index};
    use axum::http::header::AUTHORIZATION;
    use ebbgate_model::{Acl, CredentialId, DomainId};

    async fn lab_with_objects() -> (Lab, CredentialId) {
        let lab = Lab::new().await;
        let (id, domain) = (CredentialId::new(lab.app.ksuid()), DomainId::new(lab.app.ksuid()));
        let credential = Credential {
            id,
            account: lab.account,
            description: String::new(),
            metadata: String::new(),
            acl: Acl::default(),
            owner: None,
            hash: crate::secret::hash("x"),
            created_at: 0,
        };
        let reserved = ReservedDomain {
            id: domain,
            account: lab.account,
            host: "a.example.com".parse().unwrap(),
            description: String::new(),
            metadata: String::new(),
            certificate: None,
            management: None,
            resolves_to: Vec::new(),
            created_at: 0,
        };
        let txn = record::create(record::create(Txn::new(), &credential), &reserved);
        let txn = record::take(txn, index::credential(id), lab.account, id);
        let txn = record::take(txn, index::domain(&reserved.host), lab.account, domain);
        let _ = lab.app.store.commit(txn).await.unwrap();
        (lab, id)
    }

    async fn working(lab: &Lab) -> bool {
        let page = lab.app.store.range(Range::all("/")).await.unwrap();
        let (mut planner, mut live) = (Planner::new(usize::MAX), Live::default());
        planner.read(&page.items, &lab.app.vault);
        planner.plan(&mut live);
        live.program(page.revision).credentials.values().any(|credential| credential.account == lab.account)
    }

    async fn key_works(lab: &Lab) -> Result<(), AuthError> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, format!("Bearer {}", lab.api_key).parse().unwrap());
        authenticate(&*lab.app.store, &headers).await.map(|_| ())
    }

    #[tokio::test]
    async fn a_suspended_account_has_no_working_key_or_authtoken_until_it_is_resumed() {
        let (lab, _) = lab_with_objects().await;
        assert!(working(&lab).await);
        key_works(&lab).await.unwrap();
        let path = format!("/accounts/{}", lab.account);
        let (status, _) = call(&lab, "POST", &format!("{path}/suspend"), "stranger", "").await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        let (status, shown) = call(&lab, "POST", &format!("{path}/suspend"), "operator", "").await;
        assert_eq!((status, text(&shown, "state")), (StatusCode::OK, "suspended"));
        assert!(!working(&lab).await);
        assert!(
            matches!(key_works(&lab).await, Err(AuthError::Suspended(account)) if account == lab.account)
        );
        let (_, shown) = call(&lab, "GET", &path, "operator", "").await;
        assert_eq!(text(&shown, "state"), "suspended");
        assert_eq!(shown.pointer("/objects/credentials"), Some(&json!(1)));
        let (_, shown) = call(&lab, "POST", &format!("{path}/resume"), "operator", "").await;
        assert_eq!(text(&shown, "state"), "active");
        assert!(working(&lab).await);
        key_works(&lab).await.unwrap();
    }

    #[tokio::test]
    async fn deleting_an_account_leaves_nothing_of_it_and_nothing_of_others_is_touched() {
        let (lab, _) = lab_with_objects().await;
        let (_, other) = call(&lab, "POST", "/accounts", "operator", r#"{"name":"other"}"#).await;
        let path = format!("/accounts/{}", lab.account);
        let (status, refused) = call(&lab, "DELETE", &path, "operator", "").await;
        assert_eq!(status, StatusCode::CONFLICT);
        assert!(text(&refused, "error").contains("suspend it first"), "{refused}");
        let (status, _) = call(&lab, "DELETE", &format!("{path}?force=true"), "operator", "").await;
        assert_eq!(status, StatusCode::OK);
        let left = lab.app.store.range(Range::all("/")).await.unwrap().items;
        let id = lab.account.to_string();
        for item in &left {
            let value = String::from_utf8_lossy(&item.value);
            assert!(!item.key.contains(&id) && !value.contains(&id), "{} is left", item.key);
        }
        let (_, listed) = call(&lab, "GET", "/accounts", "operator", "").await;
        let ids: Vec<_> =
            listed.pointer("/accounts").unwrap().as_array().unwrap().iter().map(|a| text(a, "id")).collect();
        assert_eq!(ids, [text(&other, "id")]);
        assert!(matches!(key_works(&lab).await, Err(AuthError::Unknown)));
        let (status, _) = call(&lab, "DELETE", &path, "operator", "").await;
        assert_eq!(status, StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn an_account_whose_record_is_damaged_is_listed_and_can_be_deleted() {
        let (lab, credential) = lab_with_objects().await;
        let _ = lab.app.store.commit(Txn::new().put(Account::key(lab.account), "damage")).await.unwrap();
        let (status, _) = call(&lab, "GET", "/installation", "stranger", "").await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        let (status, installation) = call(&lab, "GET", "/installation", "operator", "").await;
        assert_eq!((status, text(&installation, "connect_host")), (StatusCode::OK, "connect.test"));
        let (status, listed) = call(&lab, "GET", "/accounts", "operator", "").await;
        assert_eq!(status, StatusCode::OK);
        assert!(listed.to_string().contains("is damaged"), "{listed}");
        let path = format!("/accounts/{}", lab.account);
        let (status, _) = call(&lab, "DELETE", &path, "operator", "").await;
        assert_eq!(status, StatusCode::OK);
        let key = record::key::<Credential>(lab.account, credential);
        assert_eq!(Credential::COLLECTION, "credentials");
        assert!(lab.app.store.get(&key).await.unwrap().is_none());
    }
}
