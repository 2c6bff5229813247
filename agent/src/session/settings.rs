//! What a session is made of.

use std::sync::Arc;
use std::time::Duration;

use super::event::Observer;
use crate::dial::Dial;
use crate::health::Board;

/// Random numbers, for jitter.
pub type Random = Arc<dyn Fn() -> u32 + Send + Sync>;

/// What a session is made of.
pub struct Settings {
    /// How to reach the edge.
    pub dialer: Arc<dyn Dial>,
    /// Auth's contents; see [`super::hello`].
    pub hello: ebbgate_wire::rpc::AuthExtra,
    /// Time between heartbeats.
    pub heartbeat_interval: Duration,
    /// How late an answer may be.
    pub heartbeat_tolerance: Duration,
    /// Whether the edge may stop this agent.
    pub remote_management: bool,
    /// What checks of upstreams come to, by the endpoints' names.
    pub health: Board,
    /// Random numbers, for jitter.
    pub random: Random,
    /// Receives the session's events.
    pub observer: Observer,
}

/// Jitter from the cryptographic provider's generator.
pub fn system_random() -> Random {
    let provider = crate::trust::provider();
    Arc::new(move || {
        let mut bytes = [0; 4];
        // Without randomness the longest wait is the safe one.
        match provider.secure_random.fill(&mut bytes) {
            Ok(()) => u32::from_ne_bytes(bytes),
            Err(_) => u32::MAX,
        }
    })
}
