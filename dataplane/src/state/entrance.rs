//! The entrances of the edge: what a listener is for. Knows no socket.

use ebbgate_model::Host;

/// The listener that accepted a connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Entrance {
    /// HTTP in clear.
    Http,
    /// HTTPS and TLS endpoints.
    Tls,
    /// Agents.
    Connect,
    /// Other edges.
    Peers,
    /// HTTPS and TLS endpoints, and agents: one address for both, because the operator asked for it.
    Shared,
    /// A TCP address.
    Tcp {
        /// Host part of its endpoints.
        host: Host,
        /// Its port.
        port: u16,
    },
}

impl Entrance {
    /// The name metrics use.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tls => "tls",
            Self::Connect => "connect",
            Self::Peers => "peers",
            Self::Shared => "shared",
            Self::Tcp { .. } => "tcp",
        }
    }
}
