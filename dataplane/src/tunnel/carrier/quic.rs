//! QUIC as a carrier: a connection that an agent's session runs over, or that its agent attached to a session which runs
//! elsewhere. Every visitor gets a stream of its own, so that a lost packet holds up one of them.
//!
//! Knows when new streams had better go elsewhere; does not know who may attach.

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
pub struct QuicWay {
    connection: Connection,
    carries_session: bool,
    /// The agent wants no new streams here.
    detached: AtomicBool,
    /// Nothing is heard from the agent on this path.
    silent: AtomicBool,
}

impl QuicWay {
    /// A connection that takes streams; `carries_session`: the session itself runs over it.
    pub fn new(connection: Connection, carries_session: bool) -> Arc<Self> {
        let (detached, silent) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { connection, carries_session, detached, silent })
    }

    /// The connection.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Whether new streams should come this way. Silence sends them elsewhere only where there is an elsewhere: the mux of a
    /// session that runs over this connection is on the same path, with one more queue in front.
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
    pub async fn open(self: Arc<Self>, header: &ProxyHeader, preamble: &[u8]) -> Option<QuicStream> {
        let opening = open_proxied(&self.connection, header, preamble);
        let stream = timeout(Duration::from_secs(OPEN_SECS_MAX), opening).await.ok()??;
        Some(QuicStream { stream, way: self })
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
    pub fn is_unheard(&self) -> bool {
        self.connection.close_reason() == Some(ConnectionError::TimedOut)
    }

    /// The session has ended. A connection that carries the session itself closes after its last words.
    pub fn session_ended(&self) {
        if !self.carries_session {
            ebbgate_tunnel::quic::close(&self.connection, Code::SESSION_CLOSED, "the session has ended");
        }
    }
}

/// One proxied stream over QUIC.
pub struct QuicStream {
    pub(super) stream: Stream,
    way: Arc<QuicWay>,
}

impl QuicStream {
    /// Whether it died because nothing was heard any more: what was sent last was not heard either.
    pub fn is_unheard(&self) -> bool {
        self.way.is_unheard()
    }
}
