//! TLS 1.3 for links. rustls shakes hands and makes the keys; the records are sealed and opened here, many at a time, where
//! they lie: one copy in, one copy out, one system call for four records. On the wire it is TLS like any other, so either
//! end may be another implementation, and the kernel could take the keys instead (docs/performance.md, "Links").
//!
//! Knows nothing of frames.

mod handshake;
pub mod records;
mod stream;

pub use handshake::{accept, connect};
pub use stream::TlsStream;

#[cfg(test)]
mod tests;
