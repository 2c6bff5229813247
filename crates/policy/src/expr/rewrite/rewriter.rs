//! The state of one rewriting: what the expression reads so far, and what is bound where.

use cel::IdedExpr;

use crate::expr::budget::Rate;
use crate::expr::error::ExprError;
use crate::expr::names::Names;
use crate::expr::slots::{self, Slot, Source};
use crate::expr::tree::ident;

/// Most slots of one expression.
const SLOTS_MAX: usize = 256;

pub(super) struct Rewriter {
    pub(super) names: Names,
    pub(super) slots: Vec<Slot>,
    /// Names bound by the macros around the place being rewritten.
    pub(super) bound: Vec<String>,
    /// Loop bodies around it.
    pub(super) nesting: usize,
    /// Two-variable loops seen so far.
    pub(super) pairs: usize,
}

impl Rewriter {
    /// A place that is filled when it is read.
    pub(super) fn slot(&mut self, source: Source) -> Result<IdedExpr, ExprError> {
        if self.slots.len() >= SLOTS_MAX {
            return Err(ExprError::new(format!("the expression reads more than {SLOTS_MAX} things")));
        }
        self.slots.push(Slot { source, rate: Rate::PLAIN });
        Ok(ident(slots::identifier(self.slots.len() - 1)))
    }
}
