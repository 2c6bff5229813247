//! What all pages look like, and how a refusal looks.

use axum::response::{Html, IntoResponse, Response};
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};

use super::visit::Signed;
use crate::api::ApiError;
use crate::error_chain::ErrorChain;
use crate::people::Role;
use crate::people::html::{Markup, el, link, tag, text};

const STYLE: &str = "\
body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:72rem;padding:1rem;color:#111;background:#fff}\n\
nav{display:flex;flex-wrap:wrap;gap:1rem;align-items:baseline;border-bottom:1px solid #999;padding-bottom:.5rem}\n\
table{border-collapse:collapse;width:100%;margin:1rem 0}\n\
th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #ddd;vertical-align:top;overflow-wrap:anywhere}\n\
form{display:inline}\n\
label{display:block;margin:.6rem 0}\n\
input,select{font:inherit;padding:.2rem}\n\
button{font:inherit;padding:.1rem .6rem}\n\
.notice{border:1px solid #999;padding:.6rem;margin:1rem 0}\n\
code,pre{overflow-wrap:anywhere;white-space:pre-wrap}\n";

/// The one style sheet; it says nothing about anybody.
pub(super) async fn style() -> Response {
    ([(CONTENT_TYPE, "text/css; charset=utf-8"), (CACHE_CONTROL, "max-age=3600")], STYLE).into_response()
}

/// A page for somebody who is signed in.
pub(super) fn page(signed: &Signed, title: &str, inside: Vec<Markup>) -> Response {
    let mut body = vec![navigation(signed), tag("h1", title)];
    body.extend(inside);
    Html(Markup::document(&format!("{title} - {}", signed.who.account_name), body)).into_response()
}

fn navigation(signed: &Signed) -> Markup {
    let mut entries = vec![
        tag("strong", &signed.who.account_name),
        link("/dashboard", "Overview"),
        link("/dashboard/domains", "Domains"),
        link("/dashboard/api-keys", "API keys"),
        link("/dashboard/people", "People"),
        link("/dashboard/sessions", "Sessions"),
    ];
    if signed.who.role >= Role::Admin {
        entries.push(link("/dashboard/audit", "Audit log"));
    }
    entries.push(text(&format!("{} ({})", signed.who.email, signed.who.role)));
    entries.push(form(signed, "/dashboard/sign-out", vec![button("Sign out")]));
    el("nav", &[], entries)
}

/// A form that changes something, with its session's token.
pub(super) fn form(signed: &Signed, to: &str, mut inside: Vec<Markup>) -> Markup {
    inside.insert(0, hidden("csrf", &signed.csrf));
    el("form", &[("method", "post"), ("action", to)], inside)
}

/// A field nobody sees.
pub(super) fn hidden(name: &str, value: &str) -> Markup {
    el("input", &[("type", "hidden"), ("name", name), ("value", value)], vec![])
}

/// A field with its label. `kind` is the input's type.
pub(super) fn field(label: &str, name: &str, kind: &str, autocomplete: &str) -> Markup {
    let attributes =
        [("name", name), ("type", kind), ("autocomplete", autocomplete), ("required", "required")];
    el("label", &[], vec![text(label), text(" "), el("input", &attributes, vec![])])
}

/// A choice of roles.
pub(super) fn roles(chosen: &str) -> Markup {
    let option = |role: Role| {
        let mut attributes = vec![("value", role.name())];
        if role.name() == chosen {
            attributes.push(("selected", "selected"));
        }
        el("option", &attributes, vec![text(role.name())])
    };
    el("select", &[("name", "role")], Role::ALL.into_iter().map(option).collect())
}

/// What sends a form.
pub(super) fn button(label: &str) -> Markup {
    el("button", &[("type", "submit")], vec![text(label)])
}

/// Something to tell.
pub(super) fn notice(inside: Vec<Markup>) -> Markup {
    el("p", &[("class", "notice")], inside)
}

/// A page for anybody.
pub(super) fn plain(status: StatusCode, title: &str, inside: Vec<Markup>) -> Response {
    let mut body = vec![tag("h1", title)];
    body.extend(inside);
    (status, Html(Markup::document(&format!("{title} - Ebbgate"), body))).into_response()
}

/// A refusal, with the way back.
pub(super) fn refusal(status: StatusCode, message: &str) -> Response {
    plain(status, "Not done", vec![notice(vec![text(message)]), link("/dashboard", "To the dashboard")])
}

/// A refusal by address: the person may still sign out.
pub(super) fn restricted(signed: &Signed, message: &str) -> Response {
    let out = form(signed, "/dashboard/sign-out", vec![button("Sign out")]);
    plain(StatusCode::FORBIDDEN, "Not from here", vec![notice(vec![text(message)]), out])
}

/// A fault of ours: the log has the reason.
pub(super) fn failed(error: &dyn std::error::Error) -> Response {
    tracing::error!(error = %ErrorChain(error), "the dashboard could not answer");
    refusal(StatusCode::SERVICE_UNAVAILABLE, "The server cannot answer now. Its log says why; try again.")
}

/// What the API refused, as it says it.
pub(super) fn api_refusal(error: &ApiError) -> Response {
    refusal(error.status(), error.message())
}
