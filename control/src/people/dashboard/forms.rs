//! Forms about API keys and sessions.

use axum::Extension;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use http::Method;
use serde_json::json;

use super::guard::Fields;
use super::layout::{api_refusal, page};
use super::lists::{field_of, shown_once};
use super::visit::{Dashboard, Signed};
use crate::people::html::link;

/// A new API key of the person who is signed in.
pub(super) async fn create_api_key(
    State(dashboard): State<Dashboard>,
    Extension(signed): Extension<Signed>,
    Extension(fields): Extension<Fields>,
) -> Response {
    let body = json!({ "description": fields.get("description") });
    match dashboard.call(&signed, Method::POST, "/api_keys", Some(&body)).await {
        Ok(made) => {
            let key = shown_once("The new API key:", field_of(&made, "token"));
            page(&signed, "New API key", vec![key, link("/dashboard/api-keys", "To the API keys")])
        }
        Err(error) => api_refusal(&error),
    }
}

/// Makes an API key useless.
pub(super) async fn revoke_api_key(
    State(dashboard): State<Dashboard>,
    Extension(signed): Extension<Signed>,
    Path(id): Path<String>,
) -> Response {
    delete(&dashboard, &signed, "api_keys", &id, "/dashboard/api-keys").await
}

/// Ends a session, the own one too.
pub(super) async fn end_session(
    State(dashboard): State<Dashboard>,
    Extension(signed): Extension<Signed>,
    Path(id): Path<String>,
) -> Response {
    delete(&dashboard, &signed, "user_sessions", &id, "/dashboard/sessions").await
}

/// Deletes an object and shows the list it was in.
pub(super) async fn delete(
    dashboard: &Dashboard,
    signed: &Signed,
    collection: &str,
    id: &str,
    back: &'static str,
) -> Response {
    let path = format!("/{collection}/{}", path_segment(id));
    match dashboard.call(signed, Method::DELETE, &path, None).await {
        Ok(_) => Redirect::to(back).into_response(),
        Err(error) => api_refusal(&error),
    }
}

/// An id as a segment of a path. No id has a character that is left out here.
pub(super) fn path_segment(id: &str) -> String {
    id.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
}
