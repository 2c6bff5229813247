//! `EndpointHealth`: what an agent of ours found when it checked the upstream of an endpoint. Published clients never say it,
//! and an edge that does not know it resets the stream.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::RpcError;
use super::fold::{decode, nullable};

/// Client: the upstream behind one of my binds passes its check now, or no longer does. Answered by an `Outcome`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointHealth {
    /// The bind's id.
    #[serde(rename(serialize = "Id", deserialize = "id"))]
    pub id: String,
    /// Whether new work may come.
    #[serde(rename(serialize = "Healthy", deserialize = "healthy"))]
    pub healthy: bool,
    /// Kind of the check: `tcp`, `tls`, `http` or `postgres`.
    #[serde(rename(serialize = "Check", deserialize = "check"), default, deserialize_with = "nullable")]
    pub check: String,
    /// What the last check that failed found; empty when it passed.
    #[serde(rename(serialize = "Reason", deserialize = "reason"), default, deserialize_with = "nullable")]
    pub reason: String,
}

impl EndpointHealth {
    /// Reads the message from its JSON, keys in any case.
    pub fn decode(value: Value) -> Result<Self, RpcError> {
        decode("EndpointHealth", value, 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn is_read_as_it_is_written_and_needs_its_bind_and_its_verdict() {
        let said = EndpointHealth {
            id: "b1".into(),
            healthy: false,
            check: "http".into(),
            reason: "HTTP status 503".into(),
        };
        let text = serde_json::to_value(&said).unwrap();
        assert_eq!(text, json!({"Id": "b1", "Healthy": false, "Check": "http", "Reason": "HTTP status 503"}));
        assert_eq!(EndpointHealth::decode(text).unwrap(), said);
        assert_eq!(EndpointHealth::decode(json!({"id": "b1", "healthy": true})).unwrap().reason, "");
        for bad in [json!({"Id": "b1"}), json!({"Healthy": true}), json!({"Id": "b1", "Healthy": "yes"})] {
            assert!(EndpointHealth::decode(bad).is_err());
        }
    }
}
