//! Agents' sessions on this edge: the handshake on the agent listener, the login, what each session may serve, and its
//! end when a credential or a reservation goes.
//!
//! The protocol is `ebbgate_wire`'s. Decisions about names are `bind`'s; sessions are `session`'s, and `registry` has them all.

mod allowance;
mod auth;
mod bind;
mod command;
mod drains;
pub mod elsewhere;
mod line;
mod links;
pub mod newer;
pub mod older;
mod own_tls;
pub mod peers;
pub mod quic;
mod refusal;
mod registry;
mod secrets;
mod serve;
mod session;
mod session_links;
mod staying;
mod waiting;

pub use links::{LINK_HELLO_SECS_MAX, begins_raw};
pub use registry::Agents;
pub use serve::serve;
pub use session::ENDPOINTS_MAX;
pub use session_links::LINKS_PER_SESSION_MAX;
