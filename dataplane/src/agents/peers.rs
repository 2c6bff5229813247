//! The other edges of the installation, and the agents that are connected there.
//!
//! `directory` has what control tells of them.

pub(super) mod directory;

pub use directory::{Directory, GRACE_SECS, PEERS_MAX};
