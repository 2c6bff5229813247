//! The XDP program itself, run by the kernel on frames made by hand: attached to nothing, pinned nowhere. Root only.
#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test that goes wrong has failed")]

mod changes;
mod equality;
mod frames;
mod maps;
mod packet;
mod rates;

use ebbgate_edge::xdp::maps::MapsError;
use ebbgate_edge::xdp::probe::{Probe, ProbeError};
use ebbgate_lab::program::{is_root, skip};

/// The program; none, and said so, where this process may not load it.
pub(crate) fn probe(test: &str) -> Option<Probe> {
    probe_with(test, ebbgate_ebpf::PREFIXES_ENTRIES)
}

/// The same with smaller tries.
pub(crate) fn probe_with(test: &str, entries: u32) -> Option<Probe> {
    match Probe::with_entries(entries) {
        Ok(probe) => Some(probe),
        Err(ProbeError::Maps(MapsError::Load(error))) if !is_root() => {
            skip(&format!("program: {test}"), &format!("loading an XDP program needs root: {error}"));
            None
        }
        Err(error) => panic!("{error:?}"),
    }
}
