//! What policies may spend: the work of one connection or request, shared by all evaluations on its way, and the memory
//! of each evaluation. Charged by the functions that `rewrite` puts around expensive places.
//!
//! It travels through the evaluator as a value (`@budget`), because functions there have no other way to state.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use cel::ExecutionError;
use cel::common::types::Type;
use cel::common::value::{StaticVal, Val};

use super::EvalError;

/// Most work of one connection or request, all expressions of all policies on its way together. A unit is about a tenth of
/// a microsecond: one node of an expression, or 256 bytes read.
pub const COST_UNITS_MAX: u64 = 500_000;
/// Most bytes one evaluation builds, all intermediate values together.
pub const HELD_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Bytes whose reading costs one unit.
pub(super) const BYTES_PER_UNIT: u64 = 256;

static BUDGET: Type = Type::new_unspecified_type("@budget");

/// The work done for one connection or request. Clones share one account: give every context on its way the same.
#[derive(Debug, Clone, Default)]
pub struct Work(Arc<AtomicU64>);

impl Work {
    /// Charges work. An error is final: whoever comes after gets it too.
    pub(crate) fn spend(&self, units: u64) -> Result<(), EvalError> {
        add(&self.0, units);
        if self.0.load(Relaxed) > COST_UNITS_MAX { Err(EvalError::Cost) } else { Ok(()) }
    }
}

/// One evaluation's account.
#[derive(Debug)]
pub(super) struct Budget {
    work: Work,
    held: AtomicU64,
    /// Bytes of variables read so far: with `held`, the largest value an operation can meet.
    read: AtomicU64,
    random: AtomicU64,
}

impl Budget {
    pub(super) fn new(work: Work, seed: u64) -> Self {
        Self { work, held: AtomicU64::new(0), read: AtomicU64::new(0), random: AtomicU64::new(seed) }
    }

    /// Charges work.
    pub(super) fn spend(&self, units: u64) -> Result<(), ExecutionError> {
        let _ = self.work.spend(units);
        self.proceed()
    }

    /// Charges the reading of `bytes`.
    pub(super) fn spend_bytes(&self, bytes: u64) -> Result<(), ExecutionError> {
        self.spend(1 + bytes / BYTES_PER_UNIT)
    }

    /// Charges a loop of `turns` over a body of `weight` nodes, each of which may meet the largest value there is.
    pub(super) fn spend_loop(&self, turns: u64, weight: u64) -> Result<(), ExecutionError> {
        let largest = self.held.load(Relaxed).saturating_add(self.read.load(Relaxed));
        self.spend(turns.saturating_mul(weight).saturating_mul(1 + largest / BYTES_PER_UNIT))
    }

    /// Charges memory, before it is taken where that is possible.
    pub(super) fn hold(&self, bytes: u64) -> Result<(), ExecutionError> {
        add(&self.held, bytes);
        self.spend(bytes / BYTES_PER_UNIT)
    }

    /// Notes a variable that was built.
    pub(super) fn note_read(&self, bytes: u64) {
        add(&self.read, bytes);
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
        let spent = Work(Arc::new(AtomicU64::new(u64::MAX)));
        Box::new(Self::new(spent, 0))
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for Budget {}
