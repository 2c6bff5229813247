//! The REST API (surface.md sections 1.1 to 1.3): what clients send becomes records in the store, and records become what
//! clients read.
//!
//! `front` is the door every request comes through, `resource` what all resources share, and there is one file for each
//! resource. What a change means for edges is `plan`'s business.

mod action;
mod agent_ingresses;
mod api_keys;
mod app_sessions;
mod app_users;
mod body;
mod body_schema;
mod call;
mod certificate_authorities;
mod certificate_policy;
mod condition;
mod cors;
mod credentials;
mod described;
mod domain_name;
mod draft;
mod dry_run;
mod endpoints;
mod event_destinations;
mod event_source_body;
mod event_sources;
mod event_subscriptions;
mod event_target;
mod failure;
pub(crate) mod filter;
mod front;
mod given;
mod invitations;
mod ip_policies;
mod ip_policy_rules;
mod ip_restrictions;
mod issue;
mod kubernetes_operators;
mod listing;
mod local;
mod members;
mod operation;
mod owner;
mod page;
mod pem;
mod policy_secrets;
mod principal;
mod query;
mod quota;
mod reference;
mod refusal;
mod region;
mod reply;
mod reserved_addrs;
mod reserved_domains;
mod resource;
mod root;
mod routes;
mod schema;
mod secret_name;
mod service_users;
mod strict;
mod text_limits;
mod tls_certificates;
mod traffic_policy;
mod tunnel_sessions;
mod user_sessions;
mod users;
mod uses;
mod vault_secrets;
mod vaults;
mod x509;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use http::StatusCode;
use utoipa::openapi::OpenApi;

pub use self::failure::ApiError;
pub use self::local::Local;
pub(crate) use self::reply::timestamp;
use self::routes::Routes;
use crate::App;

/// Most objects an account has of each collection unless the operator says otherwise, by collection.
pub(crate) fn object_limits() -> [(&'static str, usize); 16] {
    [
        resource::limit::<agent_ingresses::AgentIngresses>(),
        resource::limit::<api_keys::ApiKeys>(),
        resource::limit::<certificate_authorities::CertificateAuthorities>(),
        resource::limit::<credentials::Credentials>(),
        resource::limit::<endpoints::Endpoints>(),
        resource::limit::<event_destinations::EventDestinations>(),
        resource::limit::<event_subscriptions::EventSubscriptions>(),
        resource::limit::<ip_policies::IpPolicies>(),
        resource::limit::<ip_policy_rules::IpPolicyRules>(),
        resource::limit::<kubernetes_operators::KubernetesOperators>(),
        resource::limit::<reserved_addrs::ReservedAddrs>(),
        resource::limit::<reserved_domains::ReservedDomains>(),
        resource::limit::<service_users::ServiceUsers<true>>(),
        resource::limit::<tls_certificates::TlsCertificates>(),
        resource::limit::<vault_secrets::VaultSecrets>(),
        resource::limit::<vaults::Vaults>(),
    ]
}

/// Routes behind the guard.
fn guarded() -> Routes {
    resource::routes::<agent_ingresses::AgentIngresses>()
        .merge(resource::routes::<api_keys::ApiKeys>())
        .merge(resource::routes::<certificate_authorities::CertificateAuthorities>())
        .merge(resource::routes::<credentials::Credentials>())
        .merge(resource::routes::<endpoints::Endpoints>())
        .merge(endpoints::drain::routes())
        .merge(resource::routes::<event_destinations::EventDestinations>())
        .merge(resource::routes::<event_subscriptions::EventSubscriptions>())
        .merge(event_destinations::routes())
        .merge(event_sources::routes())
        .merge(resource::routes::<ip_policies::IpPolicies>())
        .merge(resource::routes::<ip_policy_rules::IpPolicyRules>())
        .merge(resource::routes::<ip_restrictions::IpRestrictions>())
        .merge(resource::routes::<kubernetes_operators::KubernetesOperators>())
        .merge(resource::routes::<reserved_addrs::ReservedAddrs>())
        .merge(resource::routes::<reserved_domains::ReservedDomains>())
        .merge(resource::routes::<service_users::ServiceUsers<true>>())
        .merge(resource::routes::<service_users::ServiceUsers<false>>())
        .merge(resource::routes::<tls_certificates::TlsCertificates>())
        .merge(resource::routes::<vault_secrets::VaultSecrets>())
        .merge(resource::routes::<vaults::Vaults>())
        .merge(kubernetes_operators::routes())
        .merge(vaults::routes())
        .merge(reserved_domains::routes())
        .merge(traffic_policy::routes())
        .merge(tunnel_sessions::routes())
        .merge(root::routes())
        .merge(invitations::routes())
        .merge(app_sessions::routes())
        .merge(app_users::routes())
        .merge(user_sessions::routes())
        .merge(users::routes())
}

/// Routes anybody may call.
fn open() -> Routes {
    root::open_routes().merge(reference::routes(openapi))
}

/// The API as an `OpenAPI` document; `docs/openapi.json` is its checked-in text.
pub fn openapi() -> OpenApi {
    open().merge(guarded()).into_document()
}

/// The API for callers in this process that have proven their identity.
pub fn local(app: App) -> Local {
    Local::new(app, guarded().into_router())
}

/// The whole API. Unknown paths and methods are answered like every other error.
pub fn router(app: App) -> Router {
    let guarded = guarded()
        .into_router()
        .route_layer(from_fn(front::authorize))
        .route_layer(from_fn_with_state(app.clone(), front::guard));
    guarded
        .merge(open().into_router())
        .fallback(|| async { StatusCode::NOT_FOUND })
        .layer(from_fn_with_state(app.clone(), front::frame))
        .with_state(app)
}
