//! The kernel maps of the XDP program, typed: loads the object over them, reads what they hold, and leads them from one
//! content to the next. Knows nothing of interfaces, links or endpoints, and decides nothing: what to write, and in which
//! order, comes from [`compile`](super::compile).

mod batch;
mod counters;
mod drops;
mod key;
mod shapes;

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use aya::maps::{Array, HashMap, IterableMap as _, MapData, MapError};
use aya::{Ebpf, EbpfLoader};
use ebbgate_ebpf as shared;

use super::compile::{Tables, writes};
use super::write::Write;
use batch::{BATCH_ENTRIES_MAX, Batch, delete_batch, read_all, update_batch, wait_grace_period};
use key::{KEY_V4, KEY_V6};
use shapes::{PINNED, check_pins, failed, full, is_full, take, trie, typed};

pub use counters::{Count, Counters};
pub use drops::{Drops, Sample};
pub use shapes::MapsError;

/// What may be set while the program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rates {
    /// New connections per second and source to guarded ports, up to [`shared::SYN_PER_SEC_MAX`]; 0: no limit.
    pub syn_per_sec: u32,
    /// Connections a source may open at once before the rate counts.
    pub syn_burst: u32,
    /// One drop in this many is sampled; 0: none.
    pub sample_one_in: u32,
}

/// Makes the maps of `object`, or takes those pinned in the folder `pins`, which must be there on a BPF file system;
/// without `pins` they live as long as what is returned. The program itself is not yet loaded.
pub fn load(object: &[u8], pins: Option<&Path>) -> Result<Ebpf, MapsError> {
    let mut loader = EbpfLoader::new();
    if let Some(dir) = pins {
        check_pins(dir)?;
        for (name, ..) in PINNED {
            loader.map_pin_path(name, dir.join(name));
        }
    }
    loader.load(object).map_err(|source| MapsError::Load(Box::new(source)))
}

/// The maps, and what they hold.
pub struct Maps {
    ports: Array<MapData, u32>,
    guards: HashMap<MapData, [u8; 20], u32>,
    prefixes_v4: MapData,
    prefixes_v6: MapData,
    config: Array<MapData, [u32; 6]>,
    counters: Counters,
    tables: Tables,
    rates: Rates,
}

impl Maps {
    /// Takes the maps out of a loaded object and reads what they hold.
    pub fn adopt(ebpf: &mut Ebpf) -> Result<Self, MapsError> {
        let mut maps = Self {
            ports: typed(take(ebpf, shared::PORTS)?, shared::PORTS)?,
            guards: typed(take(ebpf, shared::GUARDS)?, shared::GUARDS)?,
            prefixes_v4: trie(ebpf, shared::PREFIXES_V4)?,
            prefixes_v6: trie(ebpf, shared::PREFIXES_V6)?,
            config: typed(take(ebpf, shared::CONFIG)?, shared::CONFIG)?,
            counters: Counters::new(take(ebpf, shared::COUNTERS)?)?,
            tables: Tables::default(),
            rates: Rates::default(),
        };
        maps.tables = maps.read()?;
        Ok(maps)
    }

    /// Reads what the maps hold, entry by entry.
    pub fn read(&self) -> Result<Tables, MapsError> {
        let mut tables = Tables::default();
        let ports = read_all::<4>(self.ports.map().fd().as_fd());
        let ports = ports.map_err(|source| MapsError::Batch { map: shared::PORTS, source })?;
        let used = ports.into_iter().filter(|(_, entry)| *entry != shared::PORT_FOREIGN);
        tables.ports.extend(used.map(|(index, entry)| (u32::from_ne_bytes(index), entry)));
        for entry in &self.guards {
            let (key, entry) = entry.map_err(failed(shared::GUARDS))?;
            tables.guards.insert(key::read_guard(&key), entry);
        }
        let v4 = read_all::<KEY_V4>(self.prefixes_v4.fd().as_fd());
        let v4 = v4.map_err(|source| MapsError::Batch { map: shared::PREFIXES_V4, source })?;
        let v6 = read_all::<KEY_V6>(self.prefixes_v6.fd().as_fd());
        let v6 = v6.map_err(|source| MapsError::Batch { map: shared::PREFIXES_V6, source })?;
        tables.prefixes.extend(v4.iter().filter_map(|(key, verdict)| Some((key::read_v4(key)?, *verdict))));
        tables.prefixes.extend(v6.iter().filter_map(|(key, verdict)| Some((key::read_v6(key)?, *verdict))));
        Ok(tables)
    }

    /// What the maps hold.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The counters, for a reader beside the owner of the maps.
    pub fn counters(&self) -> Result<Counters, MapsError> {
        self.counters.try_clone()
    }

    /// Makes the maps hold `wanted`. On an error they stop between two writes, where every source has its old or its new
    /// verdict; [`Maps::tables`] then says what they hold, and the next call goes on from there.
    pub fn apply(&mut self, wanted: Tables) -> Result<(), MapsError> {
        let news: Vec<u32> = wanted.policies().difference(&self.tables.policies()).copied().collect();
        for policy in news.into_iter().filter(|policy| *policy != shared::POLICY_BLOCKLIST) {
            self.counters.clear(policy)?;
        }
        // While writes are under way, whatever either content needs is looked up.
        let (before, after) = (Switches::of(&self.tables), Switches::of(&wanted));
        self.configure(Switches {
            guarding: before.guarding | after.guarding,
            listening: before.listening || after.listening,
            blocking: before.blocking || after.blocking,
        })?;
        let writes = writes(&self.tables, &wanted);
        let mut rest = writes.as_slice();
        while let Some(run) = rest.chunk_by(|a, b| Lane::of(a) == Lane::of(b)).next() {
            let batch = run.get(..BATCH_ENTRIES_MAX).unwrap_or(run);
            let Batch { done, result } = self.write(batch);
            let (done, left) = rest.split_at(done.min(rest.len()));
            if let Err(error) = result {
                let all = writes.iter().take(writes.len() - left.len());
                all.for_each(|write| self.tables.note(*write));
                return Err(error);
            }
            debug_assert_eq!(done.len(), batch.len(), "a batch is written whole or fails");
            rest = left;
        }
        self.tables = wanted;
        self.configure(after)
    }

    /// Sets limits and sampling.
    pub fn set_rates(&mut self, rates: Rates) -> Result<(), MapsError> {
        self.rates = Rates { syn_per_sec: rates.syn_per_sec.min(shared::SYN_PER_SEC_MAX), ..rates };
        self.configure(Switches::of(&self.tables))
    }

    fn configure(&mut self, switches: Switches) -> Result<(), MapsError> {
        let Switches { guarding, listening, blocking } = switches;
        let Rates { syn_per_sec, syn_burst, sample_one_in } = self.rates;
        let flags = [guarding, u32::from(listening), u32::from(blocking)];
        let config = [flags, [syn_per_sec, syn_burst, sample_one_in]].concat();
        let config = config.first_chunk::<6>().copied().unwrap_or_default();
        self.config.set(0, config, 0).map_err(failed(shared::CONFIG))
    }

    /// Writes entries of one lane.
    fn write(&mut self, writes: &[Write]) -> Batch<MapsError> {
        let Some(lane) = writes.first().map(Lane::of) else { return Batch::none() };
        let v4 = self.prefixes_v4.fd().as_fd();
        let v6 = self.prefixes_v6.fd().as_fd();
        match lane {
            Lane::PutV4 => update_batch(v4, &key::v4(writes), &verdicts(writes)).of(shared::PREFIXES_V4),
            Lane::PutV6 => update_batch(v6, &key::v6(writes), &verdicts(writes)).of(shared::PREFIXES_V6),
            Lane::RemoveV4 => delete_batch(v4, &key::v4(writes)).of(shared::PREFIXES_V4),
            Lane::RemoveV6 => delete_batch(v6, &key::v6(writes)).of(shared::PREFIXES_V6),
            Lane::Settle => match wait_grace_period() {
                Ok(()) => Batch { done: writes.len(), result: Ok(()) },
                Err(source) => Batch { done: 0, result: Err(MapsError::GracePeriod(source)) },
            },
            Lane::Listener => {
                let mut done = 0;
                for write in writes {
                    if let Err(error) = self.write_listener(write) {
                        return Batch { done, result: Err(error) };
                    }
                    done += 1;
                }
                Batch { done, result: Ok(()) }
            }
        }
    }

    fn write_listener(&mut self, write: &Write) -> Result<(), MapsError> {
        match write {
            Write::Port { index, entry } => self.ports.set(*index, entry, 0).map_err(failed(shared::PORTS)),
            Write::Guard { key, entry } => {
                let set = self.guards.insert(key::guard(key), entry, 0);
                set.map_err(failed(shared::GUARDS))
            }
            Write::Unguard { key } => match self.guards.remove(&key::guard(key)) {
                Err(MapError::KeyNotFound) => Ok(()),
                removed => removed.map_err(failed(shared::GUARDS)),
            },
            Write::Put { .. } | Write::Remove { .. } | Write::GracePeriod => Ok(()),
        }
    }
}

/// What the program must look up at all.
#[derive(Clone, Copy)]
struct Switches {
    guarding: u32,
    listening: bool,
    blocking: bool,
}

impl Switches {
    fn of(tables: &Tables) -> Self {
        Self { guarding: tables.guarding(), listening: !tables.ports.is_empty(), blocking: tables.blocking() }
    }
}

/// Writes that go to the kernel in one call.
#[derive(PartialEq, Eq)]
enum Lane {
    Listener,
    PutV4,
    PutV6,
    RemoveV4,
    RemoveV6,
    Settle,
}

impl Lane {
    fn of(write: &Write) -> Self {
        match write {
            Write::Port { .. } | Write::Guard { .. } | Write::Unguard { .. } => Self::Listener,
            Write::Put { prefix, .. } if prefix.net().addr().is_ipv4() => Self::PutV4,
            Write::Put { .. } => Self::PutV6,
            Write::Remove { prefix, .. } if prefix.net().addr().is_ipv4() => Self::RemoveV4,
            Write::Remove { .. } => Self::RemoveV6,
            Write::GracePeriod => Self::Settle,
        }
    }
}

fn verdicts(writes: &[Write]) -> Vec<u32> {
    let verdict = |write: &Write| if let Write::Put { verdict, .. } = write { Some(*verdict) } else { None };
    writes.iter().filter_map(verdict).collect()
}

impl Batch<io::Error> {
    fn of(self, map: &'static str) -> Batch<MapsError> {
        let error = |source| if is_full(&source) { full(map) } else { MapsError::Batch { map, source } };
        Batch { done: self.done, result: self.result.map_err(error) }
    }
}
