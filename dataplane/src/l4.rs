//! One accepted client, from its first byte to its event: what it speaks, which endpoint it wants, what the endpoint's
//! policy decides, and where its bytes go.
//!
//! `walk` decides, this file and `deliver` act.

mod deliver;
mod visitor;
mod walk;

use std::sync::Arc;

use ebbgate_model::event::ConnectionEvent;
use ebbgate_model::{ErrorCode, Host, Scheme};
use ebbgate_policy::ConnFacts;
use tokio::time::Instant;

pub use deliver::go_on;
pub use visitor::Visitor;
pub use walk::Walk;

use crate::dispatch::gateway::{Gateway as _, HttpConn};
use crate::http::UpstreamPools;
use crate::net::hello::{Hello, read_hello, refuse_name};
use crate::net::listen::Admitted;
use crate::net::socket::{Socket, Traffic};
use crate::state::edge::Edge;
use crate::state::endpoint::Endpoint;
use crate::state::metrics::Open;
use crate::state::pool::Pool;
use crate::state::shard::Shard;

/// Port of `http://` endpoints, whatever the socket is bound to.
const HTTP_PORT: u16 = 80;
/// Port of `https://` and `tls://` endpoints, whatever the socket is bound to.
const TLS_PORT: u16 = 443;

/// The account of one connection. Its event is written on drop: a connection that is cut off has one too.
pub struct Record {
    edge: Arc<Edge>,
    event: ConnectionEvent,
    started: Instant,
    traffic: Arc<Traffic>,
    /// The edge turned it away before it reached an endpoint.
    refused: bool,
    _admitted: Admitted,
    _open: Open,
}

impl Record {
    /// A connection that was let in.
    pub fn new(shard: &Shard, socket: &Socket, admitted: Admitted) -> Self {
        Self {
            edge: Arc::clone(shard.edge()),
            event: ConnectionEvent {
                client: socket.peer().to_string(),
                server: socket.local().to_string(),
                started_at_ms: shard.now_unix_ms(),
                outcome: "cut off: the edge stopped".into(),
                ..ConnectionEvent::default()
            },
            started: Instant::now(),
            traffic: socket.traffic(),
            refused: false,
            _admitted: admitted,
            _open: Open::count(&shard.edge().metrics.connections_open),
        }
    }

    /// The endpoint reached first.
    fn reached(&mut self, endpoint: &Endpoint) {
        self.event.account = Some(endpoint.account);
        self.event.endpoint = Some(endpoint.id);
        self.event.url = endpoint.url.to_string();
    }

    /// Ends it with these words: nobody is served.
    pub fn refuse(mut self, error: Option<ErrorCode>, outcome: impl Into<String>) {
        self.refused = true;
        self.done(error, outcome);
    }

    /// Ends it with these words.
    fn done(mut self, error: Option<ErrorCode>, outcome: impl Into<String>) {
        self.event.error = error;
        self.event.outcome = outcome.into();
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let mut event = std::mem::take(&mut self.event);
        event.bytes_in = self.traffic.received();
        event.bytes_out = self.traffic.sent();
        event.duration_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.edge.connection_done(event, self.refused);
    }
}

fn facts(shard: &Shard, socket: &Socket, record: &Record) -> Arc<ConnFacts> {
    Arc::new(ConnFacts {
        client: socket.peer(),
        server: socket.local(),
        region: shard.edge().tables.load().program.settings.region.clone(),
        start_unix_ms: record.event.started_at_ms,
        tls: None,
    })
}

/// Serves a connection to a TCP address.
pub async fn serve_tcp(shard: Shard, socket: Socket, record: Record, host: Host, port: u16) {
    shard.edge().routes.returned(None, &[Scheme::Tcp], &host, port).await;
    let Some((_, pool)) = shard.edge().routes.public(Scheme::Tcp, &host, port) else {
        let outcome = format!("no endpoint is online on tcp://{host}:{port}");
        return record.refuse(Some(ErrorCode::OFFLINE), outcome);
    };
    let facts = facts(&shard, &socket, &record);
    go_on(shard, Box::new(Walk::new(Visitor::clear(socket), facts, None, pool, record))).await;
}

/// Serves a connection that speaks HTTP in clear.
pub async fn serve_http(shard: Shard, upstreams: UpstreamPools, mut socket: Socket, record: Record) {
    let facts = facts(&shard, &socket, &record);
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
    let outcome = crate::http::serve(shard.clone(), upstreams, &mut socket, conn).await;
    if outcome.broken {
        socket.abort_on_close();
    }
    drop((open, socket));
    match outcome.requests {
        0 => record.refuse(None, outcome.outcome),
        _ => record.done(None, outcome.outcome),
    }
}

/// HTTPS and TLS endpoints share a listener; libpq asks for TLS in its own words first.
pub async fn serve_tls(shard: Shard, upstreams: UpstreamPools, mut socket: Socket, record: Record) {
    match read_hello(&mut socket).await {
        Ok(hello) => serve_hello(shard, upstreams, socket, hello, record).await,
        Err(refusal) => record.refuse(None, refusal.to_string()),
    }
}

/// Serves a connection whose TLS hello is there.
pub async fn serve_hello(
    shard: Shard,
    upstreams: UpstreamPools,
    mut socket: Socket,
    hello: Hello,
    mut record: Record,
) {
    let Some(name) = hello.tls.sni.clone() else {
        refuse_name(&mut socket).await;
        return record.refuse(None, "the TLS hello names no server this edge could serve");
    };
    record.event.server_name = name.to_string();
    shard.edge().routes.returned(None, &[Scheme::Https, Scheme::Tls], &name, TLS_PORT).await;
    let Some((scheme, pool)) = choose(&shard, &name, &hello) else {
        return deliver::no_endpoint(shard, upstreams, socket, hello, name, record).await;
    };
    let facts = facts(&shard, &socket, &record);
    let walk = Box::new(Walk::new(Visitor::clear(socket), facts, Some(hello), pool, record));
    match scheme {
        Scheme::Https => deliver::https(shard, upstreams, walk).await,
        _ => go_on(shard, walk).await,
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
