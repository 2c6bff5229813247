//! What this edge serves and where, read from its state: the input of [`plan`](super::offload::plan).

use std::net::SocketAddr;
use std::sync::Arc;

use ebbgate_model::{Host, Scheme};

use super::exchange::Wanted;
use super::offload::{Listening, PortOwner};
use crate::state::edge::Edge;
use crate::state::endpoint::Kind;

/// What the kernel is to enforce for an edge, as often as it is asked; `shared` are the edge's fixed listeners
/// that are not behind load balancers. None: the edge
/// has no Program, or is gone.
pub fn wanted(edge: &Arc<Edge>, shared: Vec<SocketAddr>) -> impl Fn() -> Option<Wanted> + Send + 'static {
    let edge = Arc::downgrade(edge);
    move || {
        let edge = edge.upgrade()?;
        read(&edge, shared.clone())
    }
}

fn read(edge: &Edge, shared: Vec<SocketAddr>) -> Option<Wanted> {
    let tables = edge.tables.load_full();
    if tables.generation == 0 {
        return None;
    }
    let ports = edge.ports();
    let tcp = ports.open().map(|(port, host)| (port, owner(edge, host, port))).collect();
    let tcp_behind_balancer = edge.balancers.are_before_tcp();
    let listening = Listening { shared, tcp_bind: ports.address(), tcp_behind_balancer, tcp };
    Some(Wanted { tables, listening })
}

fn owner(edge: &Edge, host: &Host, port: u16) -> PortOwner {
    let Some((_, pool)) = edge.routes.public(Scheme::Tcp, host, port) else { return PortOwner::Unserved };
    match pool.members() {
        [one] if matches!(one.kind, Kind::Cloud) && !one.pooling_enabled => PortOwner::One(one.id),
        _ => PortOwner::Several,
    }
}
