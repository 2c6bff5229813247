//! The edge: accepts, decides, moves bytes.

pub mod admin;
pub mod agents;
pub mod config;
pub mod dispatch;
pub mod drain;
pub mod feed;
pub mod hand_over;
pub mod http;
pub mod l4;
pub mod log;
pub mod net;
pub mod persistent;
pub mod shard;
pub mod state;
mod sync;
pub mod tunnel;
pub mod xdp;

pub use ebbgate_relay as relay;
