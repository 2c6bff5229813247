//! The envelope that every event has: id, type, time, account, object, principal.

use bytes::Bytes;
use ebbgate_model::{AccountId, EventId};
use serde_json::{Value, json};

use crate::api::timestamp;
use crate::clock::UnixSecs;

/// An event as it is delivered.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its type, such as `http_request_complete.v0`.
    pub kind: String,
    /// Owner; None: the installation's own.
    pub account: Option<AccountId>,
    /// The whole, as JSON.
    pub body: Bytes,
}

impl Event {
    /// One that nobody caused: traffic, sessions, alerts.
    pub fn new(id: EventId, kind: &str, at: UnixSecs, account: Option<AccountId>, object: &Value) -> Self {
        let body = envelope(id, kind, at, account, object);
        Self { kind: kind.to_owned(), account, body: body.to_string().into() }
    }

    /// One of traffic, with the id of its operation.
    pub fn of_traffic(
        id: EventId,
        kind: &str,
        at: UnixSecs,
        account: AccountId,
        object: &Value,
        operation: &str,
    ) -> Self {
        let mut body = envelope(id, kind, at, Some(account), object);
        if let Some(fields) = body.as_object_mut() {
            fields.insert("operation_id".to_owned(), Some(operation).filter(|id| !id.is_empty()).into());
        }
        Self { kind: kind.to_owned(), account: Some(account), body: body.to_string().into() }
    }

    /// One of the audit log.
    pub fn of_audit(entry: &Value) -> Self {
        let text = |name: &str| entry.get(name).and_then(Value::as_str);
        Self {
            kind: text("event_type").unwrap_or_default().to_owned(),
            account: text("account_id").and_then(|account| account.parse().ok()),
            body: entry.to_string().into(),
        }
    }
}

fn envelope(id: EventId, kind: &str, at: UnixSecs, account: Option<AccountId>, object: &Value) -> Value {
    json!({
        "event_id": id,
        "event_type": kind,
        "event_timestamp": timestamp(at),
        "account_id": account,
        "object": object,
        "principal": null,
    })
}
