//! The agent protocol: how an edge and an agent talk, as pure state machines (`mux`, `rpc`, `ticket`, `link`) and their
//! tokio rims over any byte stream (`driver`, `link`). Knows no sockets, no TLS, no routing and no policy.

pub mod driver;
pub mod heartbeat;
pub mod link;
pub mod mux;
pub mod rpc;
pub mod rpc_io;
pub mod session;
pub mod ticket;

/// Port of an edge's agent listener where none is named, on both sides.
pub const CONNECT_PORT: u16 = 4443;
