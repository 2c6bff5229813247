//! Auth and `SrvInfo` (wire.md §4.1). Knows the fields, not which credentials are valid.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fold::{courtesy, decode, nullable};
use super::{Family, RpcError, Secret};

/// What a client says first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Auth {
    /// Protocol versions offered, best first.
    #[serde(rename(serialize = "Version", deserialize = "version"), default, deserialize_with = "nullable")]
    pub versions: Vec<String>,
    /// Empty at first; the id of the session to resume afterwards.
    #[serde(
        rename(serialize = "ClientId", deserialize = "clientid"),
        default,
        deserialize_with = "nullable"
    )]
    pub client_id: String,
    /// Everything else.
    #[serde(rename(serialize = "Extra", deserialize = "extra"), default, deserialize_with = "nullable")]
    pub extra: AuthExtra,
}

/// The rest of Auth.
#[expect(clippy::struct_excessive_bools, reason = "the message has these fields")]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AuthExtra {
    /// Operating system.
    #[serde(rename(serialize = "OS", deserialize = "os"), deserialize_with = "courtesy")]
    pub os: String,
    /// Processor architecture.
    #[serde(rename(serialize = "Arch", deserialize = "arch"), deserialize_with = "courtesy")]
    pub arch: String,
    /// The credential's token.
    #[serde(rename(serialize = "Authtoken", deserialize = "authtoken"), deserialize_with = "nullable")]
    pub authtoken: Secret,
    /// The client's own version.
    #[serde(rename(serialize = "Version", deserialize = "version"), deserialize_with = "courtesy")]
    pub version: String,
    /// Host the client runs on.
    #[serde(rename(serialize = "Hostname", deserialize = "hostname"), deserialize_with = "courtesy")]
    pub hostname: String,
    /// Names the SDK, whatever else the application overrides.
    #[serde(rename(serialize = "UserAgent", deserialize = "useragent"), deserialize_with = "courtesy")]
    pub user_agent: String,
    /// The application's own text.
    #[serde(rename(serialize = "Metadata", deserialize = "metadata"), deserialize_with = "nullable")]
    pub metadata: String,
    /// What the last `AuthReply` handed out.
    #[serde(rename(serialize = "Cookie", deserialize = "cookie"), deserialize_with = "nullable")]
    pub cookie: Secret,
    /// Nanoseconds between the client's heartbeats.
    #[serde(
        rename(serialize = "HeartbeatInterval", deserialize = "heartbeatinterval"),
        deserialize_with = "courtesy"
    )]
    pub heartbeat_interval_ns: i64,
    /// Nanoseconds the client waits for an echo.
    #[serde(
        rename(serialize = "HeartbeatTolerance", deserialize = "heartbeattolerance"),
        deserialize_with = "courtesy"
    )]
    pub heartbeat_tolerance_ns: i64,
    /// Absent: too old to be asked. Empty: Update is understood. Text: why it is not.
    #[serde(
        rename(serialize = "UpdateUnsupportedError", deserialize = "updateunsupportederror"),
        deserialize_with = "courtesy"
    )]
    pub update_unsupported: Option<String>,
    /// As `update_unsupported`, for Stop.
    #[serde(
        rename(serialize = "StopUnsupportedError", deserialize = "stopunsupportederror"),
        deserialize_with = "courtesy"
    )]
    pub stop_unsupported: Option<String>,
    /// As `update_unsupported`, for Restart.
    #[serde(
        rename(serialize = "RestartUnsupportedError", deserialize = "restartunsupportederror"),
        deserialize_with = "courtesy"
    )]
    pub restart_unsupported: Option<String>,
    /// Kind of proxy the client dials through.
    #[serde(rename(serialize = "ProxyType", deserialize = "proxytype"), deserialize_with = "courtesy")]
    pub proxy_type: String,
    /// Whether the client shows a certificate.
    #[serde(rename(serialize = "MutualTLS", deserialize = "mutualtls"), deserialize_with = "courtesy")]
    pub mutual_tls: bool,
    /// Whether the client runs as a service.
    #[serde(rename(serialize = "ServiceRun", deserialize = "servicerun"), deserialize_with = "courtesy")]
    pub service_run: bool,
    /// Version of the client's configuration file.
    #[serde(
        rename(serialize = "ConfigVersion", deserialize = "configversion"),
        deserialize_with = "courtesy"
    )]
    pub config_version: String,
    /// Whether the client binds to an interface of its choice.
    #[serde(
        rename(serialize = "CustomInterface", deserialize = "custominterface"),
        deserialize_with = "courtesy"
    )]
    pub custom_interface: bool,
    /// Whether the client trusts authorities of its own choice.
    #[serde(rename(serialize = "CustomCAs", deserialize = "customcas"), deserialize_with = "courtesy")]
    pub custom_cas: bool,
    /// What the application calls itself.
    #[serde(rename(serialize = "ClientType", deserialize = "clienttype"), deserialize_with = "courtesy")]
    pub client_type: String,
    /// Whether the client takes a Move: it connects anew, and serves this connection until the server ends it. SDKs do not.
    #[serde(
        rename(serialize = "Moves", deserialize = "moves"),
        deserialize_with = "courtesy",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub moves: bool,
    /// Which of several parallel sessions this is; 0 for the first.
    #[serde(
        rename(serialize = "LegNumber", deserialize = "legnumber"),
        deserialize_with = "courtesy",
        skip_serializing_if = "is_zero"
    )]
    pub leg_number: u32,
    /// Ways for proxied streams beside the session that the client can use: `link`, `raw`, `quic`. SDKs name none.
    #[serde(
        rename(serialize = "Carriers", deserialize = "carriers"),
        deserialize_with = "courtesy",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub carriers: Vec<String>,
    /// Whether the client can hold sessions at several edges: the answer then names the edge and the others. SDKs do not ask.
    #[serde(
        rename(serialize = "SeveralEdges", deserialize = "severaledges"),
        deserialize_with = "courtesy",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub several_edges: bool,
    /// Names the client's process in all its sessions, at whatever edge: ASCII letters and digits. SDKs send none.
    #[serde(
        rename(serialize = "Process", deserialize = "process"),
        deserialize_with = "courtesy",
        skip_serializing_if = "String::is_empty"
    )]
    pub process: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_first(version: &u16) -> bool {
    *version < 2
}

impl Auth {
    /// Reads the message from its JSON.
    pub fn decode(value: Value) -> Result<Self, RpcError> {
        decode("Auth", value, 2)
    }

    /// The version to answer with: the first one offered that exists, else the newest.
    pub fn version(&self) -> &str {
        self.versions.iter().map(String::as_str).find(|version| ["3", "2"].contains(version)).unwrap_or("3")
    }

    /// Whose client this is.
    pub fn family(&self) -> Family {
        Family::from_user_agent(&self.extra.user_agent)
    }
}

/// The answer to Auth. `Extra` may not be null for the Rust family, so it is always sent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AuthReply {
    /// The version chosen.
    #[serde(rename(serialize = "Version", deserialize = "version"), default, deserialize_with = "nullable")]
    pub version: String,
    /// The id to come back with.
    #[serde(
        rename(serialize = "ClientId", deserialize = "clientid"),
        default,
        deserialize_with = "nullable"
    )]
    pub client_id: String,
    /// Empty on success.
    #[serde(rename(serialize = "Error", deserialize = "error"), default, deserialize_with = "nullable")]
    pub error: String,
    /// Everything else.
    #[serde(rename(serialize = "Extra", deserialize = "extra"), default, deserialize_with = "nullable")]
    pub extra: AuthReplyExtra,
}

/// The rest of `AuthReply`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AuthReplyExtra {
    /// The server's own version.
    #[serde(rename(serialize = "Version", deserialize = "version"), deserialize_with = "nullable")]
    pub version: String,
    /// The server's region.
    #[serde(rename(serialize = "Region", deserialize = "region"), deserialize_with = "nullable")]
    pub region: String,
    /// To be shown when the session is resumed.
    #[serde(rename(serialize = "Cookie", deserialize = "cookie"), deserialize_with = "nullable")]
    pub cookie: Secret,
    /// The account's name.
    #[serde(rename(serialize = "AccountName", deserialize = "accountname"), deserialize_with = "nullable")]
    pub account_name: String,
    /// Seconds the session may last; 0 for ever.
    #[serde(
        rename(serialize = "SessionDuration", deserialize = "sessionduration"),
        deserialize_with = "nullable"
    )]
    pub session_duration_secs: i64,
    /// The account's plan.
    #[serde(rename(serialize = "PlanName", deserialize = "planname"), deserialize_with = "nullable")]
    pub plan_name: String,
    /// Text to show the user.
    #[serde(rename(serialize = "Banner", deserialize = "banner"), deserialize_with = "nullable")]
    pub banner: String,
    /// Set when the client should be updated.
    #[serde(rename(serialize = "DeprecationWarning", deserialize = "deprecationwarning"))]
    pub deprecation_warning: Option<Value>,
    /// Addresses of other edges, for a client that asked for several; null for others.
    #[serde(rename(serialize = "ConnectAddresses", deserialize = "connectaddresses"))]
    pub connect_addresses: Option<Vec<ConnectAddress>>,
    /// The session's id in the API, `ts_...`.
    #[serde(
        rename(serialize = "AgentSessionID", deserialize = "agentsessionid"),
        deserialize_with = "nullable"
    )]
    pub agent_session_id: String,
    /// Ways for proxied streams beside the session; only for a client that asked.
    #[serde(
        rename(serialize = "Carriers", deserialize = "carriers"),
        deserialize_with = "nullable",
        skip_serializing_if = "Option::is_none"
    )]
    pub carriers: Option<CarrierOffer>,
    /// The edge's own id; only for a client that asked for several edges.
    #[serde(
        rename(serialize = "EdgeID", deserialize = "edgeid"),
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub edge_id: String,
}

/// What the server takes beside the session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CarrierOffer {
    /// Proves to the edge whose link or QUIC connection it is; see `ticket::LinkTicket`.
    #[serde(rename(serialize = "Ticket", deserialize = "ticket"), deserialize_with = "nullable")]
    pub ticket: Secret,
    /// Links the session may have, in use or not; 0 for none.
    #[serde(rename(serialize = "LinksMax", deserialize = "linksmax"), deserialize_with = "nullable")]
    pub links_max: u16,
    /// Version of the links that the edge takes; 0 where it knows only the first. See `link::Version`.
    #[serde(
        rename(serialize = "LinkVersion", deserialize = "linkversion"),
        deserialize_with = "nullable",
        skip_serializing_if = "is_first"
    )]
    pub link_version: u16,
    /// Key of raw links, base64 of 32 random bytes of this session; only if the account allows them.
    #[serde(
        rename(serialize = "RawKey", deserialize = "rawkey"),
        deserialize_with = "nullable",
        skip_serializing_if = "Option::is_none"
    )]
    pub raw_key: Option<Secret>,
    /// Whether QUIC is answered on the same address.
    #[serde(rename(serialize = "Quic", deserialize = "quic"), deserialize_with = "nullable")]
    pub quic: bool,
}

/// One more place to connect to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectAddress {
    /// The region there.
    #[serde(rename = "Region", alias = "region", default)]
    pub region: String,
    /// `host:port`.
    #[serde(rename = "ServerAddr", alias = "serveraddr", default)]
    pub server_addr: String,
}

impl AuthReply {
    /// A refusal. The Rust family needs `Version` and `ClientId` in it too.
    pub fn refused(error: impl Into<String>) -> Self {
        Self { version: "3".into(), error: error.into(), ..Self::default() }
    }

    /// Reads the message from its JSON.
    pub fn decode(value: Value) -> Result<Self, RpcError> {
        decode("AuthReply", value, 3)
    }
}

/// The answer to `SrvInfo`, which may be asked before Auth.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SrvInfo {
    /// The server's region.
    #[serde(rename(serialize = "Region", deserialize = "region"), default, deserialize_with = "nullable")]
    pub region: String,
}

impl SrvInfo {
    /// Reads the message from its JSON.
    pub fn decode(value: Value) -> Result<Self, RpcError> {
        decode("SrvInfo", value, 1)
    }
}
