//! A comparison as a table for people and as JSON for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::walk::Walked;
use super::{Change, Comparison};

impl Comparison<'_> {
    /// What changes and what is not known, then the counts.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        for ((change, _), group) in self.groups.iter().filter(|((change, _), _)| *change != Change::Same) {
            let _ = writeln!(out, "{} {}x, first {}", change.word(), group.count, group.example);
            let _ = writeln!(out, "  old: {}", told(&group.old));
            let _ = writeln!(out, "  new: {}", told(&group.new));
            if let Some(because) = &group.because {
                let _ = writeln!(out, "  because {because}");
            }
        }
        let [changed, unknown, same] =
            [Change::Changed, Change::Unknown, Change::Same].map(|change| self.count(change));
        let _ =
            write!(out, "{} compared: {changed} changed, {unknown} unknown, {same} the same", self.compared);
        let _ = match self.left_out {
            0 => writeln!(out),
            left_out => writeln!(out, "; {left_out} events of other endpoints or types left out"),
        };
        out
    }

    /// The same for programs.
    #[must_use]
    pub fn json(&self) -> Value {
        let groups = self.groups.iter().map(|((change, _), group)| {
            json!({
                "result": change.word(), "count": group.count, "example": group.example,
                "old": side(&group.old), "new": side(&group.new), "because": group.because,
            })
        });
        json!({
            "compared": self.compared,
            "changed": self.count(Change::Changed),
            "unknown": self.count(Change::Unknown),
            "same": self.count(Change::Same),
            "left_out": self.left_out,
            "groups": groups.collect::<Vec<_>>(),
        })
    }
}

fn is_known(walked: &Walked) -> bool {
    walked.gave_up.is_none() && walked.depends.is_empty()
}

fn told(walked: &Walked) -> String {
    if is_known(walked) { walked.sentence() } else { "not known".to_owned() }
}

fn side(walked: &Walked) -> Value {
    let outcome = &walked.outcome;
    if !is_known(walked) {
        return json!({ "outcome": "unknown" });
    }
    json!({
        "outcome": outcome.word, "enforced": outcome.is_enforced, "status": outcome.status, "to": outcome.to,
        "code": outcome.code.map(|code| code.to_string()),
        "decided_by": walked.decided_by, "rule": walked.rule, "action": walked.action,
    })
}
