//! The page of the account's audit log: the newest entries first, those of one actor or object where somebody asks for them.
//! Secrets are masked in the entries themselves.

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use http::Uri;
use serde_json::Value;

use super::guard::Fields;
use super::layout::{self, button, notice};
use super::lists::field_of;
use super::visit::{Dashboard, Signed};
use crate::audit::{Entry, Sought, entries};
use crate::people::html::{Markup, el, link, table, tag, text};
use crate::people::{Email, members};

/// Characters of what is looked for.
const SOUGHT_CHARS_MAX: usize = 128;
/// Characters of an object that are shown; `ebbgate-control audit export` has all of it.
const OBJECT_CHARS_SHOWN_MAX: usize = 8_000;

/// Entries of the account, which the query narrows by `actor`, `object` and `before`.
pub(super) async fn page(
    State(dashboard): State<Dashboard>,
    Extension(signed): Extension<Signed>,
    uri: Uri,
) -> Response {
    let query = Fields::parse(uri.query().unwrap_or_default().as_bytes());
    let asked = |name: &str| query.get(name).trim().chars().take(SOUGHT_CHARS_MAX).collect::<String>();
    let (actor, object) = (asked("actor"), asked("object"));
    let sought = Sought {
        account: signed.who.account,
        actor: id_of(&dashboard, &actor).await.to_lowercase(),
        object: object.to_lowercase(),
        before: query.get("before").parse().ok(),
    };
    let found = match entries(&*dashboard.app.store, &sought).await {
        Ok(found) => found,
        Err(error) => return layout::failed(&error),
    };
    let mut inside = vec![search(&actor, &object)];
    if found.unreadable {
        let said =
            "Entries on the way here cannot be read: the operator runs `ebbgate-control audit verify`.";
        inside.push(notice(vec![text(said)]));
    }
    if found.entries.is_empty() {
        inside.push(tag("p", if found.next.is_some() { "None so far." } else { "None." }));
    } else {
        let head = ["Number", "When", "What", "Object", "By", "From", "Details"];
        inside.push(table(&head, found.entries.iter().map(row).collect()));
    }
    if let Some(next) = found.next {
        inside.push(link(&older(next, &actor, &object), "Older entries"));
    }
    layout::page(&signed, "Audit log", inside)
}

/// A person's address as the id that entries have; anything else as it is.
async fn id_of(dashboard: &Dashboard, actor: &str) -> String {
    let Ok(email) = actor.parse::<Email>() else { return actor.to_owned() };
    let user = members::user_by_email(&*dashboard.app.store, &email).await;
    user.ok().flatten().map_or_else(|| actor.to_owned(), |user| user.record.id.to_string())
}

fn search(actor: &str, object: &str) -> Markup {
    let input = |label: &str, name: &str, value: &str| {
        let attributes = [("name", name), ("type", "text"), ("autocomplete", "off"), ("value", value)];
        el("label", &[], vec![text(label), text(" "), el("input", &attributes, vec![])])
    };
    let fields = vec![
        input("By (address, id, kind or IP address)", "actor", actor),
        input("Object (id or type of event)", "object", object),
        button("Show"),
    ];
    el("form", &[("method", "get"), ("action", "/dashboard/audit")], fields)
}

fn older(before: u64, actor: &str, object: &str) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("before", &before.to_string());
    for (name, value) in [("actor", actor), ("object", object)] {
        if !value.is_empty() {
            query.append_pair(name, value);
        }
    }
    format!("/dashboard/audit?{}", query.finish())
}

fn row(entry: &Entry) -> Vec<Markup> {
    let event = &entry.event;
    let part = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let by = match (part("/principal/type"), part("/principal/id")) {
        (kind, "") => kind.to_owned(),
        (kind, id) => format!("{kind} {id}"),
    };
    vec![
        text(&entry.number.to_string()),
        text(field_of(event, "event_timestamp")),
        text(field_of(event, "event_type").trim_end_matches(".v0")),
        text(part("/object/id")),
        text(&by),
        text(part("/principal/source_address")),
        details(event),
    ]
}

/// The object after and before the change, folded up.
fn details(event: &Value) -> Markup {
    let shown = |title: &str, name: &str| {
        let object = event.get(name)?;
        let whole = serde_json::to_string_pretty(object).unwrap_or_default();
        let mut kept: String = whole.chars().take(OBJECT_CHARS_SHOWN_MAX).collect();
        if kept.len() < whole.len() {
            kept.push_str("\n… `ebbgate-control audit export` has the rest");
        }
        Some([tag("p", title), tag("pre", &kept)])
    };
    let after = if event.get("before").is_some() { "After" } else { "Object" };
    let parts = [shown("Before", "before"), shown(after, "object")];
    let mut inside = vec![tag("summary", "Show")];
    inside.extend(parts.into_iter().flatten().flatten());
    el("details", &[], inside)
}
