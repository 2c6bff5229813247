//! The page about people: who belongs to the account, who is invited, and for owners the forms to change that.

use axum::Extension;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use http::Method;
use serde_json::{Value, json};

use super::forms::{delete, path_segment};
use super::guard::Fields;
use super::layout;
use super::layout::{api_refusal, button, field, form, hidden, roles};
use super::lists::{List, cell, field_of, shown_once};
use super::visit::{Dashboard, Signed};
use crate::api::ApiError;
use crate::people::Role;
use crate::people::html::{Markup, link, tag, text};

/// Everybody of the account.
pub(super) async fn page(
    State(dashboard): State<Dashboard>,
    Extension(signed): Extension<Signed>,
) -> Response {
    let owns = signed.who.role == Role::Owner;
    let read = async {
        let users = List::read(&dashboard, &signed, "/users", "users").await?;
        let invited = if owns {
            Some(List::read(&dashboard, &signed, "/invitations", "invitations").await?)
        } else {
            None
        };
        Ok::<_, ApiError>((users, invited))
    };
    let (users, invited) = match read.await {
        Ok(read) => read,
        Err(error) => return api_refusal(&error),
    };
    let mut inside = users.table(&["Person", "Role", "State", "Since", ""], |user| {
        let state = if is_suspended(user) { "suspended" } else { "active" };
        let actions = if owns { change_forms(&signed, user) } else { text("") };
        vec![cell(user, "email"), cell(user, "role"), text(state), cell(user, "created_at"), actions]
    });
    if let Some(invited) = invited {
        inside.push(tag("h2", "Invitations"));
        inside.extend(invited.table(&["Person", "Role", "By", "Until", ""], |one| {
            let withdraw = format!("/dashboard/people/invitations/{}/withdraw", field_of(one, "id"));
            let action = form(&signed, &withdraw, vec![button("Withdraw")]);
            let shown = ["email", "role", "invited_by", "expires_at"].map(|name| cell(one, name));
            shown.into_iter().chain([action]).collect()
        }));
        let fields = vec![field("E-mail", "email", "email", "off"), roles("viewer"), button("Invite")];
        inside.push(form(&signed, "/dashboard/people/invite", fields));
    }
    layout::page(&signed, "People", inside)
}

fn is_suspended(user: &Value) -> bool {
    user.get("suspended").and_then(Value::as_bool) == Some(true)
}

fn change_forms(signed: &Signed, user: &Value) -> Markup {
    let id = field_of(user, "id");
    let (change, remove) =
        (format!("/dashboard/people/{id}/change"), format!("/dashboard/people/{id}/remove"));
    let (word, label) = if is_suspended(user) { ("no", "Resume") } else { ("yes", "Suspend") };
    crate::people::html::el(
        "span",
        &[],
        vec![
            form(signed, &change, vec![roles(field_of(user, "role")), button("Change role")]),
            form(signed, &change, vec![hidden("suspended", word), button(label)]),
            form(signed, &remove, vec![button("Remove")]),
        ],
    )
}

/// Invites somebody; the link is shown once, to be handed over.
pub(super) async fn invite(
    State(dashboard): State<Dashboard>,
    Extension(signed): Extension<Signed>,
    Extension(fields): Extension<Fields>,
) -> Response {
    let body = json!({ "email": fields.get("email"), "role": fields.get("role") });
    match dashboard.call(&signed, Method::POST, "/invitations", Some(&body)).await {
        Ok(made) => {
            let url =
                format!("{}/dashboard/invitations/{}", signed.visit.site.base, field_of(&made, "token"));
            let label = format!("Give this link to {}:", field_of(&made, "email"));
            layout::page(
                &signed,
                "Invited",
                vec![shown_once(&label, &url), link("/dashboard/people", "To the people")],
            )
        }
        Err(error) => api_refusal(&error),
    }
}

/// Changes a role, suspends or resumes.
pub(super) async fn change(
    State(dashboard): State<Dashboard>,
    Extension(signed): Extension<Signed>,
    Path(id): Path<String>,
    Extension(fields): Extension<Fields>,
) -> Response {
    let body = match fields.get("suspended") {
        "" => json!({ "role": fields.get("role") }),
        word => json!({ "suspended": word == "yes" }),
    };
    let path = format!("/users/{}", path_segment(&id));
    match dashboard.call(&signed, Method::PATCH, &path, Some(&body)).await {
        Ok(_) => Redirect::to("/dashboard/people").into_response(),
        Err(error) => api_refusal(&error),
    }
}

/// Removes a person from the account.
pub(super) async fn remove(
    State(dashboard): State<Dashboard>,
    Extension(signed): Extension<Signed>,
    Path(id): Path<String>,
) -> Response {
    delete(&dashboard, &signed, "users", &id, "/dashboard/people").await
}

/// Withdraws an invitation.
pub(super) async fn withdraw(
    State(dashboard): State<Dashboard>,
    Extension(signed): Extension<Signed>,
    Path(id): Path<String>,
) -> Response {
    delete(&dashboard, &signed, "invitations", &id, "/dashboard/people").await
}
