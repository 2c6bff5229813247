//! What becomes of a change that canary edges have: it is kept back, goes to the others, or is taken back. Pure.

use ebbgate_model::EdgeId;

use crate::push::Tally;
use crate::record::rollout::{RolloutSettings, RolloutState};

/// Seconds without a connection after which a canary edge counts as lost. One that comes back sooner was restarted.
pub const LOST_SECS: u64 = 20;
/// Seconds that a change waits besides those for canary edges that come and go.
const PATIENCE_SECS: u64 = 60;
/// How often the time that canary edges should have it alone.
const PATIENCE_SOAKS: u64 = 4;

/// Seconds after which a change is taken back that no canary edge has kept for the time it should.
pub fn patience_secs(settings: &RolloutSettings) -> u64 {
    PATIENCE_SECS.saturating_add(settings.soak_secs.saturating_mul(PATIENCE_SOAKS))
}

/// What is known of a canary edge and a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canary {
    /// Which.
    pub edge: EdgeId,
    /// Seconds since it was connected; 0: it is.
    pub gone_secs: u64,
    /// Seconds for which it has had the change on one connection. None: it is not connected, or has not applied it.
    pub kept_secs: Option<u64>,
    /// What it said since.
    pub tally: Tally,
}

/// What becomes of a change, each with the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing yet.
    Hold,
    /// All edges get it.
    Release(String),
    /// No edge has it any more.
    Return(String),
}

/// Judges a change. `canaries`: those that were to have it first and still are canary edges; `others`: what all other
/// edges said of the endpoint in the same time, with the policy before.
pub fn decide(
    state: RolloutState,
    age_secs: u64,
    canaries: &[Canary],
    others: &Tally,
    settings: &RolloutSettings,
) -> Decision {
    if state == RolloutState::Returned {
        return Decision::Hold;
    }
    for Canary { edge, tally, .. } in canaries {
        if let Some(reason) = &tally.refused {
            return Decision::Return(format!("edge {edge} refused it: {reason}"));
        }
    }
    if let Some(lost) = canaries.iter().find(|canary| canary.gone_secs >= LOST_SECS) {
        return Decision::Return(format!("edge {} was lost while it had it", lost.edge));
    }
    let all = canaries.iter().fold(Tally::default(), |all, canary| Tally {
        requests: all.requests.saturating_add(canary.tally.requests),
        errors: all.errors.saturating_add(canary.tally.errors),
        refused: None,
    });
    for tally in canaries.iter().map(|canary| &canary.tally).chain([&all]) {
        if is_worse(tally, others, settings) {
            let Tally { requests, errors, .. } = tally;
            return Decision::Return(format!("{errors} of {requests} requests failed at canary edges"));
        }
    }
    if state == RolloutState::Paused {
        return Decision::Hold;
    }
    if canaries.is_empty() {
        return Decision::Release("no canary edge is left".to_owned());
    }
    if canaries.iter().all(|canary| canary.kept_secs.is_some_and(|secs| secs >= settings.soak_secs)) {
        return Decision::Release(match all.requests {
            0 => "kept; no traffic".to_owned(),
            requests if requests < settings.least_requests => {
                format!("kept; {requests} requests are too few to judge errors by")
            }
            requests => format!("kept; {} of {requests} requests failed", all.errors),
        });
    }
    let patience = patience_secs(settings);
    if age_secs > patience {
        let soak = settings.soak_secs;
        return Decision::Return(format!(
            "within {patience} seconds not every canary edge had it for {soak} on end"
        ));
    }
    Decision::Hold
}

/// Judges a change that is to be judged by another control, which feeds the canary edges: it is left to that one. When that
/// one would long have judged it, nobody knows how the change does.
pub fn decide_unseen(state: RolloutState, age_secs: u64, settings: &RolloutSettings) -> Decision {
    let is_late = age_secs > patience_secs(settings).saturating_mul(2);
    if state == RolloutState::Held && is_late {
        return Decision::Return("no control could judge it".to_owned());
    }
    Decision::Hold
}

/// Whether errors are more than allowed, and more than the others have by more than that.
fn is_worse(tally: &Tally, others: &Tally, settings: &RolloutSettings) -> bool {
    let RolloutSettings { least_requests, most_errors_percent: most, .. } = *settings;
    if tally.requests < least_requests.max(1) {
        return false;
    }
    let [requests, errors, most] = [tally.requests, tally.errors, most].map(u128::from);
    let [others_requests, others_errors] = [others.requests, others.errors].map(u128::from);
    if others.requests < least_requests.max(1) {
        return errors * 100 > most * requests;
    }
    // errors / requests > others_errors / others_requests + most / 100, in whole numbers.
    let own = errors.saturating_mul(others_requests).saturating_mul(100);
    let theirs = others_errors.saturating_mul(requests).saturating_mul(100);
    own > theirs.saturating_add(most.saturating_mul(requests).saturating_mul(others_requests))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebbgate_model::Ksuid;

    const SETTINGS: RolloutSettings =
        RolloutSettings { soak_secs: 60, least_requests: 20, most_errors_percent: 5 };

    fn tally(requests: u64, errors: u64) -> Tally {
        Tally { requests, errors, refused: None }
    }

    fn canary(n: u8, kept_secs: Option<u64>, tally: Tally) -> Canary {
        let edge = EdgeId::new(Ksuid::new(1_700_000_000, [n; 16]));
        Canary { edge, gone_secs: 0, kept_secs, tally }
    }

    /// What a decision is, and a word of its reason.
    fn said(decision: &Decision) -> (&'static str, &str) {
        match decision {
            Decision::Hold => ("hold", ""),
            Decision::Release(reason) => ("release", reason),
            Decision::Return(reason) => ("return", reason),
        }
    }

    #[test]
    fn a_change_is_judged_by_the_edges_that_have_it() {
        use RolloutState::{Held, Paused, Returned};
        let refused = Tally { refused: Some("regex".into()), ..tally(0, 0) };
        let kept = |secs, requests, errors| vec![canary(1, Some(secs), tally(requests, errors))];
        let gone = |secs| vec![Canary { gone_secs: secs, ..canary(1, None, tally(0, 0)) }];
        let two = |second: Canary| vec![canary(1, Some(60), tally(0, 0)), second];
        let none = tally(0, 0);
        for (state, age, canaries, others, expect) in [
            (Held, 10, kept(10, 0, 0), &none, ("hold", "")),
            (Held, 59, kept(59, 1000, 0), &none, ("hold", "")),
            (Held, 60, kept(60, 1000, 0), &none, ("release", "0 of 1000")),
            (Held, 60, kept(60, 0, 0), &none, ("release", "no traffic")),
            (Held, 60, kept(60, 19, 19), &none, ("release", "too few")),
            // A minimum of traffic, then a bound.
            (Held, 5, kept(5, 19, 19), &none, ("hold", "")),
            (Held, 5, kept(5, 20, 1), &none, ("hold", "")),
            (Held, 5, kept(5, 20, 2), &none, ("return", "2 of 20")),
            (Paused, 5, kept(5, 20, 2), &none, ("return", "2 of 20")),
            // An upstream that is down is down for the policy before, too.
            (Held, 5, kept(5, 100, 50), &tally(100, 46), ("hold", "")),
            (Held, 5, kept(5, 100, 52), &tally(100, 46), ("return", "52 of 100")),
            (Held, 5, kept(5, 100, 50), &tally(19, 19), ("return", "50 of 100")),
            // Errors may be too few at each canary edge to be judged, and together are not.
            (
                Held,
                5,
                vec![canary(1, Some(5), tally(15, 15)), canary(2, Some(5), tally(15, 0))],
                &none,
                ("return", "15 of 30"),
            ),
            (
                Held,
                5,
                vec![canary(1, Some(5), tally(20, 20)), canary(2, Some(5), tally(1000, 0))],
                &none,
                ("return", "20 of 20"),
            ),
            // Refused, lost, restarted all the time.
            (Held, 1, vec![canary(1, None, refused.clone())], &none, ("return", "regex")),
            (Paused, 1, two(canary(2, None, refused)), &none, ("return", "regex")),
            (Held, 30, gone(19), &none, ("hold", "")),
            (Held, 30, gone(20), &none, ("return", "lost")),
            (Held, 300, kept(10, 0, 0), &none, ("hold", "")),
            (Held, 301, kept(10, 0, 0), &none, ("return", "within 300 seconds")),
            // Each canary edge must have had it.
            (Held, 60, two(canary(2, Some(1), tally(0, 0))), &none, ("hold", "")),
            (Held, 60, two(canary(2, None, tally(0, 0))), &none, ("hold", "")),
            (Held, 60, two(canary(2, Some(61), tally(0, 0))), &none, ("release", "no traffic")),
            (Held, 1, vec![], &none, ("release", "no canary edge")),
            // What the operator has stopped waits for the operator.
            (Paused, 9999, kept(9999, 1000, 0), &none, ("hold", "")),
            (Paused, 1, vec![], &none, ("hold", "")),
            (Returned, 9999, gone(9999), &none, ("hold", "")),
        ] {
            let decision = decide(state, age, &canaries, others, &SETTINGS);
            let (what, reason) = said(&decision);
            assert!(
                what == expect.0 && reason.contains(expect.1),
                "{state:?} {age} {canaries:?}: {decision:?}"
            );
        }
    }

    #[test]
    fn what_another_control_should_judge_is_left_to_it_for_twice_its_time() {
        use RolloutState::{Held, Paused, Returned};
        for (state, age, expect) in
            [(Held, 600, "hold"), (Held, 601, "return"), (Paused, 601, "hold"), (Returned, 601, "hold")]
        {
            assert_eq!(said(&decide_unseen(state, age, &SETTINGS)).0, expect, "{state:?} {age}");
        }
    }

    #[test]
    fn counts_of_any_size_are_judged() {
        let of = |count| [canary(1, Some(0), tally(count, count)), canary(2, Some(0), tally(count, count))];
        let decision = decide(RolloutState::Held, 0, &of(1 << 50), &tally(1 << 50, 0), &SETTINGS);
        assert_eq!(said(&decision).0, "return");
        let all = of(u64::MAX);
        let _ = decide(RolloutState::Held, 0, &all, &tally(u64::MAX, 0), &SETTINGS);
        let settings = RolloutSettings { most_errors_percent: 100, least_requests: 1, ..SETTINGS };
        let decision = decide(RolloutState::Held, 0, &all, &tally(0, 0), &settings);
        assert_eq!(said(&decision).0, "hold");
    }
}
