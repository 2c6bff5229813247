//! The agent protocol: how an edge and an agent talk, as pure state machines and codecs (`mux`, `rpc`, `ticket`, `link`,
//! `retry`, `session`). Knows no sockets, no runtime, no TLS, no routing and no policy. `ebbgate-tunnel` moves its bytes.

pub mod link;
pub mod mux;
pub mod retry;
pub mod rpc;
pub mod session;
pub mod ticket;

/// Port of an edge's agent listener where none is named, on both sides.
pub const CONNECT_PORT: u16 = 4443;
