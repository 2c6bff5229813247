//! One address for visitors and agents: the first bytes tell them apart. A link says so by ALPN, a raw link by its greeting,
//! a session by the name that agents connect to, or by none.
//!
//! HTTP and PostgreSQL are visitors' protocols, whatever the name. Knows no sessions and no endpoints.

use std::sync::Arc;

use ebbgate_wire::link::ALPN_LINK;
use tokio::time::{Duration, timeout};

use crate::agents::{self, Agents};
use crate::http::UpstreamPools;
use crate::l4::{self, ConnLog};
use crate::net::hello::{Hello, read_hello};
use crate::net::listen::{ConnPermit, PeerKind};
use crate::net::socket::Socket;
use crate::net::tls::{ALPN_ACME_TLS, HELLO_SECS_MAX};
use crate::state::shard::Shard;
use crate::state::tables::ConnectNames;

/// Serves a connection to its end. It was let in as a visitor, or as an agent where visitors have all they may.
pub(super) async fn serve(
    shard: Shard,
    agents: Arc<Agents>,
    upstreams: UpstreamPools,
    mut socket: Socket,
    kind: PeerKind,
    admitted: ConnPermit,
) {
    let limit = Duration::from_secs(HELLO_SECS_MAX);
    match timeout(limit, agents::begins_raw(&mut socket)).await {
        Ok(true) => return as_agent(shard, agents, socket, kind, admitted).await,
        Ok(false) => {}
        Err(_) => return ConnLog::begin(&shard, &socket, admitted).refuse(None, "no first bytes in time"),
    }
    let hello = match read_hello(&mut socket).await {
        Ok(hello) => hello,
        Err(refusal) => {
            shard.edge().note_no_hello(&refusal);
            return ConnLog::begin(&shard, &socket, admitted).refuse(None, refusal.to_string());
        }
    };
    if is_agents(&hello, &shard.edge().tables.load().connect) {
        return as_agent(shard, agents, socket, kind, admitted).await;
    }
    let admitted = match kind {
        PeerKind::Client => admitted,
        PeerKind::Agent => match shard.edge().limits.admit(socket.peer().ip(), PeerKind::Client) {
            Ok(admitted) => admitted,
            Err(refused) => {
                shard.edge().metrics.connections_refused.inc();
                return tracing::debug!(client = %socket.peer(), %refused, "connection refused");
            }
        },
    };
    let log = ConnLog::begin(&shard, &socket, admitted);
    l4::serve_hello(shard, upstreams, socket, hello, log).await;
}

/// Counts the connection as an agent's, and hands it on.
async fn as_agent(shard: Shard, agents: Arc<Agents>, socket: Socket, kind: PeerKind, admitted: ConnPermit) {
    let admitted = match kind {
        PeerKind::Agent => admitted,
        PeerKind::Client => match shard.edge().limits.admit(socket.peer().ip(), PeerKind::Agent) {
            Ok(admitted) => admitted,
            Err(refused) => {
                shard.edge().metrics.connections_refused.inc();
                return tracing::debug!(client = %socket.peer(), %refused, "connection refused");
            }
        },
    };
    agents::serve(shard, agents, socket, admitted).await;
}

/// Whether a hello is an agent's.
fn is_agents(hello: &Hello, names: &ConnectNames) -> bool {
    // A certificate authority asks for the names that agents connect to as well.
    if hello.tls.offers(ALPN_ACME_TLS) {
        return false;
    }
    if hello.postgres || hello.tls.offers_http() || hello.tls.offers(b"postgresql") {
        return false;
    }
    hello.tls.offers(ALPN_LINK) || hello.tls.sni.as_ref().is_none_or(|name| names.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::detect::ClientHello;

    #[test]
    fn agents_are_told_from_visitors_by_alpn_and_connect_names() {
        let names = ConnectNames::of(&["connect.example.com"]);
        let check = |sni: Option<&str>, alpn: &[&[u8]], postgres, expect: bool| {
            let tls = ClientHello::naming(sni, alpn);
            assert_eq!(is_agents(&Hello { tls, postgres }, &names), expect, "{sni:?} {alpn:?} {postgres}");
        };
        let connect = Some("connect.example.com");
        check(connect, &[], false, true);
        check(connect, &[ALPN_LINK], false, true);
        check(None, &[], false, true);
        check(None, &[ALPN_LINK], false, true);
        check(Some("db.example.com"), &[], false, false);
        check(connect, &[b"h2", b"http/1.1"], false, false);
        check(None, &[b"http/1.1"], false, false);
        check(connect, &[b"postgresql"], false, false);
        check(connect, &[], true, false);
        check(connect, &[ALPN_ACME_TLS], false, false);
    }
}
