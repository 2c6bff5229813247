//! `/event_subscriptions/{id}/sources`: the types of events of a subscription, and for traffic which fields of which events.

use axum::extract::Path;
use axum::response::Response;
use ebbgate_model::EventSubscriptionId;
use http::StatusCode;
use serde::Serialize;
use utoipa::openapi::Required;
use utoipa::openapi::path::{HttpMethod, ParameterIn};
use utoipa::{PartialSchema, ToSchema};

use super::body::{JsonText, NoBody};
use super::call::{Call, NoQuery};
use super::event_source_body::{SourceBody, View, judge_all, view};
use super::event_subscriptions::{EventSubscriptions, told};
use super::failure::ApiError;
use super::given::body;
use super::operation::{Operation, parameter};
use super::refusal::Refusal;
use super::reply::{Saved, json};
use super::resource::{Resource, load, parse_id};
use super::routes::Routes;
use super::strict::Object;
use crate::record::events::{EventSubscription, Source};
use crate::record::{self, Account, Record};
use crate::store::{Outcome, Txn};

/// How often a change that lost a race is tried again.
const ATTEMPTS_MAX: usize = 16;

/// All types of a subscription.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EventSourceList)]
pub(super) struct ListView {
    /// Types of events that the subscription delivers.
    sources: Vec<View>,
    uri: String,
}

body! {
    /// Body of `POST /event_subscriptions/{id}/sources`.
    Create as "EventSourceCreate" {
        /// Type of event, such as `endpoint_created.v0`.
        r#type: String,
        /// Fields to deliver; none: all there are. Only of traffic events.
        fields: Vec<String>,
        /// CEL over `ev`; empty: every event. Only of traffic events.
        filter: String,
    }
}

body! {
    /// Body of `PATCH /event_subscriptions/{id}/sources/{type}`.
    Update as "EventSourceUpdate" {
        /// Fields to deliver; none: all there are. Only of traffic events.
        fields: Vec<String>,
        /// CEL over `ev`; empty: every event. Only of traffic events.
        filter: String,
    }
}

pub(super) fn routes() -> Routes {
    const TAG: &str = EventSubscriptions::PATH;
    let (all, one) = (format!("/{TAG}/{{id}}/sources"), format!("/{TAG}/{{id}}/sources/{{type}}"));
    let on = |verb: &str, summary: &str| {
        Operation::new(TAG, &format!("sources_{verb}"), summary).id(EventSubscriptions::ID_PREFIXES)
    };
    let typed = |verb: &str, summary: &str| {
        let kind = parameter("type", ParameterIn::Path, String::schema(), "Type of the event.");
        on(verb, summary).parameter(kind.required(Required::True).build())
    };
    let new = r#"{"type": "endpoint_created.v0"}"#;
    let change = r#"{"fields": ["conn.client_ip"]}"#;
    let create_document = on("create", "Add an event source")
        .answers::<View>("201", "The event source.")
        .takes(Create::name().into_owned(), Create::schema(), Required::True, new)
        .refuses(&[Refusal::Conflict]);
    let update_document = typed("update", "Change an event source")
        .answers::<View>("200", "The event source.")
        .takes(Update::name().into_owned(), Update::schema(), Required::True, change);
    let list_document = on("list", "List the event sources").answers::<ListView>("200", "All of them.");
    let find_document = typed("get", "Read an event source").answers::<View>("200", "The event source.");
    Routes::new()
        .add(HttpMethod::Get, &all, list, list_document)
        .add(HttpMethod::Post, &all, create, create_document)
        .add(HttpMethod::Get, &one, find, find_document)
        .add(HttpMethod::Patch, &one, update, update_document)
        .add(HttpMethod::Delete, &one, delete, typed("delete", "Remove an event source"))
}

fn parse(id: &str) -> Result<EventSubscriptionId, ApiError> {
    parse_id::<EventSubscriptions>(id)
}

async fn sources(call: &Call, id: EventSubscriptionId) -> Result<Vec<Source>, ApiError> {
    Ok(load::<EventSubscriptions>(call, id).await?.record.sources)
}

fn missing(id: EventSubscriptionId, kind: &str) -> ApiError {
    ApiError::not_found(format_args!("event source `{kind}` in the event subscription {id}"))
}

async fn list(call: Call, Path(id): Path<String>, _: NoQuery, _: NoBody) -> Result<Response, ApiError> {
    let id = parse(&id)?;
    let sources = sources(&call, id).await?.iter().map(|source| view(&call, id, source)).collect();
    let uri = call.uri(&format!("event_subscriptions/{id}/sources"));
    Ok(json(StatusCode::OK, &ListView { sources, uri }))
}

async fn find(
    call: Call,
    Path((id, kind)): Path<(String, String)>,
    _: NoQuery,
    _: NoBody,
) -> Result<Response, ApiError> {
    let id = parse(&id)?;
    let sources = sources(&call, id).await?;
    let source = sources.iter().find(|source| source.r#type == kind).ok_or_else(|| missing(id, &kind))?;
    Ok(json(StatusCode::OK, &view(&call, id, source)))
}

async fn create(
    call: Call,
    Path(id): Path<String>,
    _: NoQuery,
    JsonText(text): JsonText,
) -> Result<Saved, ApiError> {
    let id = parse(&id)?;
    let mut object = Object::parse(&text)?;
    object.take_text("subscription_id");
    let body: Create = object.read()?;
    let new = SourceBody {
        r#type: body.r#type.or_default(),
        fields: body.fields.or_default(),
        filter: body.filter.or_default(),
        uri: None,
    };
    let kind = new.r#type.clone();
    let add = |all: &mut Vec<SourceBody>| {
        if all.iter().any(|source| source.r#type == kind) {
            let message =
                format!("the event subscription {id} has the type `{kind}` already; change that one");
            return Err(ApiError::conflict(215, message).detail("field", "type"));
        }
        all.push(new.clone());
        Ok(())
    };
    let (sources, warnings) = change(&call, id, add).await?;
    saved(&call, id, &kind, &sources, warnings, StatusCode::CREATED)
}

async fn update(
    call: Call,
    Path((id, kind)): Path<(String, String)>,
    _: NoQuery,
    JsonText(text): JsonText,
) -> Result<Saved, ApiError> {
    let id = parse(&id)?;
    let mut object = Object::parse(&text)?;
    // Clients repeat what the path says.
    object.take_text("subscription_id");
    object.take_text("type");
    if object.is_empty() {
        return Err(ApiError::bad(215, "the change of the event source names no field; name at least one"));
    }
    let body: Update = object.read()?;
    let set = |all: &mut Vec<SourceBody>| {
        let source = all.iter_mut().find(|source| source.r#type == kind).ok_or_else(|| missing(id, &kind))?;
        body.fields.apply(&mut source.fields);
        body.filter.apply(&mut source.filter);
        Ok(())
    };
    let (sources, warnings) = change(&call, id, set).await?;
    saved(&call, id, &kind, &sources, warnings, StatusCode::OK)
}

async fn delete(
    call: Call,
    Path((id, kind)): Path<(String, String)>,
    _: NoQuery,
    _: NoBody,
) -> Result<StatusCode, ApiError> {
    let id = parse(&id)?;
    let remove = |all: &mut Vec<SourceBody>| {
        let before = all.len();
        all.retain(|source| source.r#type != kind);
        if all.len() == before { Err(missing(id, &kind)) } else { Ok(()) }
    };
    change(&call, id, remove).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Changes a subscription's sources as they are at that moment, and gives them with what is doubtful about them.
async fn change(
    call: &Call,
    id: EventSubscriptionId,
    how: impl Fn(&mut Vec<SourceBody>) -> Result<(), ApiError>,
) -> Result<(Vec<Source>, Vec<String>), ApiError> {
    for _ in 0..ATTEMPTS_MAX {
        let stored = load::<EventSubscriptions>(call, id).await?;
        let mut all: Vec<_> = stored.record.sources.iter().cloned().map(SourceBody::from).collect();
        how(&mut all)?;
        let mut warnings = Vec::new();
        let sources = judge_all(&all, &mut warnings)?;
        let record = EventSubscription { sources: sources.clone(), ..stored.record.clone() };
        let shown =
            |record: &EventSubscription| serde_json::to_value(EventSubscriptions::view(call, record)).ok();
        let txn = told(Txn::new(), &record).note(record.key(), shown(&stored.record), shown(&record));
        let txn = txn.if_unchanged(Account::key(call.account), call.account_modified);
        let outcome = call.app.store.commit(record::replace(txn, &record, stored.modified)).await?;
        if let Outcome::Committed(_) = outcome {
            return Ok((sources, warnings));
        }
    }
    Err(ApiError::unavailable("too many changes at the same time kept this one from happening; try again"))
}

fn saved(
    call: &Call,
    id: EventSubscriptionId,
    kind: &str,
    sources: &[Source],
    warnings: Vec<String>,
    status: StatusCode,
) -> Result<Saved, ApiError> {
    let source = sources.iter().find(|source| source.r#type == kind).ok_or_else(|| missing(id, kind))?;
    let object = serde_json::to_value(view(call, id, source)).map_err(|error| ApiError::internal(&error))?;
    Ok(Saved { status, object, warnings, tag: None })
}
