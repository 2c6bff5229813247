//! How far planning has come, as its readers see it.

use std::collections::BTreeMap;
use std::sync::Arc;

/// The newest plan, and what keeps a newer one from being made.
#[derive(Debug, Clone, Default)]
pub struct Planned {
    /// Generation of the newest plan; None until the first.
    pub generation: Option<u64>,
    /// Records that edges do not get, by key, each with the reason.
    pub left_out: Arc<BTreeMap<String, String>>,
    /// Why the plan is not the newest or not whole, for the operator.
    pub trouble: Option<String>,
}
