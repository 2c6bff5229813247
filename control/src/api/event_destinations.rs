//! `/event_destinations`: where an account's events go. What a target needs to prove itself is sealed and never returned.

use std::collections::BTreeMap;

use axum::extract::Path;
use ebbgate_model::{EventDestinationId, EventId};
use http::StatusCode;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;
use utoipa::openapi::Required;
use utoipa::openapi::path::HttpMethod;
use utoipa::openapi::schema::Object;

use super::body::OptionalJsonText;
use super::call::{Call, NoQuery};
use super::described::{Head, TextCodes};
use super::event_subscriptions;
use super::event_target::TargetBody;
use super::failure::ApiError;
use super::given::{Given, body};
use super::operation::Operation;
use super::resource::{Draft, Resource, load, parse_id};
use super::routes::Routes;
use crate::events::{Event, secrets, sink, types};
use crate::record::events::EventDestination;
use crate::record::{self, Record, Stored, index};
use crate::store::Txn;

const TEXTS: TextCodes = TextCodes { description: 215, metadata: 215 };
/// The one form events have.
const FORMAT: &str = "json";

/// A place that events go to.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EventDestination)]
pub(super) struct View {
    #[serde(flatten)]
    head: Head,
    /// `json`.
    format: String,
    /// Where events go: exactly one kind.
    target: TargetBody,
}

body! {
    /// Body of `POST /event_destinations` and `PATCH /event_destinations/{id}`.
    Write as "EventDestinationWrite" {
        description: String,
        metadata: String,
        /// `json`.
        format: String,
        /// Where events go: exactly one kind.
        target: Option<TargetBody>,
    }
}

pub(super) struct EventDestinations;

impl Resource for EventDestinations {
    const PATH: &'static str = "event_destinations";
    const NOUN: &'static str = "event destination";
    const ID_PREFIXES: &'static [&'static str] = &[EventDestinationId::PREFIX];
    const EMPTY_UPDATE: u32 = 215;
    const OWNED_MAX: usize = 32;
    const REQUIRED: &'static [&'static str] = &["target"];
    const EXAMPLE: &'static str =
        r#"{"target": {"syslog": {"address": "logs.example.com:6514", "tls": true}}}"#;
    type Id = EventDestinationId;
    type Record = EventDestination;
    type View = View;
    type Create = Write;
    type Update = Write;

    fn view(call: &Call, record: &EventDestination) -> View {
        View {
            head: Head::of::<Self>(call, record),
            format: FORMAT.to_owned(),
            target: TargetBody::of(&record.target),
        }
    }

    async fn create(call: &Call, body: &Write) -> Result<Draft<EventDestination>, ApiError> {
        TEXTS.check(&body.description, &body.metadata)?;
        check_format(&body.format)?;
        let (target, secrets) = body.target.or_default().unwrap_or_default().judge(&BTreeMap::new())?;
        let id = EventDestinationId::new(call.app.ksuid());
        let key = record::key::<EventDestination>(call.account, id);
        let record = EventDestination {
            id,
            account: call.account,
            description: body.description.or_default(),
            metadata: body.metadata.or_default(),
            target,
            secrets: secrets::seal(&key, &secrets, &call.app.vault),
            created_at: call.app.now(),
        };
        let txn = told(Txn::new(), &record);
        Ok(Draft { txn, ..Draft::new(record) })
    }

    async fn update(
        call: &Call,
        stored: &Stored<EventDestination>,
        body: &Write,
    ) -> Result<Draft<EventDestination>, ApiError> {
        let mut draft = TEXTS.change(stored, &body.description, &body.metadata)?;
        check_format(&body.format)?;
        if let Some(target) = body.target.get() {
            let record = &stored.record;
            let kept = secrets::open(record, &call.app.vault).map_err(|error| ApiError::internal(&error))?;
            let target = target.clone().unwrap_or_default();
            // Secrets go on with a target of the same kind at the same place, never to another place.
            let same_place = TargetBody::of(&record.target).leads_where(&target);
            let (target, secrets) =
                target.judge(if same_place { &kept } else { const { &BTreeMap::new() } })?;
            draft.record.secrets = secrets::seal(&record.key(), &secrets, &call.app.vault);
            draft.record.target = target;
        }
        draft.txn = told(Txn::new(), &draft.record);
        Ok(draft)
    }

    async fn delete(call: &Call, stored: &Stored<EventDestination>) -> Result<Txn, ApiError> {
        let id = stored.record.id;
        let (users, revision) = event_subscriptions::naming(call, id).await?;
        if let Some(user) = users.first() {
            let message = format!(
                "the event destination {id} is in use by the event subscription {user}; change that first"
            );
            return Err(ApiError::in_use(message));
        }
        let txn = Txn::new().if_none_newer(event_subscriptions::prefix(call), revision);
        Ok(txn.delete(index::event_object(EventDestination::COLLECTION, call.account, id)))
    }

    fn sent_bytes(_: &EventDestination) -> usize {
        0
    }
}

/// Writes the key by which the router learns of the change.
fn told(txn: Txn, record: &EventDestination) -> Txn {
    let key = index::event_object(EventDestination::COLLECTION, record.account, record.id);
    let holder = record::Holder { account: record.account, id: record.id.to_string() };
    txn.put(key, record::encode(&holder))
}

fn check_format(format: &Given<String>) -> Result<(), ApiError> {
    match format.or_default().as_str() {
        "" | FORMAT => Ok(()),
        other => {
            Err(ApiError::value("format", format_args!("it is `{other}`; the one there is is `{FORMAT}`")))
        }
    }
}

/// The action besides the five operations.
pub(super) fn routes() -> Routes {
    const PATH: &str = EventDestinations::PATH;
    let operation = Operation::new(PATH, "send_test_event", "Deliver one event now")
        .id(EventDestinations::ID_PREFIXES)
        .takes("NoFields".into(), Object::new().into(), Required::False, "{}");
    let path = format!("/{PATH}/{{id}}/send_test_event");
    Routes::new().add(HttpMethod::Post, &path, send_test_event, operation)
}

/// Delivers one event now, past the spool, and says what the destination said.
async fn send_test_event(
    call: Call,
    Path(id): Path<String>,
    _: NoQuery,
    _: OptionalJsonText,
) -> Result<StatusCode, ApiError> {
    let record = load::<EventDestinations>(&call, parse_id::<EventDestinations>(&id)?).await?.record;
    let opened = secrets::open(&record, &call.app.vault).map_err(|error| ApiError::internal(&error))?;
    let now = call.app.now();
    let object =
        json!({ "destination_id": record.id, "message": "This event was sent to try the destination." });
    let event = Event::new(EventId::new(call.app.ksuid()), types::TEST, now, Some(call.account), &object);
    let failed = |error: sink::SinkError| {
        let message = format!("the event destination {} did not take the test event: {error}", record.id);
        ApiError::bad(215, message).detail("field", "target")
    };
    let mut sink = sink::open(&record, &opened, &call.app.events.around()).map_err(failed)?;
    sink.send(&[event.body], now).await.map_err(failed)?;
    Ok(StatusCode::NO_CONTENT)
}
