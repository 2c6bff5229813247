//! How a stream reaches an agent: the session's mux, links, raw links and QUIC, and whether the agent is heard.

pub mod carrier;
pub mod crossing;
pub mod health;
pub mod idle;
pub mod life;
pub mod links;
pub mod liveness;
pub mod session;
pub mod stream;
