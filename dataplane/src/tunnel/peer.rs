//! Streams between two edges: how the one with the visitor names the endpoint and the visitor to the one with the agent.
//! Pure; knows no connection.
//!
//! A stream of kind Proxy begins with the header's length in four bytes, big-endian, and the header in JSON. After it come
//! the visitor's bytes alone: what the agent wants in front of them, the agent's own edge adds.
//!
//! Bytes that are the visitor's own TLS may take a raw connection instead (`ebbgate_wire::link::raw::between`). The same
//! header is sealed into its claim. A stream of kind `RawKey` asks for the key: its request is `{}`, its answer a [`RawOffer`]. An
//! edge that gives none, or knows no such kind, resets the stream, and everything goes over the mux.

use std::net::SocketAddr;

use ebbgate_model::{AccountId, EdgeId, EndpointId, Scheme, TunnelSessionId};
use ebbgate_wire::link::raw::ClaimHeader;
use ebbgate_wire::rpc::Secret;
use serde::{Deserialize, Serialize};

/// Longest header in bytes.
pub const PEER_HEADER_BYTES_MAX: usize = 2048;
/// Edges that a stream may pass after the one that the visitor came to.
pub const HOPS_MAX: u8 = 1;
/// What both edges agree on by ALPN (RFC 7301).
pub const ALPN_PEER: &[u8] = b"ebbgate-peer/1";

/// An agent's endpoint at another edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elsewhere {
    /// Which edge.
    pub edge: EdgeId,
    /// Owner of the endpoint.
    pub account: AccountId,
    /// The agent's session there.
    pub session: TunnelSessionId,
    /// The endpoint's id there.
    pub endpoint: EndpointId,
    /// Whether its account lets a visitor's own TLS travel without a second encryption.
    pub passes_bare: bool,
}

/// What proves raw connections to an edge, as it gives it to another over mutual TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawOffer {
    /// The connection of mutual TLS, as greetings name it. Raw connections end with it.
    pub session: TunnelSessionId,
    /// The key, `RawKey::to_secret`.
    pub key: Secret,
}

/// The header of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerHeader {
    /// Owner of the endpoint.
    pub account: AccountId,
    /// The agent's session.
    pub session: TunnelSessionId,
    /// The endpoint.
    pub endpoint: EndpointId,
    /// The visitor.
    pub client: SocketAddr,
    /// Where the visitor connected to.
    pub server: SocketAddr,
    /// The endpoint's scheme.
    pub proto: Scheme,
    /// Whether the bytes are the visitor's own TLS.
    pub passthrough: bool,
    /// Edges that the stream has passed with this one.
    pub hops: u8,
}

impl PeerHeader {
    /// What follows the type bytes.
    pub fn encode(&self) -> Vec<u8> {
        let json = self.json();
        let length = u32::try_from(json.len()).unwrap_or(u32::MAX);
        [&length.to_be_bytes(), json.as_slice()].concat()
    }

    /// Checks the length. None: no header is so long.
    pub fn length(bytes: [u8; 4]) -> Option<usize> {
        let length = usize::try_from(u32::from_be_bytes(bytes)).ok()?;
        (2..=PEER_HEADER_BYTES_MAX).contains(&length).then_some(length)
    }
}

impl ClaimHeader for PeerHeader {
    fn json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("ids, addresses and numbers are JSON")
    }

    fn decode(json: &[u8]) -> Option<Self> {
        (json.len() <= PEER_HEADER_BYTES_MAX).then(|| serde_json::from_slice(json).ok()).flatten()
    }

    fn is_passthrough(&self) -> bool {
        self.passthrough
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebbgate_model::Ksuid;

    #[test]
    fn a_header_is_read_as_it_was_written_and_nothing_longer() {
        let ksuid = Ksuid::new(1_700_000_000, [7; 16]);
        let header = PeerHeader {
            account: AccountId::new(ksuid),
            session: TunnelSessionId::new(ksuid),
            endpoint: EndpointId::new(ksuid),
            client: "[2001:db8::1]:5".parse().unwrap(),
            server: "192.0.2.1:443".parse().unwrap(),
            proto: Scheme::Https,
            passthrough: true,
            hops: HOPS_MAX,
        };
        let bytes = header.encode();
        let (length, json) = bytes.split_first_chunk().unwrap();
        assert_eq!(PeerHeader::length(*length), Some(json.len()));
        assert_eq!(PeerHeader::decode(json), Some(header));
        let long = [json, &[b' '; PEER_HEADER_BYTES_MAX]].concat();
        assert_eq!(PeerHeader::decode(&long), None);
        for bad in [0, 1, 1 << 20, u32::MAX] {
            assert_eq!(PeerHeader::length(bad.to_be_bytes()), None);
        }
    }
}
