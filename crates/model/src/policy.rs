//! A traffic policy as data: phases, rules, actions. Legacy aliases are already resolved; nothing is interpreted.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use crate::digest::{DIGEST_BYTES, Hex, hex_bytes};

/// A policy document in canonical form (surface.md section 4.1).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrafficPolicy {
    /// `false`: rules are evaluated, counted and told, and nothing of them is done. None: they are enforced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enforce: Option<bool>,
    /// Rules run when a connection arrives.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub on_tcp_connect: Vec<Rule>,
    /// Rules run for every request.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub on_http_request: Vec<Rule>,
    /// Rules run for every response.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub on_http_response: Vec<Rule>,
    /// Rules run for every response that is an event stream; what they change, they change in each of its events.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub on_event_stream_message: Vec<Rule>,
}

/// SHA-256 of a policy as compact JSON, the bytes of `serde_json::to_vec`: policies of one content have one hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyHash(pub [u8; DIGEST_BYTES]);

impl fmt::Display for PolicyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(&self.0).fmt(f)
    }
}

impl fmt::Debug for PolicyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PolicyHash({self})")
    }
}

impl PolicyHash {
    /// Hash of the policy that is this text, compact and of the order of fields that we write.
    pub fn of_text(text: &str) -> Self {
        let mut hash = [0; DIGEST_BYTES];
        hash.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
        Self(hash)
    }
}

/// A text is no hash of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a hash of a policy is 64 hexadecimal digits")]
pub struct PolicyHashError;

impl FromStr for PolicyHash {
    type Err = PolicyHashError;

    fn from_str(text: &str) -> Result<Self, PolicyHashError> {
        hex_bytes(text).map(Self).ok_or(PolicyHashError)
    }
}

as_text!(PolicyHash);

impl TrafficPolicy {
    /// Its hash.
    pub fn hash(&self) -> PolicyHash {
        PolicyHash::of_text(&serde_json::to_string(self).expect("a policy has string keys only"))
    }

    /// Whether what its rules decide is done.
    pub fn is_enforced(&self) -> bool {
        self.enforce.unwrap_or(true)
    }

    /// Whether there is no rule in any phase.
    pub fn is_empty(&self) -> bool {
        let Self { enforce: _, on_tcp_connect, on_http_request, on_http_response, on_event_stream_message } =
            self;
        [on_tcp_connect, on_http_request, on_http_response, on_event_stream_message]
            .into_iter()
            .all(Vec::is_empty)
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
