//! `/event_subscriptions`: which types of events go to which destinations.

use ebbgate_model::{EventDestinationId, EventSubscriptionId};
use serde::Serialize;
use utoipa::ToSchema;

use super::call::Call;
use super::described::{Head, TextCodes};
use super::event_source_body::{self, SourceBody};
use super::failure::ApiError;
use super::given::{Given, body};
use super::reply::Ref;
use super::resource::{Draft, Resource};
use crate::record::events::{EventDestination, EventSubscription};
use crate::record::{self, Record, Stored, index};
use crate::store::{Revision, Txn};

const TEXTS: TextCodes = TextCodes { description: 215, metadata: 215 };
/// Destinations of one subscription.
const DESTINATIONS_MAX: usize = 16;

/// Types of events and where they go.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EventSubscription)]
pub(super) struct View {
    #[serde(flatten)]
    head: Head,
    /// Types of events that it delivers.
    sources: Vec<event_source_body::View>,
    /// Event destinations that get them.
    destinations: Vec<Ref>,
}

body! {
    /// Body of `POST /event_subscriptions` and `PATCH /event_subscriptions/{id}`.
    Write as "EventSubscriptionWrite" {
        description: String,
        metadata: String,
        /// Types of events that it delivers, each once.
        sources: Vec<SourceBody>,
        /// Event destinations that get them.
        destination_ids: Vec<String>,
    }
}

pub(super) struct EventSubscriptions;

impl Resource for EventSubscriptions {
    const PATH: &'static str = "event_subscriptions";
    const NOUN: &'static str = "event subscription";
    const ID_PREFIXES: &'static [&'static str] = &[EventSubscriptionId::PREFIX];
    const EMPTY_UPDATE: u32 = 215;
    const OWNED_MAX: usize = 100;
    const EXAMPLE: &'static str = r#"{"sources": [{"type": "endpoint_created.v0"}], "destination_ids": []}"#;
    type Id = EventSubscriptionId;
    type Record = EventSubscription;
    type View = View;
    type Create = Write;
    type Update = Write;

    fn view(call: &Call, record: &EventSubscription) -> View {
        View {
            head: Head::of::<Self>(call, record),
            sources: record
                .sources
                .iter()
                .map(|source| event_source_body::view(call, record.id, source))
                .collect(),
            destinations: record
                .destinations
                .iter()
                .map(|id| call.reference(EventDestination::COLLECTION, id))
                .collect(),
        }
    }

    async fn create(call: &Call, body: &Write) -> Result<Draft<EventSubscription>, ApiError> {
        TEXTS.check(&body.description, &body.metadata)?;
        let record = EventSubscription {
            id: EventSubscriptionId::new(call.app.ksuid()),
            account: call.account,
            description: body.description.or_default(),
            metadata: body.metadata.or_default(),
            sources: Vec::new(),
            destinations: Vec::new(),
            created_at: call.app.now(),
        };
        let mut draft = Draft::new(record);
        set(call, &mut draft, body).await?;
        Ok(draft)
    }

    async fn update(
        call: &Call,
        stored: &Stored<EventSubscription>,
        body: &Write,
    ) -> Result<Draft<EventSubscription>, ApiError> {
        let mut draft = TEXTS.change(stored, &body.description, &body.metadata)?;
        set(call, &mut draft, body).await?;
        Ok(draft)
    }

    async fn delete(call: &Call, stored: &Stored<EventSubscription>) -> Result<Txn, ApiError> {
        Ok(Txn::new().delete(index::event_object(
            EventSubscription::COLLECTION,
            call.account,
            stored.record.id,
        )))
    }

    fn sent_bytes(_: &EventSubscription) -> usize {
        0
    }
}

/// Prefix of the account's subscriptions.
pub(super) fn prefix(call: &Call) -> String {
    record::prefix::<EventSubscription>(call.account)
}

/// The account's subscriptions that name a destination, and the revision at which it was so.
pub(super) async fn naming(
    call: &Call,
    destination: EventDestinationId,
) -> Result<(Vec<EventSubscriptionId>, Revision), ApiError> {
    let all = record::list::<EventSubscription>(&*call.app.store, call.account, None, None).await?;
    let names = |subscription: &&EventSubscription| subscription.destinations.contains(&destination);
    let naming = all.items.iter().map(|stored| &stored.record).filter(names);
    Ok((naming.map(|subscription| subscription.id).collect(), all.revision))
}

/// Sets what is given, and writes the key by which the router learns of it.
async fn set(call: &Call, draft: &mut Draft<EventSubscription>, body: &Write) -> Result<(), ApiError> {
    if let Some(sources) = body.sources.get() {
        draft.record.sources = event_source_body::judge_all(sources, &mut draft.warnings)?;
    }
    if body.destination_ids.get().is_some() {
        set_destinations(call, draft, &body.destination_ids).await?;
    }
    draft.txn = told(std::mem::take(&mut draft.txn), &draft.record);
    Ok(())
}

/// Writes the key by which the router learns of a change.
pub(super) fn told(txn: Txn, record: &EventSubscription) -> Txn {
    let key = index::event_object(EventSubscription::COLLECTION, record.account, record.id);
    let holder = record::Holder { account: record.account, id: record.id.to_string() };
    txn.put(key, record::encode(&holder))
}

/// Destinations of the account; the transaction keeps them there.
async fn set_destinations(
    call: &Call,
    draft: &mut Draft<EventSubscription>,
    given: &Given<Vec<String>>,
) -> Result<(), ApiError> {
    let given = given.or_default();
    if given.len() > DESTINATIONS_MAX {
        let message = format!("an event subscription has at most {DESTINATIONS_MAX} destinations");
        return Err(ApiError::value("destination_ids", message));
    }
    let mut ids = Vec::new();
    for (at, text) in given.iter().enumerate() {
        let unknown = || {
            let message = format!("there is no event destination `{text}` in this account");
            ApiError::value(&format!("destination_ids[{at}]"), message)
        };
        let id: EventDestinationId = text.parse().map_err(|_| unknown())?;
        if ids.contains(&id) {
            continue;
        }
        let stored = record::load::<EventDestination>(&*call.app.store, call.account, id).await?;
        let stored = stored.ok_or_else(unknown)?;
        draft.txn = std::mem::take(&mut draft.txn).if_unchanged(stored.record.key(), stored.modified);
        ids.push(id);
    }
    draft.record.destinations = ids;
    Ok(())
}
