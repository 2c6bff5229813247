//! The XDP program itself, run by the kernel on frames made by hand: attached to nothing, pinned nowhere. Root only.
#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test that goes wrong has failed")]

mod changes;
mod equality;
mod frames;
mod maps;
mod packet;
mod rates;

use std::fs::OpenOptions;
use std::io::{Write as _, stderr};

use ebbgate_edge::xdp::maps::MapsError;
use ebbgate_edge::xdp::probe::{Probe, ProbeError};

/// The program; none, and said so, where this process may not load it.
pub(crate) fn probe(test: &str) -> Option<Probe> {
    probe_with(test, ebbgate_ebpf::PREFIXES_ENTRIES)
}

/// The same with smaller tries.
pub(crate) fn probe_with(test: &str, entries: u32) -> Option<Probe> {
    match Probe::with_entries(entries) {
        Ok(probe) => Some(probe),
        Err(ProbeError::Maps(MapsError::Load(error))) if !is_root() => {
            skip(test, &format!("loading an XDP program needs root: {error}"));
            None
        }
        Err(error) => panic!("{error:?}"),
    }
}

/// Root owns its own entry in the process file system.
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

#[expect(clippy::disallowed_methods, reason = "the summary of all tests is named by a variable")]
fn skip(test: &str, reason: &str) {
    let line = format!("SKIPPED program: {test}: {reason}\n");
    // The test harness captures print macros only.
    let _ = stderr().write_all(line.as_bytes());
    if let Ok(path) = std::env::var("EBBGATE_SKIPS") {
        let file = OpenOptions::new().append(true).create(true).open(path);
        let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }
}
