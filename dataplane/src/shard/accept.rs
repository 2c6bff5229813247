//! An accepted connection: introduced where a load balancer opened it, counted in, and given to the room that serves it.

use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::task::spawn_local;

use super::{balancer, shared_port};
use crate::agents::{self, Agents};
use crate::http::UpstreamPools;
use crate::l4::{self, ConnLog};
use crate::net::listen::{ConnPermit, PeerKind, Refused};
use crate::net::proxy_protocol::Origin;
use crate::net::socket::Socket;
use crate::state::mailbox::Entrance;
use crate::state::metrics::ListenerLabel;
use crate::state::shard::Shard;

/// Where accepted connections go.
#[derive(Clone)]
pub(super) struct Accepting {
    pub(super) shard: Shard,
    pub(super) agents: Arc<Agents>,
    pub(super) upstreams: UpstreamPools,
    pub(super) entrance: Entrance,
}

impl Accepting {
    /// Takes an accepted connection: counts it in and serves it in a task of its own.
    pub(super) fn begin(&self, stream: TcpStream) {
        let Ok(socket) = Socket::new(stream) else { return };
        let (edge, entrance) = (self.shard.edge(), &self.entrance);
        edge.metrics.connections.get_or_create(&ListenerLabel { listener: entrance.name() }).inc();
        if !edge.balancers.are_before(entrance) {
            return self.admit(socket);
        }
        if edge.balancers.include(entrance, socket.peer().ip()) {
            spawn_local(self.clone().behind_balancer(socket));
        } else if matches!(entrance, Entrance::Tcp { .. }) {
            balancer::refuse_stranger(edge, &socket, entrance);
        } else {
            self.admit(socket);
        }
    }

    /// Serves a connection of a balancer, once its header names the client. The balancer is counted by no source, nor looked
    /// up in the blocklist: its clients are.
    async fn behind_balancer(self, mut socket: Socket) {
        let edge = Arc::clone(self.shard.edge());
        let (kind, reserved) = match self.first(|kind| edge.limits.admit_balancer(kind)) {
            Ok(admitted) => admitted,
            Err(refused) => return self.refuse(&socket, refused),
        };
        match balancer::introduce(&edge, &mut socket, &self.entrance).await {
            Some(Origin::Client { .. }) => {
                drop(reserved);
                self.admit(socket);
            }
            Some(Origin::Balancer) => self.serve(socket, kind, reserved),
            None => {}
        }
    }

    fn admit(&self, socket: Socket) {
        let (edge, peer) = (self.shard.edge(), socket.peer().ip());
        if edge.is_blocked(peer) {
            edge.metrics.connections_blocked.inc();
            return;
        }
        match self.first(|kind| edge.limits.admit(peer, kind)) {
            Ok((kind, admitted)) => self.serve(socket, kind, admitted),
            Err(refused) => self.refuse(&socket, refused),
        }
    }

    /// Admits a connection as what it is by its listener.
    fn first(
        &self,
        admit: impl Fn(PeerKind) -> Result<ConnPermit, Refused>,
    ) -> Result<(PeerKind, ConnPermit), Refused> {
        let admit = |kind| admit(kind).map(|admitted| (kind, admitted));
        match self.entrance {
            Entrance::Connect | Entrance::Peers => admit(PeerKind::Agent),
            // A connection here may be an agent's, and there is room for those.
            Entrance::Shared => admit(PeerKind::Client).or_else(|_| admit(PeerKind::Agent)),
            _ => admit(PeerKind::Client),
        }
    }

    fn refuse(&self, socket: &Socket, refused: Refused) {
        self.shard.edge().metrics.connections_refused.inc();
        tracing::debug!(client = %socket.peer(), %refused, "connection refused");
    }

    fn serve(&self, socket: Socket, kind: PeerKind, admitted: ConnPermit) {
        let (shard, upstreams) = (self.shard.clone(), self.upstreams.clone());
        match self.entrance.clone() {
            Entrance::Connect => {
                spawn_local(agents::serve(shard, Arc::clone(&self.agents), socket, admitted));
            }
            Entrance::Peers => {
                spawn_local(agents::peers::serve(shard, Arc::clone(&self.agents), socket, admitted));
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
                let agents = Arc::clone(&self.agents);
                spawn_local(shared_port::serve(shard, agents, upstreams, socket, kind, admitted));
            }
            Entrance::Tcp { host, port } => {
                let log = ConnLog::begin(&shard, &socket, admitted);
                spawn_local(l4::serve_tcp(shard, socket, log, host, port));
            }
        }
    }
}
