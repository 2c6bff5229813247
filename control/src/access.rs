//! Who may call what: one table of every route of the API and the dashboard, with the least role it takes.
//!
//! A route that stands in no row is the owner's alone ([`least`] fails closed), and a test that compares routers and table
//! fails. Whose object it is, and what a service user's key may handle, is decided where the object is known.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use http::Method;

use crate::people::Role;

/// Whom a route serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Least {
    /// Anybody, known or not.
    Anyone,
    /// Callers with at least this role. Keys of an account act as owners of it, keys of a service user as admins.
    Role(Role),
}

/// One route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Method.
    pub method: &'static str,
    /// Path as the router has it.
    pub path: &'static str,
    /// Whom it serves.
    pub least: Least,
}

const VIEWER: Least = Least::Role(Role::Viewer);
const ADMIN: Least = Least::Role(Role::Admin);
const OWNER: Least = Least::Role(Role::Owner);

macro_rules! rows {
    ($($method:literal $path:literal $least:ident,)*) => {
        &[$(Row { method: $method, path: $path, least: rows!(@ $least) },)*]
    };
    (@ anyone) => { Least::Anyone };
    (@ viewer) => { VIEWER };
    (@ admin) => { ADMIN };
    (@ owner) => { OWNER };
}

/// Routes of the REST API.
pub const API: &[Row] = rows![
    "GET" "/" anyone,
    "GET" "/docs" anyone,
    "GET" "/openapi.json" anyone,
    "GET" "/self" viewer,
    "GET" "/agent_ingresses" viewer,
    "POST" "/agent_ingresses" admin,
    "GET" "/agent_ingresses/{id}" viewer,
    "PATCH" "/agent_ingresses/{id}" admin,
    "DELETE" "/agent_ingresses/{id}" admin,
    "GET" "/api_keys" viewer,
    "POST" "/api_keys" admin,
    "GET" "/api_keys/{id}" viewer,
    "PATCH" "/api_keys/{id}" admin,
    "DELETE" "/api_keys/{id}" admin,
    "GET" "/app/sessions" admin,
    "GET" "/app/sessions/{id}" admin,
    "DELETE" "/app/sessions/{id}" admin,
    "GET" "/app/users" admin,
    "GET" "/app/users/{id}" admin,
    "DELETE" "/app/users/{id}" admin,
    "GET" "/bot_users" viewer,
    "POST" "/bot_users" admin,
    "GET" "/bot_users/{id}" viewer,
    "PATCH" "/bot_users/{id}" admin,
    "DELETE" "/bot_users/{id}" admin,
    "GET" "/certificate_authorities" viewer,
    "POST" "/certificate_authorities" admin,
    "GET" "/certificate_authorities/{id}" viewer,
    "PATCH" "/certificate_authorities/{id}" admin,
    "DELETE" "/certificate_authorities/{id}" admin,
    "GET" "/credentials" viewer,
    "POST" "/credentials" admin,
    "GET" "/credentials/{id}" viewer,
    "PATCH" "/credentials/{id}" admin,
    "DELETE" "/credentials/{id}" admin,
    "GET" "/endpoints" viewer,
    "POST" "/endpoints" admin,
    "GET" "/endpoints/{id}" viewer,
    "PATCH" "/endpoints/{id}" admin,
    "DELETE" "/endpoints/{id}" admin,
    "POST" "/endpoints/{id}/drain" admin,
    "POST" "/endpoints/{id}/undrain" admin,
    "GET" "/event_destinations" viewer,
    "POST" "/event_destinations" admin,
    "GET" "/event_destinations/{id}" viewer,
    "PATCH" "/event_destinations/{id}" admin,
    "DELETE" "/event_destinations/{id}" admin,
    "POST" "/event_destinations/{id}/send_test_event" admin,
    "GET" "/event_subscriptions" viewer,
    "POST" "/event_subscriptions" admin,
    "GET" "/event_subscriptions/{id}" viewer,
    "PATCH" "/event_subscriptions/{id}" admin,
    "DELETE" "/event_subscriptions/{id}" admin,
    "GET" "/event_subscriptions/{id}/sources" viewer,
    "POST" "/event_subscriptions/{id}/sources" admin,
    "GET" "/event_subscriptions/{id}/sources/{type}" viewer,
    "PATCH" "/event_subscriptions/{id}/sources/{type}" admin,
    "DELETE" "/event_subscriptions/{id}/sources/{type}" admin,
    "GET" "/invitations" owner,
    "POST" "/invitations" owner,
    "GET" "/invitations/{id}" owner,
    "DELETE" "/invitations/{id}" owner,
    "GET" "/ip_policies" viewer,
    "POST" "/ip_policies" admin,
    "GET" "/ip_policies/{id}" viewer,
    "PATCH" "/ip_policies/{id}" admin,
    "DELETE" "/ip_policies/{id}" admin,
    "GET" "/ip_policy_rules" viewer,
    "POST" "/ip_policy_rules" admin,
    "GET" "/ip_policy_rules/{id}" viewer,
    "PATCH" "/ip_policy_rules/{id}" admin,
    "DELETE" "/ip_policy_rules/{id}" admin,
    "GET" "/ip_restrictions" viewer,
    "POST" "/ip_restrictions" admin,
    "GET" "/ip_restrictions/{id}" viewer,
    "PATCH" "/ip_restrictions/{id}" admin,
    "DELETE" "/ip_restrictions/{id}" admin,
    "GET" "/kubernetes_operators" viewer,
    "POST" "/kubernetes_operators" admin,
    "GET" "/kubernetes_operators/{id}" viewer,
    "PATCH" "/kubernetes_operators/{id}" admin,
    "DELETE" "/kubernetes_operators/{id}" admin,
    "GET" "/kubernetes_operators/{id}/bound_endpoints" viewer,
    "GET" "/reserved_addrs" viewer,
    "POST" "/reserved_addrs" admin,
    "GET" "/reserved_addrs/{id}" viewer,
    "PATCH" "/reserved_addrs/{id}" admin,
    "DELETE" "/reserved_addrs/{id}" admin,
    "GET" "/reserved_domains" viewer,
    "POST" "/reserved_domains" admin,
    "GET" "/reserved_domains/{id}" viewer,
    "PATCH" "/reserved_domains/{id}" admin,
    "DELETE" "/reserved_domains/{id}" admin,
    "DELETE" "/reserved_domains/{id}/certificate" admin,
    "DELETE" "/reserved_domains/{id}/certificate_management_policy" admin,
    "GET" "/service_users" viewer,
    "POST" "/service_users" admin,
    "GET" "/service_users/{id}" viewer,
    "PATCH" "/service_users/{id}" admin,
    "DELETE" "/service_users/{id}" admin,
    "GET" "/tls_certificates" viewer,
    "POST" "/tls_certificates" admin,
    "GET" "/tls_certificates/{id}" viewer,
    "PATCH" "/tls_certificates/{id}" admin,
    "DELETE" "/tls_certificates/{id}" admin,
    "POST" "/traffic_policy/check" viewer,
    "POST" "/traffic_policy/diff" viewer,
    "POST" "/traffic_policy/explain" viewer,
    "POST" "/traffic_policy/test" viewer,
    "GET" "/tunnel_sessions" viewer,
    "GET" "/tunnel_sessions/{id}" viewer,
    "POST" "/tunnel_sessions/{id}/restart" admin,
    "POST" "/tunnel_sessions/{id}/stop" admin,
    "POST" "/tunnel_sessions/{id}/update" admin,
    "GET" "/tunnels" viewer,
    "GET" "/tunnels/{id}" viewer,
    "GET" "/user_sessions" viewer,
    "GET" "/user_sessions/{id}" viewer,
    "DELETE" "/user_sessions/{id}" viewer,
    "GET" "/users" viewer,
    "GET" "/users/{id}" viewer,
    "PATCH" "/users/{id}" owner,
    "DELETE" "/users/{id}" owner,
    "GET" "/vault_secrets" viewer,
    "POST" "/vault_secrets" admin,
    "GET" "/vault_secrets/{id}" viewer,
    "PATCH" "/vault_secrets/{id}" admin,
    "DELETE" "/vault_secrets/{id}" admin,
    "GET" "/vaults" viewer,
    "POST" "/vaults" admin,
    "GET" "/vaults/{id}" viewer,
    "PATCH" "/vaults/{id}" admin,
    "DELETE" "/vaults/{id}" admin,
    "GET" "/vaults/{id}/secrets" viewer,
];

/// Routes of the dashboard, in a browser's session.
pub const DASHBOARD: &[Row] = rows![
    "GET" "/dashboard/style.css" anyone,
    "GET" "/dashboard/sign-in" anyone,
    "POST" "/dashboard/sign-in" anyone,
    "POST" "/dashboard/cli/token" anyone,
    "GET" "/dashboard/oidc/start" anyone,
    "GET" "/dashboard/oidc/callback" anyone,
    "GET" "/dashboard/invitations/{token}/oidc" anyone,
    "GET" "/dashboard/setup/{token}" anyone,
    "POST" "/dashboard/setup/{token}" anyone,
    "GET" "/dashboard/invitations/{token}" anyone,
    "POST" "/dashboard/invitations/{token}" anyone,
    "GET" "/dashboard" viewer,
    "GET" "/dashboard/domains" viewer,
    "GET" "/dashboard/api-keys" viewer,
    "POST" "/dashboard/api-keys" admin,
    "POST" "/dashboard/api-keys/{id}/revoke" admin,
    "GET" "/dashboard/people" viewer,
    "POST" "/dashboard/people/invite" owner,
    "POST" "/dashboard/people/{id}/change" owner,
    "POST" "/dashboard/people/{id}/remove" owner,
    "POST" "/dashboard/people/invitations/{id}/withdraw" owner,
    "GET" "/dashboard/sessions" viewer,
    "GET" "/dashboard/audit" admin,
    "POST" "/dashboard/sessions/{id}/end" viewer,
    "POST" "/dashboard/account" viewer,
    "GET" "/dashboard/cli" viewer,
    "POST" "/dashboard/cli" viewer,
    "POST" "/dashboard/sign-out" viewer,
];

static BY_ROUTE: LazyLock<BTreeMap<(&str, &str), Least>> =
    LazyLock::new(|| API.iter().chain(DASHBOARD).map(|row| ((row.path, row.method), row.least)).collect());

/// Whom a route serves. One that stands in no row serves owners only.
pub fn least(method: &Method, path: &str) -> Least {
    let method = if *method == Method::HEAD { "GET" } else { method.as_str() };
    BY_ROUTE.get(&(path, method)).copied().unwrap_or(OWNER)
}

impl Least {
    /// Whether a known caller with this role is served.
    pub fn admits(self, role: Role) -> bool {
        match self {
            Self::Anyone => true,
            Self::Role(least) => role >= least,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_no_row_is_the_owners() {
        let check = |method: Method, path: &str, expect: [bool; 3]| {
            let least = least(&method, path);
            assert_eq!(Role::ALL.map(|role| least.admits(role)), expect, "{method} {path}");
        };
        check(Method::GET, "/endpoints", [true; 3]);
        check(Method::HEAD, "/endpoints", [true; 3]);
        check(Method::POST, "/endpoints", [false, true, true]);
        check(Method::PATCH, "/users/{id}", [false, false, true]);
        check(Method::GET, "/a/route/of/tomorrow", [false, false, true]);
        check(Method::PUT, "/endpoints", [false, false, true]);
    }

    #[test]
    fn no_route_stands_in_two_rows() {
        assert_eq!(BY_ROUTE.len(), API.len() + DASHBOARD.len());
    }
}
