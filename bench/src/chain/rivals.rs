//! The other side. Each is set up to its advantage where there is a choice, and with as many worker threads as we have.

pub(super) mod caddy;
pub(super) mod envoy;
pub(super) mod haproxy;
pub(super) mod nginx;
pub(super) mod rathole;
pub(super) mod ssh;

use std::net::SocketAddr;

/// Something that already carries bytes to the sink, and what it is charged to.
#[derive(Clone)]
pub(super) struct Hop {
    /// Where it takes connections.
    pub(super) addr: SocketAddr,
    /// Its processes.
    pub(super) parts: Vec<(&'static str, u32)>,
    /// What it is, for names of chains.
    pub(super) tls: bool,
}
