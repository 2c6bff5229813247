//! Brings Programs to edges: follows the store, plans, and serves each edge its feed.
//!
//! `push::plans` turns revisions into changes of `push::published`, `push::outbox` decides what an edge gets next, `push::feed` is one edge's
//! connection, `push::server` the listener. What a Program says is `plan`'s business.

mod clocks;
mod feed;
mod outbox;
mod planned;
mod plans;
mod published;
mod server;
mod tallies;
mod wanted;

pub use feed::Feeds;
pub use outbox::Outbox;
pub use planned::{Planned, RolledOut};
pub use plans::{Follower, follow};
pub use published::Published;
pub use server::{Answer, bind_socket, serve_http2, serve_unix};
pub use tallies::{Tallies, Tally, Watched};
pub use wanted::{WANTED_MAX, Wanted, mark_wanted};
