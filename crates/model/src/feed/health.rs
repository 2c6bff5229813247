//! How an agent's endpoint fares, as its edge reports it.

use serde::{Deserialize, Serialize};

/// Whether new work comes to an agent's endpoint, and why not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthReport {
    /// What is known.
    pub state: HealthState,
    /// Since when, in Unix seconds by the edge's clock; 0: since the endpoint came.
    pub since: i64,
    /// Why, as one sentence; empty where nothing is wrong.
    pub reason: String,
    /// Kind of the agent's check: `tcp`, `tls`, `http`, `postgres`; empty: the agent makes none, or is older than checks.
    pub check: String,
}

/// What is known of an endpoint's upstream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthState {
    /// Nobody checks it, and nothing is known against it.
    #[default]
    Unknown,
    /// The agent's checks pass.
    Healthy,
    /// The agent's checks fail.
    Unhealthy,
    /// The agent could not reach it when a visitor came.
    Unreachable,
    /// It answered too many requests in a row with errors.
    Ejected,
    /// An operator keeps new work from it.
    Drained,
    /// A state of a newer edge.
    #[serde(other)]
    Other,
}

impl HealthState {
    /// Whether a change from another state is told in events: new work comes again, or no longer, or an operator said something.
    pub fn is_news_after(self, before: Self) -> bool {
        self.is_fit() != before.is_fit() || (self == Self::Drained) != (before == Self::Drained)
    }

    /// Whether new work comes to the endpoint.
    pub fn is_fit(self) -> bool {
        matches!(self, Self::Unknown | Self::Healthy | Self::Other)
    }

    /// As the API says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::Unreachable => "unreachable",
            Self::Ejected => "ejected",
            Self::Drained => "drained",
            Self::Other => "other",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_tell_of_fitness_and_of_operators() {
        use HealthState::{Drained, Ejected, Healthy, Unhealthy, Unknown};
        for (before, now, is_news) in [
            (Unknown, Healthy, false),
            (Healthy, Unhealthy, true),
            (Unhealthy, Ejected, false),
            (Unhealthy, Drained, true),
            (Drained, Unhealthy, true),
            (Drained, Healthy, true),
            (Drained, Drained, false),
        ] {
            assert_eq!(now.is_news_after(before), is_news, "{before:?} {now:?}");
        }
    }
}
