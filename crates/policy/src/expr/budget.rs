//! What one evaluation may spend: work, on the account of its connection or request, and the memory that it builds. Charged by the functions that `rewrite` puts around expensive places.
//!
//! It travels through the evaluator as a value (`@budget`), because functions there have no other way to state.

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use cel::ExecutionError;
use cel::common::types::Type;
use cel::common::value::{StaticVal, Val};

use super::error::EvalError;
use super::reading::SEEN_HEADER_BYTES_MAX;
use super::value::Extent;
use crate::work::{self, BYTES_PER_UNIT, Work};

/// Most bytes one evaluation builds, all intermediate values together.
pub const HELD_BYTES_MAX: u64 = 4 * 1024 * 1024;

static BUDGET: Type = Type::new_unspecified_type("@budget");

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
        work::add(&self.held, bytes);
        self.spend(bytes / BYTES_PER_UNIT)
    }

    /// Charges a copy of a value: its memory, and its parts.
    pub(super) fn hold_copy(&self, extent: Extent) -> Result<(), ExecutionError> {
        self.hold(extent.bytes)?;
        self.spend(extent.nodes)
    }

    /// Notes that a variable has more header bytes than a policy may see.
    pub(super) fn refuse_headers(&self) {
        self.work.refuse_headers();
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
            return Err(EvalError::Headers(SEEN_HEADER_BYTES_MAX));
        }
        self.work.spend(0)?;
        if self.held.load(Relaxed) > HELD_BYTES_MAX {
            return Err(EvalError::Memory(HELD_BYTES_MAX));
        }
        Ok(())
    }
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
        Box::new(Self::new(Work::exhausted(), 0))
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for Budget {}
