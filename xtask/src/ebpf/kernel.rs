//! Asks this machine's kernel to verify the object. Root only; nothing is attached and nothing stays.

use std::fs;

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::programs::Xdp;

use super::Verified;

/// Loads the program and says what that took.
pub(super) fn verify(object: &[u8]) -> Result<Verified> {
    let mut ebpf = Ebpf::load(object).context("the kernel refuses the maps of the XDP object")?;
    let program: &mut Xdp =
        ebpf.program_mut("admit").context("the object has no program `admit`")?.try_into()?;
    program.load().context("the kernel refuses the XDP program")?;
    let info = program.info()?;
    Ok(Verified {
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        instructions: info.verified_instruction_count().context("this kernel does not count instructions")?,
        translated_bytes: info.size_translated().context("this kernel hides the program's size")?,
    })
}
