//! Published variables that have no value here, each with the reason and the way out. A condition on one of them would
//! never hold without any sign of it; so naming one is an error.

use super::error::ExprError;

/// Variables without a value, for one reason.
struct Gap {
    names: &'static [&'static str],
    reason: &'static str,
    way_out: &'static str,
}

static GAPS: &[Gap] = &[
    Gap {
        names: &[
            "conn.client_ip.geo.registered_location.city",
            "conn.client_ip.geo.registered_location.continent",
            "conn.client_ip.geo.registered_location.metro_code",
            "conn.client_ip.geo.registered_location.subdivision",
            "conn.client_ip.geo.registered_location.timezone",
            "conn.server_ip.geo.registered_location.city",
            "conn.server_ip.geo.registered_location.continent",
            "conn.server_ip.geo.registered_location.metro_code",
            "conn.server_ip.geo.registered_location.subdivision",
            "conn.server_ip.geo.registered_location.timezone",
        ],
        reason: "is in no database of addresses: registries say the country of a network alone",
        way_out: "use geo.location, or geo.registered_location.country_code",
    },
    Gap {
        names: &[
            "conn.k8s.pod.id",
            "conn.k8s.pod.metadata.annotations",
            "conn.k8s.pod.metadata.error_code",
            "conn.k8s.pod.metadata.error_message",
            "conn.k8s.pod.metadata.name",
            "conn.k8s.pod.metadata.namespace",
        ],
        reason: "is of connections to endpoints of the binding kubernetes, and no edge serves them",
        way_out: "name the pod's network: inCidrRange(conn.client_ip, '10.0.0.0/8')",
    },
    Gap {
        names: &["req.url.user_password"],
        reason: "never comes with a request: clients send a user and password in the authorization header",
        way_out: "use a basic-auth action, or getReqHeader('authorization')",
    },
];

/// The error for a path that is a variable without a value.
pub(super) fn check(path: &str) -> Result<(), ExprError> {
    for gap in GAPS {
        // A group of such variables has no value either.
        let leads = |name: &str| path.starts_with("conn.k8s") && below(name, path);
        if let Some(name) = gap.names.iter().find(|name| below(path, name) || leads(name)) {
            return Err(refused(name, gap));
        }
    }
    Ok(())
}

/// Every such variable, with the reason and the way out.
#[cfg(test)]
pub(super) fn all() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    GAPS.iter().flat_map(|gap| gap.names.iter().map(|name| (*name, gap.reason, gap.way_out)))
}

fn refused(name: &str, gap: &Gap) -> ExprError {
    ExprError::new(format!("`{name}` {}", gap.reason)).with_hint(gap.way_out)
}

pub(super) fn below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}
