//! Puts what control told in force, and keeps it on disk: the one place that changes the Tables.
//!
//! Blocks for as long as the disk does; `feed` calls it on a thread of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use ebbgate_model::{Changes, CloudEndpointSpec, Digests, EndpointId, ObjectKey, Program, ProgramDigest};

use crate::agents::Agents;
use crate::state::objects::Objects;
use crate::state::saved::Saved;
use crate::state::saved::log::{ProgramLog, Snapshot};
use crate::state::saved::replay::Held;
use crate::state::tables::{Effects, Tables};

/// Objects that one record of the log may have; a snapshot is made of more.
const RECORD_OBJECTS_MAX: usize = 4_096;

/// How little the thread that counts asks of the processor beside visitors: the lowest priority there is.
const COUNTING_NICE: i32 = 19;
/// Pauses between two counts, each as long as a count.
const COUNTING_PAUSES: u32 = 50;

/// Changes that are in force.
#[derive(Debug, PartialEq, Eq)]
pub struct Installed {
    /// Generation in force now.
    pub generation: u64,
    /// Digest of all objects, those that cannot be used included.
    pub digest: ProgramDigest,
    /// Objects that cannot be used as they are now, each with the reason.
    pub refused: BTreeMap<ObjectKey, String>,
}

/// The hand that changes the Tables.
pub struct Installer {
    agents: Arc<Agents>,
    digests: Digests,
    /// None: nothing is kept.
    log: Option<ProgramLog>,
    /// When digests may be counted anew; None: they are being counted.
    counts_from: Option<Instant>,
}

impl Installer {
    /// For an edge without objects, which keeps nothing on disk.
    pub fn new(agents: Arc<Agents>) -> Self {
        Self { agents, digests: Objects::default().digests(), log: None, counts_from: Some(Instant::now()) }
    }

    /// Starts from what was kept: control may be down.
    pub fn restore(agents: Arc<Agents>, saved: &Saved) -> Self {
        let mut installer = Self::new(agents);
        let mut replay = Replay::new(&installer.digests);
        let (log, found) = saved.log(&mut |held| replay.take(held));
        installer.log = Some(log);
        if !found.is_damaged && replay.tables.generation > 0 {
            installer.put_replayed(replay);
            saved.remove_old_program();
        } else if !found.is_damaged {
            installer.migrate(saved);
        }
        installer
    }

    /// Starts from what another process keeps, and writes nothing until [`Installer::own`]. None: that cannot be read.
    pub fn follow(agents: Arc<Agents>, saved: &Saved) -> Option<Self> {
        let mut installer = Self::new(agents);
        let mut replay = Replay::new(&installer.digests);
        let found = saved.read_log(&mut |held| replay.take(held));
        if found.is_damaged || replay.tables.generation == 0 {
            return None;
        }
        installer.put_replayed(replay);
        Some(installer)
    }

    /// Keeps what is in force from now on: the other process has left the log, at the generation that was read.
    pub fn own(&mut self, saved: &Saved) {
        let (mut log, found) = saved.log(&mut drop);
        if found.is_damaged {
            log.begin_snapshot(snapshot(&self.agents.edge().tables.load(), &self.digests));
        }
        self.log = Some(log);
        self.write_again();
    }

    /// Writes nothing more: another process owns the log.
    pub fn leave(&mut self) {
        self.log = None;
    }

    /// Waits for the snapshot that is being written, if one is.
    pub fn settle(&mut self) {
        if let Some(log) = &mut self.log {
            log.wait();
        }
    }

    fn put_replayed(&mut self, replay: Replay) {
        let Replay { tables, digests, .. } = replay;
        let generation = tables.generation;
        self.digests = digests;
        let effects = Effects::of_all(&tables);
        install(&self.agents, &Arc::new(tables), &effects);
        tracing::info!(generation, "serving what control told last until it is heard");
    }

    /// Takes over what an older release kept.
    fn migrate(&mut self, saved: &Saved) {
        match saved.old_program() {
            Ok(None) => {}
            Ok(Some(program)) => {
                let generation = program.generation;
                self.put(&program);
                saved.remove_old_program();
                tracing::info!(
                    generation,
                    "serving the last program of an older release until control is heard"
                );
            }
            Err(error) => tracing::error!(%error, "starting without the last program; waiting for control"),
        }
    }

    /// Changes single objects.
    pub fn change(&mut self, changes: &Changes, generation: u64) -> Installed {
        let before = self.agents.edge().tables.load_full();
        let (tables, effects) = before.with(changes, generation, Some(&mut self.digests));
        let tables = Arc::new(tables);
        install(&self.agents, &tables, &effects);
        self.keep(changes, &tables);
        tracing::debug!(generation, objects = changes.len(), "changes in force");
        Installed { generation, digest: self.digests.root(), refused: effects.refused }
    }

    /// Replaces the objects of some buckets, or all, by those told.
    pub fn replace(&mut self, buckets: Option<&BTreeSet<u16>>, told: Changes, generation: u64) -> Installed {
        let before = self.agents.edge().tables.load_full();
        let changes = before.objects.replaced(buckets, told);
        let objects = changes.len();
        let installed = if before.objects.endpoints.is_empty() && objects > RECORD_OBJECTS_MAX {
            self.fill(&before, changes, generation)
        } else {
            self.change(&changes, generation)
        };
        tracing::info!(generation, objects, "objects replaced by what control has");
        installed
    }

    /// Puts very many endpoints in force where there are none.
    fn fill(&mut self, before: &Tables, changes: Changes, generation: u64) -> Installed {
        let (tables, effects) = before.with_all(changes, generation, &mut self.digests);
        let tables = Arc::new(tables);
        install(&self.agents, &tables, &effects);
        if let Some(log) = &mut self.log {
            // An error is told by the log itself.
            let _ = log.snapshot(snapshot(&tables, &self.digests));
        }
        Installed { generation, digest: self.digests.root(), refused: effects.refused }
    }

    /// Replaces everything by a whole Program.
    pub fn put(&mut self, program: &Program) -> Installed {
        let mut told = Program::default().diff(program);
        told.settings = Some(Arc::new(program.settings.clone()));
        self.replace(None, told, program.generation)
    }

    /// Digest of what is held; None while there is nothing.
    pub fn digest(&self) -> Option<ProgramDigest> {
        (self.agents.edge().generation() > 0).then(|| self.digests.root())
    }

    /// The digests of what is held, as they were kept while it changed.
    pub fn digests(&self) -> Digests {
        self.digests.clone()
    }

    /// Begins to count them anew, aside: nothing waits for it. Among very many objects it is due less often than asked for.
    pub fn count_again(installer: &Arc<Mutex<Self>>, now: Instant) {
        let lock = || installer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut own = lock();
        if own.counts_from.is_none_or(|from| now < from) {
            return;
        }
        own.counts_from = None;
        let (tables, kept) = (own.agents.edge().tables.load_full(), own.digests.clone());
        drop(own);
        let shared = Arc::clone(installer);
        let count = move || {
            // On Linux it is this thread's alone.
            let _ = rustix::process::setpriority_process(None, COUNTING_NICE);
            let counted = tables.objects.digests();
            drop(tables);
            let ended = Instant::now();
            let pause = ended.saturating_duration_since(now) * COUNTING_PAUSES;
            let mut own = shared.lock().unwrap_or_else(PoisonError::into_inner);
            own.counts_from = Some(ended + pause);
            if counted != kept {
                tracing::error!(
                    "the digests kept were not those of the objects held; control will mend what differs"
                );
                own.digests.correct(&kept, &counted);
            }
        };
        if let Err(error) = thread::Builder::new().name("count".into()).spawn(count) {
            tracing::warn!(%error, "digests are not counted anew this time");
            lock().counts_from = Some(now);
        }
    }

    /// Tries to keep what the disk did not take before.
    pub fn write_again(&mut self) {
        let tables = self.agents.edge().tables.load();
        if let Some(log) = &mut self.log
            && tables.generation > 0
            && log.is_behind()
        {
            log.begin_snapshot(snapshot(&tables, &self.digests));
        }
    }

    fn keep(&mut self, changes: &Changes, tables: &Tables) {
        let Some(log) = &mut self.log else { return };
        // An error is told by the log itself, in metrics and at the admin port: the edge goes on serving.
        let _ = if changes.len() > RECORD_OBJECTS_MAX {
            log.snapshot(snapshot(tables, &self.digests))
        } else {
            let kept = log.append(tables.generation, changes);
            if log.is_long() {
                log.begin_snapshot(snapshot(tables, &self.digests));
            }
            kept
        };
    }
}

fn snapshot(tables: &Tables, digests: &Digests) -> Snapshot {
    Snapshot { generation: tables.generation, objects: tables.objects.clone(), digests: digests.clone() }
}

/// What a log holds, as it is read.
struct Replay {
    tables: Tables,
    digests: Digests,
    endpoints: Vec<(EndpointId, Arc<CloudEndpointSpec>)>,
}

impl Replay {
    fn new(digests: &Digests) -> Self {
        Self { tables: Tables::default(), digests: digests.clone(), endpoints: Vec::new() }
    }

    fn take(&mut self, held: Held) {
        match held {
            Held::Objects(mut objects) => {
                let put = std::mem::take(&mut objects.endpoints.put);
                self.endpoints.extend(put.into_iter().map(|(id, spec)| (id, spec.0)));
                self.tables.apply(&objects, None);
            }
            Held::Snapshot { generation, digests } => {
                // What is refused is told by `Effects::of_all`.
                let _ = self.tables.load(std::mem::take(&mut self.endpoints));
                (self.tables.generation, self.digests) = (generation, *digests);
            }
            Held::Change { generation, changes } => {
                self.tables.apply(&changes, Some(&mut self.digests));
                self.tables.generation = generation;
            }
        }
    }
}

/// Puts Tables in force: state, then sessions and endpoints of agents that may no longer be, and then what is new: nobody shares
/// a URL with the account that had it before. At last xdp hears of it.
fn install(agents: &Agents, new: &Arc<Tables>, effects: &Effects) {
    let edge = agents.edge();
    let old = edge.tables.swap(Arc::clone(new));
    edge.sync_ports(new, &effects.ports);
    agents.recheck(effects, &old, new);
    for gone in &effects.removed {
        edge.routes.remove(gone);
    }
    edge.routes.put_all(&effects.put);
    if effects.kernel || old.generation == 0 {
        edge.changes.note();
    }
    edge.metrics.generation.set(i64::try_from(new.generation).unwrap_or(i64::MAX));
    edge.metrics.objects_unserved.set(i64::try_from(new.unserved.len()).unwrap_or(i64::MAX));
    for (object, reason) in &effects.refused {
        if old.unserved.get(object).is_none_or(|before| **before != **reason) {
            tracing::error!(%object, reason, "this object cannot be served as it is; what was before stays in use, or it is closed");
        }
    }
}
