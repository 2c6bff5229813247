//! The operator's port: health, metrics, and what stands above accounts. Loopback only; changes need `DIR/operator.token`.

mod accounts;
mod api_keys;
mod call;
mod edges;
mod held;
mod limits;
mod people;
mod rollouts;

use std::collections::BTreeMap;
use std::net::IpAddr;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, MatchedPath, Path, Request, State};
use axum::http::header::{ACCEPT, CONTENT_TYPE, HOST};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use ebbgate_model::{AccountId, IpRestrictionKind};
use ebbgate_telemetry::Exposition;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::Deserialize;
use serde_json::json;

use self::call::{Admin, AdminError};
use crate::App;
use crate::audit;
use crate::disk::{Unwritable, unwritable};
use crate::events::gauges;
use crate::listen::Peer;
use crate::record::{self, Account, IpRestriction, Stored};
use crate::settings;
use crate::store::{Outcome, Store, Txn};

/// Longest request body in bytes.
const BODY_BYTES_MAX: usize = 16 * 1024;
/// Whether the database is damaged.
const DAMAGED_GAUGE: &str = "database_damaged";
/// Records left out of what edges get that `/readyz` names.
const LEFT_OUT_SHOWN_MAX: usize = 100;

/// The port's routes. `operator_token` is what changes must present as bearer.
pub fn router(app: App, operator_token: &str) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .merge(edges::routes())
        .merge(rollouts::routes())
        .route("/installation", get(installation))
        .route("/accounts", get(accounts::list).post(accounts::create))
        .route("/accounts/{id}", get(accounts::show).delete(accounts::delete))
        .route("/accounts/{id}/suspend", post(accounts::suspend))
        .route("/accounts/{id}/limits", post(limits::set))
        .route("/accounts/{id}/resume", post(accounts::resume))
        .route("/accounts/{id}/api_keys", get(api_keys::list).post(api_keys::create))
        .route("/api_keys/{id}", delete(api_keys::revoke))
        .merge(people::routes())
        .route(audit::OPERATIONS_PATH, post(operation))
        .route("/accounts/{id}/open_api", post(open_api))
        .route("/accounts/{id}/passthrough_links", post(set_passthrough_links))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(from_fn(refuse_other_hosts))
        .layer(from_fn(log_changes))
        .with_state(Admin { app, token: operator_token.into() })
}

/// A page that made its own name resolve to this port (DNS rebinding) still sends that name.
async fn refuse_other_hosts(request: Request, next: Next) -> Response {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let authority: Option<Authority> = host.and_then(|host| host.parse().ok());
    let is_ours = |authority: &Authority| {
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || host.parse::<IpAddr>().is_ok()
    };
    if authority.as_ref().is_some_and(is_ours) {
        return next.run(request).await;
    }
    (StatusCode::FORBIDDEN, "use the address of this port, or localhost, as host\n").into_response()
}

/// One line for each change an operator asks for. The route, not the path: somebody may paste a key where an id belongs.
async fn log_changes(request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map(|route| route.as_str().to_owned());
    let source = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
    let response = audit::acting(audit::Actor::operator().at(source), next.run(request)).await;
    if !matches!(method, Method::GET | Method::HEAD) {
        let status = response.status().as_u16();
        tracing::info!(actor = "operator", %method, route, status, "operator's call");
    }
    response
}

async fn metrics(State(admin): State<Admin>, headers: HeaderMap) -> impl IntoResponse {
    let planned = admin.app.planned.borrow().clone();
    let unwritable = unwritable(&admin.app.database);
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let form = Exposition::accepted(accept);
    let (events, now) = (&admin.app.events, admin.app.now());
    let damaged = i64::from(admin.app.store.damage().is_some());
    let more = |registry: &mut Registry| {
        let damage: Gauge = Gauge::default();
        damage.set(damaged);
        registry.register(
            DAMAGED_GAUGE,
            "1 when the database was found to be damaged: writes are refused",
            damage,
        );
        gauges::register(events, now, registry);
    };
    let text = admin.app.metrics.text(&planned, &admin.app.presence, &admin.app.acme, unwritable, more);
    let text = form.write(text);
    ([(CONTENT_TYPE, form.content_type())], text)
}

/// Ready: the store takes a write and the newest revision could be planned.
async fn ready(State(admin): State<Admin>) -> Response {
    let planned = admin.app.planned.borrow().clone();
    let trouble = match (&planned.trouble, planned.generation) {
        (Some(trouble), _) => Some(trouble.clone()),
        (None, None) => Some("the first Program is not planned yet".to_owned()),
        (None, Some(_)) => {
            // Changes nothing, but goes all the way to the disk.
            let written = admin.app.store.commit(Txn::new()).await;
            // A little room may be left in the log when there is none for more.
            let full = || unwritable(&admin.app.database).map(|reason| disk_trouble(&admin.app, reason));
            written.err().map(|error| error.to_string()).or_else(full)
        }
    };
    let (status, head) = match trouble {
        None => (StatusCode::OK, "ready".to_owned()),
        Some(trouble) => (StatusCode::SERVICE_UNAVAILABLE, trouble),
    };
    let events = gauges::told(&admin.app.events, admin.app.now());
    let more = certificates(&admin.app) + &events;
    (status, told(&head, &planned.left_out) + &more).into_response()
}

fn disk_trouble(app: &App, reason: Unwritable) -> String {
    let what = match reason {
        Unwritable::Full => "full: free space",
        Unwritable::ReadOnly => "read-only: mount it for writing",
    };
    format!("the disk that holds {} is {what}", app.database.display())
}

/// One damaged or oversized object of one account is no reason not to be ready; it is told.
fn told(head: &str, left_out: &BTreeMap<String, String>) -> String {
    let mut text = format!("{head}\n");
    let lines = left_out.iter().take(LEFT_OUT_SHOWN_MAX);
    text.extend(lines.map(|(key, reason)| format!("left out: {key}: {reason}\n")));
    let more = left_out.len().saturating_sub(LEFT_OUT_SHOWN_MAX);
    if more > 0 {
        text.extend([format!("left out: {more} more\n")]);
    }
    text
}

/// Names without a certificate of the ACME authority, or with one that could not be renewed; no reason not to be ready.
fn certificates(app: &App) -> String {
    let names = app.acme.all();
    let failing = names.iter().filter_map(|(host, name)| Some((host, name, name.failure()?)));
    let lines = failing.take(LEFT_OUT_SHOWN_MAX).map(|(host, name, failure)| {
        let until = name.not_after.map_or("has no certificate".to_owned(), |at| {
            format!("its certificate expires in {} h", at.saturating_sub(app.now()) / 3600)
        });
        format!("certificate: {host}: {until}: {}\n", failure.message)
    });
    lines.collect()
}

/// What `init` decided and `config set` changed.
async fn installation(State(admin): State<Admin>, headers: HeaderMap) -> Result<Response, AdminError> {
    admin.check(&headers)?;
    Ok(Json(settings::Shown::of(&admin.app.installation, admin.app.acme.settings())).into_response())
}

/// Writes the entry of what a command does while this control runs.
async fn operation(
    State(admin): State<Admin>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, AdminError> {
    admin.check(&headers)?;
    let operation: audit::Operation = serde_json::from_slice(&body)?;
    if !operation.is_sound() {
        return Err(AdminError::Value("`id` must be `op_` with letters and digits".to_owned()));
    }
    let app = &admin.app;
    operation.write(&*app.store, &*app.clock, &*app.entropy).await.map_err(record::RecordError::from)?;
    app.events.audit.written.notify_one();
    Ok(Json(json!({})).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PassthroughLinks {
    allowed: bool,
}

/// Whether visitors' TLS may cross from edge to agent without a second encryption. Takes effect on an agent's next session.
async fn set_passthrough_links(
    State(admin): State<Admin>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, AdminError> {
    admin.check(&headers)?;
    let PassthroughLinks { allowed } = serde_json::from_slice(&body)?;
    let stored = admin.account(&id).await?;
    let changed = Account { passthrough_links: allowed, ..stored.record.clone() };
    admin.put_account(&stored, &changed).await?;
    Ok(Json(json!({ "id": changed.id, "passthrough_links": allowed })).into_response())
}

/// The way back for an account that has locked itself out: its IP restriction of type `api` is kept, but not in force.
async fn open_api(
    State(admin): State<Admin>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, AdminError> {
    admin.check(&headers)?;
    let store = &*admin.app.store;
    let account: AccountId = id.parse().map_err(|_| AdminError::NoAccount(id.clone()))?;
    let all = record::list::<IpRestriction>(store, account, None, None).await?;
    let in_force = |r: &&Stored<IpRestriction>| r.record.kind == IpRestrictionKind::Api && r.record.enforced;
    let Some(stored) = all.items.iter().find(in_force) else {
        return remove_damaged(store, account, &all.damaged).await;
    };
    let opened = IpRestriction { enforced: false, ..stored.record.clone() };
    match store.commit(record::replace(Txn::new(), &opened, stored.modified)).await? {
        Outcome::Committed(_) => Ok(Json(json!({ "id": opened.id, "enforced": false })).into_response()),
        Outcome::Conflict(_) => Err(AdminError::Conflict),
    }
}

/// Restrictions that cannot be read refuse every API call; nobody but the operator can remove them then.
async fn remove_damaged(
    store: &dyn Store,
    account: AccountId,
    damaged: &[String],
) -> Result<Response, AdminError> {
    if damaged.is_empty() {
        return Err(AdminError::NotRestricted(account));
    }
    match store.commit(damaged.iter().fold(Txn::new(), Txn::delete)).await? {
        Outcome::Committed(_) => Ok(Json(json!({ "deleted": damaged })).into_response()),
        Outcome::Conflict(_) => Err(AdminError::Conflict),
    }
}

/// A call of the port, for tests of what stands behind it.
#[cfg(test)]
mod testing {
    use super::*;
    use crate::app::testing::Lab;
    use axum::body::Body;
    use axum::http::header::AUTHORIZATION;
    use http_body_util::BodyExt;
    use serde_json::Value;
    use tower::ServiceExt;

    pub(super) fn text<'a>(made: &'a Value, field: &str) -> &'a str {
        made.get(field).and_then(Value::as_str).unwrap()
    }

    pub(super) async fn call(
        lab: &Lab,
        method: &str,
        path: &str,
        token: &str,
        body: &str,
    ) -> (StatusCode, Value) {
        let request = Request::builder().method(method).uri(path);
        let request = request.header(HOST, "127.0.0.1:4481").header(AUTHORIZATION, format!("Bearer {token}"));
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let response = router(lab.app.clone(), "operator").oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::call::NAME_BYTES_MAX;
    use super::testing::{call, text};
    use super::*;
    use crate::app::testing::Lab;
    use crate::restriction;
    use axum::body::Body;
    use ebbgate_model::{IpPolicyId, IpRestrictionId};
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    #[tokio::test]
    async fn an_operator_lets_a_locked_out_account_in_again() {
        let lab = Lab::new().await;
        let restriction = |kind| IpRestriction {
            id: IpRestrictionId::new(lab.app.ksuid()),
            account: lab.account,
            kind,
            enforced: true,
            ip_policies: vec![IpPolicyId::new(lab.app.ksuid())],
            description: String::new(),
            metadata: String::new(),
            created_at: 0,
        };
        let (api, agent) = (restriction(IpRestrictionKind::Api), restriction(IpRestrictionKind::Agent));
        let txn = record::create(record::create(Txn::new(), &api), &agent);
        let _ = lab.app.store.commit(txn).await.unwrap();
        let admits =
            async |kind| restriction::admits(&*lab.app.store, lab.account, kind, None).await.unwrap();
        assert!(!admits(IpRestrictionKind::Api).await);
        let path = format!("/accounts/{}/open_api", lab.account);
        let (status, _) = call(&lab, "POST", &path, "stranger", "{}").await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        let (status, opened) = call(&lab, "POST", &path, "operator", "{}").await;
        assert_eq!((status, text(&opened, "id")), (StatusCode::OK, api.id.to_string().as_str()));
        assert!(admits(IpRestrictionKind::Api).await);
        assert!(!admits(IpRestrictionKind::Agent).await, "the others stay");
        let (status, _) = call(&lab, "POST", &path, "operator", "{}").await;
        assert_eq!(status, StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn an_account_has_passthrough_links_only_once_the_operator_says_so() {
        let lab = Lab::new().await;
        let allowed = async || {
            let stored = record::read::<Account>(&*lab.app.store, &Account::key(lab.account)).await.unwrap();
            stored.unwrap().record.passthrough_links
        };
        assert!(!allowed().await);
        let path = format!("/accounts/{}/passthrough_links", lab.account);
        for (token, body, expect, then) in [
            ("stranger", r#"{"allowed":true}"#, StatusCode::UNAUTHORIZED, false),
            ("operator", r#"{"allowed":"yes"}"#, StatusCode::BAD_REQUEST, false),
            ("operator", r#"{"allowed":true}"#, StatusCode::OK, true),
            ("operator", r#"{"allowed":false}"#, StatusCode::OK, false),
        ] {
            let (status, _) = call(&lab, "POST", &path, token, body).await;
            assert_eq!((status, allowed().await), (expect, then), "{token} {body}");
        }
    }

    #[tokio::test]
    async fn an_operator_removes_restrictions_that_nobody_can_read() {
        let lab = Lab::new().await;
        let id = IpRestrictionId::new(lab.app.ksuid());
        let key = record::key::<IpRestriction>(lab.account, id);
        let _ = lab.app.store.commit(Txn::new().put(key.as_str(), "damage")).await.unwrap();
        let admits = async || {
            restriction::admits(&*lab.app.store, lab.account, IpRestrictionKind::Api, None).await.unwrap()
        };
        assert!(!admits().await, "it may have been of the type `api`");
        let path = format!("/accounts/{}/open_api", lab.account);
        let (status, said) = call(&lab, "POST", &path, "operator", "{}").await;
        assert_eq!((status, said), (StatusCode::OK, json!({ "deleted": [key] })));
        assert!(admits().await);
    }

    #[tokio::test]
    async fn what_edges_do_not_get_is_named_and_counted_and_control_is_ready() {
        let mut lab = Lab::new().await;
        let names =
            (0..LEFT_OUT_SHOWN_MAX + 2).map(|n| (format!("/a/x/credentials/{n:03}"), "damaged".to_owned()));
        let planned = crate::push::Planned {
            generation: Some(0),
            left_out: Arc::new(names.collect()),
            ..crate::push::Planned::default()
        };
        lab.app.planned = tokio::sync::watch::channel(planned).1;
        let text = async |path: &str| {
            let request = Request::builder().uri(path).header(HOST, "localhost").body(Body::empty()).unwrap();
            let response = router(lab.app.clone(), "operator").oneshot(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK, "{path}");
            let body = response.into_body().collect().await.unwrap().to_bytes();
            String::from_utf8(body.to_vec()).unwrap()
        };
        let ready = text("/readyz").await;
        assert!(ready.starts_with("ready\nleft out: /a/x/credentials/000: damaged\n"), "{ready}");
        assert!(ready.ends_with("left out: 2 more\n"), "{ready}");
        let metrics = text("/metrics").await;
        assert!(metrics.lines().any(|line| line == "ebbgate_control_objects_left_out 102"), "{metrics}");
    }

    #[tokio::test]
    async fn bad_calls_are_refused() {
        let lab = Lab::new().await;
        let long = format!(r#"{{"name":"{}"}}"#, "x".repeat(NAME_BYTES_MAX + 1));
        let nowhere = format!("/accounts/{}/api_keys", AccountId::new(lab.app.ksuid()));
        for (path, token, body, expect) in [
            ("/accounts", "operato", r#"{"name":"x"}"#, StatusCode::UNAUTHORIZED),
            ("/accounts", "", r#"{"name":"x"}"#, StatusCode::UNAUTHORIZED),
            ("/accounts", "operator", "{}", StatusCode::BAD_REQUEST),
            ("/accounts", "operator", r#"{"name":""}"#, StatusCode::BAD_REQUEST),
            ("/accounts", "operator", r#"{"name":"x","admin":true}"#, StatusCode::BAD_REQUEST),
            ("/accounts", "operator", &long, StatusCode::BAD_REQUEST),
            ("/accounts", "operator", &"x".repeat(BODY_BYTES_MAX + 1), StatusCode::PAYLOAD_TOO_LARGE),
            (&nowhere, "operator", "{}", StatusCode::NOT_FOUND),
            ("/installation", "operator", "", StatusCode::METHOD_NOT_ALLOWED),
            ("/accounts/nobody/api_keys", "operator", "{}", StatusCode::NOT_FOUND),
        ] {
            let (status, _) = call(&lab, "POST", path, token, body).await;
            assert_eq!(status, expect, "{path} {body:.40}");
        }
    }

    #[tokio::test]
    async fn a_rebound_name_reads_nothing() {
        let lab = Lab::new().await;
        for (host, expect) in [
            ("127.0.0.1:4481", StatusCode::OK),
            ("[::1]:4481", StatusCode::OK),
            ("localhost:4481", StatusCode::OK),
            ("evil.example", StatusCode::FORBIDDEN),
            ("localhost.evil.example:4481", StatusCode::FORBIDDEN),
        ] {
            let request = Request::builder().uri("/metrics").header(HOST, host).body(Body::empty()).unwrap();
            let response = router(lab.app.clone(), "operator").oneshot(request).await.unwrap();
            assert_eq!(response.status(), expect, "{host}");
        }
    }

    #[tokio::test]
    async fn metrics_are_what_promtool_wants_unless_open_metrics_is_asked_for() {
        let lab = Lab::new().await;
        let (_hold, _commands) =
            lab.app.presence.join(ebbgate_model::EdgeId::new(lab.app.ksuid()), "1".into(), 3);
        let labels = crate::metrics::CallLabels { method: "GET", status: 200 };
        lab.app.metrics.calls.get_or_create(&labels).inc();
        let metrics = async |accept: &str| {
            let request = Request::builder().uri("/metrics").header(HOST, "127.0.0.1").header(ACCEPT, accept);
            let response = router(lab.app.clone(), "operator").oneshot(request.body(Body::empty()).unwrap());
            let response = response.await.unwrap();
            let kind = response.headers()[CONTENT_TYPE].to_str().unwrap().to_owned();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            (kind, String::from_utf8(body.to_vec()).unwrap())
        };
        let (kind, text) = metrics("*/*").await;
        assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
        assert_eq!(ebbgate_telemetry::exposition::defects(&text), Vec::<String>::new());
        assert!(text.contains("# TYPE ebbgate_control_api_calls_total counter\n"), "{text}");
        let (kind, text) = metrics("application/openmetrics-text").await;
        assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
        assert!(text.contains("# TYPE ebbgate_control_api_calls counter\n") && text.ends_with("# EOF\n"));
    }

    #[tokio::test]
    async fn not_ready_before_the_first_plan() {
        let lab = Lab::new().await;
        let (status, _) = call(&lab, "GET", "/readyz", "", "").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        let (status, _) = call(&lab, "GET", "/healthz", "", "").await;
        assert_eq!(status, StatusCode::OK);
        let (status, _) = call(&lab, "GET", "/metrics", "", "").await;
        assert_eq!(status, StatusCode::OK);
    }
}
