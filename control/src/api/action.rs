//! What actions on an object that is online have in common: their bodies, and how long they wait for an answer.

use serde::de::DeserializeOwned;
use utoipa::ToSchema;
use utoipa::openapi::Required;

use super::body::OptionalJsonText;
use super::body_schema;
use super::failure::ApiError;
use super::operation::{self, Operation};
use super::strict::Object;

/// Seconds an answer may take: what an edge gives its agent, and the way there and back.
pub(super) const ANSWER_SECS_MAX: u64 = 15;

/// With the body of an action, which may be left out and may repeat the id.
pub(super) fn takes<B: ToSchema>(operation: Operation, prefixes: &[&str], example: &str) -> Operation {
    let id = operation::id_schema(prefixes);
    let schema = body_schema::repeating_id(B::schema(), id);
    operation.takes(B::name().into_owned(), schema, Required::False, example)
}

/// The body of an action. Some clients repeat the id of the path in it; the Node client sends nothing but the bare id,
/// which is not even JSON.
pub(super) fn read<T: DeserializeOwned>(
    id: &str,
    OptionalJsonText(text): &OptionalJsonText,
) -> Result<T, ApiError> {
    let mut body = Object::parse(if text == id { "{}" } else { text })?;
    body.take_text("id");
    body.read()
}
