//! What control tells an edge of the others, and what an edge says for that: where it is reached, and what another edge needs
//! to serve its agents' endpoints.

use serde::{Deserialize, Serialize};

use crate::host::Host;
use crate::id::EdgeId;
use crate::policy::TrafficPolicy;

/// Longest address of an edge in bytes: a host name, a colon and a port.
pub const EDGE_ADDRESS_BYTES_MAX: usize = 300;
/// Longest name of a start of an edge in bytes.
pub const INCARNATION_BYTES_MAX: usize = 64;

/// Where an edge is reached, as the edge says. Empty texts: it does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EdgeReach {
    /// Another text for every start of the program.
    pub incarnation: String,
    /// `host:port` where other edges connect; empty: its agents are reached by no other edge.
    pub peers: String,
    /// `host:port` where agents connect.
    pub agents: String,
}

impl EdgeReach {
    /// The same without what is no address, or is too long.
    #[must_use]
    pub fn checked(self) -> Self {
        let address = |text: String| if split_address(&text).is_some() { text } else { String::new() };
        let is_name = |text: &str| {
            text.len() <= INCARNATION_BYTES_MAX && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
        };
        let incarnation = if is_name(&self.incarnation) { self.incarnation } else { String::new() };
        Self { incarnation, peers: address(self.peers), agents: address(self.agents) }
    }
}

/// Host and port of `host:port`; an IPv6 address stands in brackets.
pub fn split_address(text: &str) -> Option<(Host, u16)> {
    if text.len() > EDGE_ADDRESS_BYTES_MAX {
        return None;
    }
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse::<u16>().ok().filter(|port| *port > 0)?;
    Some((host.parse().ok()?, port))
}

/// Another edge of the installation, as control tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerEdge {
    /// Which.
    pub edge: EdgeId,
    /// Where it is reached.
    pub reach: EdgeReach,
    /// Whether it is about to end and wants no new work.
    #[serde(default)]
    pub draining: bool,
}

/// What another edge needs to serve an agent's endpoint, beside what the API shows of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServedElsewhere {
    /// By what the agent's process is known again, whichever edge it is connected to.
    pub identity: String,
    /// Rules that stand in front of the agent's policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guard: Option<TrafficPolicy>,
    /// Which visitors may share a connection to its upstream.
    pub shared_by: SharedBy,
    /// Whether TLS ends at the edge, with the certificate of the reserved domain.
    pub ends_tls: bool,
    /// Whether its port was lent by its edge, so that no address is reserved for it.
    pub lent_port: bool,
}

/// Which visitors may share a connection to an upstream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SharedBy {
    /// All visitors.
    #[default]
    Everybody,
    /// Visitors of one address: a program behind the agent sees it.
    Source,
    /// One visitor: the visitor's address stands in front of the bytes.
    Visitor,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_address_is_not_told_on() {
        for good in ["edge.example.com:4485", "192.0.2.1:1", "[2001:db8::1]:4485"] {
            assert!(split_address(good).is_some(), "{good}");
        }
        let long = format!("{}:1", "a.".repeat(EDGE_ADDRESS_BYTES_MAX / 2));
        for bad in ["", "edge.example.com", "x:0", "x:65536", ":1", "a b:1", "x/y:1", long.as_str()] {
            assert!(split_address(bad).is_none(), "{bad}");
        }
        let said = EdgeReach {
            incarnation: "x y".into(),
            peers: "https://x:1".into(),
            agents: "edge.example.com:443".into(),
        };
        let kept = EdgeReach { agents: "edge.example.com:443".into(), ..EdgeReach::default() };
        assert_eq!(said.checked(), kept);
    }
}
