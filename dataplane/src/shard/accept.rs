//! An accepted connection: counted in, and given to the room that serves it.

use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::task::spawn_local;

use super::shared_port;
use crate::agents::{self, Agents};
use crate::http::UpstreamPools;
use crate::l4::{self, ConnLog};
use crate::net::listen::PeerKind;
use crate::net::socket::Socket;
use crate::state::mailbox::Entrance;
use crate::state::metrics::ListenerLabel;
use crate::state::shard::Shard;

/// Takes an accepted connection: counts it in and serves it in a task of its own.
pub(super) fn begin(
    shard: &Shard,
    agents: &Arc<Agents>,
    upstreams: &UpstreamPools,
    entrance: &Entrance,
    stream: TcpStream,
) {
    let Ok(socket) = Socket::new(stream) else { return };
    let edge = shard.edge();
    edge.metrics.connections.get_or_create(&ListenerLabel { listener: entrance.name() }).inc();
    if edge.is_blocked(socket.peer().ip()) {
        edge.metrics.connections_blocked.inc();
        return;
    }
    let kind = if *entrance == Entrance::Connect { PeerKind::Agent } else { PeerKind::Client };
    let admit = |kind| edge.limits.admit(socket.peer().ip(), kind).map(|admitted| (kind, admitted));
    let admitted = match admit(kind) {
        // A connection here may be an agent's, and there is room for those.
        Err(_) if *entrance == Entrance::Shared => admit(PeerKind::Agent),
        admitted => admitted,
    };
    let (kind, admitted) = match admitted {
        Ok(admitted) => admitted,
        Err(refused) => {
            edge.metrics.connections_refused.inc();
            tracing::debug!(client = %socket.peer(), %refused, "connection refused");
            return;
        }
    };
    let (shard, upstreams) = (shard.clone(), upstreams.clone());
    match entrance.clone() {
        Entrance::Connect => {
            spawn_local(agents::serve(shard, Arc::clone(agents), socket, admitted));
        }
        Entrance::Http => {
            let log = ConnLog::begin(&shard, &socket, admitted);
            spawn_local(l4::serve_http(shard, upstreams, socket, log));
        }
        Entrance::Tls => {
            let log = ConnLog::begin(&shard, &socket, admitted);
            spawn_local(l4::serve_tls(shard, upstreams, socket, log));
        }
        Entrance::Shared => {
            spawn_local(shared_port::serve(shard, Arc::clone(agents), upstreams, socket, kind, admitted));
        }
        Entrance::Tcp { host, port } => {
            let log = ConnLog::begin(&shard, &socket, admitted);
            spawn_local(l4::serve_tcp(shard, socket, log, host, port));
        }
    }
}
