//! The edge: accepts, decides, moves bytes.

pub mod admin;
pub mod admit;
pub mod carrier;
pub mod config;
pub mod conn;
pub mod detect;
pub mod dispatch;
pub mod drain;
pub mod effect;
pub mod gateway;
pub mod http;
pub mod listen;
pub mod log;
pub mod metrics;
pub mod pool;
pub mod program;
pub mod quic;
pub mod ring;
pub mod route;
pub mod session;
pub mod shard;
mod shared;
pub mod socket;
pub mod tls;

pub use ebbgate_relay as relay;
