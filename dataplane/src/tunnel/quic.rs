//! `QuicTransport`: a QUIC connection that carries an agent's session, or that the agent attached to a session. Every client
//! connection gets a stream of its own, so that a lost packet delays only that one.
//!
//! Says when new streams should use another transport. Does not know who may attach a connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ebbgate_tunnel::quic::{Connection, Stream, open_proxied};
use ebbgate_wire::mux::Code;
use ebbgate_wire::rpc::ProxyHeader;
use quinn::ConnectionError;
use tokio::time::{Duration, timeout};

/// Seconds a fresh stream may take to accept what goes in front of the visitor's bytes.
const OPEN_SECS_MAX: u64 = 5;

/// One QUIC connection of an agent. Any shard may open streams on it.
#[derive(Debug)]
pub struct QuicTransport {
    connection: Connection,
    carries_session: bool,
    /// The agent wants no new streams here.
    detached: AtomicBool,
    /// Nothing is heard from the agent on this path.
    silent: AtomicBool,
}

impl QuicTransport {
    /// A connection that takes streams; `carries_session`: the session itself runs over it.
    pub fn new(connection: Connection, carries_session: bool) -> Arc<Self> {
        let (detached, silent) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { connection, carries_session, detached, silent })
    }

    /// The connection.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Whether new streams should use this connection. If the session uses this same connection there is no better path,
    /// so silence is ignored.
    pub fn takes_streams(&self) -> bool {
        !self.detached.load(Ordering::Relaxed)
            && (self.carries_session || !self.silent.load(Ordering::Relaxed))
            && self.connection.close_reason().is_none()
    }

    /// Whether the session itself runs over it and nothing is heard on it.
    pub fn session_is_silent(&self) -> bool {
        self.carries_session && self.silent.load(Ordering::Relaxed)
    }

    /// Opens one proxied stream, header and preamble sent. None: it carries as many as it may, or has ended.
    pub(super) async fn open(&self, header: &ProxyHeader, preamble: &[u8]) -> Option<Stream> {
        let opening = open_proxied(&self.connection, header, preamble);
        timeout(Duration::from_secs(OPEN_SECS_MAX), opening).await.ok()?
    }

    /// No new streams, as the agent wishes.
    pub fn detach(&self) {
        self.detached.store(true, Ordering::Relaxed);
    }

    /// Notes whether anything is heard on this path.
    pub fn set_silent(&self, silent: bool) {
        if self.silent.swap(silent, Ordering::Relaxed) != silent {
            let peer = self.connection.remote_address();
            tracing::info!(%peer, silent, "what is heard of an agent's QUIC path changed");
        }
    }

    /// Whether the connection died because nothing was heard any more.
    pub fn timed_out(&self) -> bool {
        self.connection.close_reason() == Some(ConnectionError::TimedOut)
    }

    /// The session has ended. A connection that carries the session itself closes after its last words.
    pub fn session_ended(&self) {
        if !self.carries_session {
            ebbgate_tunnel::quic::close(&self.connection, Code::SESSION_CLOSED, "the session has ended");
        }
    }
}
