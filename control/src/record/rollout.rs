//! Stored changes of endpoints that canary edges have and other edges do not.

use ebbgate_model::{AccountId, EdgeId, EndpointId, SecretId, TrafficPolicy};
use serde::{Deserialize, Serialize};

use super::{Record, UnixSecs};

/// Key of [`RolloutSettings`].
pub const ROLLOUT_KEY: &str = "/system/rollout";
/// Longest time that canary edges have a change alone, in seconds.
pub const SOAK_SECS_MAX: u64 = 86_400;
/// Most requests that may be asked for before errors count.
pub const LEAST_REQUESTS_MAX: u64 = 1_000_000;

records! {
    /// A new policy of an endpoint that not all edges have. It has the endpoint's id, and goes when all edges have the policy.
    Rollout(EndpointId) = "rollouts" {
        /// The policy that all edges had last; None: the endpoint had none.
        policy: Option<TrafficPolicy>,
        /// Secrets that this policy names, each once.
        secrets: Vec<SecretId>,
        /// How far it is.
        state: RolloutState,
        /// Since when it is so far, or since when canary edges have this policy.
        changed_at: UnixSecs,
        /// Canary edges that have it first.
        canaries: Vec<EdgeId>,
        /// Why it is in this state, for the operator; "" where the state says it all.
        reason: String,
    }
}

/// How far a change of an endpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutState {
    /// Canary edges have it; the others follow.
    Held,
    /// Canary edges have it; the others do not follow until the operator says so.
    Paused,
    /// No edge has it: all have the policy before.
    Returned,
}

/// How changes are judged. Stored under [`ROLLOUT_KEY`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolloutSettings {
    /// Seconds that canary edges have a change before the others get it.
    pub soak_secs: u64,
    /// Requests at a canary edge from which on errors count.
    pub least_requests: u64,
    /// Most errors in percent of those requests.
    pub most_errors_percent: u64,
}

impl Default for RolloutSettings {
    fn default() -> Self {
        Self { soak_secs: 60, least_requests: 20, most_errors_percent: 5 }
    }
}

impl RolloutSettings {
    /// Refuses what is out of bounds.
    pub fn check(&self) -> Result<(), String> {
        for (name, value, range) in [
            ("soak_secs", self.soak_secs, 1..=SOAK_SECS_MAX),
            ("least_requests", self.least_requests, 1..=LEAST_REQUESTS_MAX),
            ("most_errors_percent", self.most_errors_percent, 0..=100),
        ] {
            if !range.contains(&value) {
                return Err(format!("`{name}` is {value}; write {} to {}", range.start(), range.end()));
            }
        }
        Ok(())
    }
}

impl Rollout {
    /// As the audit log shows it: without the policy, which is in the endpoint's entries.
    pub fn shown(&self) -> serde_json::Value {
        serde_json::json!({
            "id": self.id, "state": self.state, "changed_at": self.changed_at, "canaries": self.canaries,
            "reason": self.reason,
        })
    }
}
