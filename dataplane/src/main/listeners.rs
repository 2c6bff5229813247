//! Opens what the process listens on, or takes it from the service manager or from the process before.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use ebbgate_edge::config::{Config, QuicListen};
use ebbgate_edge::feed::{FeedError, fleet};
use ebbgate_edge::hand_over::edge_host::Beside;
use ebbgate_edge::hand_over::handed::Handed;
use ebbgate_edge::net::listen::{self, Listener, Transport};
use ebbgate_edge::state::edge::Edge;
use ebbgate_edge::state::identity::Identity;
use ebbgate_edge::state::mailbox::Entrance;
use ebbgate_model::Ksuid;
use ebbgate_tunnel::quic::Port;

/// Where the edge listens.
pub(super) struct Addresses {
    pub(super) http: SocketAddr,
    pub(super) https: SocketAddr,
    pub(super) connect: SocketAddr,
    pub(super) admin: SocketAddr,
}

impl Addresses {
    /// Where clients come without a load balancer in between. `shared`: visitors and agents come to one address.
    pub(super) fn direct(&self, edge: &Edge, shared: bool) -> Vec<SocketAddr> {
        let agents_at = if shared { Entrance::Shared } else { Entrance::Connect };
        let tls_at = if shared { Entrance::Shared } else { Entrance::Tls };
        let fixed = [(self.http, Entrance::Http), (self.https, tls_at), (self.connect, agents_at)];
        let direct = fixed.into_iter().filter(|(_, entrance)| !edge.balancers.are_before(entrance));
        direct.map(|(address, _)| address).collect()
    }
}

/// Opens the admin port, or takes that of the process before.
pub(super) fn open_admin(config: &Config, handed: &mut Handed) -> Result<(SocketAddr, Vec<Listener>)> {
    Ok(match handed.listener("admin") {
        Some((sockets, lock)) => listen::adopt("--admin", &sockets, lock, 1)?,
        None => listen::bind("--admin", config.admin, 1).map_err(listen::ListenError::named)?,
    })
}

/// Opens the listeners of visitors and agents. `shared`: both come to one address.
pub(super) fn open_all(
    edge: &Edge,
    config: &Config,
    shared: bool,
    admin: SocketAddr,
    passed: &[(String, TcpListener)],
    handed: &mut Handed,
) -> Result<Addresses> {
    let mut open =
        |address, entrance: &Entrance| open(edge, address, entrance, config.shards(), passed, handed);
    let http = open(config.http, &Entrance::Http)?;
    let (https, connect) = if shared {
        let both = open(config.https, &Entrance::Shared)?;
        (both, both)
    } else {
        (open(config.https, &Entrance::Tls)?, open(config.connect, &Entrance::Connect)?)
    };
    Ok(Addresses { http, https, connect, admin })
}

/// What is handed over beside the listeners of shards.
pub(super) fn beside(admin: &[Listener]) -> std::io::Result<Vec<Beside>> {
    let each = |listener: &Listener| {
        let (socket, claim) = (listener.socket.try_clone()?, Arc::clone(&listener.claim));
        Ok(Beside { name: "admin", socket, claim })
    };
    admin.iter().map(each).collect()
}

/// Serves the UDP port of the process before: connections there have an earlier generation. Else opens one.
pub(super) fn take_quic(
    edge: &Edge,
    config: &Config,
    connect: SocketAddr,
    generation: Generation,
    handed: &mut Handed,
) -> Result<Option<SocketAddr>> {
    match (handed.one("quic"), generation) {
        (Some(socket), Generation::Given(generation)) => {
            let keys = edge.quic_keys(generation);
            let port = Port::new(keys.ids(), true, handed.passages());
            Ok(Some(edge.listen_quic(socket.into(), keys, port)?))
        }
        (_, Generation::Given(generation) | Generation::Drawn(generation)) => {
            open_quic(edge, config.quic, connect, generation)
        }
    }
}

/// Which connection ids of QUIC are this process's.
#[derive(Debug, Clone, Copy)]
pub(super) enum Generation {
    /// The process before says so.
    Given(u8),
    /// There is no process before.
    Drawn(u8),
}

/// Listens on an address, or on what the process before had, or the service manager passed under the flag's name.
fn open(
    edge: &Edge,
    address: SocketAddr,
    entrance: &Entrance,
    shards: usize,
    passed: &[(String, TcpListener)],
    handed: &mut Handed,
) -> Result<SocketAddr> {
    let flag = match entrance {
        Entrance::Tls | Entrance::Shared => "https",
        other => other.name(),
    };
    let listener = if *entrance == Entrance::Shared { "--https and --connect" } else { &format!("--{flag}") };
    let given = passed.iter().find(|(name, _)| name == flag);
    let (bound, listeners) = match (handed.listener(entrance.name()), given) {
        (Some((sockets, lock)), _) => listen::adopt(listener, &sockets, lock, shards)?,
        (None, Some((_, socket))) => listen::share(listener, socket.try_clone()?, shards)?,
        (None, None) => listen::bind(listener, address, shards).map_err(listen::ListenError::named)?,
    };
    edge.mailboxes.listen(entrance, listeners);
    tracing::info!(address = %bound, listener = entrance.name(), "listening");
    Ok(bound)
}

/// Says where other edges and agents reach this one, and opens the listener for edges.
pub(super) fn meet_peers(
    config: &Config,
    edge: &Edge,
    identity: Option<Identity>,
    incarnation: Ksuid,
    connect: SocketAddr,
    passed: &[(String, TcpListener)],
    handed: &mut Handed,
) -> Result<Option<Identity>> {
    if let Some(identity) = &identity {
        edge.peers.prove_by(fleet::peer_tls(identity)?);
    }
    if config.peers_raw {
        edge.peers.allow_raw();
    }
    let peers = match config.peers {
        Some(_) if identity.is_none() => {
            anyhow::bail!("--peers is for an edge that has joined: {}", FeedError::NoIdentity)
        }
        Some(at) => Some(open(edge, at, &Entrance::Peers, config.shards(), passed, handed)?),
        None => None,
    };
    edge.peers.announce(config.reach(incarnation, peers, connect).map_err(anyhow::Error::msg)?);
    Ok(identity)
}

/// Opens the UDP port for agents. One that is taken is an error only if it was asked for.
fn open_quic(
    edge: &Edge,
    asked: Option<QuicListen>,
    connect: SocketAddr,
    generation: u8,
) -> Result<Option<SocketAddr>> {
    let Some(address) = asked.unwrap_or(QuicListen::On).address(connect) else { return Ok(None) };
    let listen = |socket| {
        let keys = edge.quic_keys(generation);
        let port = Port::new(keys.ids(), false, Vec::new());
        edge.listen_quic(socket, keys, port)
    };
    match ebbgate_tunnel::quic::bind(address).and_then(listen) {
        Ok(bound) => {
            tracing::info!(address = %bound, listener = "quic", "listening");
            Ok(Some(bound))
        }
        Err(error) => {
            let by = match error.kind() {
                ErrorKind::AddrInUse => format!("{} has it", listen::holder(Transport::Udp, address)),
                _ => "the system refuses".to_owned(),
            };
            if asked.is_some() {
                let what = || format!("cannot listen on UDP {address}: {by}; free it or say --quic off");
                return Err(error).with_context(what);
            }
            tracing::warn!(%error, udp = %address, by, "agents cannot come over QUIC");
            Ok(None)
        }
    }
}
