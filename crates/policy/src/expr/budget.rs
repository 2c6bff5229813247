//! What policies may spend: the work of one connection or request, shared by all evaluations on its way, the work of one
//! evaluation, and the memory that one builds. Charged by the functions that `rewrite` puts around expensive places.
//!
//! It travels through the evaluator as a value (`@budget`), because functions there have no other way to state.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use cel::ExecutionError;
use cel::common::types::Type;
use cel::common::value::{StaticVal, Val};

use super::EvalError;
use super::value::Extent;

/// Most work of one connection or request, all expressions of all policies on its way together. A unit is at most about a
/// tenth of a microsecond on a core of today: one node of an expression, or 256 bytes read.
pub const COST_UNITS_MAX: u64 = 500_000;
/// Most work of one evaluation: of one expression, or of everything that one action computes. At most 10 ms on a core of
/// today, so that it is at most 50 ms on one that is five times as slow.
pub const EVALUATION_UNITS_MAX: u64 = 100_000;
/// Work after which a run pauses before its next evaluation, so that its shard serves others.
pub(crate) const PAUSE_UNITS: u64 = 10_000;
/// Most bytes one evaluation builds, all intermediate values together.
pub const HELD_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Bytes whose reading costs one unit.
pub(super) const BYTES_PER_UNIT: u64 = 256;

static BUDGET: Type = Type::new_unspecified_type("@budget");

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
    /// Charges work. An error is final: whoever comes after gets it too.
    pub(crate) fn spend(&self, units: u64) -> Result<(), EvalError> {
        add(&self.0.spent, units);
        let spent = self.0.spent.load(Relaxed);
        if spent.saturating_sub(self.0.began_at.load(Relaxed)) > EVALUATION_UNITS_MAX {
            Err(EvalError::Evaluation)
        } else if spent > COST_UNITS_MAX {
            Err(EvalError::Cost)
        } else {
            Ok(())
        }
    }

    /// Units that may still be spent now.
    pub(super) fn left(&self) -> u64 {
        let spent = self.0.spent.load(Relaxed);
        let evaluation = EVALUATION_UNITS_MAX.saturating_add(self.0.began_at.load(Relaxed));
        evaluation.min(COST_UNITS_MAX).saturating_sub(spent)
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
    #[cfg(test)]
    pub(crate) fn spent(&self) -> u64 {
        self.0.spent.load(Relaxed)
    }
}

/// What reading a value costs, by its extent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Rate {
    /// Units for each [`BYTES_PER_UNIT`].
    pub(super) bytes: u64,
    /// Units for each element of a list; an entry of a map counts twice.
    pub(super) nodes: u64,
}

impl Rate {
    pub(super) const fn new(bytes: u64, nodes: u64) -> Self {
        Self { bytes, nodes }
    }

    /// Reading once, as a comparison does.
    pub(super) const PLAIN: Self = Self::new(1, 1);

    pub(super) fn of(self, extent: Extent) -> u64 {
        let bytes = extent.bytes.saturating_mul(self.bytes) / BYTES_PER_UNIT;
        bytes.saturating_add(extent.nodes.saturating_mul(self.nodes))
    }

    /// The dearer of two in each respect.
    pub(super) fn or(self, other: Self) -> Self {
        Self { bytes: self.bytes.max(other.bytes), nodes: self.nodes.max(other.nodes) }
    }
}

/// One evaluation's account.
#[derive(Debug)]
pub(super) struct Budget {
    work: Work,
    held: AtomicU64,
    random: AtomicU64,
}

impl Budget {
    pub(super) fn new(work: Work, seed: u64) -> Self {
        Self { work, held: AtomicU64::new(0), random: AtomicU64::new(seed) }
    }

    /// Charges work.
    pub(super) fn spend(&self, units: u64) -> Result<(), ExecutionError> {
        let _ = self.work.spend(units);
        self.proceed()
    }

    /// Charges the reading of `bytes` at a price for each [`BYTES_PER_UNIT`].
    pub(super) fn spend_bytes(&self, bytes: usize, price: u64) -> Result<(), ExecutionError> {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.spend((bytes / BYTES_PER_UNIT).saturating_add(1).saturating_mul(price))
    }

    /// Charges `count` pieces of work of `units` each.
    pub(super) fn spend_each(&self, count: usize, units: u64) -> Result<(), ExecutionError> {
        self.spend(u64::try_from(count).unwrap_or(u64::MAX).saturating_mul(units))
    }

    /// How many pieces of work of `units` each can still be paid for, and one more: counting may stop there.
    pub(super) fn affordable(&self, units: u64) -> usize {
        usize::try_from(self.work.left() / units.max(1)).unwrap_or(usize::MAX).saturating_add(1)
    }

    /// Charges memory, before it is taken where that is possible.
    pub(super) fn hold(&self, bytes: u64) -> Result<(), ExecutionError> {
        add(&self.held, bytes);
        self.spend(bytes / BYTES_PER_UNIT)
    }

    /// Charges a copy of a value: its memory, and its parts.
    pub(super) fn hold_copy(&self, extent: Extent) -> Result<(), ExecutionError> {
        self.hold(extent.bytes)?;
        self.spend(extent.nodes)
    }

    /// Notes that a variable has more header bytes than a policy may see.
    pub(super) fn refuse_headers(&self) {
        self.work.0.headers_refused.store(true, Relaxed);
    }

    /// The next number of the context's own sequence (splitmix64).
    pub(super) fn random(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.random.fetch_add(STEP, Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn proceed(&self) -> Result<(), ExecutionError> {
        if self.verdict().is_ok() {
            return Ok(());
        }
        Err(ExecutionError::InternalError("budget exceeded".into()))
    }

    /// Whether the evaluation stayed within its means. Asked at the end too, because `||` swallows errors.
    pub(super) fn verdict(&self) -> Result<(), EvalError> {
        if self.work.headers_were_refused() {
            return Err(EvalError::Headers);
        }
        self.work.spend(0)?;
        if self.held.load(Relaxed) > HELD_BYTES_MAX {
            return Err(EvalError::Memory);
        }
        Ok(())
    }
}

fn add(counter: &AtomicU64, amount: u64) {
    let sum = counter.load(Relaxed).saturating_add(amount);
    counter.store(sum, Relaxed);
}

/// The evaluator only ever borrows it; a copy would be an account of its own and is never made.
impl Val for Budget {
    fn get_type(&self) -> &Type {
        &BUDGET
    }

    fn cel_type() -> &'static Type {
        &BUDGET
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        let spent = Account { spent: AtomicU64::new(u64::MAX), ..Account::default() };
        Box::new(Self::new(Work(Arc::new(spent)), 0))
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for Budget {}
