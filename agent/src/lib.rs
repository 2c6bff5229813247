//! The outbound agent of Ebbgate.
pub mod address;
pub mod config;
mod policy;
pub mod prefixed;
pub mod proxy;
pub mod terminate;
pub mod trust;
