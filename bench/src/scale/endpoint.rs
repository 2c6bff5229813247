//! How this bench creates an endpoint. Knows nothing of what the endpoint is for.

use anyhow::Result;
use ebbgate_lab::api::Api;

/// One endpoint of the API.
pub(super) fn create(api: &Api, url: &str) -> Result<String> {
    let policy = serde_json::json!({ "on_http_request": [{ "actions": [{ "type": "custom-response",
        "config": { "status_code": 200, "body": "live" } }] }] });
    let body = serde_json::json!({ "url": url, "traffic_policy": policy.to_string() });
    Ok(ebbgate_lab::api::text(&api.create("/endpoints", &body)?, "id")?.to_owned())
}
