//! Which public endpoints may answer a request: by Host, within what the connection was admitted for.
//!
//! A connection is admitted under the policy of the name in its TLS hello; a Host that would escape that policy is sent
//! back with 421 (RFC 9110 section 15.5.20), so that reusing a connection crosses neither accounts nor the connection rules
//! of another endpoint. Rules of its own endpoint that changed meanwhile are judged anew, where requests are admitted.

use ebbgate_model::{ErrorCode, Scheme};
use http::StatusCode;

use super::answer::Failure;
use super::framing::Authority;
use crate::dispatch::gateway::{Gateway, HttpConn};
use crate::state::endpoint::Endpoint;
use crate::state::pool::Pool;

/// Port of `https://` in URLs.
const HTTPS_PORT: u16 = 443;

/// The pool that answers for the authority on this connection.
pub(super) fn public<G: Gateway>(
    gateway: &G,
    conn: &HttpConn,
    authority: &Authority,
) -> Result<Pool, Failure> {
    // Public names are served on their scheme's own port (18023 refuses others), so the port a visitor had to dial to get
    // here, mapped or unprivileged, says nothing about the name.
    let pool = gateway.public(conn.scheme, &authority.host, conn.port);
    let pool = pool.filter(|pool| !pool.members().is_empty()).ok_or_else(|| {
        let message = format!("The endpoint {}://{} is offline.", conn.scheme.as_str(), authority.host);
        Failure::coded(StatusCode::NOT_FOUND, ErrorCode::OFFLINE, message)
    })?;
    within_admission(conn, pool).ok_or_else(|| {
        let message = "This connection was opened for another name; open a new one.";
        Failure::plain(StatusCode::MISDIRECTED_REQUEST, message)
    })
}

/// Whether the name has no endpoint on this clear-text connection and one behind TLS.
pub(super) fn is_secure_elsewhere<G: Gateway>(gateway: &G, conn: &HttpConn, authority: &Authority) -> bool {
    let serves = |scheme, port| {
        gateway.public(scheme, &authority.host, port).is_some_and(|pool| !pool.members().is_empty())
    };
    conn.scheme == Scheme::Http && !serves(Scheme::Http, conn.port) && serves(Scheme::Https, HTTPS_PORT)
}

/// The members this connection may reach. None: none.
fn within_admission(conn: &HttpConn, pool: Pool) -> Option<Pool> {
    let guarded = pool.members().iter().any(|member| guards_connections(member));
    match &conn.first_endpoint {
        // Members with connection policies of their own: the connection stays with the one that let it in.
        // Its policy is today's, not the one it had when the connection began.
        Some(first) => match pool.members().iter().find(|member| member.id == first.id) {
            Some(member) if guarded => Some(Pool::new(vec![member.clone()])),
            Some(_) => Some(pool),
            None => {
                let same_account = pool.members().iter().all(|member| member.account == first.account);
                (same_account && !guarded && !guards_connections(first)).then_some(pool)
            }
        },
        None => (conn.scheme != Scheme::Https || !guarded).then_some(pool),
    }
}

/// Whether the endpoint has rules for connections (source addresses, client certificates, versions).
pub(super) fn guards_connections(endpoint: &Endpoint) -> bool {
    endpoint.engine.as_ref().is_some_and(|engine| engine.guards_connections())
}
