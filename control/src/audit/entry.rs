//! One entry of the log: the event that tells a change, made from the key that changed and the object before and after.

use ebbgate_model::AccountId;
use serde_json::{Map, Value, json};

use super::actor::Actor;
use super::mask::masked;
use crate::record::people::USERS_PREFIX;
use crate::record::{ACCOUNTS_PREFIX, SYSTEM_PREFIX};
use crate::secret::hash_hex;

/// Longest entry in bytes; beyond, long texts in it are shortened.
pub(super) const ENTRY_BYTES_MAX: usize = 128 << 10;
/// Characters kept of a text that is shortened.
const TEXT_CHARS_KEPT: usize = 256;

/// Collections with another name for their objects in events than their collection without its last letters.
const NOUNS: &[(&str, &str)] = &[
    ("credentials", "tunnel_credential"),
    ("issued", "issued_certificate"),
    ("reserved_addrs", "tcp_address"),
    ("reserved_domains", "domain"),
    ("vault_secrets", "secret"),
];

/// What people change of the installation itself.
const SYSTEM_NAMES: &[&str] =
    &["installation", "acme", "acme_account", "connect_certificate", "default_domain_certificate"];

/// The object that a key of the store belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Subject {
    /// Owner; None: the installation's own.
    pub(super) account: Option<AccountId>,
    /// What it is called in the type of an event.
    pub(super) noun: String,
    /// What follows the collection in the key.
    pub(super) id: String,
}

impl Subject {
    /// None: the key is of no object that people change, such as an index key.
    pub(super) fn of(key: &str) -> Option<Self> {
        // What processes tell each other there, such as which one does a job, is no change of the installation.
        if let Some(name) = key.strip_prefix(SYSTEM_PREFIX) {
            if !SYSTEM_NAMES.contains(&name) {
                return None;
            }
            let noun = if name.ends_with("certificate") { "issued_certificate" } else { name };
            return Some(Self { account: None, noun: noun.to_owned(), id: name.to_owned() });
        }
        if let Some(id) = key.strip_prefix(USERS_PREFIX) {
            return Some(Self { account: None, noun: "user".to_owned(), id: id.to_owned() });
        }
        let (account, path) = key.strip_prefix(ACCOUNTS_PREFIX)?.split_once('/')?;
        let (collection, id) = path.split_once('/').unwrap_or((path, account));
        Some(Self { account: account.parse().ok(), noun: noun(collection), id: id.to_owned() })
    }

    /// Whether its changes after it was made only say that it is in use.
    pub(super) fn is_touched(&self) -> bool {
        self.noun == "user_session"
    }

    /// Whether it only follows another object: a leaf that is issued for a name.
    pub(super) fn is_derived(&self) -> bool {
        self.noun == "issued_certificate"
    }
}

fn noun(collection: &str) -> String {
    if let Some((_, noun)) = NOUNS.iter().find(|(name, _)| *name == collection) {
        return (*noun).to_owned();
    }
    if let Some(stem) = collection.strip_suffix("ies") {
        return format!("{stem}y");
    }
    let stem = collection.strip_suffix("sses").map(|stem| format!("{stem}ss"));
    stem.unwrap_or_else(|| collection.strip_suffix('s').unwrap_or(collection).to_owned())
}

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
        let object = self.after.or(self.before).unwrap_or(&gone);
        let before = self.before.filter(|_| self.after.is_some());
        let mut event = Map::new();
        let mut put = |name: &str, value: Value| drop(event.insert(name.to_owned(), value));
        put("event_id", event_id.into());
        put("event_type", format!("{}_{done}.v0", self.subject.noun).into());
        put("event_timestamp", at.into());
        put("account_id", self.subject.account.map(|account| account.to_string()).into());
        put("object", masked(object, before));
        if let Some(before) = before {
            put("before", masked(before, None));
        }
        put("principal", actor.principal());
        if let Some(operation) = actor.operation_id() {
            put("operation_id", operation.into());
        }
        fitted(event, &gone)
    }
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

    const ACCOUNT: &str = "ac_000000000000000000000000000";

    #[test]
    fn keys_name_objects() {
        let check = |path: &str, expect: Option<(&str, &str)>| {
            let subject = Subject::of(&path.replace("AC", ACCOUNT));
            let found = subject.as_ref().map(|subject| (subject.noun.as_str(), subject.id.as_str()));
            assert_eq!(found, expect, "{path}");
        };
        check("/a/AC/endpoints/ep_1", Some(("endpoint", "ep_1")));
        check("/a/AC/ip_policies/ipp_1", Some(("ip_policy", "ipp_1")));
        check("/a/AC/reserved_addrs/ra_1", Some(("tcp_address", "ra_1")));
        check("/a/AC/agent_ingresses/x", Some(("agent_ingress", "x")));
        check("/a/AC/account", Some(("account", ACCOUNT)));
        check("/system/installation", Some(("installation", "installation")));
        check("/u/domains/com.", None);
        check("audit/head", None);
    }

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
