//! `GET /` and `GET /self`: whether the API answers, and as which caller.

use axum::response::Response;
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa::openapi::path::HttpMethod;

use super::api_keys::{self, ApiKeys};
use super::body::NoBody;
use super::call::{Call, NoQuery};
use super::failure::ApiError;
use super::operation::Operation;
use super::reply::json;
use super::resource::Resource;
use super::routes::Routes;
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
pub(super) fn open_routes() -> Routes {
    let greeting = Operation::new("root", "get", "Greet")
        .description("For health probes.")
        .open()
        .answers::<Greeting>("200", "A greeting.");
    Routes::new().add(HttpMethod::Get, "/", greet, greeting)
}

/// Routes behind the guard.
pub(super) fn routes() -> Routes {
    let identity = Operation::new("root", "self", "Tell who calls").answers::<Identity>("200", "The caller.");
    Routes::new().add(HttpMethod::Get, "/self", identify, identity)
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
