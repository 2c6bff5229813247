//! HTTP at the edge: a client's connection, policies, agents' streams and responses.
//!
//! hyper and h2 do the protocols; everything they leave to trust is done here: framing ([`framing`]), waits ([`limits`]),
//! floods and header rules. Policies are run by [`crate::dispatch`]. Does not know listeners, TLS or sessions: those are behind
//! [`Gateway`].

mod access_log;
mod answer;
mod body;
mod challenge;
mod edited;
mod exchange;
mod fault;
mod fields;
pub mod framing;
mod h1;
mod h2;
mod h2_stream;
mod inspected;
pub mod limits;
mod min_rate;
mod reply;
mod route;
mod service;
mod slices;
mod timer;
mod told;
mod upstream;

use std::rc::Rc;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::dispatch::gateway::{Gateway, HttpConn, HttpOutcome};
use limits::Limits;
use service::HttpService;
pub use upstream::UpstreamPools;

/// Serves one connection to its end, over upstream connections that it shares with others. Runs on the shard's thread and
/// spawns local tasks there.
pub async fn serve<G, IO>(gateway: G, pools: UpstreamPools, io: IO, conn: HttpConn) -> HttpOutcome
where
    G: Gateway,
    IO: AsyncRead + AsyncWrite + Unpin,
{
    serve_with(gateway, pools, io, conn, Limits::of_this_process()).await
}

/// Like [`serve`], with explicit limits.
pub async fn serve_with<G, IO>(
    gateway: G,
    pools: UpstreamPools,
    io: IO,
    conn: HttpConn,
    limits: Limits,
) -> HttpOutcome
where
    G: Gateway,
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let http2 = conn.alpn_h2;
    let service = Rc::new(HttpService::new(gateway, pools, conn, Rc::new(limits)));
    // HTTP/2 needs more room: HTTP/1 connections do not pay for it.
    if http2 { Box::pin(h2::serve(service, io)).await } else { h1::serve(service, io).await }
}
