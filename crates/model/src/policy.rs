//! A traffic policy as data: phases, rules, actions. Legacy aliases are already resolved; nothing is interpreted.

use serde::{Deserialize, Serialize};

/// A policy document in canonical form (surface.md section 4.1).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrafficPolicy {
    /// Rules run when a connection arrives.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub on_tcp_connect: Vec<Rule>,
    /// Rules run for every request.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub on_http_request: Vec<Rule>,
    /// Rules run for every response.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub on_http_response: Vec<Rule>,
}

impl TrafficPolicy {
    /// Whether there is no rule in any phase.
    pub fn is_empty(&self) -> bool {
        self.on_tcp_connect.is_empty() && self.on_http_request.is_empty() && self.on_http_response.is_empty()
    }
}

/// Actions and the expressions that must all hold for them to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Shown in logs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// CEL; all must be true. Empty means always.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expressions: Vec<String>,
    /// Run in order; at least one.
    pub actions: Vec<Action>,
}

/// One action by its published name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Action {
    /// The published name, such as `restrict-ips`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The action's own keys; `null` when absent.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub config: serde_json::Value,
}
