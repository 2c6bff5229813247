//! An agent that comes over QUIC: dials, speaks first, takes streams.

use std::net::SocketAddr;
use std::sync::Arc;

use ebbgate_tunnel::quic::{Connection, Endpoint, Stream, StreamHeader, read_proxied};
use ebbgate_wire::rpc::ProxyHeader;
use rustls::ClientConfig;
use tokio::io::AsyncWriteExt as _;

use crate::lab::{Agent, Lab, Previous};

/// One QUIC connection of an agent.
pub(crate) struct Dialled {
    pub(crate) connection: Connection,
    /// Its socket; the connection needs it.
    pub(crate) endpoint: Endpoint,
}

/// A client configuration for the lab's edge.
pub(crate) fn config(lab: &Lab) -> quinn::ClientConfig {
    ebbgate_tunnel::quic::client(ClientConfig::clone(&lab.authority.client(None, false))).unwrap()
}

impl Dialled {
    /// Dials the lab, directly or through a path.
    pub(crate) async fn new(lab: &Lab, to: SocketAddr, name: &str) -> Result<Self, quinn::ConnectionError> {
        Self::with(config(lab), to, name).await
    }

    pub(crate) async fn with(
        config: quinn::ClientConfig,
        to: SocketAddr,
        name: &str,
    ) -> Result<Self, quinn::ConnectionError> {
        let socket = ebbgate_tunnel::quic::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let endpoint = ebbgate_tunnel::quic::endpoint(socket).unwrap();
        let connection = endpoint.connect_with(config, to, name).unwrap().await?;
        Ok(Self { connection, endpoint })
    }

    /// Speaks first; the stream it did so on.
    pub(crate) async fn open(
        &self,
        opening: &StreamHeader,
    ) -> Result<Stream, ebbgate_tunnel::quic::StreamHeaderError> {
        let mut stream = Stream::new(self.connection.open_bi().await.unwrap());
        opening.write(&mut stream).await.map(|()| stream)
    }

    /// Runs a session over the connection.
    pub(crate) async fn session(&self, token: &str) -> Agent {
        let stream = self.open(&StreamHeader::Session).await.unwrap();
        let agent = Agent::over(stream, token, &Previous::default(), &["quic"]).await;
        agent.unwrap_or_else(|reply| panic!("{reply:?}"))
    }

    /// The next proxied stream.
    pub(crate) async fn accept(&self) -> Option<(ProxyHeader, Stream)> {
        let mut stream = Stream::new(self.connection.accept_bi().await.ok()?);
        let header = read_proxied(&mut stream).await.unwrap();
        Some((header, stream))
    }

    /// Echoes every stream until the connection ends, with `greeting` in front.
    pub(crate) fn echo(self, greeting: &'static [u8]) -> Arc<Self> {
        let shared = Arc::new(self);
        let serving = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Some((_, mut stream)) = serving.accept().await {
                tokio::spawn(async move {
                    let _ = stream.write_all(greeting).await;
                    let (mut from, mut to) = tokio::io::split(stream);
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                    let _ = to.shutdown().await;
                });
            }
        });
        shared
    }
}
