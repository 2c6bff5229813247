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
    /// Id of the operation in an answer that the edge made because it failed, or "".
    pub operation: String,
    /// Why it failed, for the operator alone, or "".
    pub detail: String,
    /// The edge's own error, if the answer is one.
    pub error: Option<ErrorCode>,
    /// What `log` actions wrote.
    pub policy_logs: Vec<serde_json::Value>,
}
