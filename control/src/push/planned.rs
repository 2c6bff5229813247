//! The newest plan as its readers see it.

use std::collections::BTreeMap;
use std::sync::Arc;

use ebbgate_model::{Program, ProgramDigest};

use super::outbox::Held;

/// The newest plan, and what keeps a newer one from being made.
#[derive(Debug, Clone, Default)]
pub struct Planned {
    /// None until the first plan.
    pub program: Option<Arc<Program>>,
    /// Digest of the Program.
    pub digest: Option<ProgramDigest>,
    /// Records that edges do not get, by key, each with the reason.
    pub left_out: Arc<BTreeMap<String, String>>,
    /// Why the plan is not the newest, for the operator.
    pub trouble: Option<String>,
}

impl Planned {
    /// The Program with its digest.
    pub fn held(&self) -> Option<Held> {
        Some(Held { program: self.program.clone()?, digest: self.digest? })
    }
}
