//! Edges of other machines: how they join, what proves that they belong, and the listener they connect to.
//!
//! An edge holds a certificate of the `edge` authority with its id as common name. The certificate counts while the edge's
//! record stands, so an edge that is removed is refused at once. Knows nothing of what edges are told.

mod membership;
mod server;
#[cfg(test)]
mod tests;
mod tls;

pub use membership::{
    FleetError, JOIN_SECS, NAME_BYTES_MAX, canaries, drain, edges, join, new_join, remove, renew, set_canary,
};
pub use server::{Fleet, serve};
pub use tls::FleetTlsError;
