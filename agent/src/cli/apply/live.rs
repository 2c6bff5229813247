//! The account's objects as the API shows them, and the label by which `apply` knows its own.
//!
//! The label is the last line of an object's metadata: `ebbgate-apply: SET/NAME`.

use http::Method;
use serde_json::{Map, Value};

use super::super::api::every_page;
use super::super::client::{Call, Client, encoded};
use super::super::env::Failure;
use super::kind::{Field, Kind, Shown};

/// How the label's line begins.
const LABEL: &str = "ebbgate-apply: ";

/// Owner and name of an object, from its metadata.
pub(super) fn label(object: &Value) -> Option<(&str, &str)> {
    let last = object.get("metadata")?.as_str()?.lines().next_back()?;
    last.strip_prefix(LABEL)?.split_once('/')
}

/// Metadata with a label behind it.
pub(super) fn labelled(metadata: &str, set: &str, name: &str) -> String {
    let above = metadata.trim_end_matches('\n');
    let glue = if above.is_empty() { "" } else { "\n" };
    format!("{above}{glue}{LABEL}{set}/{name}")
}

/// Metadata without its label.
pub(super) fn unlabelled(metadata: &str) -> &str {
    match metadata.rsplit_once('\n') {
        Some((above, last)) if last.starts_with(LABEL) => above,
        None if metadata.starts_with(LABEL) => "",
        _ => metadata,
    }
}

/// All objects of a kind that the API can change.
pub(super) fn list(client: &mut Client, kind: &Kind) -> Result<Vec<Value>, Failure> {
    let first = Call::plain(Method::GET, format!("/{}", kind.resource));
    let mut page = every_page(client, &first, kind.list_key)?;
    let objects =
        page.get_mut(kind.list_key).and_then(Value::as_array_mut).map(std::mem::take).unwrap_or_default();
    // Agents make their own endpoints.
    let is_agents = |object: &Value| {
        kind.resource == "endpoints" && object.get("type").is_some_and(|kind| kind == "agent")
    };
    Ok(objects.into_iter().filter(|object| !is_agents(object)).collect())
}

/// Path of one object.
pub(super) fn path(kind: &Kind, id: &str) -> String {
    format!("/{}/{}", kind.resource, encoded(id))
}

/// The id of an object.
pub(super) fn id(object: &Value) -> &str {
    object.get("id").and_then(Value::as_str).unwrap_or_default()
}

/// The value of a declared field in an object; None where answers never show it.
pub(super) fn value(field: &Field, object: &Value) -> Option<Value> {
    let id_of = |reference: &Value| reference.get("id").cloned().unwrap_or_default();
    Some(match &field.shown {
        Shown::Never => return None,
        Shown::Plain => object.get(&field.name).cloned().unwrap_or_default(),
        Shown::Reference(name) => object.get(name).map(id_of).unwrap_or_default(),
        Shown::References(name) => {
            object.get(name).and_then(Value::as_array).into_iter().flatten().map(id_of).collect()
        }
    })
}

/// Whether two values mean the same: nothing, null, and what is empty are one.
pub(super) fn is_same(one: &Value, other: &Value) -> bool {
    one == other || (is_empty(one) && is_empty(other))
}

/// Whether a value says nothing.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(yes) => !yes,
        Value::Number(_) => false,
    }
}

/// Fields of a spec that differ from an object, and can be compared.
pub(super) fn difference(kind: &Kind, spec: &Map<String, Value>, object: &Value) -> Map<String, Value> {
    let differs = |(name, wanted): &(&String, &Value)| {
        let shown = kind.field(name).and_then(|field| value(field, object));
        shown.is_some_and(|shown| !is_same(&shown, wanted))
    };
    spec.iter().filter(differs).map(|(name, wanted)| (name.clone(), wanted.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::super::kind::find;
    use super::*;
    use serde_json::json;

    #[test]
    fn a_label_is_the_last_line_of_metadata() {
        for (above, whole) in [
            ("", "ebbgate-apply: s/n"),
            ("a\nb", "a\nb\nebbgate-apply: s/n"),
            ("a\n", "a\nebbgate-apply: s/n"),
        ] {
            assert_eq!(labelled(above, "s", "n"), whole);
            assert_eq!(unlabelled(whole), above.trim_end());
            assert_eq!(label(&json!({ "metadata": whole })), Some(("s", "n")));
        }
        for other in ["", "x", "ebbgate-apply: s/n\nx"] {
            assert_eq!(label(&json!({ "metadata": other })), None);
            assert_eq!(unlabelled(other), other);
        }
    }

    #[test]
    fn only_what_answers_show_is_compared() {
        let object = json!({
            "id": "cert_1", "metadata": "", "description": "a", "certificate_pem": "PEM",
        });
        let spec = json!({ "metadata": null, "description": "b", "private_key_pem": "secret" });
        let differs = difference(find("TlsCertificate").unwrap(), spec.as_object().unwrap(), &object);
        assert_eq!(Value::Object(differs), json!({ "description": "b" }));
        let restriction = json!({ "ip_policies": [{ "id": "ipp_1" }], "enforced": false });
        let same = json!({ "ip_policy_ids": ["ipp_1"], "enforced": null });
        let kind = find("IpRestriction").unwrap();
        assert!(difference(kind, same.as_object().unwrap(), &restriction).is_empty());
    }
}
