//! The program's packet counters. Any number of readers may hold them, beside the one writer of the maps.

use std::os::fd::AsFd;
use std::path::Path;

use aya::maps::{IterableMap as _, Map, MapData, PerCpuArray, PerCpuValues};
use aya::util::nr_cpus;
use ebbgate_ebpf as shared;
use shared::{COUNTERS, Reason, counter_index};

use super::shapes::{MapsError, check_pins, failed, typed};

/// Packets of one policy and one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// Policy number; 0 for what belongs to no policy: the blocklist, ports without a list, packets without a port.
    pub policy: u32,
    /// Why they passed or were dropped.
    pub reason: Reason,
    /// How many, since the policy got its number.
    pub packets: u64,
}

/// A handle on the counters.
pub struct Counters(PerCpuArray<MapData, u64>);

impl Counters {
    pub(super) fn new(map: Map) -> Result<Self, MapsError> {
        typed(map, COUNTERS).map(Self)
    }

    /// Opens the counters pinned in a folder, without anything else.
    pub fn from_pins(dir: &Path) -> Result<Self, MapsError> {
        check_pins(dir)?;
        let map = MapData::from_pin(dir.join(COUNTERS)).and_then(Map::from_map_data);
        Self::new(map.map_err(failed(COUNTERS))?)
    }

    /// Another handle on the same counters.
    pub fn try_clone(&self) -> Result<Self, MapsError> {
        let fd = self.0.map().fd().as_fd().try_clone_to_owned();
        let fd = fd.map_err(|source| MapsError::Batch { map: COUNTERS, source })?;
        Self::new(MapData::from_fd(fd).and_then(Map::from_map_data).map_err(failed(COUNTERS))?)
    }

    /// Every counter of these policies that is not zero, summed over the CPUs.
    pub fn read(&self, policies: impl IntoIterator<Item = u32>) -> Result<Vec<Count>, MapsError> {
        let mut counts = Vec::new();
        for policy in policies {
            for reason in Reason::ALL {
                let values = self.0.get(&counter_index(policy, reason), 0).map_err(failed(COUNTERS))?;
                let packets = values.iter().sum();
                if packets != 0 {
                    counts.push(Count { policy, reason, packets });
                }
            }
        }
        Ok(counts)
    }

    /// Sets the counters of a policy to zero.
    pub(super) fn clear(&mut self, policy: u32) -> Result<(), MapsError> {
        let batch = |source| MapsError::Batch { map: COUNTERS, source };
        let cpus = nr_cpus().map_err(|(_, error)| batch(error))?;
        for reason in Reason::ALL {
            let zeros = PerCpuValues::try_from(vec![0; cpus]).map_err(batch)?;
            self.0.set(counter_index(policy, reason), zeros, 0).map_err(failed(COUNTERS))?;
        }
        Ok(())
    }
}
