//! The edge: accepts, decides, moves bytes.

pub mod detect;
pub mod gateway;
pub mod http;
pub mod pool;
pub mod relay;
pub mod ring;
pub mod listen;
pub mod route;
pub mod socket;
pub mod tls;
