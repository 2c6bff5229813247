//! Pages that show: the overview with agents and endpoints, domains with their certificates, API keys, sessions.

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use ebbgate_model::DomainId;
use serde_json::Value;

use super::layout::{api_refusal, button, field, form, hidden, notice, page};
use super::visit::{Dashboard, Signed};
use crate::api::{ApiError, timestamp};
use crate::people::html::{Markup, el, table, tag, text};
use crate::people::{Role, members};
use crate::record::{self, Account, IssuedCertificate};

/// What a list shows at most; the API has the rest.
const SHOWN_MAX: usize = 100;

/// Reads a page of a list: its objects, and whether there are more.
pub(super) struct List {
    pub(super) items: Vec<Value>,
    more: bool,
}

impl List {
    pub(super) async fn read(
        dashboard: &Dashboard,
        signed: &Signed,
        path: &str,
        key: &str,
    ) -> Result<Self, ApiError> {
        let body = dashboard.read(signed, &format!("{path}?limit={SHOWN_MAX}")).await?;
        let items = body.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
        let more = body.get("next_page_uri").is_some_and(Value::is_string);
        Ok(Self { items, more })
    }

    /// The objects as a table, or that there are none.
    pub(super) fn table(&self, head: &[&str], row: impl Fn(&Value) -> Vec<Markup>) -> Vec<Markup> {
        if self.items.is_empty() {
            return vec![tag("p", "None.")];
        }
        let mut shown = vec![table(head, self.items.iter().map(row).collect())];
        if self.more {
            let rest = format!("The newest {SHOWN_MAX} are shown; the API has the others.");
            shown.push(notice(vec![text(&rest)]));
        }
        shown
    }
}

/// A field of an object as text; "" where there is none.
pub(super) fn field_of<'v>(object: &'v Value, name: &str) -> &'v str {
    object.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// The cell of a field.
pub(super) fn cell(object: &Value, name: &str) -> Markup {
    text(field_of(object, name))
}

/// Agents that are online, and endpoints.
pub(super) async fn overview(
    State(dashboard): State<Dashboard>,
    Extension(signed): Extension<Signed>,
) -> Response {
    let read = async {
        let agents = List::read(&dashboard, &signed, "/tunnel_sessions", "tunnel_sessions").await?;
        let endpoints = List::read(&dashboard, &signed, "/endpoints", "endpoints").await?;
        Ok::<_, ApiError>((agents, endpoints))
    };
    let (agents, endpoints) = match read.await {
        Ok(read) => read,
        Err(error) => return api_refusal(&error),
    };
    let mut inside = vec![tag("h2", "Agents online")];
    inside.extend(agents.table(&["Agent", "Address", "System", "Version", "Since"], |agent| {
        ["id", "ip", "os", "agent_version", "started_at"].map(|name| cell(agent, name)).into()
    }));
    inside.push(tag("h2", "Endpoints"));
    inside.extend(endpoints.table(&["URL", "Kind", "Status", "Description", "Id"], |endpoint| {
        vec![
            cell(endpoint, "url"),
            cell(endpoint, "type"),
            text(&status(endpoint)),
            cell(endpoint, "description"),
            cell(endpoint, "id"),
        ]
    }));
    inside.extend(other_accounts(&dashboard, &signed).await);
    page(&signed, "Overview", inside)
}

/// The way to the person's other accounts.
async fn other_accounts(dashboard: &Dashboard, signed: &Signed) -> Vec<Markup> {
    let store = &*dashboard.app.store;
    let Ok(own) = members::memberships(store, signed.who.user).await else { return Vec::new() };
    let mut rows = Vec::new();
    for membership in own.iter().map(|stored| &stored.record) {
        if membership.account == signed.who.account || !membership.works() {
            continue;
        }
        let account = record::read::<Account>(store, &Account::key(membership.account)).await;
        let name = account.ok().flatten().map(|stored| stored.record.name).unwrap_or_default();
        let id = membership.account.to_string();
        let go = form(signed, "/dashboard/account", vec![hidden("account", &id), button("Go there")]);
        rows.push(vec![text(&name), text(&id), text(membership.role.name()), go]);
    }
    if rows.is_empty() {
        return Vec::new();
    }
    vec![tag("h2", "Your other accounts"), table(&["Account", "Id", "Role", ""], rows)]
}

/// What there is to say of an endpoint.
fn status(endpoint: &Value) -> String {
    if endpoint.get("upstream_refused").and_then(Value::as_bool) == Some(true) {
        return "the agent could not reach its upstream".to_owned();
    }
    let warnings = endpoint.get("warnings").and_then(Value::as_array).map_or(0, Vec::len);
    match warnings {
        0 => "online".to_owned(),
        1 => "online, 1 warning".to_owned(),
        n => format!("online, {n} warnings"),
    }
}

/// Reserved domains, and until when their certificates are valid.
pub(super) async fn domains(
    State(dashboard): State<Dashboard>,
    Extension(signed): Extension<Signed>,
) -> Response {
    let read = List::read(&dashboard, &signed, "/reserved_domains", "reserved_domains").await;
    let domains = match read {
        Ok(domains) => domains,
        Err(error) => return api_refusal(&error),
    };
    let mut rows = Vec::new();
    for domain in &domains.items {
        rows.push((field_of(domain, "id").to_owned(), certificate(&dashboard, &signed, domain).await));
    }
    let expiry = |domain: &Value| {
        let own = rows.iter().find(|(id, _)| id == field_of(domain, "id"));
        own.map(|(_, said)| said.clone()).unwrap_or_default()
    };
    let inside = domains.table(&["Domain", "Certificate", "Description", "Id"], |domain| {
        vec![cell(domain, "domain"), text(&expiry(domain)), cell(domain, "description"), cell(domain, "id")]
    });
    page(&signed, "Domains", inside)
}

/// Which certificate a domain answers with, and until when.
async fn certificate(dashboard: &Dashboard, signed: &Signed, domain: &Value) -> String {
    if let Some(id) = domain.pointer("/certificate/id").and_then(Value::as_str) {
        return match dashboard.read(signed, &format!("/tls_certificates/{id}")).await {
            Ok(uploaded) => format!("uploaded, valid until {}", field_of(&uploaded, "not_after")),
            Err(error) => format!("{id}: {}", error.message()),
        };
    }
    let Ok(id) = field_of(domain, "id").parse::<DomainId>() else { return String::new() };
    let key = IssuedCertificate::key(signed.who.account, id);
    match record::read::<IssuedCertificate>(&*dashboard.app.store, &key).await {
        Ok(Some(issued)) => format!("issued here, valid until {}", timestamp(issued.record.not_after)),
        Ok(None) => "none".to_owned(),
        Err(_) => "cannot be read".to_owned(),
    }
}

/// API keys, without what is secret.
pub(super) async fn api_keys(
    State(dashboard): State<Dashboard>,
    Extension(signed): Extension<Signed>,
) -> Response {
    let keys = match List::read(&dashboard, &signed, "/api_keys", "keys").await {
        Ok(keys) => keys,
        Err(error) => return api_refusal(&error),
    };
    let may_change = signed.who.role >= Role::Admin;
    let mut inside = keys.table(&["Id", "Description", "Owner", "Created", ""], |key| {
        let owner = match field_of(key, "owner_id") {
            "" => "the account",
            id => id,
        };
        let id = field_of(key, "id");
        let revoke = format!("/dashboard/api-keys/{id}/revoke");
        let action = if may_change { form(&signed, &revoke, vec![button("Revoke")]) } else { text("") };
        vec![cell(key, "id"), cell(key, "description"), text(owner), cell(key, "created_at"), action]
    });
    if may_change {
        inside.push(tag("h2", "New API key"));
        inside.push(tag("p", "The key acts as you. It is shown once."));
        let fields = vec![field("Description", "description", "text", "off"), button("Create")];
        inside.push(form(&signed, "/dashboard/api-keys", fields));
    }
    page(&signed, "API keys", inside)
}

/// Who is signed in for this account.
pub(super) async fn sessions(
    State(dashboard): State<Dashboard>,
    Extension(signed): Extension<Signed>,
) -> Response {
    let read = async {
        let sessions = List::read(&dashboard, &signed, "/user_sessions", "user_sessions").await?;
        let users = List::read(&dashboard, &signed, "/users", "users").await?;
        Ok::<_, ApiError>((sessions, users))
    };
    let (sessions, users) = match read.await {
        Ok(read) => read,
        Err(error) => return api_refusal(&error),
    };
    let email = |id: &str| {
        let user = users.items.iter().find(|user| field_of(user, "id") == id);
        user.map_or_else(|| id.to_owned(), |user| field_of(user, "email").to_owned())
    };
    let inside = sessions.table(&["Person", "From", "Browser", "By", "Since", "Last used", ""], |session| {
        let user = session.pointer("/user/id").and_then(Value::as_str).unwrap_or_default();
        let end = format!("/dashboard/sessions/{}/end", field_of(session, "id"));
        let current = session.get("current").and_then(Value::as_bool) == Some(true);
        let label = if current { "End (this one)" } else { "End" };
        vec![
            text(&email(user)),
            cell(session, "source"),
            cell(session, "user_agent"),
            cell(session, "method"),
            cell(session, "created_at"),
            cell(session, "seen_at"),
            form(&signed, &end, vec![button(label)]),
        ]
    });
    page(&signed, "Sessions", inside)
}

/// A secret that is shown this once.
pub(super) fn shown_once(label: &str, secret: &str) -> Markup {
    notice(vec![text(label), text(" "), el("code", &[], vec![text(secret)]), text(" It is not shown again.")])
}
