//! `Published`: what edges must have now and how it came to be so, shared by the planner and all feeds.
//!
//! Of past changes only the names of the objects are kept: a feed sends what an object is now. So what an edge has not
//! been sent yet costs its place in the log and nothing else, and changes that pile up while it is slow become one.

use std::collections::{BTreeSet, VecDeque};

use ebbgate_model::{Changes, ObjectKey, ProgramDigest};
use tokio::sync::RwLock;

use crate::plan::live::Live;

/// Names of objects in the log at most; an edge that is further behind is compared with bucket by bucket.
const LOG_KEYS_MAX: usize = 100_000;
/// Generations in the log at most.
const LOG_STEPS_MAX: usize = 100_000;

/// What edges must have. Held for reading only as long as it takes to gather one message.
#[derive(Debug, Default)]
pub struct Published(pub(super) RwLock<State>);

/// What edges must have, and the latest changes of it.
#[derive(Debug, Default)]
pub(super) struct State {
    /// The objects.
    pub(super) live: Live,
    /// 0 until the first plan.
    pub(super) generation: u64,
    /// Where the log begins.
    base: (u64, ProgramDigest),
    log: VecDeque<Step>,
    keys: usize,
}

#[derive(Debug)]
struct Step {
    generation: u64,
    digest: ProgramDigest,
    keys: Vec<ObjectKey>,
}

impl State {
    /// Everything was read anew: the log begins here. What edges hold is compared with by its digest.
    pub(super) fn replace(&mut self, mut live: Live, generation: u64) {
        live.forget();
        self.log.clear();
        (self.keys, self.base) = (0, (generation, live.digest()));
        (self.live, self.generation) = (live, generation);
    }

    /// What has changed in `live` is published as a later generation.
    pub(super) fn publish(&mut self, generation: u64) {
        let keys = self.live.take_changed();
        self.keys += keys.len();
        self.log.push_back(Step { generation, digest: self.live.digest(), keys });
        self.generation = generation;
        while self.keys > LOG_KEYS_MAX || self.log.len() > LOG_STEPS_MAX {
            let Some(step) = self.log.pop_front() else { break };
            self.keys -= step.keys.len();
            self.base = (step.generation, step.digest);
        }
    }

    /// The digest at a generation, as far back as the log goes.
    pub(super) fn digest_at(&self, generation: u64) -> Option<ProgramDigest> {
        if self.base.0 == generation {
            return Some(self.base.1);
        }
        let at = self.log.binary_search_by_key(&generation, |step| step.generation).ok()?;
        self.log.get(at).map(|step| step.digest)
    }

    /// Names of the objects that have changed since a generation. None: the log does not go so far back.
    pub(super) fn since(&self, generation: u64) -> Option<BTreeSet<&ObjectKey>> {
        self.digest_at(generation)?;
        let first = self.log.partition_point(|step| step.generation <= generation);
        Some(self.log.range(first..).flat_map(|step| &step.keys).collect())
    }

    /// These objects as they are now.
    pub(super) fn changes<'a>(&self, keys: impl IntoIterator<Item = &'a ObjectKey>) -> Changes {
        let mut changes = Changes::default();
        for key in keys {
            match self.live.get(key) {
                Some(object) => changes.put(key, object),
                None => changes.remove(key),
            }
        }
        changes
    }
}

impl Published {
    /// The newest of it as one value, for tests and tools.
    pub async fn program(&self) -> ebbgate_model::Program {
        let state = self.0.read().await;
        state.live.program(state.generation)
    }
}
