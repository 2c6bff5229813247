//! The REST API (surface.md sections 1.1 to 1.3): what clients send becomes records in the store, and records become what
//! clients read.
//!
//! `front` is the door every request comes through, `resource` what all resources share, and there is one file for each
//! resource. What a change means for edges is `plan`'s business.

mod agent_ingresses;
mod api_keys;
mod body;
mod call;
mod certificate_authorities;
mod certificate_policy;
mod cors;
mod credentials;
mod described;
mod domain_name;
mod endpoints;
mod failure;
mod filter;
mod front;
mod given;
mod invitations;
mod ip_policies;
mod ip_policy_rules;
mod ip_restrictions;
mod issue;
mod local;
mod owner;
mod page;
mod pem;
mod query;
mod region;
mod reply;
mod reserved_addrs;
mod reserved_domains;
mod resource;
mod root;
mod schema;
mod service_users;
mod strict;
mod tls_certificates;
mod tunnel_sessions;
mod user_sessions;
mod users;
mod uses;
mod x509;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use http::StatusCode;

pub use self::failure::ApiError;
pub use self::local::Local;
pub(crate) use self::reply::timestamp;
pub use self::schema::openapi;
use crate::App;

/// The whole API. Unknown paths and methods are answered like every other error.
pub fn router(app: App) -> Router {
    let guarded = routes()
        .route_layer(from_fn(front::authorize))
        .route_layer(from_fn_with_state(app.clone(), front::guard));
    guarded
        .merge(root::open_routes())
        .fallback(|| async { StatusCode::NOT_FOUND })
        .layer(from_fn_with_state(app.clone(), front::frame))
        .with_state(app)
}

/// The API for callers in this process whose identity is proven.
pub fn local(app: App) -> Local {
    Local::new(app, routes())
}

/// Every route that wants a caller, before anything asks who it is.
fn routes() -> Router<App> {
    resource::routes::<agent_ingresses::AgentIngresses>()
        .merge(resource::routes::<api_keys::ApiKeys>())
        .merge(resource::routes::<certificate_authorities::CertificateAuthorities>())
        .merge(resource::routes::<credentials::Credentials>())
        .merge(resource::routes::<endpoints::Endpoints>())
        .merge(resource::routes::<ip_policies::IpPolicies>())
        .merge(resource::routes::<ip_policy_rules::IpPolicyRules>())
        .merge(resource::routes::<ip_restrictions::IpRestrictions>())
        .merge(resource::routes::<reserved_addrs::ReservedAddrs>())
        .merge(resource::routes::<reserved_domains::ReservedDomains>())
        .merge(resource::routes::<service_users::ServiceUsers<true>>())
        .merge(resource::routes::<service_users::ServiceUsers<false>>())
        .merge(resource::routes::<tls_certificates::TlsCertificates>())
        .merge(reserved_domains::routes())
        .merge(tunnel_sessions::routes())
        .merge(root::routes())
        .merge(invitations::routes())
        .merge(user_sessions::routes())
        .merge(users::routes())
}
