//! What all stored resources have in common: create, get, list, change and delete, with pages, ids, warnings and the
//! retry of transactions that lost a race. A resource adds its fields and its rules ([`Resource`]).
//!
//! Knows nothing of any particular resource.

use std::fmt::Display;
use std::str::FromStr;

use axum::extract::{Path, RawQuery};
use axum::response::{IntoResponse, Response};
use ebbgate_model::IdError;
use http::{StatusCode, header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use utoipa::openapi::Required;
use utoipa::openapi::path::HttpMethod;
use utoipa::{PartialSchema, ToSchema};

use super::body::{JsonText, NoBody};
use super::body_schema;
use super::call::{Call, NoQuery};
use super::condition::{self, Conditions, EntityTag};
pub(super) use super::draft::Draft;
use super::dry_run::{self, DryRun};
use super::failure::ApiError;
use super::filter::{Budget, Filter};
use super::listing::{Listing, list_reply};
use super::operation::{self, Operation};
use super::owner;
use super::page::{LIMIT_MAX, PAGE_PARAMETERS, Page};
use super::query::Query;
use super::quota::{check_bytes, check_owned, reserve};
use super::refusal::Refusal;
use super::reply::{Saved, WARNING, json, warning_value};
use super::routes::Routes;
use super::strict::Object;
use crate::record::{self, Account, IssuedCertificate, Record, RecordError, Stored};
use crate::store::{Outcome, Revision, Txn};

/// How often a transaction that lost a race is tried again before the caller is told to.
const ATTEMPTS_MAX: u32 = 64;

/// What one resource adds to the common mechanics.
pub(super) trait Resource: Send + Sync + Sized + 'static {
    /// Path below the root, which is also the name of the list.
    const PATH: &'static str;
    /// Key of the array in a list.
    const LIST_KEY: &'static str = Self::PATH;
    /// What one is called in sentences.
    const NOUN: &'static str;
    /// Prefixes its ids may have, the first being its own (code 227, or 243 for several).
    const ID_PREFIXES: &'static [&'static str];
    /// Code of a change without any field.
    const EMPTY_UPDATE: u32;
    /// Most an account has of them, unless the operator says otherwise.
    const OWNED_MAX: usize = 1_000;
    /// Query parameters of its list besides those of pages; each may be repeated.
    const LIST_FILTERS: &'static [&'static str] = &[];
    /// Fields without which a creation is refused.
    const REQUIRED: &'static [&'static str] = &[];
    /// Body of a creation as the document shows it; ids in it are made up.
    const EXAMPLE: &'static str = "{}";
    /// Body of a change as the document shows it.
    const CHANGE_EXAMPLE: &'static str = r#"{"metadata": "site=1"}"#;

    /// Its identifier.
    type Id: FromStr<Err = IdError> + Display + Copy + Send + Sync;
    /// What is stored.
    type Record: Record<Id = Self::Id>;
    /// What clients read.
    type View: Serialize + ToSchema + Send;
    /// Body of a creation.
    type Create: DeserializeOwned + ToSchema + Send + Sync;
    /// Body of a change.
    type Update: DeserializeOwned + ToSchema + Send + Sync;

    /// An object as clients read it.
    fn view(call: &Call, record: &Self::Record) -> Self::View;

    /// An object just stored, as clients read it, where a view needs more than its record.
    fn saved_view(
        call: &Call,
        record: &Self::Record,
    ) -> impl Future<Output = Result<Self::View, ApiError>> + Send {
        async { Ok(Self::view(call, record)) }
    }

    /// Judges a creation against what is stored now and says what to store.
    fn create(
        call: &Call,
        body: &Self::Create,
    ) -> impl Future<Output = Result<Draft<Self::Record>, ApiError>> + Send;

    /// Judges a change against what is stored now and says what to store.
    fn update(
        call: &Call,
        stored: &Stored<Self::Record>,
        body: &Self::Update,
    ) -> impl Future<Output = Result<Draft<Self::Record>, ApiError>> + Send;

    /// What a removal must compare and remove besides the object itself; refuses while something refers to it.
    fn delete(
        call: &Call,
        stored: &Stored<Self::Record>,
    ) -> impl Future<Output = Result<Txn, ApiError>> + Send;

    /// Bytes that one takes in what edges are sent, at most.
    fn sent_bytes(record: &Self::Record) -> usize {
        record.sent_bytes()
    }

    /// What a removal must compare and remove besides an object that cannot be read; refuses while something refers to it.
    /// Its names are found by their holder.
    fn delete_damaged(_call: &Call, _id: Self::Id) -> impl Future<Output = Result<Txn, ApiError>> + Send {
        async { Ok(Txn::new()) }
    }

    /// The answer for an id under which nothing is stored.
    fn missing(_call: &Call, id: Self::Id) -> ApiError {
        ApiError::not_found(format_args!("{} {id}", Self::NOUN))
    }

    /// One object to read.
    fn find(call: &Call, id: Self::Id) -> impl Future<Output = Result<Self::View, ApiError>> + Send {
        async move { Ok(Self::view(call, &load::<Self>(call, id).await?.record)) }
    }

    /// One page, and the id the next page begins before.
    fn page(
        call: &Call,
        _query: &Query,
        page: Page<Self::Id>,
    ) -> impl Future<Output = Result<Listing<Self::View, Self::Id>, ApiError>> + Send {
        async move {
            let listed =
                record::list::<Self::Record>(&*call.app.store, call.account, page.before, Some(page.limit))
                    .await?;
            let items = listed.items.iter().map(|stored| Self::view(call, &stored.record)).collect();
            // Of the last key, not the last record: that one may be damaged.
            let last = listed.last.as_deref().and_then(record::id_in_key::<Self::Record>);
            let next = last.map(|(_, id)| id).filter(|_| listed.more);
            Ok(Listing { items, next, damaged: listed.damaged })
        }
    }
}

/// The collection of a resource, and most of its objects in an account by default.
pub(super) fn limit<R: Resource>() -> (&'static str, usize) {
    (R::Record::COLLECTION, R::OWNED_MAX)
}

const DRY_RUN_ANSWER: &str = "With `dry_run=true`: what would be, and nothing was stored.";

/// The five operations of a resource.
pub(super) fn routes<R: Resource>() -> Routes {
    listed::<R>().merge(creation::<R>()).merge(change::<R>()).merge(removal::<R>())
}

fn operation<R: Resource>(verb: &str, what: &str) -> Operation {
    Operation::new(R::PATH, verb, &format!("{what} {}", R::NOUN))
}

fn one<R: Resource>() -> String {
    format!("/{}/{{id}}", R::PATH)
}

/// The list and one of it.
pub(super) fn listed<R: Resource>() -> Routes {
    let list =
        operation::<R>("list", "List every").lists::<R::View>(R::LIST_KEY, R::ID_PREFIXES, R::LIST_FILTERS);
    let get = operation::<R>("get", "Read one")
        .id(R::ID_PREFIXES)
        .answers::<R::View>("200", "The object.")
        .parameter(condition::if_none_match())
        .may_answer("304", "The caller has this very answer.");
    Routes::new().add(HttpMethod::Get, &format!("/{}", R::PATH), self::list::<R>, list).add(
        HttpMethod::Get,
        &one::<R>(),
        find::<R>,
        get,
    )
}

/// The creation; `leads_to` is what one can do with the object then.
fn creation<R: Resource>() -> Routes {
    creation_that_leads_to::<R>(&["get", "update", "delete"])
}

/// As [`routes`] has it, for a resource with fewer operations.
pub(super) fn creation_that_leads_to<R: Resource>(verbs: &[&str]) -> Routes {
    let create = operation::<R>("create", "Create one")
        .takes(
            R::Create::name().into_owned(),
            body_schema::requiring(R::Create::schema(), R::REQUIRED),
            Required::True,
            R::EXAMPLE,
        )
        .answers::<R::View>("201", "The object as it was made.")
        .parameter(dry_run::parameter())
        .may_answer("200", DRY_RUN_ANSWER)
        .leads_to(verbs)
        .refuses(&[Refusal::Conflict]);
    Routes::new().add(HttpMethod::Post, &format!("/{}", R::PATH), self::create::<R>, create)
}

/// The change.
pub(super) fn change<R: Resource>() -> Routes {
    let id = operation::id_schema(R::ID_PREFIXES);
    let update = operation::<R>("update", "Change one")
        .description("Fields that are absent stay as they are.")
        .id(R::ID_PREFIXES)
        .takes(
            format!("{}Update", R::View::name()),
            body_schema::repeating_id(R::Update::schema(), id),
            Required::True,
            R::CHANGE_EXAMPLE,
        )
        .answers::<R::View>("200", "The object as it is now.")
        .parameter(dry_run::parameter())
        .parameter(condition::if_match())
        .refuses(&[Refusal::Conflict, Refusal::Moved]);
    Routes::new().add(HttpMethod::Patch, &one::<R>(), self::update::<R>, update)
}

/// The removal.
pub(super) fn removal<R: Resource>() -> Routes {
    let remove = operation::<R>("delete", "Delete one")
        .id(R::ID_PREFIXES)
        .parameter(dry_run::parameter())
        .parameter(condition::if_match())
        .may_answer("200", DRY_RUN_ANSWER)
        .refuses(&[Refusal::Conflict, Refusal::Moved]);
    Routes::new().add(HttpMethod::Delete, &one::<R>(), delete::<R>, remove)
}

/// Reads an id of the path, a query or a body.
pub(super) fn parse_id<R: Resource>(text: &str) -> Result<R::Id, ApiError> {
    check_id(text, R::ID_PREFIXES)
}

/// Reads an id that must have one of the prefixes.
pub(super) fn check_id<I: FromStr<Err = IdError>>(text: &str, prefixes: &[&str]) -> Result<I, ApiError> {
    text.parse().map_err(|reason: IdError| match prefixes {
        [prefix] => {
            ApiError::bad(227, format!("`{text}` is not an id with the prefix `{prefix}_`: {reason}"))
        }
        prefixes => {
            let prefixes = prefixes.join("_`, `");
            ApiError::bad(
                243,
                format!("`{text}` is not an id with one of the prefixes `{prefixes}_`: {reason}"),
            )
        }
    })
}

/// The object stored under an id of the caller's account.
pub(super) async fn load<R: Resource>(call: &Call, id: R::Id) -> Result<Stored<R::Record>, ApiError> {
    match record::load::<R::Record>(&*call.app.store, call.account, id).await {
        Err(RecordError::Damaged { source, .. }) => Err(damaged::<R>(id, &source)),
        stored => stored?.ok_or_else(|| R::missing(call, id)),
    }
}

/// The answer for an object that is stored and cannot be read.
pub(super) fn damaged<R: Resource>(id: R::Id, reason: &serde_json::Error) -> ApiError {
    let message = format!(
        "the {} {id} is damaged in the store ({reason}) and is left out of what edges get; delete it with DELETE /{}/{id} and make it anew, or have the operator restore a backup",
        R::NOUN,
        R::PATH
    );
    ApiError::plain(StatusCode::INTERNAL_SERVER_ERROR, message).detail("damaged", id.to_string())
}

/// Carries a transaction out; None when something it depends on has moved.
///
/// An account that was suspended or deleted since the call began is not written to any more.
async fn commit(call: &Call, txn: Txn) -> Result<Option<Revision>, ApiError> {
    let account = Account::key(call.account);
    match call.app.store.commit(txn.if_unchanged(&account, call.account_modified)).await? {
        Outcome::Committed(revision) => Ok(Some(revision)),
        Outcome::Conflict(key) if key == account => {
            Err(ApiError::unavailable("the operator changed the account at the same time; try again"))
        }
        Outcome::Conflict(key) => {
            tracing::debug!(key, "a transaction lost a race");
            tokio::task::yield_now().await;
            Ok(None)
        }
    }
}

fn busy() -> ApiError {
    let message = "too many changes at the same time kept this one from happening; try again";
    ApiError::unavailable(message)
}

async fn create<R: Resource>(
    call: Call,
    dry_run: DryRun,
    conditions: Conditions,
    JsonText(text): JsonText,
) -> Result<Saved, ApiError> {
    conditions.check_creation()?;
    let body: R::Create = Object::parse(&text)?.read()?;
    for _ in 0..ATTEMPTS_MAX {
        let Draft { record, txn, warnings, token } = R::create(&call, &body).await?;
        check_owned::<R::Record>(&call, R::PATH, R::OWNED_MAX).await?;
        let bytes = record::encode(&record).len();
        let own = check_bytes(&call, bytes).await?;
        let room = reserve::<R::Record>(&call, own, (1, bytes, R::sent_bytes(&record)))?;
        let mut object = object(R::saved_view(&call, &record).await?)?;
        let txn = txn.note(record.key(), None, Some(object.clone()));
        let txn = record::create(txn, &record);
        if dry_run.is_wanted() {
            return dry_run::answer(&call, &txn, Some(object), warnings).await;
        }
        if let Some(revision) = commit(&call, txn).await? {
            room.done(revision);
            let tag = EntityTag::new(revision, &object);
            if let (Some(token), Value::Object(object)) = (token, &mut object) {
                object.insert("token".into(), token.expose().into());
            }
            return Ok(Saved { status: StatusCode::CREATED, object, warnings, tag: Some(tag) });
        }
    }
    Err(busy())
}

async fn update<R: Resource>(
    call: Call,
    Path(id): Path<String>,
    dry_run: DryRun,
    conditions: Conditions,
    JsonText(text): JsonText,
) -> Result<Saved, ApiError> {
    let id = parse_id::<R>(&id)?;
    let mut body = Object::parse(&text)?;
    // The Go client repeats the id of the path in the body.
    if let Some(given) = body.take_text("id")
        && given.parse::<R::Id>().map(|given| given.to_string()) != Ok(id.to_string())
    {
        return Err(ApiError::value(
            "id",
            format_args!("it is `{given}`, but the path names {id}; ids never change"),
        ));
    }
    if body.is_empty() {
        let message = format!("the change of the {} names no field; name at least one", R::NOUN);
        return Err(ApiError::bad(R::EMPTY_UPDATE, message));
    }
    save::<R>(&call, id, &body.read()?, &conditions, dry_run).await
}

/// Carries a change out.
pub(super) async fn save<R: Resource>(
    call: &Call,
    id: R::Id,
    body: &R::Update,
    conditions: &Conditions,
    dry_run: DryRun,
) -> Result<Saved, ApiError> {
    for _ in 0..ATTEMPTS_MAX {
        let stored = load::<R>(call, id).await?;
        conditions.check_change(&format_args!("the {} {id}", R::NOUN), stored.modified)?;
        let Draft { record, txn, warnings, .. } = R::update(call, &stored, body).await?;
        let (before, after) = (record::encode(&stored.record).len(), record::encode(&record).len());
        let bytes = after.saturating_sub(before);
        let own = check_bytes(call, bytes).await?;
        let more = R::sent_bytes(&record).saturating_sub(R::sent_bytes(&stored.record));
        let room = reserve::<R::Record>(call, own, (0, bytes, more))?;
        let was = object(R::saved_view(call, &stored.record).await?)?;
        let object = object(R::saved_view(call, &record).await?)?;
        let txn = txn.note(record.key(), Some(was), Some(object.clone()));
        let txn = record::replace(txn, &record, stored.modified);
        if dry_run.is_wanted() {
            return dry_run::answer(call, &txn, Some(object), warnings).await;
        }
        if let Some(revision) = commit(call, txn).await? {
            room.done(revision);
            let tag = EntityTag::new(revision, &object);
            return Ok(Saved { status: StatusCode::OK, object, warnings, tag: Some(tag) });
        }
    }
    Err(busy())
}

async fn delete<R: Resource>(
    call: Call,
    Path(id): Path<String>,
    dry_run: DryRun,
    conditions: Conditions,
    NoBody: NoBody,
) -> Result<Response, ApiError> {
    let id = parse_id::<R>(&id)?;
    let what = format_args!("the {} {id}", R::NOUN).to_string();
    for _ in 0..ATTEMPTS_MAX {
        let txn = match record::load::<R::Record>(&*call.app.store, call.account, id).await {
            Ok(Some(stored)) => {
                conditions.check_change(&what, stored.modified)?;
                let was = object(R::saved_view(&call, &stored.record).await?)?;
                let txn = R::delete(&call, &stored).await?.note(stored.record.key(), Some(was), None);
                record::remove(txn, &stored)
            }
            Ok(None) => return Err(R::missing(&call, id)),
            Err(RecordError::Damaged { .. }) => remove_damaged::<R>(&call, id, &conditions).await?,
            Err(error) => return Err(error.into()),
        };
        if dry_run.is_wanted() {
            return Ok(dry_run::answer(&call, &txn, None, Vec::new()).await?.into_response());
        }
        if commit(&call, txn).await?.is_some() {
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
    }
    Err(busy())
}

/// Removes an object that cannot be read, with every name it holds and the certificate made for it.
///
/// Its service user can no longer be told: only the account's own keys may delete it.
async fn remove_damaged<R: Resource>(
    call: &Call,
    id: R::Id,
    conditions: &Conditions,
) -> Result<Txn, ApiError> {
    owner::may_administer(call)?;
    let key = record::key::<R::Record>(call.account, id);
    let Some(item) = call.app.store.get(&key).await? else { return Err(R::missing(call, id)) };
    conditions.check_change(&format_args!("the {} {id}", R::NOUN), item.modified)?;
    let txn = R::delete_damaged(call, id).await?;
    let names = record::names_of(&*call.app.store, call.account, id).await?;
    let txn = names.into_iter().fold(txn, Txn::delete);
    Ok(txn.delete(IssuedCertificate::key(call.account, id)).if_unchanged(&key, item.modified).delete(key))
}

async fn find<R: Resource>(
    call: Call,
    Path(id): Path<String>,
    NoQuery: NoQuery,
    conditions: Conditions,
    NoBody: NoBody,
) -> Result<Response, ApiError> {
    let id = parse_id::<R>(&id)?;
    // Read first: a tag is rather too old than too new.
    let key = record::key::<R::Record>(call.account, id);
    let stored = call.app.store.get(&key).await?;
    let view = object(R::find(&call, id).await?)?;
    let tag = stored.map(|item| EntityTag::new(item.modified, &view));
    let mut response = match &tag {
        Some(tag) if conditions.is_known(tag) => StatusCode::NOT_MODIFIED.into_response(),
        _ => json(StatusCode::OK, &view),
    };
    if let Some(tag) = tag {
        response.headers_mut().insert(header::ETAG, tag.header());
    }
    let left_out = call.app.planned.borrow().left_out.clone();
    if let Some(reason) = left_out.get(&record::key::<R::Record>(call.account, id)) {
        let warning = format!("this object is left out of what edges get: {reason}");
        response.headers_mut().append(WARNING, warning_value(&warning));
    }
    Ok(response)
}

async fn list<R: Resource>(
    call: Call,
    RawQuery(query): RawQuery,
    NoBody: NoBody,
) -> Result<Response, ApiError> {
    let query = Query::parse(query.as_deref().unwrap_or(""), &PAGE_PARAMETERS, R::LIST_FILTERS)?;
    let page = Page::parse(&query, parse_id::<R>)?;
    let listing = if let Some(filter) = query.one("filter") {
        filtered::<R>(&call, &query, page, &Filter::parse(filter)?).await?
    } else {
        let Listing { items, next, damaged } = R::page(&call, &query, page).await?;
        Listing { items: items.into_iter().map(object).collect::<Result<_, _>>()?, next, damaged }
    };
    let again = query.again(R::LIST_FILTERS) + &query.again(&["filter"]);
    Ok(list_reply(&call, R::PATH, R::LIST_KEY, listing, page.limit, &again))
}

/// The next objects that pass a filter, however many must be passed over for them.
async fn filtered<R: Resource>(
    call: &Call,
    query: &Query,
    page: Page<R::Id>,
    filter: &Filter,
) -> Result<Listing<Value, R::Id>, ApiError> {
    let (now, mut budget) = (call.app.now(), Budget::new());
    let (mut kept, mut last, mut before) = (Vec::new(), None, page.before);
    let mut damaged = Vec::new();
    loop {
        let chunk = R::page(call, query, Page { limit: LIMIT_MAX, before }).await?;
        damaged.extend(chunk.damaged);
        for item in chunk.items {
            let item = object(item)?;
            let keeps = filter.keeps(&item, now, &mut budget)?;
            // Others are served by the same threads.
            tokio::task::yield_now().await;
            if !keeps {
                continue;
            }
            if kept.len() == page.limit {
                return Ok(Listing { items: kept, next: last, damaged });
            }
            last = item.get("id").and_then(Value::as_str).and_then(|id| id.parse().ok());
            kept.push(item);
        }
        match chunk.next {
            Some(next) => before = Some(next),
            None => return Ok(Listing { items: kept, next: None, damaged }),
        }
    }
}

fn object(view: impl Serialize) -> Result<Value, ApiError> {
    serde_json::to_value(view).map_err(|e| ApiError::internal(&e))
}
