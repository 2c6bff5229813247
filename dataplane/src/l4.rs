//! One accepted client, from its first byte to its event: what it speaks, which endpoint it wants, and where its bytes go.
//!
//! `dispatch` decides, this file and `deliver` act.

mod challenge;
mod client_conn;
mod conn;
mod deliver;

use ebbgate_model::{ErrorCode, Host, Scheme};

pub use client_conn::ClientConn;
pub use conn::{Conn, ConnLog};
pub use deliver::go_on;

use crate::dispatch::Dispatch;
use crate::dispatch::gateway::HttpConn;
use crate::http::UpstreamPools;
use crate::net::hello::{Hello, read_hello, refuse_name};
use crate::net::socket::Socket;
use crate::state::metrics::GaugeGuard;
use crate::state::pool::Pool;
use crate::state::shard::Shard;

/// Port of `http://` endpoints, whatever the socket is bound to.
const HTTP_PORT: u16 = 80;

/// Serves a connection to a TCP address.
pub async fn serve_tcp(shard: Shard, socket: Socket, log: ConnLog, host: Host, port: u16) {
    shard.edge().routes.returned(None, &[Scheme::Tcp], &host, port).await;
    let Some((_, pool)) = shard.edge().routes.public(Scheme::Tcp, &host, port) else {
        let outcome = format!("no endpoint is online on tcp://{host}:{port}");
        return log.refuse(Some(ErrorCode::OFFLINE), outcome);
    };
    let facts = deliver::facts(&shard, &socket, &log);
    go_on(shard, Box::new(Conn::new(socket, None, log, Dispatch::connection(facts, pool)))).await;
}

/// Serves a connection that speaks HTTP in clear.
pub async fn serve_http(shard: Shard, upstreams: UpstreamPools, mut socket: Socket, log: ConnLog) {
    let facts = deliver::facts(&shard, &socket, &log);
    let conn = HttpConn {
        facts,
        scheme: Scheme::Http,
        port: HTTP_PORT,
        sni: None,
        alpn_h2: false,
        tls_settings: None,
        first_endpoint: None,
    };
    let open = GaugeGuard::new(&shard.edge().metrics.http_connections_open);
    let outcome = crate::http::serve(shard.clone(), upstreams, &mut socket, conn).await;
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
pub async fn serve_tls(shard: Shard, upstreams: UpstreamPools, mut socket: Socket, log: ConnLog) {
    match read_hello(&mut socket).await {
        Ok(hello) => serve_hello(shard, upstreams, socket, hello, log).await,
        Err(refusal) => {
            shard.edge().note_no_hello(&refusal);
            log.refuse(None, refusal.to_string());
        }
    }
}

/// Serves a connection whose TLS hello is there.
pub async fn serve_hello(
    shard: Shard,
    upstreams: UpstreamPools,
    mut socket: Socket,
    hello: Hello,
    log: ConnLog,
) {
    let Some(name) = hello.tls.sni.clone() else {
        refuse_name(&mut socket).await;
        return log.refuse(None, "the TLS hello names no server this edge could serve");
    };
    log.event_mut().server_name = name.to_string();
    if let Some(certificate) = challenge::certificate(&shard, &name, &hello) {
        return Box::pin(challenge::serve(shard, socket, certificate, log)).await;
    }
    shard.edge().routes.returned(None, &[Scheme::Https, Scheme::Tls], &name, deliver::TLS_PORT).await;
    let Some((scheme, pool)) = choose(&shard, &name, &hello) else {
        return Box::pin(deliver::no_endpoint(shard, upstreams, socket, hello, name, log)).await;
    };
    let facts = deliver::facts(&shard, &socket, &log);
    let conn = Box::new(Conn::new(socket, Some(hello), log, Dispatch::connection(facts, pool)));
    // On the heap, each as large as it is itself and no larger: most connections rest most of the time.
    match scheme {
        Scheme::Https => Box::pin(deliver::https(shard, upstreams, conn)).await,
        _ => Box::pin(go_on(shard, conn)).await,
    }
}

/// The pool that serves a name: the closer match of `https` and `tls`; where both match alike, whether the client means to
/// speak HTTP decides.
fn choose(shard: &Shard, name: &Host, hello: &Hello) -> Option<(Scheme, Pool)> {
    let routes = &shard.edge().routes;
    let https = routes.public(Scheme::Https, name, deliver::TLS_PORT).filter(|_| !hello.postgres);
    let tls = routes.public(Scheme::Tls, name, deliver::TLS_PORT);
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
