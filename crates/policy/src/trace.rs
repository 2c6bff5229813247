//! What a run of a phase did, step by step: which conditions were judged, what they read, and what each action came to.
//!
//! For people who write policies. A run records only when it is asked to, because a trace holds values of the request.

use serde_json::Value;

use crate::action::Flow;
use crate::expr::{EvalError, Expression};
use crate::facts::Context;
use crate::verdict::Verdict;

/// Most steps of one trace; later ones are left out and [`Trace::is_cut`] says so.
pub const TRACE_STEPS_MAX: usize = 4_096;

/// What a run did.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    /// In the order in which they happened.
    pub steps: Vec<TraceStep>,
    /// Whether steps were left out.
    pub is_cut: bool,
}

/// One thing that a run did, in the rule with this index in its phase.
#[derive(Debug, Clone)]
pub struct TraceStep {
    /// Index of the rule in its phase.
    pub rule: usize,
    /// What was done.
    pub what: Traced,
}

/// What was done.
#[derive(Debug, Clone)]
pub enum Traced {
    /// A condition was judged.
    Condition {
        /// Index in the rule's `expressions`.
        index: usize,
        /// Whether it holds, or why it could not be judged.
        result: Result<bool, String>,
        /// What it read, by name. A value that was not there is absent.
        reads: Vec<(String, Option<Value>)>,
    },
    /// A condition or an action that a record does not tell enough of.
    Untold {
        /// Index in the rule's `expressions`, or in its `actions`.
        index: usize,
        /// Whether it is a condition, which is taken not to hold; an action is taken to pass.
        is_condition: bool,
        /// What is not told.
        why: String,
    },
    /// An action ran.
    Action {
        /// Index in the rule's `actions`.
        index: usize,
        /// What came of it. None: the phase goes on.
        verdict: Option<Verdict>,
    },
}

impl Trace {
    pub(crate) fn push(&mut self, rule: usize, what: Traced) {
        if self.steps.len() < TRACE_STEPS_MAX {
            self.steps.push(TraceStep { rule, what });
        } else {
            self.is_cut = true;
        }
    }

    pub(crate) fn condition(
        &mut self,
        rule: usize,
        index: usize,
        result: Result<bool, &EvalError>,
        expression: &Expression,
        cx: &Context,
    ) {
        let result = result.map_err(ToString::to_string);
        self.push(rule, Traced::Condition { index, result, reads: expression.reads(cx) });
    }

    /// An action that still needs something is recorded when it has it.
    pub(crate) fn action(&mut self, rule: usize, index: usize, flow: &Flow) {
        let verdict = match flow {
            Flow::Need(_) => return,
            Flow::Next => None,
            Flow::End(verdict) => Some(verdict.clone()),
        };
        self.push(rule, Traced::Action { index, verdict });
    }
}
