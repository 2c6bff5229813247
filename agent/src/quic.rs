//! Reaches the edge over QUIC: a whole session on one connection, or streams for a session that runs elsewhere. The trust
//! is that of `connect_cas`, as over TCP.
//!
//! The socket is bound to no address, so that the system may send by whatever way there is now: the connection outlives a
//! change of network.

mod streams;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ebbgate_tunnel::quic::{Connection, HEADER_SECS_MAX, Stream, StreamHeader};
use quinn::{ClientConfig, ConnectionError};
use socket2::SockRef;
use tokio::time::timeout;

use crate::config::{ConnectAddress, Secret};
use crate::dial::{DialError, Dialled};
use crate::stream::Streams;
use crate::upstream::race;

pub use streams::{HEADERS_MAX, QuicStreams};

/// Dials QUIC.
pub struct QuicDialer {
    address: ConnectAddress,
    /// The name that the edge's certificate must have.
    name: Arc<str>,
    config: ClientConfig,
    interface: Option<Arc<str>>,
    /// The edge's address, where it is known already.
    reached: Option<SocketAddr>,
}

impl QuicDialer {
    /// For an edge's address and the name of its certificate; `tls` brings the trust.
    pub fn new(
        address: ConnectAddress,
        name: &str,
        tls: rustls::ClientConfig,
        interface: Option<&str>,
    ) -> Result<Self, ebbgate_tunnel::quic::ConfigError> {
        Ok(Self {
            address,
            name: name.into(),
            config: ebbgate_tunnel::quic::client(tls)?,
            interface: interface.map(Into::into),
            reached: None,
        })
    }

    /// The same edge by an address at which it was reached.
    #[must_use]
    pub fn at(self, reached: SocketAddr) -> Self {
        Self { reached: Some(reached), ..self }
    }

    /// A session, and its visitors' streams beside it.
    pub async fn session(&self) -> Result<Dialled, DialError> {
        let (connection, stream) = self.open(StreamHeader::Session).await?;
        let streams: Box<dyn Streams> = Box::new(QuicStreams::new(connection, None));
        Ok(Dialled { streams: Some(streams), ..Dialled::alone(stream) })
    }

    /// Streams for the session of this ticket.
    pub async fn attach(&self, ticket: Secret) -> Result<Box<dyn Streams>, DialError> {
        let (connection, control) = self.open(StreamHeader::Attach(ticket)).await?;
        Ok(Box::new(QuicStreams::new(connection, Some(control))))
    }

    async fn open(&self, opening: StreamHeader) -> Result<(Connection, Stream), DialError> {
        let connection = self.connect().await.map_err(|source| self.failed(source))?;
        let speak = async {
            let halves = connection.open_bi().await.map_err(io::Error::from)?;
            let mut stream = Stream::new(halves);
            opening.write(&mut stream).await.map_err(io::Error::other)?;
            Ok(stream)
        };
        let silent = || io::Error::new(io::ErrorKind::TimedOut, "no answer to the first words");
        let spoken = timeout(Duration::from_secs(HEADER_SECS_MAX), speak).await;
        let stream = spoken.unwrap_or_else(|_| Err(silent())).map_err(|source| self.failed(source))?;
        Ok((connection, stream))
    }

    fn failed(&self, source: io::Error) -> DialError {
        DialError::Quic { target: self.address.to_string(), source }
    }

    async fn connect(&self) -> io::Result<Connection> {
        let host = self.address.host.as_str();
        let found = match self.reached {
            Some(reached) => vec![reached],
            None => tokio::net::lookup_host((host, self.address.port)).await?.collect(),
        };
        let (config, name, interface) = (self.config.clone(), Arc::clone(&self.name), self.interface.clone());
        race(found, move |address| connect_to(address, config.clone(), Arc::clone(&name), interface.clone()))
            .await
    }
}

/// One attempt; its endpoint lives as long as what comes of it.
async fn connect_to(
    address: SocketAddr,
    config: ClientConfig,
    name: Arc<str>,
    interface: Option<Arc<str>>,
) -> io::Result<Connection> {
    let any: IpAddr =
        if address.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let socket = ebbgate_tunnel::quic::bind(SocketAddr::new(any, 0))?;
    if let Some(interface) = interface {
        SockRef::from(&socket).bind_device(Some(interface.as_bytes()))?;
    }
    let endpoint = ebbgate_tunnel::quic::endpoint(socket)?;
    let connecting = endpoint.connect_with(config, address, &name).map_err(io::Error::other)?;
    connecting.await.map_err(|error| match error {
        ConnectionError::TimedOut => {
            io::Error::new(io::ErrorKind::TimedOut, "no answer; is UDP open on the way?")
        }
        other => other.into(),
    })
}

#[cfg(test)]
mod tests;
