//! The filter: program, maps and pins of one edge. Opens them over what an edge before left, applies lists, attaches.
//!
//! Maps that cannot be taken over (another layout, another program's, damaged) are left alone while new ones beside them
//! are filled; the links' program is then replaced, and only after that the old maps go.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::{ProgramError, Xdp};
use ebbgate_ebpf as shared;
use ebbgate_model::Prefix;

use super::compile::{CompileError, Destination, Guarded, compile};
use super::interfaces;
use super::links::{self, Held, LinkError};
use super::maps::{self, Counters, Drops, Maps, MapsError, Rates};
use super::pins::{Pins, PinsError};
use super::settings::Mode;

/// Why the kernel does not enforce.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// The folder for pins.
    #[error(transparent)]
    Pins(#[from] PinsError),
    /// The maps.
    #[error("{}", links::told(.0))]
    Maps(#[from] MapsError),
    /// The program was refused.
    #[error("the kernel refused the XDP program (needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON): {}", refusal(.0))]
    Program(#[from] Box<ProgramError>),
    /// The object does not hold what this edge was built for.
    #[error("the XDP object has no program {0}; build it again with `cargo xtask ebpf`")]
    Missing(&'static str),
}

/// Program, maps and pins, open.
pub struct Filter {
    ebpf: Ebpf,
    maps: Maps,
    pins: Pins,
    layout: PathBuf,
    netns: u64,
    attached: BTreeMap<String, (u32, Mode)>,
}

/// What did not fit into the kernel.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Unfit {
    /// Ports whose lists were left out, and why.
    pub ports: BTreeMap<u16, CompileError>,
    /// Why the blocklist was left out, if it was.
    pub blocklist: Option<CompileError>,
}

/// What happened to an interface.
#[derive(Debug)]
pub enum Change {
    /// The program is on it now.
    Attached(String, Mode),
    /// It is no longer guarded: the interface is gone, or its link was ended.
    Lost(String),
    /// The program does not go on it.
    Failed(String, LinkError),
    /// The pin was removed.
    Unpinned(String),
}

impl Filter {
    /// Opens the program over the maps in the pins; what they hold stays in force. Nothing is attached:
    /// call [`Filter::apply`] first, so that no interface is ever guarded by half a list.
    pub fn open(object: &[u8], pins: Pins) -> Result<Self, FilterError> {
        for layout in pins.own_layouts() {
            match open(object, &layout) {
                Ok((ebpf, maps)) => return Ok(Self::new(ebpf, maps, pins, layout)),
                Err(error) => {
                    tracing::warn!(layout = %layout.display(), %error, "pinned maps cannot be taken over; making new ones");
                }
            }
        }
        let layout = pins.fresh_layout()?;
        match open(object, &layout) {
            Ok((ebpf, maps)) => Ok(Self::new(ebpf, maps, pins, layout)),
            Err(error) => {
                // What could not be used must not be found by the next.
                let _ = std::fs::remove_dir_all(&layout);
                Err(error)
            }
        }
    }

    fn new(ebpf: Ebpf, maps: Maps, pins: Pins, layout: PathBuf) -> Self {
        Self { ebpf, maps, pins, layout, netns: interfaces::netns(), attached: BTreeMap::new() }
    }

    /// Makes the maps equal to what these listeners need. What does not fit is left out, longest list first, and so
    /// left to user space: the kernel never keeps a list that is no longer in force.
    pub fn apply(&mut self, guarded: &[Guarded], blocklist: &[Prefix]) -> Result<Unfit, MapsError> {
        let mut guarded = guarded.to_vec();
        let mut blocklist = blocklist;
        let mut unfit = Unfit::default();
        let tables = loop {
            match compile(self.maps.tables(), &guarded, blocklist) {
                Ok(tables) => break tables,
                Err(error @ CompileError::Guards { .. }) => {
                    let (single, all): (Vec<_>, Vec<_>) = guarded.into_iter().partition(is_single);
                    let listed = single.iter().filter(|one| !one.lists.is_empty());
                    unfit.ports.extend(listed.map(|one| (one.port, error)));
                    guarded = all;
                }
                Err(error) => {
                    let length = |one: &Guarded| {
                        one.lists.iter().map(|list| list.allow.len() + list.deny.len() + 1).sum::<usize>()
                    };
                    let longest = guarded.iter_mut().max_by_key(|one| length(one));
                    let longest = longest.filter(|one| length(one) > 0);
                    match longest {
                        Some(one) if length(one) >= blocklist.len() => {
                            one.lists.clear();
                            unfit.ports.insert(one.port, error);
                        }
                        _ => {
                            blocklist = &[];
                            unfit.blocklist = Some(error);
                        }
                    }
                }
            }
        };
        self.maps.apply(tables)?;
        Ok(unfit)
    }

    /// Sets limits and sampling.
    pub fn set_rates(&mut self, rates: Rates) -> Result<(), MapsError> {
        self.maps.set_rates(rates)
    }

    /// Looks after the interfaces: attaches to those wanted, follows those that went and came. Says what changed;
    /// a failure is said each time.
    pub fn tend(&mut self, wanted: &BTreeSet<String>, modes: &[Mode]) -> Result<Vec<Change>, FilterError> {
        let mut changes = Vec::new();
        let names: BTreeSet<String> = self.attached.keys().chain(wanted).cloned().collect();
        let program = program(&mut self.ebpf)?;
        for name in names {
            let now = interfaces::index(&name);
            if let Some((ifindex, mode)) = self.attached.get(&name).copied() {
                let pin = self.pins.link(self.netns, ifindex, mode);
                let held = if now == Some(ifindex) { links::look(program, &pin) } else { Held::Ended };
                if held == Held::Yes && wanted.contains(&name) {
                    continue;
                }
                self.attached.remove(&name);
                pin.remove()?;
                changes.push(match held {
                    Held::Unpinned => Change::Unpinned(name.clone()),
                    Held::Yes | Held::Ended => Change::Lost(name.clone()),
                });
                if held == Held::Unpinned {
                    continue;
                }
            }
            let Some(ifindex) = now.filter(|_| wanted.contains(&name)) else { continue };
            changes.push(match links::attach(program, &self.pins, (&name, self.netns, ifindex), modes) {
                Ok(mode) => {
                    self.attached.insert(name.clone(), (ifindex, mode));
                    Change::Attached(name, mode)
                }
                Err(error) => Change::Failed(name, error),
            });
        }
        Ok(changes)
    }

    /// Removes what an edge before left and this one does not use: links elsewhere, older maps. `keep_links`: leave
    /// links alone.
    pub fn tidy(&self, keep_links: bool) -> Result<(), PinsError> {
        let ours: BTreeSet<PathBuf> = self
            .attached
            .values()
            .map(|(ifindex, mode)| self.pins.link(self.netns, *ifindex, *mode).path)
            .collect();
        let stale = self.pins.links().into_iter().filter(|pin| !ours.contains(&pin.path));
        stale.filter(|_| !keep_links).try_for_each(|pin| pin.remove())?;
        // Maps in use by a link that stays must stay too.
        if self.pins.links().iter().all(|pin| ours.contains(&pin.path)) {
            self.pins.keep_layout(&self.layout)?;
        }
        Ok(())
    }

    /// Gives the pins up without a change in the kernel.
    pub fn into_pins(self) -> Pins {
        self.pins
    }

    /// Takes the program off everywhere and removes all pins.
    pub fn remove(self) -> Result<(), PinsError> {
        self.pins.remove()
    }

    /// The interfaces guarded, and how.
    pub fn attached(&self) -> BTreeMap<String, Mode> {
        self.attached.iter().map(|(name, (_, mode))| (name.clone(), *mode)).collect()
    }

    /// What the maps hold.
    pub fn maps(&self) -> &Maps {
        &self.maps
    }

    /// Policy number of the list of a port, where it has one.
    pub fn policy_of(&self, guarded: &Guarded) -> Option<u32> {
        let policy = |at: &Destination| self.maps.tables().policy_of(guarded.port, *at);
        guarded.at.iter().find_map(policy).filter(|policy| *policy != shared::POLICY_BLOCKLIST)
    }

    /// The counters, to be read beside this.
    pub fn counters(&self) -> Result<Counters, MapsError> {
        self.maps.counters()
    }

    /// The reading end of the sampled drops; once.
    pub fn drops(&mut self) -> Result<Drops, MapsError> {
        Drops::take(&mut self.ebpf)
    }
}

/// Without the verifier's pages, which are in the log at level debug.
fn refusal(error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError { io_error, .. } => io_error.to_string(),
        error => links::told(error),
    }
}

fn is_single(guarded: &Guarded) -> bool {
    guarded.at.iter().any(|at| matches!(at, Destination::Address(_)))
}

fn open(object: &[u8], layout: &Path) -> Result<(Ebpf, Maps), FilterError> {
    let mut ebpf = maps::load(object, Some(layout))?;
    let maps = Maps::adopt(&mut ebpf)?;
    let loaded = program(&mut ebpf)?.load();
    loaded.inspect_err(|error| tracing::debug!(%error, "XDP program refused")).map_err(Box::new)?;
    Ok((ebpf, maps))
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp, FilterError> {
    let program = ebpf.program_mut(shared::PROGRAM).ok_or(FilterError::Missing(shared::PROGRAM))?;
    Ok(program.try_into().map_err(Box::new)?)
}
