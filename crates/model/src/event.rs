//! What happened: one value per connection and one per request, filled by the edge. Logs, metrics and traffic events are
//! views of these.

use serde::{Deserialize, Serialize};

use crate::ErrorCode;
use crate::id::{AccountId, EndpointId};

/// A connection that has ended.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ConnectionEvent {
    /// Owner of the endpoint reached, if any was.
    pub account: Option<AccountId>,
    /// Endpoint reached.
    pub endpoint: Option<EndpointId>,
    /// Canonical URL of that endpoint, or "".
    pub url: String,
    /// Internal endpoint the connection was forwarded to, or "".
    pub forwarded_to: String,
    /// Peer address, `ip:port`.
    pub client: String,
    /// Local address, `ip:port`.
    pub server: String,
    /// Server name of the TLS hello, or "".
    pub server_name: String,
    /// `1.2`, `1.3` or "".
    pub tls_version: String,
    /// Unix time in milliseconds.
    pub started_at_ms: i64,
    /// Milliseconds from accept to end.
    pub duration_ms: u64,
    /// Bytes from the client.
    pub bytes_in: u64,
    /// Bytes to the client.
    pub bytes_out: u64,
    /// Why it ended early, if it did.
    pub error: Option<ErrorCode>,
    /// One word or sentence on how it ended.
    pub outcome: String,
    /// What `log` actions wrote.
    pub policy_logs: Vec<serde_json::Value>,
    /// Id of the operation, or "".
    #[serde(skip_serializing_if = "String::is_empty")]
    pub operation: String,
    /// JA4 fingerprint of the TLS hello, or "".
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ja4: String,
    /// What policies decided.
    #[serde(skip_serializing_if = "Decisions::is_empty")]
    pub decisions: Decisions,
    /// What phases of policies that are not enforced came to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_enforced: Vec<NotEnforced>,
}

/// What actions of policies decided about a connection or a request. "": no such action ran.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Decisions {
    /// `restrict-ips`: `allow` or `deny`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ip_policy: String,
    /// `basic-auth`: `allow` or `deny`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub basic_auth: String,
    /// The user whose password was right, or "": what else is presented may be a password in the wrong place.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub basic_auth_user: String,
    /// `circuit-breaker`: `allow` or `deny`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub circuit_breaker: String,
    /// `verify-webhook`: `allow` or `deny`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub webhook: String,
}

impl Decisions {
    /// Whether nothing was decided.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Takes over what a later policy decided; a denial stays one.
    pub fn merge(&mut self, later: Self) {
        for (now, later) in [
            (&mut self.ip_policy, later.ip_policy),
            (&mut self.basic_auth, later.basic_auth),
            (&mut self.circuit_breaker, later.circuit_breaker),
            (&mut self.webhook, later.webhook),
        ] {
            if !later.is_empty() && now != "deny" {
                *now = later;
            }
        }
        if !later.basic_auth_user.is_empty() {
            self.basic_auth_user = later.basic_auth_user;
        }
    }
}

/// What a phase of a policy with `enforce: false` came to, and would have done.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NotEnforced {
    /// Canonical URL of the endpoint with this policy.
    pub url: String,
    /// Such as `on_http_request`.
    pub phase: String,
    /// `continue`, `forward`, `respond`, `close` or `fail`; `unknown`: it depends on what was not judged.
    pub outcome: String,
    /// Status of a response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Internal endpoint of a forward, or "".
    #[serde(skip_serializing_if = "String::is_empty")]
    pub to: String,
    /// Published code that goes with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<ErrorCode>,
    /// Place in the policy that decides, as `on_http_request[1].actions[0]`, or "".
    #[serde(skip_serializing_if = "String::is_empty")]
    pub decided_by: String,
    /// Places of actions that were not judged, because to judge them is to act.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_judged: Vec<String>,
}

/// A request that has been answered.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RequestEvent {
    /// Owner of the endpoint reached, if any was.
    pub account: Option<AccountId>,
    /// Endpoint reached.
    pub endpoint: Option<EndpointId>,
    /// Canonical URL of that endpoint, or "".
    pub url: String,
    /// Internal endpoint the request was forwarded to, or "".
    pub forwarded_to: String,
    /// Peer address, `ip:port`.
    pub client: String,
    /// Local address, `ip:port`; "" from an older edge.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub server: String,
    /// Server name of the TLS hello, or "".
    #[serde(skip_serializing_if = "String::is_empty")]
    pub server_name: String,
    /// `1.2`, `1.3` or "".
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tls_version: String,
    /// Request method.
    pub method: String,
    /// Authority the client asked for.
    pub host: String,
    /// Path without query: queries carry secrets.
    pub path: String,
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2.0`.
    pub version: String,
    /// Status answered; 0 when the connection was dropped.
    pub status: u16,
    /// Unix time in milliseconds.
    pub started_at_ms: i64,
    /// Milliseconds from the end of the header to the end of the response.
    pub duration_ms: u64,
    /// Body bytes from the client.
    pub bytes_in: u64,
    /// Body bytes to the client.
    pub bytes_out: u64,
    /// Id of the operation, which an answer of the edge's own tells the visitor, or "".
    pub operation: String,
    /// Why it failed, for the operator alone, or "".
    pub detail: String,
    /// The edge's own error, if the answer is one.
    pub error: Option<ErrorCode>,
    /// What `log` actions wrote.
    pub policy_logs: Vec<serde_json::Value>,
    /// `User-Agent`, at most 256 bytes, or "".
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user_agent: String,
    /// The query, secrets masked, at most 2 KiB, or "".
    #[serde(skip_serializing_if = "String::is_empty")]
    pub query: String,
    /// Harmless headers of the request, by a fixed list; at most 256 bytes of each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub request_headers: Vec<(String, String)>,
    /// The same of the response.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub response_headers: Vec<(String, String)>,
    /// IANA name of the TLS cipher suite, or "".
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cipher_suite: String,
    /// JA4 fingerprint of the TLS hello, or "".
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ja4: String,
    /// Common name of the client's certificate, or "".
    #[serde(skip_serializing_if = "String::is_empty")]
    pub client_cert_cn: String,
    /// Serial number of the client's certificate in hexadecimal, or "".
    #[serde(skip_serializing_if = "String::is_empty")]
    pub client_cert_serial: String,
    /// Whether the request went over a connection to the upstream that was open before; None: it went to none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_reused: Option<bool>,
    /// What policies decided.
    #[serde(skip_serializing_if = "Decisions::is_empty")]
    pub decisions: Decisions,
    /// What phases of policies that are not enforced came to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_enforced: Vec<NotEnforced>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_stays_whatever_a_later_policy_decides() {
        let of = |ip: &str, auth: &str, user: &str| Decisions {
            ip_policy: ip.into(),
            basic_auth: auth.into(),
            basic_auth_user: user.into(),
            ..Decisions::default()
        };
        let mut all = Decisions::default();
        assert!(all.is_empty());
        all.merge(of("allow", "", ""));
        all.merge(of("deny", "allow", "ann"));
        all.merge(of("allow", "", ""));
        assert_eq!(all, of("deny", "allow", "ann"));
        let webhook = |word: &str| Decisions { webhook: word.into(), ..Decisions::default() };
        all.merge(webhook("deny"));
        all.merge(webhook("allow"));
        assert_eq!(all, Decisions { webhook: "deny".into(), ..of("deny", "allow", "ann") });
    }
}
