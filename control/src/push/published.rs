//! `Published`: what edges must have now and how it came to be so, shared by the planner and all feeds.
//!
//! Of past changes only the names of the objects are kept: a feed sends what an object is now. So what an edge has not
//! been sent yet costs its place in the log and nothing else, and changes that pile up while it is slow become one.
//!
//! Canary edges and the others may have to have different objects: each ring sees the newest ones through an overlay.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ebbgate_model::{Changes, Digests, Object, ObjectKey, ProgramDigest};
use tokio::sync::RwLock;

use crate::plan::live::Live;
use crate::plan::overlay::{Overlay, Ring};

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
    canary: View,
    rest: View,
    /// What an overlay has shown otherwise since the last generation.
    shown_otherwise: BTreeSet<ObjectKey>,
    /// Where the log begins.
    base: (u64, RootDigests),
    log: VecDeque<Step>,
    keys: usize,
}

/// How the edges of a ring see the objects.
#[derive(Debug, Default)]
struct View {
    overlay: Overlay,
    /// None: the overlay is empty, and the digests are those of the newest objects.
    digests: Option<Digests>,
    /// What digests were made of: those of large objects take time, and few change.
    counted: BTreeMap<ObjectKey, [Option<Counted>; 2]>,
}

/// An object with its digest.
type Counted = (Object, ProgramDigest);

impl View {
    fn count(&mut self, live: &Live) {
        let mut known = std::mem::take(&mut self.counted);
        self.digests = (!self.overlay.is_empty()).then(|| live.digests().clone());
        let Some(digests) = &mut self.digests else { return };
        for (key, seen) in &self.overlay {
            let Some(newest) = live.get(key) else { continue };
            let [known_newest, known_seen] = known.remove(key).unwrap_or_default();
            let counted = |object: &Object, known: Option<Counted>| {
                let known = known.filter(|(counted, _)| counted == object);
                known.unwrap_or_else(|| (object.clone(), object.digest(key)))
            };
            let newest = counted(newest, known_newest);
            digests.take(key.bucket(), newest.1);
            let seen = seen.as_ref().map(|seen| counted(seen, known_seen));
            if let Some((_, seen)) = &seen {
                digests.add(key.bucket(), *seen);
            }
            self.counted.insert(key.clone(), [Some(newest), seen]);
        }
    }
}

/// Digests of all objects, as each ring sees them.
#[derive(Debug, Clone, Copy, Default)]
struct RootDigests {
    canary: ProgramDigest,
    rest: ProgramDigest,
}

impl RootDigests {
    fn of(self, ring: Ring) -> ProgramDigest {
        match ring {
            Ring::Canary => self.canary,
            Ring::Rest => self.rest,
        }
    }
}

#[derive(Debug)]
struct Step {
    generation: u64,
    digests: RootDigests,
    keys: Vec<ObjectKey>,
}

impl State {
    /// Everything was read anew: the log begins here. What edges hold is compared with by its digest.
    pub(super) fn replace(&mut self, mut live: Live, generation: u64) {
        live.forget();
        self.log.clear();
        self.shown_otherwise.clear();
        (self.live, self.generation, self.keys) = (live, generation, 0);
        self.base = (generation, self.count());
    }

    /// From the next generation on the rings see these objects otherwise.
    pub(super) fn stage(&mut self, canary: Overlay, rest: Overlay) {
        for (view, new) in [(&mut self.canary, canary), (&mut self.rest, rest)] {
            let old = std::mem::replace(&mut view.overlay, new);
            let is_same = |key: &&ObjectKey| old.get(key) == view.overlay.get(key);
            let all: BTreeSet<_> = old.keys().chain(view.overlay.keys()).collect();
            self.shown_otherwise.extend(all.into_iter().filter(|key| !is_same(key)).cloned());
        }
    }

    fn count(&mut self) -> RootDigests {
        self.canary.count(&self.live);
        self.rest.count(&self.live);
        RootDigests { canary: self.digests(Ring::Canary).root(), rest: self.digests(Ring::Rest).root() }
    }

    fn view(&self, ring: Ring) -> &View {
        match ring {
            Ring::Canary => &self.canary,
            Ring::Rest => &self.rest,
        }
    }

    /// Digests of what the edges of a ring must have.
    pub(super) fn digests(&self, ring: Ring) -> &Digests {
        self.view(ring).digests.as_ref().unwrap_or(self.live.digests())
    }

    /// An object as the edges of a ring must have it. One that is gone is gone for all.
    pub(super) fn seen<'a>(
        &'a self,
        ring: Ring,
        key: &ObjectKey,
        newest: Option<&'a Object>,
    ) -> Option<&'a Object> {
        let newest = newest?;
        self.view(ring).overlay.get(key).map_or(Some(newest), Option::as_ref)
    }

    /// What has changed in `live` is published as a later generation.
    pub(super) fn publish(&mut self, generation: u64) {
        let mut keys = std::mem::take(&mut self.shown_otherwise);
        keys.extend(self.live.take_changed());
        self.keys += keys.len();
        let digests = self.count();
        self.log.push_back(Step { generation, digests, keys: keys.into_iter().collect() });
        self.generation = generation;
        while self.keys > LOG_KEYS_MAX || self.log.len() > LOG_STEPS_MAX {
            let Some(step) = self.log.pop_front() else { break };
            self.keys -= step.keys.len();
            self.base = (step.generation, step.digests);
        }
    }

    /// The digest at a generation, as far back as the log goes.
    pub(super) fn digest_at(&self, ring: Ring, generation: u64) -> Option<ProgramDigest> {
        if self.base.0 == generation {
            return Some(self.base.1.of(ring));
        }
        let at = self.log.binary_search_by_key(&generation, |step| step.generation).ok()?;
        self.log.get(at).map(|step| step.digests.of(ring))
    }

    /// Names of the objects that have changed since a generation. None: the log does not go so far back.
    pub(super) fn since(&self, generation: u64) -> Option<BTreeSet<&ObjectKey>> {
        self.digest_at(Ring::Rest, generation)?;
        let first = self.log.partition_point(|step| step.generation <= generation);
        Some(self.log.range(first..).flat_map(|step| &step.keys).collect())
    }

    /// These objects as the edges of a ring must have them now.
    pub(super) fn changes<'a>(&self, ring: Ring, keys: impl IntoIterator<Item = &'a ObjectKey>) -> Changes {
        let mut changes = Changes::default();
        for key in keys {
            match self.seen(ring, key, self.live.get(key)) {
                Some(object) => changes.put(key, object),
                None => changes.remove(key),
            }
        }
        changes
    }
}

impl Published {
    /// What the edges of a ring must have, as one value, for tests and tools.
    pub async fn seen_by(&self, ring: Ring) -> ebbgate_model::Program {
        let state = self.0.read().await;
        let all: Vec<ObjectKey> = state.live.after(None).map(|(key, _)| key.clone()).collect();
        let mut program = ebbgate_model::Program { generation: state.generation, ..Default::default() };
        program.apply(&state.changes(ring, &all), &mut Digests::default());
        program
    }

    /// The newest of it as one value, for tests and tools.
    pub async fn program(&self) -> ebbgate_model::Program {
        let state = self.0.read().await;
        state.live.program(state.generation)
    }
}
