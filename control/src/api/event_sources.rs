//! `/event_subscriptions/{id}/sources`: the types of events of a subscription, and for traffic which fields of which events.

use axum::extract::Path;
use axum::response::Response;
use ebbgate_model::EventSubscriptionId;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::openapi::Required;
use utoipa::openapi::path::{HttpMethod, ParameterIn};
use utoipa::{PartialSchema, ToSchema};

use super::body::{JsonText, NoBody};
use super::call::{Call, NoQuery};
use super::event_subscriptions::{EventSubscriptions, told};
use super::event_target::hint;
use super::failure::ApiError;
use super::filter::{Budget, Filter};
use super::given::body;
use super::operation::{Operation, parameter};
use super::refusal::Refusal;
use super::reply::{Saved, json};
use super::resource::{Resource, load, parse_id};
use super::routes::Routes;
use super::strict::Object;
use crate::events::{traffic, types};
use crate::record::events::{EventSubscription, Source};
use crate::record::{self, Account, Record};
use crate::store::{Outcome, Txn};

/// Types of one subscription.
const SOURCES_MAX: usize = 128;
/// How often a change that lost a race is tried again.
const ATTEMPTS_MAX: usize = 16;
/// Fields of one source.
const FIELDS_MAX: usize = 64;

/// A type of event that a subscription delivers.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EventSource)]
pub(super) struct View {
    r#type: String,
    /// Fields delivered; none: all there are. Only of traffic events.
    fields: Vec<String>,
    /// CEL over `ev`; "": every event. Only of traffic events.
    filter: String,
    uri: String,
}

/// All types of a subscription.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EventSourceList)]
pub(super) struct ListView {
    sources: Vec<View>,
    uri: String,
}

/// A source in a body.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = EventSourceWrite)]
pub(super) struct SourceBody {
    r#type: String,
    /// Fields to deliver; none: all there are. Only of traffic events.
    fields: Vec<String>,
    /// CEL over `ev`; "": every event. Only of traffic events.
    filter: String,
    /// Clients send back what they read; it is not looked at.
    uri: Option<String>,
}

body! {
    /// Body of `POST /event_subscriptions/{id}/sources`.
    Create as "EventSourceCreate" {
        r#type: String,
        fields: Vec<String>,
        filter: String,
    }
}

body! {
    /// Body of `PATCH /event_subscriptions/{id}/sources/{type}`.
    Update as "EventSourceUpdate" {
        fields: Vec<String>,
        filter: String,
    }
}

pub(super) fn view(call: &Call, subscription: EventSubscriptionId, source: &Source) -> View {
    View {
        r#type: source.r#type.clone(),
        fields: source.fields.clone(),
        filter: source.filter.clone(),
        uri: call.uri(&format!("event_subscriptions/{subscription}/sources/{}", source.r#type)),
    }
}

/// Judges all sources of a subscription. What is doubtful is told.
pub(super) fn judge_all(given: &[SourceBody], warnings: &mut Vec<String>) -> Result<Vec<Source>, ApiError> {
    if given.len() > SOURCES_MAX {
        return Err(ApiError::value(
            "sources",
            format_args!("an event subscription has at most {SOURCES_MAX}"),
        ));
    }
    let mut sources: Vec<Source> = Vec::new();
    for (at, source) in given.iter().enumerate() {
        let field = format!("sources[{at}]");
        let judged = judge(source, &field, warnings)?;
        if sources.iter().any(|other| other.r#type == judged.r#type) {
            let message = format!("the type `{}` is there already; each type once", judged.r#type);
            return Err(ApiError::value(&format!("{field}.type"), message));
        }
        sources.push(judged);
    }
    Ok(sources)
}

fn judge(given: &SourceBody, at: &str, warnings: &mut Vec<String>) -> Result<Source, ApiError> {
    let kind = &given.r#type;
    if !types::is_known(kind) {
        let known: Vec<_> = types::all().collect();
        let known: Vec<_> = known.iter().map(String::as_str).collect();
        let message = format!("there is no event type `{kind}`; {}", hint(kind, &known));
        return Err(ApiError::value(&format!("{at}.type"), message));
    }
    if types::is_absent(kind) {
        warnings.push(format!("events of the type `{kind}` never happen here"));
    }
    if !types::is_traffic(kind) && !(given.fields.is_empty() && given.filter.is_empty()) {
        let message = format!(
            "only `{}` and `{}` take `fields` and `filter`, `{kind}` is always delivered whole",
            types::HTTP,
            types::TCP
        );
        return Err(ApiError::value(at, message));
    }
    check_fields(kind, &given.fields, at, warnings)?;
    check_filter(&given.filter)?;
    Ok(Source { r#type: kind.clone(), fields: given.fields.clone(), filter: given.filter.clone() })
}

fn check_fields(kind: &str, fields: &[String], at: &str, warnings: &mut Vec<String>) -> Result<(), ApiError> {
    if fields.len() > FIELDS_MAX {
        return Err(ApiError::value(&format!("{at}.fields"), format_args!("there are at most {FIELDS_MAX}")));
    }
    let known = traffic::fields(kind);
    for field in fields {
        match known.iter().find(|(name, _)| name == field) {
            Some((_, true)) => {}
            Some((_, false)) => {
                warnings.push(format!("the field `{field}` is null: edges do not tell it yet"))
            }
            None => {
                let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
                let message = format!("`{kind}` has no field `{field}`; {}", hint(field, &names));
                return Err(ApiError::value(&format!("{at}.fields"), message));
            }
        }
    }
    Ok(())
}

/// A filter is tried on an event with every field it may look at.
fn check_filter(text: &str) -> Result<(), ApiError> {
    if text.is_empty() {
        return Ok(());
    }
    let filter = Filter::parse_over(text, "ev")?;
    filter.keeps(&traffic::example(), 0, &mut Budget::new()).map(drop)
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

impl From<Source> for SourceBody {
    fn from(source: Source) -> Self {
        Self { r#type: source.r#type, fields: source.fields, filter: source.filter, uri: None }
    }
}
