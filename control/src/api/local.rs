//! The same API for the dashboard, in this process: the same routes, roles and rules, without a key. Whoever calls has proven
//! who it is.

use std::net::IpAddr;

use axum::Router;
use axum::body::Body;
use axum::middleware::from_fn;
use http::header::CONTENT_TYPE;
use http::{Method, Request};
use http_body_util::{BodyExt, Limited};
use serde_json::Value;
use tower::ServiceExt;

use super::call::Call;
use super::failure::ApiError;
use super::front;
use crate::app::App;
use crate::audit;
use crate::auth::Caller;

/// Bytes of an answer; a page of a list is far below.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// The API, for callers that are known already.
#[derive(Clone)]
pub struct Local {
    app: App,
    router: Router,
}

impl Local {
    /// The API of this process, from routes that nothing guards yet.
    pub(super) fn new(app: App, unguarded: Router<App>) -> Self {
        let router = unguarded.route_layer(from_fn(front::authorize)).with_state(app.clone());
        Self { app, router }
    }

    /// One call. `base` is what links in the answer begin with. Gives the answer's body; null where it has none.
    pub async fn call(
        &self,
        caller: &Caller,
        source: Option<IpAddr>,
        base: &str,
        (method, path): (Method, &str),
        body: Option<&Value>,
    ) -> Result<Value, ApiError> {
        let call = Call {
            app: self.app.clone(),
            account: caller.account,
            account_modified: caller.account_modified,
            limits: caller.limits.clone(),
            principal: caller.principal(),
            caller: caller.clone(),
            source,
            base: base.to_owned(),
        };
        let mut request = Request::builder().method(method).uri(path).extension(call);
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let request = request.body(body).map_err(|error| ApiError::internal(&error))?;
        let acting = audit::Actor::caller(&caller.principal(), caller.key_id()).at(source);
        let response = match audit::acting(acting, self.router.clone().oneshot(request)).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        if let Some(error) = response.extensions().get::<ApiError>() {
            return Err(error.clone());
        }
        let status = response.status();
        if !status.is_success() {
            return Err(ApiError::plain(status, format!("{path} cannot be served: {status}")));
        }
        let bytes = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let bytes = bytes.map_err(|error| ApiError::internal(&error))?.to_bytes();
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|error| ApiError::internal(&error))
    }
}
