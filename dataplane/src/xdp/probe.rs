//! The XDP program on frames made by hand (`BPF_PROG_TEST_RUN`): attached to nothing, pinned nowhere, gone when dropped. For
//! tests, fuzzing and benches; needs the same privilege as the real thing.

use std::time::Duration;

use aya::programs::{ProgramError, TestRun as _, Xdp};
use aya::{Ebpf, EbpfLoader, TestRunOptions};
use ebbgate_ebpf as shared;

use super::maps::{Drops, Maps, MapsError};
use super::settings::OBJECT;

/// Bytes of the shortest frame that the kernel takes.
pub const FRAME_BYTES_MIN: usize = 14;
/// `XDP_PASS`, in the kernel's words.
const PASS: u32 = 2;

/// Why the program cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The maps.
    #[error(transparent)]
    Maps(#[from] MapsError),
    /// The program.
    #[error("the kernel refused to load or run the XDP program")]
    Program(#[from] ProgramError),
    /// The object.
    #[error("the XDP object has no program {}", shared::PROGRAM)]
    Missing,
}

/// The program with maps of its own.
pub struct Probe {
    ebpf: Ebpf,
    /// Its maps.
    pub maps: Maps,
}

impl Probe {
    /// Loads it.
    pub fn open() -> Result<Self, ProbeError> {
        Self::with_entries(shared::PREFIXES_ENTRIES)
    }

    /// Loads it with tries that take fewer entries.
    pub fn with_entries(entries: u32) -> Result<Self, ProbeError> {
        let mut loader = EbpfLoader::new();
        loader.map_max_entries(shared::PREFIXES_V4, entries).map_max_entries(shared::PREFIXES_V6, entries);
        let mut ebpf = loader.load(OBJECT).map_err(|source| MapsError::Load(Box::new(source)))?;
        let maps = Maps::adopt(&mut ebpf)?;
        let mut probe = Self { ebpf, maps };
        probe.program()?.load()?;
        Ok(probe)
    }

    /// The reading end of the sampled drops; once.
    pub fn drops(&mut self) -> Result<Drops, ProbeError> {
        Ok(Drops::take(&mut self.ebpf)?)
    }

    /// The maps, and the program for threads that run frames while the maps change.
    pub fn split(&mut self) -> Result<(&mut Maps, Runner<'_>), ProbeError> {
        let program = self.ebpf.program(shared::PROGRAM).ok_or(ProbeError::Missing)?;
        Ok((&mut self.maps, Runner(program.try_into()?)))
    }

    /// Whether a frame of at least [`FRAME_BYTES_MIN`] passes.
    pub fn passes(&mut self, frame: &[u8]) -> Result<bool, ProbeError> {
        self.split()?.1.passes(frame)
    }

    /// Runs one frame so many times: whether it passes the last time, and the mean time of a run.
    pub fn run(&mut self, frame: &[u8], repeat: u32) -> Result<(bool, Duration), ProbeError> {
        self.split()?.1.run(frame, repeat)
    }

    fn program(&mut self) -> Result<&mut Xdp, ProbeError> {
        let program = self.ebpf.program_mut(shared::PROGRAM).ok_or(ProbeError::Missing)?;
        Ok(program.try_into()?)
    }
}

/// The loaded program alone.
#[derive(Clone, Copy)]
pub struct Runner<'a>(&'a Xdp);

impl Runner<'_> {
    /// As [`Probe::passes`].
    pub fn passes(self, frame: &[u8]) -> Result<bool, ProbeError> {
        Ok(self.run(frame, 1)?.0)
    }

    /// As [`Probe::run`].
    pub fn run(self, frame: &[u8], repeat: u32) -> Result<(bool, Duration), ProbeError> {
        let options = TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::default() };
        let result = self.0.test_run(options)?;
        Ok((result.return_value == PASS, result.duration))
    }
}
