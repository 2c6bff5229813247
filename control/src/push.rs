//! Brings Programs to edges: follows the store, plans, and serves each edge its feed.
//!
//! `push::plans` turns revisions into Programs, `push::outbox` decides what an edge gets next, `push::feed` is one edge's
//! connection, `push::server` the listener. What a Program says is `plan`'s business.

mod feed;
mod outbox;
mod planned;
mod plans;
mod server;

pub use feed::Feeds;
pub use outbox::Outbox;
pub use planned::Planned;
pub use plans::{Planner, follow};
pub use server::{bind_socket, serve_unix};
