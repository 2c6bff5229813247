//! The outbound agent of Ebbgate.
pub mod address;
pub mod config;
pub mod backoff;
pub mod dial;
pub mod plan;
mod policy;
pub mod prefixed;
pub mod proxy;
pub mod relay;
pub mod session;
pub mod terminate;
pub mod trust;
pub mod upstream;
