//! The types of events there are: those published, and ours.

/// Objects with changes that are published events.
const PUBLISHED: &[&str] = &[
    "api_key",
    "certificate_authority",
    "domain",
    "event_destination",
    "event_subscription",
    "ip_policy",
    "ip_policy_rule",
    "ip_restriction",
    "secret",
    "tcp_address",
    "tls_certificate",
    "tunnel_credential",
    "vault",
];
/// Objects with changes that are events here alone.
const OURS: &[&str] = &[
    "account",
    "acme",
    "acme_account",
    "agent_ingress",
    "edge",
    "edge_join",
    "ended_session",
    "endpoint",
    "installation",
    "invitation",
    "issued_certificate",
    "kubernetes_operator",
    "oidc",
    "rollout",
    "session_keys",
    "service_user",
    "user",
    "user_session",
];
/// Objects of published events that do not exist here.
const ABSENT: &[&str] =
    &["ssh_certificate_authority", "ssh_host_certificate", "ssh_public_key", "ssh_user_certificate"];
/// What happens to objects.
const CHANGES: [&str; 3] = ["created", "updated", "deleted"];

/// A request was answered.
pub const HTTP: &str = "http_request_complete.v0";
/// A connection ended.
pub const TCP: &str = "tcp_connection_closed.v0";
/// An agent's session began.
pub const SESSION_START: &str = "agent_session_start.v0";
/// An agent's session ended.
pub const SESSION_STOP: &str = "agent_session_stop.v0";
/// New work comes to an agent's endpoint again, or no longer does.
pub const HEALTH: &str = "endpoint_health_changed.v0";
/// Events were dropped before they could be delivered.
pub const LOST: &str = "events_lost.v0";
/// Sent to try a destination.
pub const TEST: &str = "test.v0";
/// A condition that wants attention has begun, or ended.
pub const ALERTS: [&str; 2] = ["alert_raised.v0", "alert_cleared.v0"];

/// The operator began, or ended, something that changes or copies the installation besides its records.
pub const OPERATIONS: [&str; 2] = ["operation_started.v0", "operation_ended.v0"];

/// Whether a subscription may name a type.
pub fn is_known(name: &str) -> bool {
    let others = [HTTP, TCP, SESSION_START, SESSION_STOP, HEALTH];
    others.contains(&name) || ALERTS.contains(&name) || OPERATIONS.contains(&name) || is_change(name)
}

fn is_change(name: &str) -> bool {
    let Some(stem) = name.strip_suffix(".v0") else { return false };
    let Some((noun, change)) = stem.rsplit_once('_') else { return false };
    CHANGES.contains(&change) && [PUBLISHED, OURS, ABSENT].iter().any(|nouns| nouns.contains(&noun))
}

/// Whether a known type never happens here.
pub fn is_absent(name: &str) -> bool {
    ABSENT.iter().any(|noun| name.starts_with(noun))
}

/// Whether a type takes `fields` and `filter`.
pub fn is_traffic(name: &str) -> bool {
    name == HTTP || name == TCP
}

/// Every known type, for messages and documentation.
pub fn all() -> impl Iterator<Item = String> {
    let changes = [PUBLISHED, OURS, ABSENT].into_iter().flatten();
    let changes = changes.flat_map(|noun| CHANGES.iter().map(move |change| format!("{noun}_{change}.v0")));
    let others = [HTTP, TCP, SESSION_START, SESSION_STOP, HEALTH].into_iter().chain(ALERTS).chain(OPERATIONS);
    changes.chain(others.map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_known_and_the_published_ones_are_55() {
        assert!(all().all(|name| is_known(&name)));
        let ours = |name: &String| {
            OURS.iter().any(|noun| name.starts_with(&format!("{noun}_")))
                || ALERTS.contains(&name.as_str())
                || OPERATIONS.contains(&name.as_str())
        };
        assert_eq!(all().filter(|name| !ours(name)).count(), 55);
        for unknown in ["endpoint_created", "endpoint_made.v0", "created.v0", "http_request_complete.v1", ""]
        {
            assert!(!is_known(unknown), "{unknown}");
        }
    }
}
