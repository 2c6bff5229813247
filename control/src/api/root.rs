//! `GET /` and `GET /self`: whether the API answers, and as which caller.

use axum::Router;
use axum::response::Response;
use axum::routing::get;
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::api_keys::{self, ApiKeys};
use super::body::NoBody;
use super::call::{Call, NoQuery};
use super::failure::ApiError;
use super::reply::json;
use super::resource::Resource;
use crate::app::App;
use crate::record::{self, Account};

/// A greeting, for health probes; needs no key.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Greeting {
    message: String,
    version: String,
}

/// Who calls.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Identity {
    account: AccountView,
    api_key: api_keys::View,
    /// Always null: keys belong to accounts and service users.
    user: Option<String>,
}

/// An account.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Account)]
pub(super) struct AccountView {
    id: String,
    name: String,
    min_agent_version: String,
    min_api_version: String,
}

/// Routes anybody may call.
pub(super) fn open_routes() -> Router<App> {
    Router::new().route("/", get(greet))
}

/// Routes behind the guard.
pub(super) fn routes() -> Router<App> {
    Router::new().route("/self", get(identify))
}

async fn greet(_: NoQuery, _: NoBody) -> Response {
    let message =
        "This is the Ebbgate API. Send `Authorization: Bearer <API key>` and `Ngrok-Version: 2`.".to_owned();
    json(StatusCode::OK, &Greeting { message, version: env!("CARGO_PKG_VERSION").to_owned() })
}

async fn identify(call: Call, _: NoQuery, _: NoBody) -> Result<Response, ApiError> {
    let account = record::read::<Account>(&*call.app.store, &Account::key(call.account)).await?;
    let account = AccountView {
        id: call.account.to_string(),
        name: account.map(|stored| stored.record.name).unwrap_or_default(),
        min_agent_version: String::new(),
        min_api_version: "2".to_owned(),
    };
    let api_key = ApiKeys::view(&call, &call.key);
    Ok(json(StatusCode::OK, &Identity { account, api_key, user: None }))
}
