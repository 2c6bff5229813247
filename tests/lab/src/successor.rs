//! A process that has taken over from an edge of a lab. It is nobody's child here, so it is known by its number and its
//! command line.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

/// The process; dropping this kills it.
pub struct Successor {
    pid: Pid,
    dir: PathBuf,
}

impl Successor {
    /// A process of this number that serves this directory.
    pub(crate) fn new(pid: u64, dir: &Path) -> Result<Self> {
        let pid = Pid::from_raw(i32::try_from(pid)?).context("a process has no number 0")?;
        Ok(Self { pid, dir: dir.to_owned() })
    }

    /// Its number.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Whether it runs: a process of this number with the lab's directory in its command line, no zombie.
    pub fn runs(&self) -> bool {
        let line = fs::read(format!("/proc/{}/cmdline", self.pid())).unwrap_or_default();
        let dir = self.dir.as_os_str().as_encoded_bytes();
        line.split(|byte| *byte == 0).any(|word| word == dir)
    }

    /// Sends a signal, if it runs.
    pub fn signal(&self, signal: Signal) {
        if self.runs() {
            // It may end at this moment.
            let _ = kill_process(self.pid, signal);
        }
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}
