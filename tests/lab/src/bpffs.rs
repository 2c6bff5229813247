//! A BPF file system of one's own to pin in. `ip netns exec` lays a fresh /sys over the usual one, and what a lab pins must
//! not meet what the machine's own edge pins.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::program::run_visibly;

/// A mounted BPF file system; what is pinned in it is gone when this is dropped.
pub struct Bpffs {
    dir: PathBuf,
}

impl Bpffs {
    /// Mounts one at `dir`, making the directory, or takes the one that somebody who was killed left there. Root only.
    pub fn mount(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let here = |line: &str| line.starts_with(&format!("bpf {} bpf ", dir.display()));
        if mounts.lines().any(here) {
            return Ok(Self { dir: dir.to_owned() });
        }
        run_visibly(Command::new("mount").args(["-t", "bpf", "bpf"]).arg(dir))?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// Where it is mounted.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        // Lazily: a process that is just ending may still look into it.
        let _ = run_visibly(Command::new("umount").arg("--lazy").arg(&self.dir));
    }
}
