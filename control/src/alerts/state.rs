//! From conditions that hold at a moment to alerts that are raised once and cleared once. Pure.

use std::collections::BTreeMap;

use ebbgate_model::AccountId;
use serde_json::{Value, json};

use crate::api::timestamp;
use crate::clock::UnixSecs;

/// Conditions that are followed at once; what is beyond is not told.
pub(super) const CONDITIONS_MAX: usize = 10_000;

/// Something that is not as it should be, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Condition {
    /// What it is about, such as an id.
    pub subject: String,
    /// Whose it is; None: the installation's.
    pub account: Option<AccountId>,
    /// One sentence for people.
    pub message: String,
    /// Seconds it must last before it is raised.
    pub raise_secs: i64,
    /// Seconds it must be over before it is cleared.
    pub clear_secs: i64,
}

/// An alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Alert {
    /// Its kind, such as `edge_gone`.
    pub name: String,
    /// The condition as it was last seen.
    pub condition: Condition,
    /// Since when it holds.
    pub since: UnixSecs,
}

/// What became of an alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// It has begun.
    Raised(Alert),
    /// It is over.
    Cleared(Alert),
}

impl Change {
    /// The alert.
    pub(super) fn alert(&self) -> &Alert {
        match self {
            Self::Raised(alert) | Self::Cleared(alert) => alert,
        }
    }

    /// The `object` of its event.
    pub(super) fn object(&self) -> Value {
        let alert = self.alert();
        json!({
            "name": alert.name, "subject": alert.condition.subject, "message": alert.condition.message,
            "since": timestamp(alert.since),
        })
    }
}

#[derive(Debug)]
struct Followed {
    alert: Alert,
    /// When it held last.
    held: UnixSecs,
    is_raised: bool,
}

/// Conditions that are followed, by name and subject.
#[derive(Debug, Default)]
pub(super) struct State(BTreeMap<(String, String), Followed>);

impl State {
    /// Takes in what holds now, by name.
    pub(super) fn update(&mut self, now: UnixSecs, holding: Vec<(&'static str, Condition)>) -> Vec<Change> {
        let mut changes = Vec::new();
        for (name, condition) in holding {
            let key = (name.to_owned(), condition.subject.clone());
            if !self.0.contains_key(&key) && self.0.len() >= CONDITIONS_MAX {
                continue;
            }
            let followed = self.0.entry(key).or_insert_with(|| Followed {
                alert: Alert { name: name.to_owned(), condition: condition.clone(), since: now },
                held: now,
                is_raised: false,
            });
            followed.held = now;
            followed.alert.condition = condition;
            let lasted = now - followed.alert.since;
            if !followed.is_raised && lasted >= followed.alert.condition.raise_secs {
                followed.is_raised = true;
                changes.push(Change::Raised(followed.alert.clone()));
            }
        }
        self.0.retain(|_, followed| {
            let is_over = now != followed.held;
            // What was never raised and is over begins anew; what was raised waits, so that it does not flap.
            if !is_over || followed.is_raised && now - followed.held < followed.alert.condition.clear_secs {
                return true;
            }
            if followed.is_raised {
                changes.push(Change::Cleared(followed.alert.clone()));
            }
            false
        });
        changes
    }

    /// Alerts raised and not cleared.
    #[cfg(test)]
    fn raised(&self) -> usize {
        self.0.values().filter(|followed| followed.is_raised).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(subject: &str) -> Condition {
        Condition {
            subject: subject.into(),
            account: None,
            message: format!("{subject} is gone"),
            raise_secs: 30,
            clear_secs: 60,
        }
    }

    fn names(changes: &[Change]) -> Vec<&'static str> {
        let name = |change: &Change| if matches!(change, Change::Raised(_)) { "raised" } else { "cleared" };
        changes.iter().map(name).collect()
    }

    #[test]
    fn one_raise_and_one_clear_whatever_flaps_in_between() {
        let mut state = State::default();
        let mut at = |now: i64, holds: bool| {
            let holding = if holds { vec![("edge_gone", condition("edge_1"))] } else { Vec::new() };
            (names(&state.update(now, holding)), state.raised())
        };
        assert_eq!(at(0, true), (vec![], 0));
        assert_eq!(at(29, true), (vec![], 0));
        assert_eq!(at(30, true), (vec!["raised"], 1));
        assert_eq!(at(31, true), (vec![], 1));
        assert_eq!(at(40, false), (vec![], 1), "it may come back");
        assert_eq!(at(50, true), (vec![], 1));
        assert_eq!(at(60, false), (vec![], 1));
        assert_eq!(at(109, false), (vec![], 1));
        assert_eq!(at(110, false), (vec!["cleared"], 0));
        assert_eq!(at(111, false), (vec![], 0));
    }

    #[test]
    fn what_does_not_last_is_never_told() {
        let mut state = State::default();
        for now in 0..300 {
            let holds = now % 30 != 29;
            let holding = if holds { vec![("edge_gone", condition("edge_1"))] } else { Vec::new() };
            assert!(state.update(now, holding).is_empty(), "{now}");
        }
    }

    #[test]
    fn a_bounded_number_is_followed() {
        let mut state = State::default();
        let many = (0..CONDITIONS_MAX + 5).map(|n| ("x", condition(&n.to_string()))).collect();
        state.update(0, many);
        assert_eq!(state.0.len(), CONDITIONS_MAX);
    }
}
