//! The operator's calls about API keys of any account: create, list, revoke. Tokens are shown once and stored as hashes.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use ebbgate_model::ApiKeyId;
use serde::Deserialize;
use serde_json::json;

use super::call::{Admin, AdminError, check_text};
use crate::account;
use crate::api::timestamp;
use crate::record::{self, Account, ApiKey, Holder, index};
use crate::store::{Outcome, Txn};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewApiKey {
    #[serde(default)]
    description: String,
}

pub(super) async fn create(
    State(admin): State<Admin>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, AdminError> {
    admin.check(&headers)?;
    let NewApiKey { description } = serde_json::from_slice(&body)?;
    check_text(&description)?;
    let app = &admin.app;
    let stored = admin.account(&id).await?;
    let account = stored.record.id;
    let (key, token) = account::api_key(account, &description, app.now(), &*app.entropy);
    let txn = Txn::new().if_unchanged(Account::key(account), stored.modified);
    match app.store.commit(account::add_key(txn, &key)).await? {
        Outcome::Committed(_) => {
            Ok((StatusCode::CREATED, Json(json!({ "id": key.id, "api_key": token }))).into_response())
        }
        Outcome::Conflict(_) => Err(AdminError::Conflict),
    }
}

/// The keys of an account, newest first, without their secrets.
pub(super) async fn list(
    State(admin): State<Admin>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, AdminError> {
    admin.check(&headers)?;
    let account = admin.account(&id).await?.record.id;
    let keys = record::list::<ApiKey>(&*admin.app.store, account, None, None).await?;
    let keys = keys.items.into_iter().map(|stored| {
        let key = stored.record;
        json!({
            "id": key.id, "description": key.description, "metadata": key.metadata, "owner": key.owner,
            "created_at": timestamp(key.created_at),
        })
    });
    Ok(Json(json!({ "account": account, "api_keys": keys.collect::<Vec<_>>() })).into_response())
}

/// Makes a key useless from the next call on. Takes its id, never the key itself.
pub(super) async fn revoke(
    State(admin): State<Admin>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, AdminError> {
    admin.check(&headers)?;
    let store = &*admin.app.store;
    // What was given is not repeated unless it is an id: it may be a key.
    let key: ApiKeyId =
        id.parse().map_err(|_| AdminError::NoApiKey("with that id (ids begin with `ak_`)".to_owned()))?;
    let no_key = || AdminError::NoApiKey(key.to_string());
    let held = store.get(&index::api_key(key)).await?.ok_or_else(no_key)?;
    let account = record::decode::<Holder>(&held)?.record.account;
    let txn = Txn::new().if_unchanged(&held.key, held.modified).delete(&held.key);
    match store.commit(txn.delete(record::key::<ApiKey>(account, key))).await? {
        Outcome::Committed(_) => {
            tracing::info!(%account, %key, "the operator revoked an API key");
            Ok(Json(json!({ "id": key, "account": account, "revoked": true })).into_response())
        }
        Outcome::Conflict(_) => Err(AdminError::Conflict),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{call, text};
    use super::*;
    use crate::app::testing::Lab;
    use crate::auth::authenticate;
    use axum::http::header::AUTHORIZATION;

    async fn account_of(lab: &Lab, key: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, format!("Bearer {key}").parse().unwrap());
        authenticate(&*lab.app.store, &headers).await.ok().map(|caller| caller.account.to_string())
    }

    #[tokio::test]
    async fn an_operator_adds_accounts_and_keys_that_work() {
        let lab = Lab::new().await;
        let (status, made) = call(&lab, "POST", "/accounts", "operator", r#"{"name":"second"}"#).await;
        assert_eq!(status, StatusCode::CREATED);
        let path = format!("/accounts/{}/api_keys", text(&made, "id"));
        let (status, more) = call(&lab, "POST", &path, "operator", "{}").await;
        assert_eq!(status, StatusCode::CREATED);
        for key in [text(&made, "api_key"), text(&more, "api_key")] {
            assert_eq!(account_of(&lab, key).await.as_deref(), Some(text(&made, "id")));
        }
    }

    #[tokio::test]
    async fn a_revoked_key_is_refused_and_the_others_of_the_account_stay() {
        let lab = Lab::new().await;
        let path = format!("/accounts/{}/api_keys", lab.account);
        let (_, made) = call(&lab, "POST", &path, "operator", r#"{"description":"terraform"}"#).await;
        let (status, listed) = call(&lab, "GET", &path, "operator", "").await;
        assert_eq!(status, StatusCode::OK);
        let keys = listed.pointer("/api_keys").unwrap().as_array().unwrap();
        let described: Vec<_> = keys.iter().map(|key| text(key, "description")).collect();
        assert!(keys.len() == 2 && described.contains(&"terraform"), "{listed}");
        assert!(!listed.to_string().contains(text(&made, "api_key")));
        let revoke = format!("/api_keys/{}", text(&made, "id"));
        let (status, _) = call(&lab, "DELETE", &revoke, "stranger", "").await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        assert!(account_of(&lab, text(&made, "api_key")).await.is_some());
        let (status, _) = call(&lab, "DELETE", &revoke, "operator", "").await;
        assert_eq!(status, StatusCode::OK);
        assert!(account_of(&lab, text(&made, "api_key")).await.is_none());
        assert!(account_of(&lab, &lab.api_key).await.is_some());
        let (status, again) = call(&lab, "DELETE", &revoke, "operator", "").await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{again}");
        let (status, answer) =
            call(&lab, "DELETE", &format!("/api_keys/{}", lab.api_key), "operator", "").await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        let (_, secret) = lab.api_key.split_once('_').unwrap();
        assert!(!answer.to_string().contains(secret), "a key given instead of its id is not repeated");
    }
}
