//! Sockets and the bytes on them: listeners, connection limits, `io_uring`, TLS, and what a connection's first bytes say.
//!
//! Knows no endpoint, no account and no agent.

pub mod channel;
pub mod detect;
pub mod gauge;
pub mod handshakes;
pub mod hello;
pub mod listen;
pub mod proxy_protocol;
pub mod ring;
pub mod socket;
pub mod tls;
pub mod wildcard;
