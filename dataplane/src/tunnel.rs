//! How a stream reaches an agent: the session's mux, links, raw links and QUIC, and whether the agent is heard.
//!
//! What both ends share is `ebbgate_tunnel`'s. Knows no endpoint, no policy and no shard.

pub mod agent_liveness;
pub mod claim;
pub mod dialer;
pub mod health;
pub mod idle;
mod idle_links;
pub mod link;
pub mod load;
pub mod metrics;
mod muxes;
pub mod origin;
pub mod peer;
pub mod peer_links;
mod proxy_protocol;
pub mod quic;
pub mod raw_link;
pub mod session;
pub mod session_liveness;
pub mod stream;
