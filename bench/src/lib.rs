//! What the benches feed to the parts they measure: endpoints, a TLS hello, tokens, a page, an edge's HTTP half in memory.
//!
//! Everything here is made before a clock runs, except [`memory`], which is part of what is measured and says so.

#[cfg(feature = "parts")]
pub mod endpoints;
#[cfg(feature = "parts")]
pub mod hello;
#[cfg(feature = "parts")]
pub mod memory;
#[cfg(feature = "parts")]
pub mod mint;
pub mod page;
