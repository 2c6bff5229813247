//! `/tunnel_sessions`: agents that are online now, and what an operator can ask of them. `/tunnels` is the old, read-only
//! name of agent endpoints.
//!
//! Nothing here is stored: edges report their sessions.

use axum::extract::{Path, RawQuery};
use axum::response::Response;
use ebbgate_model::feed::{CommandOutcome, SessionCommand};
use ebbgate_model::{IdError, Ksuid, TunnelSessionId};
use http::StatusCode;
use serde::Serialize;
use tokio::time::{Duration, timeout};
use utoipa::ToSchema;
use utoipa::openapi::path::HttpMethod;

use super::action::{self, ANSWER_SECS_MAX, read};
use super::body::{NoBody, OptionalJsonText};
use super::call::{Call, NoQuery};
use super::credentials::Credentials;
use super::endpoints::Endpoints;
use super::failure::ApiError;
use super::filter::{Budget, Filter};
use super::given::body;
use super::listing::{Listing, list_reply};
use super::operation::Operation;
use super::page::{PAGE_PARAMETERS, Page};
use super::query::Query;
use super::refusal::Refusal;
use super::reply::{Ref, json, timestamp};
use super::resource::{Resource, check_id};
use super::routes::Routes;
use crate::presence::{CommandError, LiveEndpoint, LiveSession};

const PATH: &str = "tunnel_sessions";
const TUNNELS_PATH: &str = "tunnels";
/// Longest version an update may ask for, in bytes.
const VERSION_BYTES_MAX: usize = 64;

/// A session of an agent.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TunnelSession)]
pub(super) struct View {
    agent_version: String,
    credential: Option<Ref>,
    id: String,
    ip: String,
    metadata: String,
    os: String,
    region: String,
    started_at: String,
    transport: String,
    uri: String,
}

/// An agent endpoint under its old name.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Tunnel)]
pub(super) struct TunnelView {
    id: String,
    public_url: String,
    started_at: String,
    metadata: String,
    proto: String,
    region: String,
    tunnel_session: Option<Ref>,
    endpoint: Option<Ref>,
    labels: serde_json::Map<String, serde_json::Value>,
    backends: Vec<Ref>,
    forwards_to: String,
}

body! {
    /// Body of the actions that take no field.
    Nothing as "Nothing" {}
}

body! {
    /// Body of `POST /tunnel_sessions/{id}/update`.
    Update as "TunnelSessionUpdate" {
        /// Version to update to; the newest when absent.
        version: String,
    }
}

pub(super) fn routes() -> Routes {
    let sessions: &[&str] = &[TunnelSessionId::PREFIX];
    let of = |path: &str, verb: &str, summary: &str| Operation::new(path, verb, summary);
    let acting = |verb: &str| {
        of(PATH, verb, &format!("Ask one agent to {verb}")).id(sessions).refuses(&[Refusal::AgentFailed])
    };
    let nothing = |verb: &str| action::takes::<Nothing>(acting(verb), sessions, "{}");
    let one = |path: &str, rest: &str| format!("/{path}/{{id}}{rest}");
    Routes::new()
        .add(
            HttpMethod::Get,
            "/tunnel_sessions",
            list,
            of(PATH, "list", "List the agents' sessions that are online").lists::<View>(PATH, sessions, &[]),
        )
        .add(
            HttpMethod::Get,
            &one(PATH, ""),
            find,
            of(PATH, "get", "Read one session").id(sessions).answers::<View>("200", "The session."),
        )
        .add(HttpMethod::Post, &one(PATH, "/stop"), stop, nothing("stop"))
        .add(HttpMethod::Post, &one(PATH, "/restart"), restart, nothing("restart"))
        .add(
            HttpMethod::Post,
            &one(PATH, "/update"),
            update,
            action::takes::<Update>(acting("update"), sessions, r#"{"version": "1.2.3"}"#),
        )
        .add(
            HttpMethod::Get,
            "/tunnels",
            list_tunnels,
            of(TUNNELS_PATH, "list", "List the agent endpoints that are online").lists::<TunnelView>(
                TUNNELS_PATH,
                &[TunnelId::PREFIX],
                &[],
            ),
        )
        .add(
            HttpMethod::Get,
            &one(TUNNELS_PATH, ""),
            find_tunnel,
            of(TUNNELS_PATH, "get", "Read one agent endpoint")
                .id(&[TunnelId::PREFIX])
                .answers::<TunnelView>("200", "The agent endpoint."),
        )
}

fn parse(id: &str) -> Result<TunnelSessionId, ApiError> {
    check_id(id, &[TunnelSessionId::PREFIX])
}

async fn list(call: Call, RawQuery(query): RawQuery, _: NoBody) -> Result<Response, ApiError> {
    let sessions = call.app.presence.sessions(call.account);
    live_page(&call, query.as_deref(), PATH, parse, &sessions, |s| s.id, |s| view(&call, s))
}

async fn find(call: Call, Path(id): Path<String>, _: NoQuery, _: NoBody) -> Result<Response, ApiError> {
    let id = parse(&id)?;
    let session = call.app.presence.session(call.account, id).ok_or_else(|| offline(id))?;
    Ok(json(StatusCode::OK, &view(&call, &session)))
}

async fn stop(
    call: Call,
    Path(id): Path<String>,
    _: NoQuery,
    body: OptionalJsonText,
) -> Result<StatusCode, ApiError> {
    let Nothing {} = read(&id, &body)?;
    send(&call, &id, SessionCommand::Stop).await
}

async fn restart(
    call: Call,
    Path(id): Path<String>,
    _: NoQuery,
    body: OptionalJsonText,
) -> Result<StatusCode, ApiError> {
    let Nothing {} = read(&id, &body)?;
    send(&call, &id, SessionCommand::Restart).await
}

async fn update(
    call: Call,
    Path(id): Path<String>,
    _: NoQuery,
    body: OptionalJsonText,
) -> Result<StatusCode, ApiError> {
    let body: Update = read(&id, &body)?;
    let version = body.version.or_default();
    if version.len() > VERSION_BYTES_MAX {
        return Err(ApiError::value("version", format_args!("it is longer than {VERSION_BYTES_MAX} bytes")));
    }
    send(&call, &id, SessionCommand::Update { version }).await
}

async fn send(call: &Call, id: &str, command: SessionCommand) -> Result<StatusCode, ApiError> {
    let id = parse(id)?;
    let (unsupported, failed, verb) = match command {
        SessionCommand::Restart => (804, 808, "restarted"),
        SessionCommand::Stop => (805, 807, "stopped"),
        SessionCommand::Update { .. } => (806, 809, "updated"),
        SessionCommand::Drain(_) => return Err(ApiError::internal(&"a session is not drained")),
    };
    let unheard = |why: &str| {
        Err(ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            810,
            format!("the agent of {id} was not {verb}: {why}"),
        ))
    };
    match call.app.presence.command(call.account, id, command) {
        Ok(answer) => match timeout(Duration::from_secs(ANSWER_SECS_MAX), answer).await {
            Ok(Ok(CommandOutcome::Taken)) => Ok(StatusCode::NO_CONTENT),
            Ok(Ok(CommandOutcome::Failed { reason })) => {
                let message = format!("the agent of {id} could not be {verb}: {reason}");
                Err(ApiError::new(StatusCode::BAD_GATEWAY, failed, message))
            }
            Ok(Ok(CommandOutcome::Unanswered)) | Err(_) => unheard("it did not answer in time"),
            Ok(Err(_)) => unheard("its edge went away before it answered"),
        },
        Err(CommandError::Refused(reason)) => {
            let message = format!("the agent of {id} cannot be {verb} from here: {reason}");
            Err(ApiError::bad(unsupported, message))
        }
        Err(CommandError::Offline) => Err(offline(id)),
        Err(reason @ CommandError::Unreachable) => {
            Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, 810, format!("{id}: {reason}")))
        }
    }
}

fn offline(id: TunnelSessionId) -> ApiError {
    ApiError::not_found(format_args!("tunnel session {id} is not online"))
}

fn view(call: &Call, session: &LiveSession) -> View {
    let report = &session.report;
    View {
        agent_version: report.agent_version.clone(),
        credential: Some(call.reference(Credentials::PATH, report.credential)),
        id: session.id.to_string(),
        ip: report.ip.clone(),
        metadata: report.metadata.clone(),
        os: report.os.clone(),
        region: call.app.installation.region.clone(),
        started_at: timestamp(report.started_at),
        transport: if report.transport.is_empty() { "muxado".to_owned() } else { report.transport.clone() },
        uri: call.reference(PATH, session.id).uri,
    }
}

fn parse_tunnel(id: &str) -> Result<TunnelId, ApiError> {
    check_id(id, &[TunnelId::PREFIX])
}

async fn list_tunnels(call: Call, RawQuery(query): RawQuery, _: NoBody) -> Result<Response, ApiError> {
    let endpoints = call.app.presence.endpoints(call.account);
    let id = |e: &LiveEndpoint| TunnelId(e.id.ksuid());
    live_page(&call, query.as_deref(), TUNNELS_PATH, parse_tunnel, &endpoints, id, |e| tunnel(&call, e))
}

async fn find_tunnel(
    call: Call,
    Path(id): Path<String>,
    _: NoQuery,
    _: NoBody,
) -> Result<Response, ApiError> {
    let id = parse_tunnel(&id)?;
    let endpoint = call.app.presence.endpoints(call.account).into_iter().find(|e| e.id.ksuid() == id.0);
    let endpoint = endpoint.ok_or_else(|| ApiError::not_found(format_args!("tunnel {id} is not online")))?;
    Ok(json(StatusCode::OK, &tunnel(&call, &endpoint)))
}

fn tunnel(call: &Call, endpoint: &LiveEndpoint) -> TunnelView {
    let report = &endpoint.report;
    TunnelView {
        id: TunnelId(endpoint.id.ksuid()).to_string(),
        public_url: report.url.to_string(),
        started_at: timestamp(report.created_at),
        metadata: report.metadata.clone(),
        proto: report.url.scheme().to_string(),
        region: call.app.installation.region.clone(),
        tunnel_session: Some(call.reference(PATH, endpoint.session.id)),
        endpoint: Some(call.reference(Endpoints::PATH, endpoint.id)),
        labels: serde_json::Map::new(),
        backends: Vec::new(),
        forwards_to: report.forwards_to.clone(),
    }
}

/// The id of an agent endpoint under its old name: the same KSUID with another prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct TunnelId(Ksuid);

impl TunnelId {
    const PREFIX: &'static str = "tn";
}

impl std::fmt::Display for TunnelId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}_{}", Self::PREFIX, self.0)
    }
}

impl std::str::FromStr for TunnelId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let ksuid = text.strip_prefix("tn_").ok_or(IdError::Prefix { expected: Self::PREFIX })?;
        ksuid.parse().map(Self)
    }
}

/// A page of things that are online now.
fn live_page<T, I: Ord + Copy + std::fmt::Display, V: Serialize>(
    call: &Call,
    query: Option<&str>,
    path: &str,
    parse: impl Fn(&str) -> Result<I, ApiError>,
    all: &[T],
    id: impl Fn(&T) -> I,
    view: impl Fn(&T) -> V,
) -> Result<Response, ApiError> {
    let query = Query::parse(query.unwrap_or(""), &PAGE_PARAMETERS, &[])?;
    let page = Page::parse(&query, parse)?;
    let mut views = Vec::with_capacity(all.len());
    let filter = query.one("filter").map(Filter::parse).transpose()?;
    let mut budget = Budget::new();
    for item in all {
        let view = serde_json::to_value(view(item)).map_err(|e| ApiError::internal(&e))?;
        if filter.as_ref().map_or(Ok(true), |filter| filter.keeps(&view, call.app.now(), &mut budget))? {
            views.push((id(item), view));
        }
    }
    let (shown, next) = page.cut(views, |(id, _)| *id);
    let items = shown.into_iter().map(|(_, view)| view).collect();
    Ok(list_reply(
        call,
        path,
        path,
        Listing { items, next, damaged: Vec::new() },
        page.limit,
        &query.again(&["filter"]),
    ))
}
