//! `?dry_run=true` on creations, changes and removals: everything is judged as for the real call, nothing is stored, and
//! the answer says what edges would get.

use std::sync::Arc;

use axum::extract::{FromRequestParts, RawQuery};
use http::StatusCode;
use http::request::Parts;
use serde_json::{Map, Value, json};
use utoipa::openapi::Required;
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};

use super::call::Call;
use super::failure::ApiError;
use super::operation;
use super::query::Query;
use super::reply::Saved;
use crate::plan::live::Live;
use crate::plan::planner::Planner;
use crate::record::{self, SYSTEM_PREFIX, index};
use crate::secret::Vault;
use crate::store::{Batch, Change, Item, Op, Range, Txn};

/// The query parameter, and the key of what the answer adds to an object.
const NAME: &str = "dry_run";
/// Fields of what edges get that no answer shows.
const MASKED: [&str; 3] = ["key_pem", "token", "value"];

/// Whether a call is to be judged only.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct DryRun(bool);

impl DryRun {
    /// Whether nothing is to be stored.
    pub(super) fn is_wanted(self) -> bool {
        self.0
    }
}

impl<S: Send + Sync> FromRequestParts<S> for DryRun {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let RawQuery(query) = RawQuery::from_request_parts(parts, state).await.unwrap_or(RawQuery(None));
        let query = Query::parse(query.as_deref().unwrap_or(""), &[NAME], &[])?;
        match query.given(NAME) {
            None | Some("false") => Ok(Self(false)),
            Some("true") => Ok(Self(true)),
            Some(other) => {
                Err(ApiError::value(NAME, format_args!("it is `{other}`; it must be true or false")))
            }
        }
    }
}

/// The parameter as the document tells it.
pub(super) fn parameter() -> Parameter {
    let text = "Judge the call, with every check and limit, and store nothing.";
    let schema = ObjectBuilder::new().schema_type(Type::Boolean).into();
    operation::parameter(NAME, ParameterIn::Query, schema, text).required(Required::False).build()
}

/// The answer to a call that passed every check: the object as it would be, if one would be there, and under `dry_run`
/// what edges would get and lose.
pub(super) async fn answer(
    call: &Call,
    txn: &Txn,
    object: Option<Value>,
    warnings: Vec<String>,
) -> Result<Saved, ApiError> {
    let mut object = object.unwrap_or_else(|| json!({}));
    if let Value::Object(object) = &mut object {
        object.insert(NAME.into(), difference(call, txn).await?);
    }
    Ok(Saved { status: StatusCode::OK, object, warnings, tag: None })
}

/// What the transaction changes of what edges have, by table. An account's objects stand on no other account's.
async fn difference(call: &Call, txn: &Txn) -> Result<Value, ApiError> {
    let own_urls = format!("{}{}/", index::URLS_PREFIX, call.account);
    let mut items = Vec::new();
    let mut revision = 0;
    for prefix in [record::account_prefix(call.account), own_urls, SYSTEM_PREFIX.to_owned()] {
        let page = call.app.store.range(Range::all(prefix)).await?;
        revision = page.revision;
        items.extend(page.items);
    }
    let changes = txn.ops.iter().map(|op| change(op, revision + 1)).collect();
    let batch = Batch { changes, revision: revision + 1 };
    let vault = Arc::clone(&call.app.vault);
    // An account may have a million objects: others are served meanwhile.
    let compared = tokio::task::spawn_blocking(move || compare(&items, &batch, &vault)).await;
    let difference = compared.map_err(|e| ApiError::internal(&e))?.map_err(|e| ApiError::internal(&e))?;
    Ok(by_table(difference))
}

/// What planning the records gives, against what it gives after the changes.
fn compare(items: &[Item], batch: &Batch, vault: &Vault) -> Result<Value, serde_json::Error> {
    let (mut planner, mut live) = (Planner::new(usize::MAX), Live::default());
    planner.read(items, vault);
    planner.plan(&mut live);
    let before = live.program(0);
    planner.follow(batch, vault);
    planner.plan(&mut live);
    serde_json::to_value(before.diff(&live.program(0)))
}

fn change(op: &Op, modified: u64) -> Change {
    match op {
        Op::Delete(key) => Change::Delete { key: key.clone(), modified },
        Op::Put { key, value, lease } => Change::Put(Item {
            key: key.clone(),
            value: value.clone(),
            created: modified,
            modified,
            lease: *lease,
            damaged: false,
        }),
    }
}

/// `put`: table -> id -> object; `remove`: table -> ids. Tables without a change are left out.
fn by_table(difference: Value) -> Value {
    let (mut put, mut remove) = (Map::new(), Map::new());
    let Value::Object(tables) = difference else { return Value::Null };
    for (table, mut changes) in tables {
        if let Some(Value::Object(objects)) = changes.get_mut("put").map(Value::take) {
            let masked = objects.into_iter().map(|(id, object)| (id, mask(object)));
            put.insert(table.clone(), Value::Object(masked.collect()));
        }
        if let Some(ids @ Value::Array(_)) = changes.get_mut("remove").map(Value::take) {
            remove.insert(table, ids);
        }
    }
    json!({ "put": put, "remove": remove })
}

fn mask(object: Value) -> Value {
    let Value::Object(mut fields) = object else { return object };
    for (name, value) in &mut fields {
        if MASKED.contains(&name.as_str()) {
            *value = "(masked)".into();
        }
    }
    Value::Object(fields)
}
