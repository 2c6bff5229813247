//! What l4 and http share on the way of a connection or request through policies.

pub mod gateway;
pub mod hops;
mod serve;
