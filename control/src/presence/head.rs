//! `Head`: what a control tells the others of one edge that it feeds, besides the edge's sessions.

use std::collections::BTreeSet;

use ebbgate_model::feed::{EdgeReach, EnforcementReport, Enforcer};
use serde::{Deserialize, Serialize};

use crate::clock::UnixSecs;

/// Longest version of a program, and longest reason of a refusal, that is told to other controls, in characters.
const TEXT_CHARS_MAX: usize = 256;
/// Names of address data that are told to other controls at most.
const NAMES_MAX: usize = 256;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Name of the control that feeds the edge; another one after each start.
    pub control: String,
    /// `host:port` where edges reach that control; None: it serves edges of its own machine alone.
    #[serde(default)]
    pub control_at: Option<String>,
    /// Names the chunks with the sessions. Another one whenever the control begins to tell anew.
    pub epoch: String,
    /// The edge.
    pub about: About,
}

/// What is known of an edge.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct About {
    /// Version of its program.
    pub version: String,
    /// Generation in force there; 0 before the first.
    pub applied: u64,
    /// Generation that it refused last, with its reason.
    pub refused: Option<(u64, String)>,
    /// Whether its feed is open.
    pub connected: bool,
    /// Seconds by which its clock was ahead of its control's when it connected.
    pub clock_ahead_secs: Option<UnixSecs>,
    /// Whether it runs an OWASP Core Rule Set.
    pub core_rule_set: bool,
    /// How it enforces allowlists.
    pub enforcement: Enforced,
    /// What its databases of addresses have.
    pub address_data: BTreeSet<String>,
    /// Where it is reached.
    pub reach: EdgeReach,
    /// Whether it is about to end, or an operator took it out of service.
    pub draining: bool,
}

/// Endpoints with an allowlist at one edge, by where a refused source is stopped first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Enforced {
    /// By the XDP program.
    pub xdp: usize,
    /// After the connection was accepted.
    pub userspace: usize,
}

impl Enforced {
    /// Counts what an edge reports of its endpoints.
    pub(super) fn count<'a>(reports: impl IntoIterator<Item = &'a EnforcementReport>) -> Self {
        let mut counts = Self::default();
        for report in reports {
            match report.by {
                Enforcer::Xdp => counts.xdp += 1,
                Enforcer::Userspace => counts.userspace += 1,
            }
        }
        counts
    }
}

impl About {
    /// The same with lengths that are bounded, whatever the edge said.
    #[must_use]
    pub fn bounded(self) -> Self {
        let short = |text: String| text.chars().take(TEXT_CHARS_MAX).collect::<String>();
        let names = self.address_data.into_iter().filter(|name| name.len() <= TEXT_CHARS_MAX);
        Self {
            version: short(self.version),
            refused: self.refused.map(|(generation, reason)| (generation, short(reason))),
            address_data: names.take(NAMES_MAX).collect(),
            reach: self.reach.checked(),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_edge_says_has_an_end() {
        let long = "x".repeat(10_000);
        let about = About {
            version: long.clone(),
            refused: Some((7, long.clone())),
            address_data: (0..1_000).map(|n| format!("name{n}")).chain([long.clone()]).collect(),
            reach: EdgeReach { peers: long.clone(), agents: "edge.test:443".into(), incarnation: long },
            ..About::default()
        };
        let text = serde_json::to_string(&about.bounded()).unwrap();
        assert!(text.len() < 8_192 && text.contains("edge.test:443"), "{} bytes", text.len());
    }
}
