//! The work that policies do for one connection or request, and what they may do: all evaluations on the way share one
//! account.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::expr::EvalError;

/// Most work of one connection or request, all expressions of all policies on its way together. A unit is at most about a
/// tenth of a microsecond on a core of today: one node of an expression, or 256 bytes read.
pub(crate) const COST_UNITS_MAX: u64 = 500_000;

/// Most work of one evaluation: of one expression, or of everything that one action computes. At most 10 ms on a core of
/// today, so that it is at most 50 ms on one that is five times as slow.
pub(crate) const EVALUATION_UNITS_MAX: u64 = 100_000;

/// Work after which a run pauses before its next evaluation, so that its shard serves others.
pub(crate) const PAUSE_UNITS: u64 = 10_000;

/// The work done for one connection or request. Clones share one account: give every context on its way the same.
#[derive(Debug, Clone, Default)]
pub struct Work(Arc<Account>);

#[derive(Debug, Default)]
struct Account {
    spent: AtomicU64,
    /// What was spent when the evaluation began that runs now.
    began_at: AtomicU64,
    /// What was spent at the last pause.
    paused_at: AtomicU64,
    /// An expression asked for more header bytes than a policy may see.
    headers_refused: AtomicBool,
}

impl Work {
    /// Charges work. An error is final: every later charge gets it too.
    pub(crate) fn spend(&self, units: u64) -> Result<(), EvalError> {
        add(&self.0.spent, units);
        let spent = self.0.spent.load(Relaxed);
        if spent.saturating_sub(self.0.began_at.load(Relaxed)) > EVALUATION_UNITS_MAX {
            Err(EvalError::Evaluation(EVALUATION_UNITS_MAX))
        } else if spent > COST_UNITS_MAX {
            Err(EvalError::Cost(COST_UNITS_MAX))
        } else {
            Ok(())
        }
    }

    /// Units that may still be spent now.
    pub(crate) fn left(&self) -> u64 {
        let spent = self.0.spent.load(Relaxed);
        let evaluation = EVALUATION_UNITS_MAX.saturating_add(self.0.began_at.load(Relaxed));
        evaluation.min(COST_UNITS_MAX).saturating_sub(spent)
    }

    /// An account on which nothing can be spent.
    pub(crate) fn exhausted() -> Self {
        Self(Arc::new(Account { spent: AtomicU64::new(u64::MAX), ..Account::default() }))
    }

    /// Notes that an expression asked for more header bytes than a policy may see.
    pub(crate) fn refuse_headers(&self) {
        self.0.headers_refused.store(true, Relaxed);
    }

    /// An evaluation begins: an expression, or an action.
    pub(crate) fn begin_evaluation(&self) {
        self.0.began_at.store(self.0.spent.load(Relaxed), Relaxed);
    }

    /// Whether it is time to let others run. True once for every [`PAUSE_UNITS`].
    pub(crate) fn take_pause(&self) -> bool {
        let spent = self.0.spent.load(Relaxed);
        let due = spent.saturating_sub(self.0.paused_at.load(Relaxed)) >= PAUSE_UNITS;
        if due {
            self.0.paused_at.store(spent, Relaxed);
        }
        due
    }

    /// Whether an expression asked for more header bytes than a policy may see.
    pub(crate) fn headers_were_refused(&self) -> bool {
        self.0.headers_refused.load(Relaxed)
    }

    /// Units spent so far.
    pub(crate) fn spent(&self) -> u64 {
        self.0.spent.load(Relaxed)
    }
}

/// Adds and stops at the largest number.
pub(crate) fn add(counter: &AtomicU64, amount: u64) {
    let sum = counter.load(Relaxed).saturating_add(amount);
    counter.store(sum, Relaxed);
}

/// Bytes whose reading costs one unit.
pub(crate) const BYTES_PER_UNIT: u64 = 256;
