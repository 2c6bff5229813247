//! One entry of the log: the event that tells a change, made from the key that changed and the object before and after.

use ebbgate_model::AccountId;
use serde_json::{Map, Value, json};

use super::actor::Actor;
use super::mask::masked;
use super::subject::Subject;
use crate::secret::hash_hex;

/// Longest entry in bytes; beyond, long texts in it are shortened.
pub(super) const ENTRY_BYTES_MAX: usize = 128 << 10;
/// Characters kept of a text that is shortened.
const TEXT_CHARS_KEPT: usize = 256;

/// What happened to an object.
#[derive(Debug)]
pub(super) struct Change<'a> {
    pub(super) subject: Subject,
    /// Before; None: it is new.
    pub(super) before: Option<&'a Value>,
    /// After; None: it is gone.
    pub(super) after: Option<&'a Value>,
}

impl Change<'_> {
    /// The event as one line of JSON, secrets masked. `event_id` and `at` (RFC 3339) are the event's.
    pub(super) fn event(&self, event_id: &str, at: &str, actor: &Actor) -> String {
        let done = match (self.before, self.after) {
            (None, Some(_)) => "created",
            (Some(_), Some(_)) => "updated",
            (_, None) => "deleted",
        };
        let gone = json!({ "id": self.subject.id });
        let kind = format!("{}_{done}.v0", self.subject.noun);
        let object = self.after.or(self.before).unwrap_or(&gone);
        let before = self.before.filter(|_| self.after.is_some());
        line((event_id, &kind, at), self.subject.account, (object, before), &gone, actor)
    }
}

/// An event as one line of JSON, secrets masked: id, type and time, its account, the object now and before, and what is left
/// of the object where it is too long.
pub(super) fn line(
    (event_id, kind, at): (&str, &str, &str),
    account: Option<AccountId>,
    (object, before): (&Value, Option<&Value>),
    gone: &Value,
    actor: &Actor,
) -> String {
    let mut event = Map::new();
    let mut put = |name: &str, value: Value| drop(event.insert(name.to_owned(), value));
    put("event_id", event_id.into());
    put("event_type", kind.into());
    put("event_timestamp", at.into());
    put("account_id", account.map(|account| account.to_string()).into());
    put("object", masked(object, before));
    if let Some(before) = before {
        put("before", masked(before, None));
    }
    put("principal", actor.principal());
    if let Some(operation) = actor.operation_id() {
        put("operation_id", operation.into());
    }
    fitted(event, gone)
}

/// The event in at most [`ENTRY_BYTES_MAX`] bytes.
fn fitted(mut event: Map<String, Value>, gone: &Value) -> String {
    let text = |event: &Map<String, Value>| serde_json::to_string(event).unwrap_or_default();
    let whole = text(&event);
    if whole.len() <= ENTRY_BYTES_MAX {
        return whole;
    }
    for name in ["object", "before"] {
        if let Some(value) = event.get_mut(name) {
            shorten(value);
        }
    }
    let shortened = text(&event);
    if shortened.len() <= ENTRY_BYTES_MAX {
        return shortened;
    }
    event.remove("before");
    event.insert("object".into(), gone.clone());
    text(&event)
}

/// Long texts give way to their beginning, length and hash.
fn shorten(value: &mut Value) {
    match value {
        Value::String(text) if text.len() > 4 * TEXT_CHARS_KEPT => {
            let kept: String = text.chars().take(TEXT_CHARS_KEPT).collect();
            *text = format!("{kept}… ({} bytes, SHA-256 {})", text.len(), hash_hex(text.as_bytes()));
        }
        Value::Array(items) => items.iter_mut().for_each(shorten),
        Value::Object(fields) => fields.values_mut().for_each(shorten),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_a_longest_size_and_says_what_was_left_out() {
        let long = json!({"id": "x", "a": "y".repeat(ENTRY_BYTES_MAX), "b": 1});
        let subject = || Subject { account: None, noun: "thing".into(), id: "x".into() };
        let actor = Actor::control();
        let change = Change { subject: subject(), before: Some(&long), after: Some(&long) };
        let text = change.event("ev_1", "2026-01-01T00:00:00Z", &actor);
        assert!(text.len() < ENTRY_BYTES_MAX && text.contains("bytes, SHA-256"), "{}", text.len());
        let many = json!({"id": "x", "a": vec!["z"; ENTRY_BYTES_MAX]});
        let text = Change { subject: subject(), before: None, after: Some(&many) }.event("ev_1", "t", &actor);
        assert!(text.len() < ENTRY_BYTES_MAX && text.contains(r#""object":{"id":"x"}"#), "{text}");
    }
}
