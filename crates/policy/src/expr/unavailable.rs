//! Published variables that have no value here, each with the reason and the way out. A condition on one of them would
//! never hold without any sign of it; so naming one is an error.

use super::error::ExprError;
use crate::diagnostic::nearest;

/// Variables without a value, for one reason.
struct Gap {
    /// Where they begin.
    prefixes: &'static [&'static str],
    /// The published names below a prefix; empty when the prefix is itself the variable.
    names: &'static [&'static str],
    reason: &'static str,
    way_out: &'static str,
}

const NO_DATABASE: &str = "needs a database of addresses, and this version loads none";
const BY_ADDRESS: &str =
    "name the networks: inCidrRange(conn.client_ip, '192.0.2.0/24'), or a restrict-ips action";
const BODY_LATER: &str = "comes with the body, which is read after the policy has decided";

static GAPS: &[Gap] = &[
    Gap {
        prefixes: &["conn.geo"],
        names: &["city", "country", "country_code", "latitude", "longitude", "radius", "subdivision"],
        reason: NO_DATABASE,
        way_out: BY_ADDRESS,
    },
    Gap {
        prefixes: &["conn.client_ip", "conn.server_ip"],
        names: &[
            "as.number",
            "as.organization",
            "categories",
            "geo.location.city",
            "geo.location.continent",
            "geo.location.country",
            "geo.location.country_code",
            "geo.location.is_eu",
            "geo.location.latitude",
            "geo.location.longitude",
            "geo.location.metro_code",
            "geo.location.postal_code",
            "geo.location.radius",
            "geo.location.subdivision",
            "geo.location.timezone",
            "geo.registered_location.city",
            "geo.registered_location.continent",
            "geo.registered_location.country",
            "geo.registered_location.country_code",
            "geo.registered_location.is_eu",
            "geo.registered_location.metro_code",
            "geo.registered_location.subdivision",
            "geo.registered_location.timezone",
            "is_on_blocklist",
            "is_tor_node",
        ],
        reason: NO_DATABASE,
        way_out: BY_ADDRESS,
    },
    Gap {
        prefixes: &["conn.bytes_in", "conn.bytes_out"],
        names: &[],
        reason: "is counted until the connection ends, and a policy decides before bytes flow",
        way_out: "read bytes_in and bytes_out of the connection's log line",
    },
    Gap {
        prefixes: &["req.trailers", "req.ts.body_received"],
        names: &[],
        reason: BODY_LATER,
        way_out: "use req.headers, or req.ts.header_received",
    },
    Gap { prefixes: &["res.trailers"], names: &[], reason: BODY_LATER, way_out: "use res.headers" },
    Gap {
        prefixes: &["req.url.user_password"],
        names: &[],
        reason: "never comes with a request: clients send a user and password in the authorization header",
        way_out: "use a basic-auth action, or getReqHeader('authorization')",
    },
];

/// The error for a path that is, leads to, or misspells a variable without a value.
pub(super) fn check(path: &str) -> Result<(), ExprError> {
    for gap in GAPS {
        let Some(prefix) = gap.prefixes.iter().find(|prefix| below(path, prefix)) else { continue };
        let rest = path.get(prefix.len()..).unwrap_or_default().trim_start_matches('.');
        if gap.names.is_empty() {
            return Err(refused(prefix, gap));
        }
        if let Some(name) = gap.names.iter().find(|name| below(rest, name)) {
            return Err(refused(&format!("{prefix}.{name}"), gap));
        }
        let leads = gap.names.iter().any(|name| !rest.is_empty() && below(name, rest));
        if leads || (rest.is_empty() && *prefix == "conn.geo") {
            return Err(refused(path, gap));
        }
        if !rest.is_empty() {
            let error = ExprError::new(format!("`{prefix}` has no member `{rest}`"));
            return Err(match nearest(rest, gap.names.iter().copied()) {
                Some(near) => error.with_hint(format!("did you mean `{prefix}.{near}`? It {}", gap.reason)),
                None => error.with_hint(format!("every published member {}", gap.reason)),
            });
        }
    }
    Ok(())
}

fn refused(name: &str, gap: &Gap) -> ExprError {
    ExprError::new(format!("`{name}` {}", gap.reason)).with_hint(gap.way_out)
}

pub(super) fn below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}
