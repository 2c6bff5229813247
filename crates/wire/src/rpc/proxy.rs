//! The header of a proxied connection (wire.md §5): the server speaks first and names the endpoint and the visitor. Knows no I/O.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::RpcError;
use super::fold::{decode, nullable};

/// Bytes of the JSON of one header.
pub const PROXY_HEADER_BYTES_MAX: usize = 16_384;

/// What kind of edge took the visitor. A string on the wire: numbers make Rust clients drop the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum EdgeType {
    /// None.
    #[default]
    #[serde(rename = "0")]
    Undefined,
    /// TCP.
    #[serde(rename = "1")]
    Tcp,
    /// TLS.
    #[serde(rename = "2")]
    Tls,
    /// HTTPS.
    #[serde(rename = "3")]
    Https,
}

/// The bind and the source of a proxied connection. The first five keys are always sent; the others only to an agent
/// whose links are of `link::Version::Two`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyHeader {
    /// The bind's id.
    #[serde(rename(serialize = "Id", deserialize = "id"))]
    pub id: String,
    /// The visitor, `ip:port` or `[ip]:port`.
    #[serde(
        rename(serialize = "ClientAddr", deserialize = "clientaddr"),
        default,
        deserialize_with = "nullable"
    )]
    pub client_addr: String,
    /// The endpoint's scheme.
    #[serde(rename(serialize = "Proto", deserialize = "proto"), default, deserialize_with = "nullable")]
    pub proto: String,
    /// The kind of edge.
    #[serde(rename(serialize = "EdgeType", deserialize = "edgetype"), default)]
    pub edge_type: EdgeType,
    /// Whether the bytes are the visitor's own TLS.
    #[serde(
        rename(serialize = "PassthroughTLS", deserialize = "passthroughtls"),
        default,
        deserialize_with = "nullable"
    )]
    pub passthrough_tls: bool,
    /// Number of this claim of a link, counted from 1 in its session; 0 on what is no claim.
    #[serde(
        rename(serialize = "Claim", deserialize = "claim"),
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "is_none"
    )]
    pub claim: u64,
    /// The claim in whose place this stream comes, as nobody confirmed it in time; 0 for none. The agent serves whichever it
    /// reads first. If this one, it answers `link::DELIVERED` before its service's bytes; otherwise it resets the stream.
    #[serde(
        rename(serialize = "Instead", deserialize = "instead"),
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "is_none"
    )]
    pub instead: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_none(claim: &u64) -> bool {
    *claim == 0
}

impl ProxyHeader {
    /// What follows the type bytes: the length, little-endian unlike everything else, and the JSON.
    pub fn encode(&self) -> Vec<u8> {
        let json = self.json();
        let length = i64::try_from(json.len()).unwrap_or(i64::MAX);
        let mut bytes = Vec::with_capacity(json.len() + 8);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&json);
        bytes
    }

    /// The JSON alone, for carriers that frame it themselves.
    pub fn json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and booleans always encode")
    }

    /// Checks the eight length bytes.
    pub fn decode_length(bytes: [u8; 8]) -> Result<usize, RpcError> {
        let announced = i64::from_le_bytes(bytes);
        usize::try_from(announced)
            .ok()
            .filter(|length| (2..=PROXY_HEADER_BYTES_MAX).contains(length))
            .ok_or(RpcError::ProxyHeaderLength { announced, bytes_max: PROXY_HEADER_BYTES_MAX })
    }

    /// Reads the JSON.
    pub fn decode(json: &[u8]) -> Result<Self, RpcError> {
        let value: Value = serde_json::from_slice(json).map_err(RpcError::Json)?;
        decode("ProxyHeader", value, 1)
    }
}
