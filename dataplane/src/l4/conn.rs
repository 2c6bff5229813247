//! `Conn`: one client on its way, with its dispatch and its access log.
//!
//! Holds everything a connection is, so that it can move to another shard.

use std::cell::Cell;
use std::sync::Arc;

use ebbgate_model::ErrorCode;
use ebbgate_model::event::ConnectionEvent;

use super::client_conn::ClientConn;
use crate::dispatch::Dispatch;
use crate::dispatch::event::{AccessLog, AccessSink, operation_id};
use crate::dispatch::gateway::Gateway as _;
use crate::net::hello::Hello;
use crate::net::listen::ConnPermit;
use crate::net::socket::{Socket, Traffic};
use crate::state::edge::Edge;
use crate::state::metrics::GaugeGuard;
use crate::state::random;
use crate::state::shard::Shard;

/// A connection on its way.
pub struct Conn {
    pub(super) client: ClientConn,
    /// Its TLS hello, if it sent one.
    pub(super) hello: Option<Hello>,
    pub(super) log: ConnLog,
    pub(super) dispatch: Dispatch,
}

/// The access log of one connection.
pub type ConnLog = AccessLog<ConnSink>;

/// Takes the event of a connection: see [`AccessSink`].
pub struct ConnSink {
    edge: Arc<Edge>,
    traffic: Arc<Traffic>,
    /// The edge turned it away before it reached an endpoint.
    pub(super) refused: Cell<bool>,
    _admitted: ConnPermit,
    _open: GaugeGuard,
}

impl AccessSink for ConnSink {
    type Event = ConnectionEvent;

    fn bytes(&self) -> (u64, u64) {
        (self.traffic.received(), self.traffic.sent())
    }

    fn retried(&self, members: u64) {
        self.edge.metrics.retries.inc_by(members);
    }

    fn write(&self, event: ConnectionEvent) {
        self.edge.connection_done(event, self.refused.get());
    }
}

impl ConnLog {
    /// A connection that was let in.
    pub fn begin(shard: &Shard, socket: &Socket, admitted: ConnPermit) -> Self {
        let now_unix_ms = shard.now_unix_ms();
        let event = ConnectionEvent {
            client: socket.peer().to_string(),
            server: socket.local().to_string(),
            started_at_ms: now_unix_ms,
            operation: operation_id(now_unix_ms, [random::number(), random::number()]),
            outcome: "cut off: the edge stopped".into(),
            ..ConnectionEvent::default()
        };
        let sink = ConnSink {
            edge: Arc::clone(shard.edge()),
            traffic: socket.traffic(),
            refused: Cell::new(false),
            _admitted: admitted,
            _open: GaugeGuard::new(&shard.edge().metrics.connections_open),
        };
        Self::new(event, sink)
    }

    /// Ends a connection that is not served, with a code and a sentence.
    pub fn refuse(self, code: Option<ErrorCode>, outcome: impl Into<String>) {
        self.sink().refused.set(true);
        self.done(code, outcome);
    }

    /// Ends it with a code and a sentence.
    pub(super) fn done(self, code: Option<ErrorCode>, outcome: impl Into<String>) {
        self.coded(code);
        self.event_mut().outcome = outcome.into();
    }
}

impl Conn {
    /// A client in clear.
    pub(super) fn new(socket: Socket, hello: Option<Hello>, log: ConnLog, dispatch: Dispatch) -> Self {
        Self { client: ClientConn::clear(socket), hello, log, dispatch }
    }
}
