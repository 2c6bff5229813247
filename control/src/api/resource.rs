//! What all stored resources have in common: create, get, list, change and delete, with pages, ids, warnings and the
//! retry of transactions that lost a race. A resource adds its fields and its rules ([`Resource`]).
//!
//! Knows nothing of any particular resource.

use std::fmt::Display;
use std::str::FromStr;

use axum::Router;
use axum::extract::{Path, RawQuery};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use ebbgate_model::{IdError, Token};
use http::StatusCode;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::body::{JsonText, NoBody};
use super::call::{Call, NoQuery};
use super::failure::ApiError;
use super::filter::{Budget, Filter};
use super::page::{LIMIT_MAX, PAGE_PARAMETERS, Page};
use super::query::Query;
use super::reply::{Saved, json};
use super::strict::Object;
use crate::app::App;
use crate::record::{self, Record, Stored};
use crate::store::{Outcome, Txn};

/// How often a transaction that lost a race is tried again before the caller is told to.
const ATTEMPTS_MAX: u32 = 64;

/// Bytes of all records of one account. All of them travel to edges in one line of at most 256 MiB.
const ACCOUNT_BYTES_MAX: usize = 64 << 20;

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
    /// Most an account has of them.
    const OWNED_MAX: usize = 1_000;
    /// Query parameters of its list besides those of pages; each may be repeated.
    const LIST_FILTERS: &'static [&'static str] = &[];

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
            let last = listed.items.last().map(|stored| stored.record.id());
            let items = listed.items.iter().map(|stored| Self::view(call, &stored.record)).collect();
            Ok(Listing { items, next: last.filter(|_| listed.more) })
        }
    }
}

/// What a creation or change will store if nothing it depends on has moved.
#[derive(Debug)]
pub(super) struct Draft<R> {
    /// The object as it will be.
    pub(super) record: R,
    /// Compares and changes besides the object's own.
    pub(super) txn: Txn,
    /// Doubtful spots to tell the caller.
    pub(super) warnings: Vec<String>,
    /// A secret to show this once.
    pub(super) token: Option<Token>,
}

impl<R> Draft<R> {
    /// Only the object itself.
    pub(super) fn new(record: R) -> Self {
        Self { record, txn: Txn::new(), warnings: Vec::new(), token: None }
    }
}

/// Part of a list.
#[derive(Debug)]
pub(super) struct Listing<V, I> {
    /// The objects, newest first.
    pub(super) items: Vec<V>,
    /// The last one's id, when older ones exist.
    pub(super) next: Option<I>,
}

/// The five operations of a resource.
pub(super) fn routes<R: Resource>() -> Router<App> {
    Router::new()
        .route(&format!("/{}", R::PATH), get(list::<R>).post(create::<R>))
        .route(&format!("/{}/{{id}}", R::PATH), get(find::<R>).patch(update::<R>).delete(delete::<R>))
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
    let stored = record::load::<R::Record>(&*call.app.store, call.account, id).await?;
    stored.ok_or_else(|| R::missing(call, id))
}

/// Carries a transaction out; false when something it depends on has moved.
async fn commit(call: &Call, txn: Txn) -> Result<bool, ApiError> {
    match call.app.store.commit(txn).await? {
        Outcome::Committed(_) => Ok(true),
        Outcome::Conflict(key) => {
            tracing::debug!(key, "a transaction lost a race");
            tokio::task::yield_now().await;
            Ok(false)
        }
    }
}

/// Refuses one more of a resource than an account may have. Some made at the very same moment may still pass.
async fn check_owned<R: Resource>(call: &Call) -> Result<(), ApiError> {
    let owned = call.app.store.usage(record::prefix::<R::Record>(call.account)).await?;
    if owned.keys < R::OWNED_MAX {
        return Ok(());
    }
    let message = format!(
        "this account has {} objects in `{}`, the most one account may have; delete one first",
        owned.keys,
        R::PATH
    );
    Err(ApiError::plain(StatusCode::FORBIDDEN, message))
}

/// Refuses what would make an account larger than [`ACCOUNT_BYTES_MAX`].
async fn check_bytes(call: &Call, more: usize) -> Result<(), ApiError> {
    let owned = call.app.store.usage(record::account_prefix(call.account)).await?;
    if owned.bytes + more <= ACCOUNT_BYTES_MAX {
        return Ok(());
    }
    let message = format!(
        "this account's objects would take more than {} MiB together, the most one account may have; delete or shorten some first",
        ACCOUNT_BYTES_MAX >> 20
    );
    Err(ApiError::plain(StatusCode::FORBIDDEN, message))
}

fn busy() -> ApiError {
    let message = "too many changes at the same time kept this one from happening; try again";
    ApiError::unavailable(message)
}

async fn create<R: Resource>(
    call: Call,
    NoQuery: NoQuery,
    JsonText(text): JsonText,
) -> Result<Saved, ApiError> {
    let body: R::Create = Object::parse(&text)?.read()?;
    for _ in 0..ATTEMPTS_MAX {
        let Draft { record, txn, warnings, token } = R::create(&call, &body).await?;
        check_owned::<R>(&call).await?;
        check_bytes(&call, record::encode(&record).len()).await?;
        if commit(&call, record::create(txn, &record)).await? {
            let mut object = object(R::view(&call, &record))?;
            if let (Some(token), Value::Object(object)) = (token, &mut object) {
                object.insert("token".into(), token.expose().into());
            }
            return Ok(Saved { status: StatusCode::CREATED, object, warnings });
        }
    }
    Err(busy())
}

async fn update<R: Resource>(
    call: Call,
    Path(id): Path<String>,
    NoQuery: NoQuery,
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
    save::<R>(&call, id, &body.read()?).await
}

/// Carries a change out.
pub(super) async fn save<R: Resource>(call: &Call, id: R::Id, body: &R::Update) -> Result<Saved, ApiError> {
    for _ in 0..ATTEMPTS_MAX {
        let stored = load::<R>(call, id).await?;
        let Draft { record, txn, warnings, .. } = R::update(call, &stored, body).await?;
        let (before, after) = (record::encode(&stored.record).len(), record::encode(&record).len());
        if after > before {
            check_bytes(call, after - before).await?;
        }
        if commit(call, record::replace(txn, &record, stored.modified)).await? {
            return Ok(Saved { status: StatusCode::OK, object: object(R::view(call, &record))?, warnings });
        }
    }
    Err(busy())
}

async fn delete<R: Resource>(
    call: Call,
    Path(id): Path<String>,
    NoQuery: NoQuery,
    NoBody: NoBody,
) -> Result<StatusCode, ApiError> {
    let id = parse_id::<R>(&id)?;
    for _ in 0..ATTEMPTS_MAX {
        let stored = load::<R>(&call, id).await?;
        let txn = R::delete(&call, &stored).await?;
        if commit(&call, record::remove(txn, &stored)).await? {
            return Ok(StatusCode::NO_CONTENT);
        }
    }
    Err(busy())
}

async fn find<R: Resource>(
    call: Call,
    Path(id): Path<String>,
    NoQuery: NoQuery,
    NoBody: NoBody,
) -> Result<Response, ApiError> {
    let view = R::find(&call, parse_id::<R>(&id)?).await?;
    Ok(json(StatusCode::OK, &view))
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
        let Listing { items, next } = R::page(&call, &query, page).await?;
        Listing { items: items.into_iter().map(object).collect::<Result<_, _>>()?, next }
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
    loop {
        let chunk = R::page(call, query, Page { limit: LIMIT_MAX, before }).await?;
        for item in chunk.items {
            let item = object(item)?;
            let keeps = filter.keeps(&item, now, &mut budget)?;
            // Others are served by the same threads.
            tokio::task::yield_now().await;
            if !keeps {
                continue;
            }
            if kept.len() == page.limit {
                return Ok(Listing { items: kept, next: last });
            }
            last = item.get("id").and_then(Value::as_str).and_then(|id| id.parse().ok());
            kept.push(item);
        }
        match chunk.next {
            Some(next) => before = Some(next),
            None => return Ok(Listing { items: kept, next: None }),
        }
    }
}

/// A page as clients read it. `filters` is repeated in the next page's URL.
pub(super) fn list_reply<V: Serialize, I: Display>(
    call: &Call,
    path: &str,
    list_key: &str,
    listing: Listing<V, I>,
    limit: usize,
    filters: &str,
) -> Response {
    let next = listing.next.map(|id| format!("{}?before_id={id}&limit={limit}{filters}", call.uri(path)));
    let Ok(items) = serde_json::to_value(listing.items) else {
        return ApiError::internal(&"a list cannot be written as JSON").into_response();
    };
    let body: Map<String, Value> = [
        (list_key.to_owned(), items),
        ("uri".to_owned(), call.uri(path).into()),
        ("next_page_uri".to_owned(), next.into()),
    ]
    .into_iter()
    .collect();
    json(StatusCode::OK, &body)
}

fn object(view: impl Serialize) -> Result<Value, ApiError> {
    serde_json::to_value(view).map_err(|e| ApiError::internal(&e))
}
