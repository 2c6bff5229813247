//! The smaller messages (wire.md §4.3): unbinding, labels, live changes, and what the server asks of a client.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::auth::ConnectAddress;
use super::error::RpcError;
use super::fold::{decode, nullable};

macro_rules! decodable {
    ($($message:ident),*) => {$(
        impl $message {
            /// Reads the message from its JSON, keys in any case.
            pub fn decode(value: Value) -> Result<Self, RpcError> {
                decode(stringify!($message), value, 1)
            }
        }
    )*};
}

decodable!(
    Unbind,
    UnbindReply,
    StartTunnelWithLabel,
    StartTunnelWithLabelReply,
    PatchTunnelState,
    StopTunnel,
    Edges,
    Update,
    Outcome
);

/// Client: stop serving one bind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unbind {
    /// The bind's id.
    #[serde(rename(serialize = "Id", deserialize = "id"))]
    pub id: String,
}

/// The answer to Unbind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnbindReply {
    /// Empty on success.
    #[serde(rename(serialize = "Error", deserialize = "error"), default, deserialize_with = "nullable")]
    pub error: String,
    /// Always null.
    #[serde(rename(serialize = "Extra", deserialize = "extra"), default)]
    pub extra: Option<Value>,
}

/// Client: serve whatever carries these labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartTunnelWithLabel {
    /// The labels.
    #[serde(rename(serialize = "Labels", deserialize = "labels"), default, deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
    /// Upstream, for display.
    #[serde(
        rename(serialize = "ForwardsTo", deserialize = "forwardsto"),
        default,
        deserialize_with = "nullable"
    )]
    pub forwards_to: String,
    /// The application's own text.
    #[serde(
        rename(serialize = "Metadata", deserialize = "metadata"),
        default,
        deserialize_with = "nullable"
    )]
    pub metadata: String,
}

/// The answer to `StartTunnelWithLabel`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartTunnelWithLabelReply {
    /// The id given.
    #[serde(rename(serialize = "Id", deserialize = "id"), default, deserialize_with = "nullable")]
    pub id: String,
    /// Empty on success.
    #[serde(rename(serialize = "Error", deserialize = "error"), default, deserialize_with = "nullable")]
    pub error: String,
}

/// Client: change a served endpoint; absent fields stay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PatchTunnelState {
    /// `TunnelID` of the `BindReply`.
    #[serde(rename(serialize = "TunnelId", deserialize = "tunnelid"))]
    pub tunnel_id: String,
    /// New name.
    #[serde(
        rename(serialize = "Name", deserialize = "name"),
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub name: Option<String>,
    /// New description.
    #[serde(
        rename(serialize = "Description", deserialize = "description"),
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub description: Option<String>,
    /// New metadata.
    #[serde(
        rename(serialize = "Metadata", deserialize = "metadata"),
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub metadata: Option<String>,
    /// New pooling.
    #[serde(
        rename(serialize = "PoolingEnabled", deserialize = "poolingenabled"),
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub pooling_enabled: Option<bool>,
    /// New policy, as text.
    #[serde(
        rename(serialize = "TrafficPolicy", deserialize = "trafficpolicy"),
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub traffic_policy: Option<String>,
}

/// Server: one endpoint is over. No answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopTunnel {
    /// The bind's id.
    #[serde(rename(serialize = "Id", deserialize = "id"))]
    pub id: String,
    /// Text for people.
    #[serde(rename(serialize = "Message", deserialize = "message"), default, deserialize_with = "nullable")]
    pub message: String,
    /// A code such as `ERR_NGROK_n`.
    #[serde(
        rename(serialize = "ErrorCode", deserialize = "errorcode"),
        default,
        deserialize_with = "nullable"
    )]
    pub error_code: String,
}

/// Server: the edges beside this one. No answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edges {
    /// Where agents reach them.
    #[serde(
        rename(serialize = "ConnectAddresses", deserialize = "connectaddresses"),
        default,
        deserialize_with = "nullable"
    )]
    pub connect_addresses: Vec<ConnectAddress>,
    /// This edge is being drained: go to another one.
    #[serde(rename(serialize = "Leave", deserialize = "leave"), default, deserialize_with = "nullable")]
    pub leave: bool,
}

/// Server: update yourself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// The version to become.
    #[serde(rename(serialize = "Version", deserialize = "version"), default, deserialize_with = "nullable")]
    pub version: String,
    /// Whether a new major version is fine too.
    #[serde(
        rename(serialize = "PermitMajorVersion", deserialize = "permitmajorversion"),
        default,
        deserialize_with = "nullable"
    )]
    pub permit_major_version: bool,
}

/// The body of Stop, Restart and `SrvInfo` requests: `{}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// An answer that says only whether it worked: `{}` or `{"Error": ".."}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Empty on success.
    #[serde(rename(serialize = "Error", deserialize = "error"), default, deserialize_with = "nullable")]
    pub error: String,
}
