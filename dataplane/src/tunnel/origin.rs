//! The client of a stream, and what the agent learns of it.

use std::net::SocketAddr;

use ebbgate_model::Scheme;
use ebbgate_wire::rpc::{EdgeType, ProxyHeader};

use super::peer::{Elsewhere, HOPS_MAX, PeerHeader};
use super::proxy_protocol;
use super::session::AgentRef;

/// The client of a stream.
#[derive(Debug, Clone, Copy)]
pub struct Origin {
    /// The client.
    pub client: SocketAddr,
    /// Where the client connected to.
    pub server: SocketAddr,
    /// The endpoint's scheme.
    pub proto: Scheme,
    /// Whether the bytes are the client's own TLS, unread by the edge.
    pub passthrough: bool,
    /// The claim of a link that the stream replaces, as the agent did not confirm it; 0 for none.
    pub instead: u64,
}

impl Origin {
    /// What the agent is told of the stream.
    pub(super) fn header(&self, agent: &AgentRef) -> ProxyHeader {
        ProxyHeader {
            id: agent.bind.to_string(),
            client_addr: self.client.to_string(),
            proto: self.proto.to_string(),
            edge_type: EdgeType::Undefined,
            passthrough_tls: self.passthrough,
            claim: 0,
            instead: self.instead,
        }
    }

    /// What goes in front of the client's bytes on a mux, after the type bytes.
    pub(super) fn head(&self, agent: &AgentRef) -> Vec<u8> {
        let Some(elsewhere) = &agent.elsewhere else {
            let mut head = self.header(agent).encode();
            head.extend_from_slice(&self.preamble(agent));
            return head;
        };
        self.peer_header(elsewhere).encode()
    }

    /// What the edge of the agent is told of the stream.
    pub(super) fn peer_header(&self, at: &Elsewhere) -> PeerHeader {
        PeerHeader {
            account: at.account,
            session: at.session,
            endpoint: at.endpoint,
            client: self.client,
            server: self.server,
            proto: self.proto,
            passthrough: self.passthrough,
            hops: HOPS_MAX,
        }
    }

    /// What the agent wants in front of the client's bytes.
    pub(super) fn preamble(&self, agent: &AgentRef) -> Vec<u8> {
        let header = agent.proxy_protocol.map(|v| proxy_protocol::header(v, self.client, self.server));
        header.unwrap_or_default()
    }
}
