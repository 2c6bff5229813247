//! The shapes that the maps have, and what is wrong with one that has another or cannot be used.

use std::io;
use std::path::{Path, PathBuf};

use aya::maps::{Map, MapData, MapError, MapInfo, MapType};
use aya::{Ebpf, EbpfError};
use ebbgate_ebpf as shared;

/// Why the kernel maps cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MapsError {
    /// The object cannot be loaded: usually no `CAP_BPF` and `CAP_NET_ADMIN`, or a kernel without BPF.
    #[error(
        "the XDP program's maps cannot be made (needs CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and Linux 5.18)"
    )]
    Load(#[source] Box<EbpfError>),
    /// What is pinned under a map's name is another map.
    #[error("{} is not a map of this program; remove {} and start again", path.display(), folder(path))]
    Foreign {
        /// Which pin.
        path: PathBuf,
    },
    /// The object does not hold what this edge was built for.
    #[error("the XDP object has no map {0}; build it again with `cargo xtask ebpf`")]
    Missing(&'static str),
    /// A map could not be read or written.
    #[error("kernel map {map} could not be used")]
    Map {
        /// Which map.
        map: &'static str,
        /// What the kernel said.
        source: MapError,
    },
    /// A map takes no more entries.
    #[error("kernel map {map} is full: it takes {entries} entries")]
    Full {
        /// Which map.
        map: &'static str,
        /// How many it takes.
        entries: u32,
    },
    /// The kernel does not say when every packet that was being judged has its verdict.
    #[error("membarrier(2) failed, which every Linux has unless a seccomp filter forbids it")]
    GracePeriod(#[source] io::Error),
    /// A batch of a map's entries could not be read or written.
    #[error("kernel map {map} could not be used")]
    Batch {
        /// Which map.
        map: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

fn folder(pin: &Path) -> std::path::Display<'_> {
    pin.parent().unwrap_or(pin).display()
}

/// The maps that outlive a process by their pins: name, kind, bytes of key and value, entries.
pub(super) const PINNED: [(&str, MapType, u32, u32, u32); 7] = [
    (shared::PORTS, MapType::Array, 4, 4, shared::PORTS_ENTRIES),
    (shared::GUARDS, MapType::Hash, 20, 4, shared::GUARDS_MAX),
    (shared::PREFIXES_V4, MapType::LpmTrie, 12, 4, shared::PREFIXES_ENTRIES),
    (shared::PREFIXES_V6, MapType::LpmTrie, 24, 4, shared::PREFIXES_ENTRIES),
    (shared::COUNTERS, MapType::PerCpuArray, 4, 8, shared::COUNTERS_ENTRIES),
    (shared::CONFIG, MapType::Array, 4, 24, 1),
    (shared::BUCKETS, MapType::LruHash, 16, 16, shared::BUCKETS_MAX),
];

/// The library takes any pinned map as it is; one of another shape would have the kernel write past our buffers.
pub(super) fn check_pins(dir: &Path) -> Result<(), MapsError> {
    for (name, kind, key, value, entries) in PINNED {
        let path = dir.join(name);
        if !path.exists() {
            continue;
        }
        let is_ours = MapInfo::from_pin(&path).is_ok_and(|info| {
            info.map_type().ok() == Some(kind)
                && (info.key_size(), info.value_size(), info.max_entries()) == (key, value, entries)
        });
        if !is_ours {
            return Err(MapsError::Foreign { path });
        }
    }
    Ok(())
}

pub(super) fn failed(map: &'static str) -> impl Fn(MapError) -> MapsError {
    move |source| match source {
        MapError::SyscallError(error) if is_full(&error.io_error) => full(map),
        source => MapsError::Map { map, source },
    }
}

/// Hash maps say E2BIG, tries ENOSPC.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC))
}

pub(super) fn full(map: &'static str) -> MapsError {
    let entries = PINNED.iter().find(|(name, ..)| *name == map).map_or(0, |(.., entries)| *entries);
    MapsError::Full { map, entries }
}

pub(super) fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, MapsError> {
    ebpf.take_map(name).ok_or(MapsError::Missing(name))
}

pub(super) fn typed<M: TryFrom<Map, Error = MapError>>(map: Map, name: &'static str) -> Result<M, MapsError> {
    map.try_into().map_err(failed(name))
}

pub(super) fn trie(ebpf: &mut Ebpf, name: &'static str) -> Result<MapData, MapsError> {
    match take(ebpf, name)? {
        Map::LpmTrie(data) => Ok(data),
        _ => Err(MapsError::Missing(name)),
    }
}
