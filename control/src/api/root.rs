//! `GET /` and `GET /self`: whether the API answers, and as which caller.

use axum::response::Response;
use ebbgate_model::OwnerId;
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa::openapi::path::HttpMethod;

use super::api_keys::{self, ApiKeys};
use super::body::NoBody;
use super::call::{Call, NoQuery};
use super::failure::ApiError;
use super::operation::Operation;
use super::reply::{Ref, json};
use super::resource::Resource;
use super::routes::Routes;
use super::users::Users;
use crate::auth::Means;
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
    /// Null in a session of the dashboard.
    api_key: Option<api_keys::View>,
    /// The person that calls; null: the account or a service user.
    user: Option<Ref>,
    /// What the caller may do: `owner`, `admin` or `viewer`.
    role: String,
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
    let api_key = match &call.caller.means {
        Means::Key(key) => Some(ApiKeys::view(&call, key)),
        Means::Session(..) => None,
    };
    let user = match call.owner() {
        Some(OwnerId::User(user)) => Some(call.reference(Users::PATH, user)),
        Some(OwnerId::ServiceUser(_)) | None => None,
    };
    Ok(json(StatusCode::OK, &Identity { account, api_key, user, role: call.role().to_string() }))
}
