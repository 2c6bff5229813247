//! The operator's calls about changes that not all edges have.

use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use ebbgate_model::EndpointId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::call::{Admin, AdminError};
use crate::rollout::{self, Done, RolloutError, SettingsChange};

/// Routes below the admin port's root.
pub(super) fn routes() -> Router<Admin> {
    Router::new()
        .route("/rollouts", get(status))
        .route("/rollouts/pause", post(pause))
        .route("/rollouts/resume", post(resume))
        .route("/rollouts/settings", post(settings))
}

async fn status(State(admin): State<Admin>, headers: HeaderMap) -> Result<Response, AdminError> {
    admin.check(&headers)?;
    Ok(Json(rollout::status(&admin.app).await?).into_response())
}

/// Of which endpoint the change is meant; null: of all.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    endpoint: Option<String>,
}

impl Which {
    fn read(body: &[u8]) -> Result<Option<EndpointId>, AdminError> {
        let Self { endpoint } = serde_json::from_slice(body)?;
        let parse = |id: String| id.parse().map_err(|_| AdminError::Rollout(RolloutError::NoRollout(id)));
        endpoint.map(parse).transpose()
    }
}

async fn pause(State(admin): State<Admin>, headers: HeaderMap, body: Bytes) -> Result<Response, AdminError> {
    admin.check(&headers)?;
    let done = match Which::read(&body)? {
        Some(endpoint) => vec![rollout::pause(&admin.app, endpoint).await?],
        None => rollout::pause_all(&admin.app).await?,
    };
    Ok(told(&done))
}

async fn resume(State(admin): State<Admin>, headers: HeaderMap, body: Bytes) -> Result<Response, AdminError> {
    admin.check(&headers)?;
    let done = match Which::read(&body)? {
        Some(endpoint) => vec![rollout::resume(&admin.app, endpoint).await?],
        None => rollout::resume_all(&admin.app).await?,
    };
    Ok(told(&done))
}

fn told(done: &[Done]) -> Response {
    let one = |(endpoint, state): &Done| json!({ "endpoint": endpoint, "state": state });
    Json(json!({ "rollouts": done.iter().map(one).collect::<Vec<Value>>() })).into_response()
}

async fn settings(
    State(admin): State<Admin>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, AdminError> {
    admin.check(&headers)?;
    let change: SettingsChange = serde_json::from_slice(&body)?;
    let settings = rollout::change_settings(&*admin.app.store, &change).await?;
    Ok(Json(json!({ "settings": settings })).into_response())
}

#[cfg(test)]
mod tests {
    use super::super::testing::call;
    use crate::app::testing::Lab;
    use axum::http::StatusCode;
    use serde_json::json;

    #[tokio::test]
    async fn an_operator_alone_sees_and_changes_rollouts() {
        let lab = Lab::new().await;
        let (status, _) = call(&lab, "GET", "/rollouts", "stranger", "").await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        let (status, shown) = call(&lab, "GET", "/rollouts", "operator", "").await;
        assert_eq!((status, &shown["rollouts"]), (StatusCode::OK, &json!([])));
        let nowhere = format!(r#"{{"endpoint":"{}"}}"#, ebbgate_model::EndpointId::new(lab.app.ksuid()));
        for (path, token, body, expect) in [
            ("/rollouts/pause", "stranger", r#"{"endpoint":null}"#, StatusCode::UNAUTHORIZED),
            ("/rollouts/pause", "operator", r#"{"endpoint":null}"#, StatusCode::OK),
            ("/rollouts/pause", "operator", r#"{"all":true}"#, StatusCode::BAD_REQUEST),
            ("/rollouts/pause", "operator", nowhere.as_str(), StatusCode::NOT_FOUND),
            ("/rollouts/resume", "operator", r#"{"endpoint":"x"}"#, StatusCode::NOT_FOUND),
            ("/rollouts/resume", "operator", nowhere.as_str(), StatusCode::NOT_FOUND),
            ("/rollouts/settings", "operator", r#"{"soak_secs":0}"#, StatusCode::BAD_REQUEST),
            ("/rollouts/settings", "operator", r#"{"most_errors_percent":101}"#, StatusCode::BAD_REQUEST),
            ("/rollouts/settings", "operator", r#"{"soak":1}"#, StatusCode::BAD_REQUEST),
            ("/rollouts/settings", "stranger", r#"{"soak_secs":1}"#, StatusCode::UNAUTHORIZED),
            ("/rollouts/settings", "operator", r#"{"soak_secs":1}"#, StatusCode::OK),
        ] {
            let (status, answer) = call(&lab, "POST", path, token, body).await;
            assert_eq!(status, expect, "{path} {body}: {answer}");
        }
    }
}
