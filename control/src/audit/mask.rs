//! Masks secrets in what is told of an object: by the names of fields, also inside traffic policies, and in URLs.
//!
//! Knows names only. A secret in the text of an expression cannot be told from other text and stays.

use ebbgate_policy::text;
use serde_json::{Map, Value};

/// What stands in a secret's place.
const MASK: &str = "(masked)";
/// The same, when the secret is another than before.
const MASK_CHANGED: &str = "(masked, changed)";
/// What stands in the place of a policy text that cannot be read.
const UNREADABLE: &str = "(not shown: it is no policy)";
/// Levels of an object that are looked at; below, everything is masked.
const DEPTH_MAX: usize = 40;

/// Fields that hold secrets, whatever surrounds them.
const SECRET_NAMES: &[&str] = &[
    "authorization",
    "proxy_authorization",
    "cookie",
    "set_cookie",
    "credentials",
    "key",
    "hash",
    "private_key",
    "private_key_pem",
    "signing_key",
    "passphrase",
    "sealed",
];
/// Parts of names of fields that hold secrets.
const SECRET_PARTS: &[&str] = &["secret", "password", "passwd", "token", "api_key", "apikey", "access_key"];
/// Ends of names that hold no secret for all that.
const PLAIN_ENDS: &[&str] = &["_id", "_ids", "_name", "_uri", "_url", "_type", "_at", "_path", "_secs"];

/// The object with its secrets masked. Those that differ from `before` are marked as changed.
pub fn masked(object: &Value, before: Option<&Value>) -> Value {
    walk(object, before, false, 0)
}

fn walk(value: &Value, before: Option<&Value>, secret: bool, depth: usize) -> Value {
    if depth > DEPTH_MAX {
        return MASK.into();
    }
    match value {
        Value::Object(fields) => {
            let one = |(name, value): (&String, &Value)| {
                let before = before.and_then(|before| before.get(name));
                (name.clone(), field(name, value, before, secret, depth))
            };
            Value::Object(fields.iter().map(one).collect::<Map<_, _>>())
        }
        Value::Array(items) => {
            let item = |(at, item): (usize, &Value)| {
                walk(item, before.and_then(|before| before.get(at)), secret, depth + 1)
            };
            Value::Array(items.iter().enumerate().map(item).collect())
        }
        Value::Null | Value::Bool(_) => value.clone(),
        Value::String(text) if text.is_empty() => value.clone(),
        _ if secret => {
            let changed = before.is_some_and(|before| before != value);
            if changed { MASK_CHANGED.into() } else { MASK.into() }
        }
        Value::String(text) => without_password(text).into(),
        Value::Number(_) => value.clone(),
    }
}

fn field(name: &str, value: &Value, before: Option<&Value>, secret: bool, depth: usize) -> Value {
    if name == "traffic_policy"
        && let Value::String(document) = value
    {
        return policy(document, before).into();
    }
    // A reference names an object, whatever the object is.
    let is_reference = matches!(name, "id" | "uri");
    walk(value, before, (secret && !is_reference) || is_secret(name), depth + 1)
}

/// A policy text as compact JSON with its secrets masked.
fn policy(document: &str, before: Option<&Value>) -> String {
    if document.trim().is_empty() {
        return document.to_owned();
    }
    let before = before.and_then(Value::as_str).and_then(text::plain);
    let Some(read) = text::plain(document) else { return UNREADABLE.to_owned() };
    walk(&read, before.as_ref(), false, 0).to_string()
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('-', "_");
    if SECRET_NAMES.contains(&name.as_str()) {
        return true;
    }
    SECRET_PARTS.iter().any(|part| name.contains(part)) && !PLAIN_ENDS.iter().any(|end| name.ends_with(end))
}

/// `https://user:(masked)@host` for every URL that carries a password.
fn without_password(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (head, tail) = rest.split_at(at + 3);
        out.push_str(head);
        let end = tail.find(|c: char| "/?# \"'".contains(c)).unwrap_or(tail.len());
        let (authority, after) = tail.split_at(end);
        match authority.rsplit_once('@').and_then(|(user, host)| Some((user.split_once(':')?.0, host))) {
            Some((user, host)) => out.extend([user, ":", MASK, "@", host]),
            None => out.push_str(authority),
        }
        rest = after;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn secrets_are_masked_wherever_they_stand() {
        let policy = r"
on_http_request:
  - actions:
      - type: basic-auth
        config: {credentials: ['ann:hunter2']}
      - type: openid-connect
        config: {client_id: public, client_secret: s3cret, issuer_url: 'https://me:pw@id.example.com/x'}
      - type: verify-webhook
        config: {provider: github, secret: whsec}
      - type: add-headers
        config: {headers: {Authorization: 'Bearer abc', X-Api-Key: [k1], x-team: blue}}
";
        let shown = masked(&json!({"id": "ep_1", "traffic_policy": policy, "description": "a"}), None);
        let text = shown.to_string();
        for secret in ["hunter2", "s3cret", "whsec", "Bearer", "k1", ":pw@"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
        for plain in ["ep_1", "public", "github", "blue", "https://me:(masked)@id.example.com/x"] {
            assert!(text.contains(plain), "{plain} not in {text}");
        }
    }

    #[test]
    fn names_decide() {
        let check = |object: Value, expect: Value| assert_eq!(masked(&object, None), expect);
        check(json!({"token": null, "hash": "x"}), json!({"token": null, "hash": MASK}));
        check(
            json!({"secret": {"id": "a", "uri": "b", "value": "c"}}),
            json!({"secret": {"id": "a", "uri": "b", "value": MASK}}),
        );
        check(
            json!({"secret_id": "a", "token_url": "b", "session_token": ["x", ""]}),
            json!({"secret_id": "a", "token_url": "b", "session_token": [MASK, ""]}),
        );
        check(json!({"credential": {"id": "cr_1"}}), json!({"credential": {"id": "cr_1"}}));
        check(
            json!({"private_key_type": "rsa", "private_key": "x"}),
            json!({"private_key_type": "rsa", "private_key": MASK}),
        );
        check(json!({"traffic_policy": "a: [b"}), json!({"traffic_policy": UNREADABLE}));
    }

    #[test]
    fn another_secret_is_told_as_changed_without_either() {
        let before = json!({"password": "a", "traffic_policy": r#"{"x":{"secret":"a"},"y":{"secret":"b"}}"#});
        let after = json!({"password": "b", "traffic_policy": r#"{"x":{"secret":"c"},"y":{"secret":"b"}}"#});
        let shown = masked(&after, Some(&before));
        assert_eq!(
            shown,
            json!({"password": MASK_CHANGED, "traffic_policy": json!({"x": {"secret": MASK_CHANGED}, "y": {"secret": MASK}}).to_string()})
        );
    }
}
