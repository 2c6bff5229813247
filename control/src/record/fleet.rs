//! Stored edges of other machines, and the one-time tokens by which they join.

use ebbgate_model::{EdgeId, Ksuid, TokenHash};
use serde::{Deserialize, Serialize};

use super::UnixSecs;

/// Prefix of everything about edges of other machines.
pub const FLEET_PREFIX: &str = "/fleet/";
/// Edges that have joined.
pub const EDGES_PREFIX: &str = "/fleet/edges/";
/// Tokens that an edge may join with.
pub const JOINS_PREFIX: &str = "/fleet/joins/";

/// An edge that has joined. Its certificate works as long as this record stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetEdge {
    /// Identifier, the common name of its certificates.
    pub id: EdgeId,
    /// What the operator calls it; may be empty.
    pub name: String,
    /// When it joined.
    pub joined_at: UnixSecs,
    /// Whether the operator took it out of service.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drained: bool,
    /// Whether it gets changes before others.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub canary: bool,
}

impl FleetEdge {
    /// Key of an edge's record.
    pub fn key(id: EdgeId) -> String {
        format!("{EDGES_PREFIX}{id}")
    }
}

/// A token that one edge may join with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EdgeJoin {
    /// What the edge will be called; may be empty.
    pub name: String,
    /// SHA-256 of the token.
    pub hash: TokenHash,
    /// When it is too late.
    pub expires_at: UnixSecs,
}

impl EdgeJoin {
    /// Key of a token's record, by its public half.
    pub fn key(id: Ksuid) -> String {
        format!("{JOINS_PREFIX}{id}")
    }
}
