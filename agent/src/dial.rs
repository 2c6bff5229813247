//! `Dial`: how a session gets connections to the edge. The seam where tests put a simulated network; `edge_dialer` has the
//! real one.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use tokio::net::TcpStream;

use ebbgate_wire::rpc::{AuthReplyExtra, ConnectAddress};

use crate::config::Secret;
use crate::edges::SameEdge;
use crate::network::{Ends, Network, Unwatched};
use crate::proxy::ProxyError;
use crate::stream::{Carrier, Streams};

/// What a session starts with.
pub struct Dialled {
    /// The session's own bytes.
    pub io: Box<dyn Carrier>,
    /// Proxied streams beside them, where the carrier has its own kind.
    pub streams: Option<Box<dyn Streams>>,
    /// Both ends of the TCP connection below, where there is one.
    pub ends: Option<Ends>,
}

impl Dialled {
    /// A connection that carries the session and nothing beside it.
    pub fn alone(io: impl Carrier + 'static) -> Self {
        Self { io: Box::new(io), streams: None, ends: None }
    }
}

/// A dial under way.
pub type Dialling<'a, T = Dialled> = Pin<Box<dyn Future<Output = Result<T, DialError>> + Send + 'a>>;

/// Makes connections to the edge: one per session, and those that carry streams beside it. A dialler may know only
/// sessions; the edge then offers the rest in vain.
pub trait Dial: Send + Sync + 'static {
    /// A fresh connection for a session, TLS included.
    fn dial(&self) -> Dialling<'_>;

    /// A fresh connection for a link, TLS included; nothing has been said on it.
    fn link(&self) -> Dialling<'_, Box<dyn Carrier>> {
        Box::pin(async { Err(DialError::Unsupported("links")) })
    }

    /// A fresh connection without TLS for a raw link; nothing has been said on it.
    fn raw(&self) -> Dialling<'_, TcpStream> {
        Box::pin(async { Err(DialError::Unsupported("raw links")) })
    }

    /// Streams over QUIC for the session of this link ticket.
    fn attach(&self, _ticket: Secret) -> Dialling<'_, Box<dyn Streams>> {
        Box::pin(async { Err(DialError::Unsupported("QUIC")) })
    }

    /// The edge that was dialled last let the session in; `reply` says which edge it is, and which others there are. Err: the
    /// session is to go elsewhere.
    fn let_in(&self, _reply: &AuthReplyExtra) -> Result<(), SameEdge> {
        Ok(())
    }

    /// These are the other edges now.
    fn told(&self, _others: &[ConnectAddress]) {}

    /// The edge that was dialled last asks to be left: others are better.
    fn leave(&self) {}

    /// The session with the edge that was dialled last is over, or never came about.
    fn lost(&self) {}

    /// The network below, watched from now on.
    fn network(&self) -> Box<dyn Network> {
        Box::new(Unwatched)
    }

    /// Where to, for people.
    fn target(&self) -> String;
}

/// Why the edge was not reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// TCP failed.
    #[error("cannot connect to {target}: {source}")]
    Tcp {
        /// Edge or proxy.
        target: String,
        /// What the system said.
        source: io::Error,
    },
    /// The proxy is no help.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// The edge's certificate or protocol is not acceptable.
    #[error(
        "TLS with {target} failed: {source}; check connect_url, connect_cas and the clock of this machine"
    )]
    Tls {
        /// The edge.
        target: String,
        /// What rustls said.
        source: io::Error,
    },
    /// QUIC failed.
    #[error("QUIC with {target} failed: {source}")]
    Quic {
        /// The edge.
        target: String,
        /// What happened.
        source: io::Error,
    },
    /// The edge lets in as many agents as it can, and asks this one to come again.
    #[error("{target} lets in as many agents as it can, and asks for a new try after {retry_after:?}")]
    Busy {
        /// The edge.
        target: String,
        /// After this time.
        retry_after: Duration,
    },
    /// Nothing came about in time.
    #[error("{target} did not answer within {limit:?}")]
    Timeout {
        /// The edge.
        target: String,
        /// `connect_timeout`.
        limit: Duration,
    },
    /// The edge cannot be dialled at all.
    #[error(transparent)]
    Edge(Box<dyn std::error::Error + Send + Sync>),
    /// This dialler knows no such connections.
    #[error("this dialler makes no {0}")]
    Unsupported(&'static str),
}
