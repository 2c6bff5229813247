//! `Carrier`: how a proxied stream reaches an agent. One form today, the multiplexed TLS session that the SDKs speak;
//! others join here.
//!
//! Knows the header and the PROXY protocol bytes that go in front; does not know who is allowed a stream.

mod mux;
mod proxy_protocol;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ebbgate_model::Scheme;
use ebbgate_wire::driver;
use ebbgate_wire::rpc::{EdgeType, ProxyHeader};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::gateway::{AgentRef, OpenError, Slot};

/// A way to one agent, on the shard that owns its session.
#[derive(Clone)]
pub enum Carrier {
    /// Streams multiplexed over one TLS connection.
    Mux(driver::Session),
}

/// For whom a stream is opened.
#[derive(Debug, Clone, Copy)]
pub struct Origin {
    /// The visitor.
    pub client: SocketAddr,
    /// Where the visitor connected to.
    pub server: SocketAddr,
    /// The endpoint's scheme.
    pub proto: Scheme,
    /// Whether the bytes are the visitor's own TLS, unread by the edge.
    pub passthrough: bool,
}

impl Carrier {
    /// Opens one proxied stream: header sent, PROXY header too if the agent wants one. No byte of the visitor was sent
    /// when this fails.
    pub async fn open(&self, agent: &AgentRef, origin: Origin) -> Result<CarrierStream, OpenError> {
        let session = &agent.session;
        let slot = Arc::clone(session).take_slot().ok_or_else(|| {
            if session.is_alive() {
                OpenError::SessionFull(session.id)
            } else {
                OpenError::SessionEnded(session.id)
            }
        })?;
        let header = ProxyHeader {
            id: agent.bind.to_string(),
            client_addr: origin.client.to_string(),
            proto: origin.proto.to_string(),
            edge_type: EdgeType::Undefined,
            passthrough_tls: origin.passthrough,
        };
        let preamble = agent.proxy_protocol.map(|v| proxy_protocol::header(v, origin.client, origin.server));
        let Self::Mux(carrier) = self;
        let stream = mux::open(carrier, session.id, &header, preamble.as_deref().unwrap_or_default()).await?;
        Ok(CarrierStream { stream, _slot: slot })
    }
}

/// One proxied stream. Dropping it before both ends finished resets it.
pub struct CarrierStream {
    stream: driver::Stream,
    _slot: Slot,
}

impl AsyncRead for CarrierStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for CarrierStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
