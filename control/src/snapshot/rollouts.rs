//! Changes of endpoints that not all edges have, with the policies that the others still have.

use std::collections::BTreeMap;
use std::sync::Arc;

use ebbgate_model::{EndpointId, PolicyHash};

use super::index::Index;
use crate::record::rollout::Rollout;
use crate::store::Revision;

/// A change of an endpoint that not all edges have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Staged {
    /// What is stored.
    pub record: Arc<Rollout>,
    /// Revision that last wrote it.
    pub modified: Revision,
    /// The policy that all edges had last.
    pub before: Option<PolicyHash>,
}

/// All of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rollouts {
    staged: BTreeMap<EndpointId, Staged>,
    with: Index<PolicyHash, EndpointId>,
}

impl Rollouts {
    /// The changes, by the endpoint's id.
    pub(crate) fn all(&self) -> &BTreeMap<EndpointId, Staged> {
        &self.staged
    }

    /// Whether some edges may still have this policy, whatever endpoints name now.
    pub(crate) fn needs(&self, policy: PolicyHash) -> bool {
        self.with.of(policy).next().is_some()
    }

    /// The policy that all edges had last of an endpoint.
    pub(super) fn policy_before(&self, endpoint: EndpointId) -> Option<PolicyHash> {
        self.staged.get(&endpoint)?.before
    }

    /// A change is staged, is another, or is over. Gives what was there.
    pub(super) fn set(&mut self, endpoint: EndpointId, new: Option<&Staged>) -> Option<Staged> {
        let old = match new.cloned() {
            Some(new) => self.staged.insert(endpoint, new),
            None => self.staged.remove(&endpoint),
        };
        self.with.moved(old.as_ref(), new, |staged| Some((staged.before?, endpoint)));
        old
    }
}
