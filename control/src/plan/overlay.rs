//! `Overlay`: in which objects edges of one ring have something else than what is newest. Pure.
//!
//! An endpoint with a new policy that not all edges have is in it with the policy before, and the new policy is in it as one that
//! is not there: so no edge reads a policy that it is not to have. Policies before stay among the newest objects as long as
//! they are needed, so an overlay only hides and replaces.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ebbgate_model::{CloudEndpointSpec, Object, ObjectKey, PolicyHash};

use super::live::Live;
use crate::record::rollout::RolloutState;
use crate::snapshot::Snapshot;

/// Which edges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ring {
    /// Those that get changes first.
    Canary,
    /// All others.
    Rest,
}

/// Objects that are not the newest, as the edges of a ring have them; None: they have none.
pub type Overlay = BTreeMap<ObjectKey, Option<Object>>;

/// What the edges of a ring have otherwise. Costs the changes that are staged.
pub fn overlay(snapshot: &Snapshot, live: &Live, ring: Ring) -> Overlay {
    let mut overlay = Overlay::new();
    let (mut hidden, mut needed) = (BTreeMap::<PolicyHash, usize>::new(), BTreeSet::new());
    for (id, staged) in snapshot.rollouts.all() {
        if ring == Ring::Canary && staged.record.state != RolloutState::Returned {
            continue;
        }
        let key = ObjectKey::Endpoint(*id);
        let Some(Object::Endpoint(newest)) = live.get(&key) else { continue };
        // One that is closed, because it cannot be read or for its size, is closed for all.
        let is_open = snapshot.endpoints.get(id).is_some_and(|standing| standing.spec == *newest);
        let is_there = staged.before.is_none_or(|hash| live.get(&ObjectKey::Policy(hash)).is_some());
        if !is_open || !is_there || newest.policy == staged.before {
            continue;
        }
        newest.policy.into_iter().for_each(|hash| *hidden.entry(hash).or_default() += 1);
        needed.extend(staged.before);
        let before = CloudEndpointSpec { policy: staged.before, ..CloudEndpointSpec::clone(newest) };
        overlay.insert(key, Some(Object::Endpoint(Arc::new(before))));
    }
    for (hash, count) in hidden {
        let key = ObjectKey::Policy(hash);
        if count >= live.naming(&key) && !needed.contains(&hash) {
            overlay.insert(key, None);
        }
    }
    overlay
}
