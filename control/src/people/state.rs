//! What people's sign-ins need in memory. Each control has its own, and forgets it when it ends.

use ebbgate_model::UserId;

use super::guesses::Guesses;
use super::oidc::provider::Provider;
use super::password::Hashing;
use crate::auth::Limiter;

/// Requests a person may make to the dashboard in [`crate::auth::WINDOW_SECS`].
const REQUESTS_MAX: u32 = 300;

/// What this room keeps in memory.
#[derive(Debug)]
pub struct People {
    /// Passwords that were wrong.
    pub guesses: Guesses,
    /// How many passwords are hashed at once.
    pub hashing: Hashing,
    /// What the OIDC provider published.
    pub provider: Provider,
    /// Requests to the dashboard.
    pub requests: Limiter<UserId>,
}

impl Default for People {
    fn default() -> Self {
        Self {
            guesses: Guesses::default(),
            hashing: Hashing::default(),
            provider: Provider::default(),
            requests: Limiter::new(Some(REQUESTS_MAX)),
        }
    }
}
