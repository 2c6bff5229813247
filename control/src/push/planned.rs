//! How far planning has come, as its readers see it.

use std::collections::BTreeMap;
use std::sync::Arc;

use ebbgate_model::{EndpointId, EndpointUrl, PolicyHash};

use crate::snapshot::Staged;

/// The newest plan, and what keeps a newer one from being made.
#[derive(Debug, Clone, Default)]
pub struct Planned {
    /// Generation of the newest plan; None until the first.
    pub generation: Option<u64>,
    /// Records that edges do not get, by key, each with the reason.
    pub left_out: Arc<BTreeMap<String, String>>,
    /// Why the plan is not the newest or not whole, for the operator.
    pub trouble: Option<String>,
    /// Changes of endpoints that not all edges have.
    pub rollouts: Arc<BTreeMap<EndpointId, RolledOut>>,
}

/// A change of an endpoint that not all edges have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolledOut {
    /// What is stored of it.
    pub staged: Staged,
    /// URL of the endpoint.
    pub url: EndpointUrl,
    /// Its new policy.
    pub policy: Option<PolicyHash>,
}
