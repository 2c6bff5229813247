//! One accepted client, from its first byte to its event: what it speaks, which endpoint it wants, and where its bytes go.
//!
//! `dispatch` decides, this file and `deliver` act.

mod client_conn;
mod conn;
mod deliver;
mod hello;
mod shared;

use std::sync::Arc;

use ebbgate_model::{ErrorCode, Host, Scheme};
use ebbgate_policy::ConnFacts;
use prometheus_client::metrics::gauge::Gauge;
use tokio::net::TcpStream;
use tokio::task::spawn_local;

pub use client_conn::ClientConn;
pub use conn::{Conn, ConnLog};
pub use deliver::go_on;
pub use hello::{Hello, NoHello, read_hello, refuse_name as hello_refused};

use crate::agents;
use crate::dispatch::Dispatch;
use crate::dispatch::gateway::HttpConn;
use crate::net::listen::Comer;
use crate::net::socket::Socket;
use crate::shard::{Entrance, Shard};
use crate::state::metrics::ListenerLabel;
use crate::state::pool::Pool;

/// Port of `http://` endpoints, whatever the socket is bound to.
const HTTP_PORT: u16 = 80;
/// Port of `https://` and `tls://` endpoints, whatever the socket is bound to.
const TLS_PORT: u16 = 443;

/// Counts a connection as open.
pub struct Open(Gauge);

impl Open {
    /// Counts one in, until dropped.
    pub fn count(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Takes an accepted connection: counts it in and serves it in a task of its own.
pub fn begin(shard: &Shard, entrance: &Entrance, stream: TcpStream) {
    let Ok(socket) = Socket::new(stream) else { return };
    let edge = shard.edge();
    edge.metrics.connections.get_or_create(&ListenerLabel { listener: entrance.name() }).inc();
    if edge.guard.is_blocked(socket.peer().ip()) {
        edge.metrics.connections_blocked.inc();
        return;
    }
    let comer = if *entrance == Entrance::Connect { Comer::Agent } else { Comer::Visitor };
    let admit = |comer| edge.caps.admit(socket.peer().ip(), comer).map(|admitted| (comer, admitted));
    let admitted = match admit(comer) {
        // A connection here may be an agent's, and there is room for those.
        Err(_) if *entrance == Entrance::Shared => admit(Comer::Agent),
        admitted => admitted,
    };
    let (comer, admitted) = match admitted {
        Ok(admitted) => admitted,
        Err(refused) => {
            edge.metrics.connections_refused.inc();
            tracing::debug!(client = %socket.peer(), %refused, "connection refused");
            return;
        }
    };
    let shard = shard.clone();
    match entrance.clone() {
        Entrance::Connect => {
            spawn_local(agents::serve(shard, socket, admitted));
        }
        Entrance::Http => {
            let log = ConnLog::begin(&shard, &socket, admitted);
            spawn_local(serve_http(shard, socket, log));
        }
        Entrance::Tls => {
            let log = ConnLog::begin(&shard, &socket, admitted);
            spawn_local(serve_tls(shard, socket, log));
        }
        Entrance::Shared => {
            spawn_local(shared::serve(shard, socket, comer, admitted));
        }
        Entrance::Tcp { host, port } => {
            let log = ConnLog::begin(&shard, &socket, admitted);
            spawn_local(serve_tcp(shard, socket, log, host, port));
        }
    }
}

fn facts(shard: &Shard, socket: &Socket, log: &ConnLog) -> Arc<ConnFacts> {
    Arc::new(ConnFacts {
        client: socket.peer(),
        server: socket.local(),
        region: shard.edge().tables.load().program.settings.region.clone(),
        start_unix_ms: log.event().started_at_ms,
        tls: None,
    })
}

async fn serve_tcp(shard: Shard, socket: Socket, log: ConnLog, host: Host, port: u16) {
    shard.edge().routes.returned(None, &[Scheme::Tcp], &host, port).await;
    let Some((_, pool)) = shard.edge().routes.public(Scheme::Tcp, &host, port) else {
        let outcome = format!("no endpoint is online on tcp://{host}:{port}");
        return log.refuse(Some(ErrorCode::OFFLINE), outcome);
    };
    let facts = facts(&shard, &socket, &log);
    go_on(shard, Box::new(Conn::new(socket, None, log, Dispatch::connection(facts, pool)))).await;
}

async fn serve_http(shard: Shard, mut socket: Socket, log: ConnLog) {
    let facts = facts(&shard, &socket, &log);
    let conn = HttpConn {
        facts,
        scheme: Scheme::Http,
        port: HTTP_PORT,
        sni: None,
        alpn_h2: false,
        tls_settings: None,
        first_endpoint: None,
    };
    let open = Open::count(&shard.edge().metrics.http_connections_open);
    let outcome = crate::http::serve(shard.clone(), &mut socket, conn).await;
    if outcome.broken {
        socket.abort_on_close();
    }
    drop((open, socket));
    match outcome.requests {
        0 => log.refuse(None, outcome.outcome),
        _ => log.done(None, outcome.outcome),
    }
}

/// HTTPS and TLS endpoints share a listener; libpq asks for TLS in its own words first.
async fn serve_tls(shard: Shard, mut socket: Socket, log: ConnLog) {
    match read_hello(&mut socket).await {
        Ok(hello) => serve_hello(shard, socket, hello, log).await,
        Err(refusal) => log.refuse(None, refusal.to_string()),
    }
}

async fn serve_hello(shard: Shard, mut socket: Socket, hello: Hello, log: ConnLog) {
    let Some(name) = hello.tls.sni.clone() else {
        hello::refuse_name(&mut socket).await;
        return log.refuse(None, "the TLS hello names no server this edge could serve");
    };
    log.event_mut().server_name = name.to_string();
    shard.edge().routes.returned(None, &[Scheme::Https, Scheme::Tls], &name, TLS_PORT).await;
    let Some((scheme, pool)) = choose(&shard, &name, &hello) else {
        return deliver::no_endpoint(shard, socket, hello, name, log).await;
    };
    let facts = facts(&shard, &socket, &log);
    let conn = Box::new(Conn::new(socket, Some(hello), log, Dispatch::connection(facts, pool)));
    match scheme {
        Scheme::Https => deliver::https(shard, conn).await,
        _ => go_on(shard, conn).await,
    }
}

/// The pool that serves a name: the closer match of `https` and `tls`; where both match alike, whether the client means to
/// speak HTTP decides.
fn choose(shard: &Shard, name: &Host, hello: &Hello) -> Option<(Scheme, Pool)> {
    let routes = &shard.edge().routes;
    let https = routes.public(Scheme::Https, name, TLS_PORT).filter(|_| !hello.postgres);
    let tls = routes.public(Scheme::Tls, name, TLS_PORT);
    match (https, tls) {
        (Some((near, pool)), Some((other, _))) if is_closer(&near, &other) => Some((Scheme::Https, pool)),
        (Some((near, _)), Some((other, pool))) if is_closer(&other, &near) => Some((Scheme::Tls, pool)),
        (Some((_, pool)), Some(_)) if hello.tls.offers_http() => Some((Scheme::Https, pool)),
        (_, Some((_, pool))) => Some((Scheme::Tls, pool)),
        (Some((_, pool)), None) => Some((Scheme::Https, pool)),
        (None, None) => None,
    }
}

fn is_closer(one: &Host, other: &Host) -> bool {
    (!one.is_wildcard() && other.is_wildcard())
        || (one.is_wildcard() == other.is_wildcard() && one.as_str().len() > other.as_str().len())
}
