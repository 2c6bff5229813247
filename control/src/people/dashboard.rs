//! The dashboard: pages for people, below `/dashboard` of the API's listener. Written by the server, without a script.
//!
//! A page reads and a form changes through the REST API in this process ([`Local`]), as the person who is signed in: roles,
//! rules and messages are the API's. What is shown may be written by anybody; `html` escapes all of it.

mod audit;
mod cli;
mod enter;
mod forms;
mod frame;
mod guard;
mod layout;
mod lists;
mod oidc;
mod people;
mod sign_in;
mod visit;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};

use self::visit::Dashboard;
use crate::api::Local;
use crate::app::App;

/// The dashboard's routes, each with its row in [`crate::access::DASHBOARD`].
pub fn router(app: App, api: Local) -> Router {
    let dashboard = Dashboard { app, api };
    let signed_in = Router::new()
        .route("/dashboard", get(lists::overview))
        .route("/dashboard/domains", get(lists::domains))
        .route("/dashboard/api-keys", get(lists::api_keys).post(forms::create_api_key))
        .route("/dashboard/api-keys/{id}/revoke", post(forms::revoke_api_key))
        .route("/dashboard/people", get(people::page))
        .route("/dashboard/people/invite", post(people::invite))
        .route("/dashboard/people/{id}/change", post(people::change))
        .route("/dashboard/people/{id}/remove", post(people::remove))
        .route("/dashboard/people/invitations/{id}/withdraw", post(people::withdraw))
        .route("/dashboard/sessions", get(lists::sessions))
        .route("/dashboard/audit", get(audit::page))
        .route("/dashboard/sessions/{id}/end", post(forms::end_session))
        .route("/dashboard/account", post(sign_in::switch_account))
        .route("/dashboard/cli", get(cli::ask).post(cli::allow))
        .route("/dashboard/sign-out", post(sign_in::sign_out))
        .route_layer(from_fn_with_state(dashboard.clone(), guard::guard));
    let open = Router::new()
        .route("/dashboard/style.css", get(layout::style))
        .route("/dashboard/sign-in", get(sign_in::page).post(sign_in::sign_in))
        .route("/dashboard/cli/token", post(cli::redeem))
        .route("/dashboard/oidc/start", get(oidc::start))
        .route("/dashboard/oidc/callback", get(oidc::callback))
        .route("/dashboard/invitations/{token}/oidc", get(oidc::start_invited))
        .route("/dashboard/setup/{token}", get(sign_in::setup_page).post(sign_in::set_up))
        .route("/dashboard/invitations/{token}", get(sign_in::invitation_page).post(sign_in::accept));
    signed_in
        .merge(open)
        .layer(from_fn_with_state(dashboard.clone(), frame::frame))
        .layer(from_fn(frame::survive))
        .with_state(dashboard)
}
